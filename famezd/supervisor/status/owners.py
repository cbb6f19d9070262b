"""Whether a fabric's files have the owner and group that its settings say.

A fabric that goes on keeps its files, and where they are not its worker's to give they stay as they were. Nobody is
disconnected for it, and who was to get in does not. It is looked for, not remembered: so it is told until it is mended.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from collections.abc import Callable

from famezd.fabric.settings import Settings

_NAMED = ("shm", "file")
"""Backings whose memory is a file with a name."""


def not_given(settings: Settings) -> list[str]:
    """Sockets and mailbox that have another owner or group than the settings say: what to do, a phrase each."""
    own = settings
    files = [(path, own.socket_uid, own.socket_gid) for path in (own.socket, *map(own.port_socket, own.pinned.sockets))]
    if own.backing in _NAMED:
        files.append((own.memory, own.memory_uid, own.memory_gid))
    said = []
    for path, uid, gid in files:
        # That one was removed is told elsewhere.
        with contextlib.suppress(OSError):
            found = os.stat(path)
            if gid not in (-1, found.st_gid):
                said.append(_wrong_group(path, _group(found.st_gid), _group(gid)))
            if uid not in (-1, found.st_uid):
                said.append(f"{path} belongs to {_user(found.st_uid)}, not {_user(uid)}: only root can give it away")
    return said


def _wrong_group(path: str, has: str, wanted: str) -> str:
    return (
        f"{path} has group {has}, not {wanted}: famezd can give it only to groups that it is in; "
        f"give its unit SupplementaryGroups={wanted}, and restart it"
    )


def _user(number: int) -> str:
    return _name(lambda: pwd.getpwuid(number).pw_name, number)


def _group(number: int) -> str:
    return _name(lambda: grp.getgrgid(number).gr_name, number)


def _name(look_up: Callable[[], str], number: int) -> str:
    try:
        return look_up()
    except KeyError:
        return str(number)
