"""systemd's journal, by its native protocol: an entry is fields, by which it is found again.

Nothing here waits: an entry for which the journal has no room, or that finds nobody, raises OSError.

Sources: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/, sd_journal_sendv(3), systemd.journal-fields(7).
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import re
import socket
from collections.abc import Mapping

SOCKET = "/run/systemd/journal/socket"
"""Where the journal listens."""

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_NO_NAME = re.compile(r"[^A-Z0-9_]")
_LONGEST_NAME = 64
"""Of a field."""


def field(name: str, prefix: str = "") -> str:
    """A field's name made of any name, behind `prefix`; where nothing of it can be in one, X."""
    return (prefix + (_NO_NAME.sub("_", name.upper()).lstrip("_0123456789") or "X"))[:_LONGEST_NAME]


def serialised(fields: Mapping[str, str]) -> bytes:
    """An entry as the journal reads it."""
    parts = []
    for name, value in fields.items():
        text = value.encode(errors="backslashreplace")
        if b"\n" in text:
            parts.append(name.encode() + b"\n" + len(text).to_bytes(8, "little") + text + b"\n")
        else:
            parts.append(name.encode() + b"=" + text + b"\n")
    return b"".join(parts)


def send(fields: Mapping[str, str], path: str | None = None) -> None:
    """Sends an entry to the journal that listens at `path` now; raises OSError if it is lost."""
    entry, path = serialised(fields), path or SOCKET
    # A new one each time: nothing is to be let go of, and a journal that was started anew is found.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        try:
            sender.sendto(entry, socket.MSG_NOSIGNAL, path)
        except OSError as e:
            if e.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            _send_as_file(sender, entry, path)


def _send_as_file(sender: socket.socket, entry: bytes, path: str) -> None:
    """Sends what is too large for a datagram: as a file in memory, which nobody can change any more."""
    file = os.memfd_create("famezd-journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(file, "wb", closefd=False) as stream:
            stream.write(entry)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
        carried = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]))]
        sender.sendmsg([], carried, socket.MSG_NOSIGNAL, path)
    finally:
        os.close(file)
