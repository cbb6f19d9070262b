"""Where a daemon's log goes: to the system's log, or to a file.

Both take lines as `famezd.fabric.log` and `famezd.supervisor.logs` write them for systemd, with a priority in front,
such as `<6>`, or any others.
"""

from __future__ import annotations

import io
import os
import re
import socket
import time
from abc import abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, TextIO

from famezd.errors import FamezError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

DEV_LOG = "/dev/log"
"""Where the system's log listens, see syslog(3)."""
_DAEMON = 3
"""The facility of system daemons."""
_INFO = 6
_LEVELS = {2: "critical", 3: "error", 4: "warning", 6: "info", 7: "debug"}
_PRIORITY = re.compile(r"<(\d)>")


class LogError(FamezError):
    """The log cannot be written."""


class DaemonLog(io.RawIOBase):
    """Writes lines."""

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        """Writes all lines in `data`; raises OSError if they are lost."""
        text = bytes(data)
        for line in text.decode(errors="backslashreplace").splitlines():
            priority = _PRIORITY.match(line)
            self._line(int(priority[1]) if priority else None, line[3:] if priority else line)
        return len(text)

    @cached_property
    def text(self) -> TextIO:
        """A stream like standard error that writes here; one only, since its end is the log's."""
        return io.TextIOWrapper(
            self,  # type: ignore[type-var]  # it has all that is used
            encoding="utf-8",
            errors="backslashreplace",
            line_buffering=True,
        )

    @abstractmethod
    def _line(self, priority: int | None, text: str) -> None:
        """Writes one line."""


class Syslog(DaemonLog):
    """The system's log; one that is not there, or has no time, loses lines."""

    def __init__(self, program: str, path: str = DEV_LOG) -> None:
        super().__init__()
        self._program = program
        self._path = path
        self._socket: socket.socket | None = None

    def close(self) -> None:
        """Lets go of it."""
        if self._socket is not None:
            self._socket.close()
        super().close()

    def _line(self, priority: int | None, text: str) -> None:
        if self._socket is None:
            # Only now: who becomes a daemon closes all that was open before.
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        number = 8 * _DAEMON + (_INFO if priority is None else priority)
        told = text.replace("\t", " ")
        message = f"<{number}>{time.strftime('%b %e %H:%M:%S')} {self._program}[{os.getpid()}]: {told}"
        # To where it listens now: it may have been started anew.
        self._socket.sendto(message.encode(errors="backslashreplace"), self._path)


class LogFile(DaemonLog):
    """A file, added to; lines that have a priority get the time."""

    def __init__(self, path: str) -> None:
        """Opens the file; raises LogError if that cannot be done."""
        super().__init__()
        self._fd = -1
        try:
            # Not blocking: opening a FIFO would wait for its other end.
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            self._fd = os.open(path, flags, 0o640)
        except OSError as e:
            raise LogError(f"cannot write the log to {path}: {e.strerror}") from e

    def fileno(self) -> int:
        """Its descriptor."""
        return self._fd

    def close(self) -> None:
        """Closes it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        super().close()

    def _line(self, priority: int | None, text: str) -> None:
        if priority is not None:
            dated = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            text = f"{dated} {_LEVELS.get(priority, 'info')}: {text.replace(chr(9), ' ')}"
        os.write(self._fd, f"{text}\n".encode(errors="backslashreplace"))


def open_log(program: str, path: str | None) -> DaemonLog:
    """The log file at `path`, None for the system's log; raises LogError if the file cannot be written."""
    return Syslog(program) if path is None else LogFile(path)
