"""A worker's log: one line an event on standard error, with systemd's priority prefix where it is no terminal.

    <6>peer joined<TAB>peer=3 pid=4242 uid=64055

A tab, which neither the event nor a field contains, is where the fields begin: an event may well look like one, such as
a remedy with a setting. The supervisor reads these lines back; for systemd alone a blank is enough.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import socket
import stat
import time
from typing import Protocol

DEBUG, INFO, WARNING, ERROR = 7, 6, 4, 3
"""syslog's priorities."""

LINES = 100
"""Lines of one kind that are written in a second; of further ones only how many there were."""
KINDS = 64
"""Kinds that are kept in mind before those are forgotten of which nothing was said in the last second."""

_STDERR = 2


class Sink(Protocol):
    """Where lines go."""

    def write(self, line: bytes, /) -> object:
        """Writes one line without waiting; raises OSError if it is lost."""

    def close(self) -> None:
        """Lets go of it."""


class _Second:
    """What was said of one kind in the second that began at `since`."""

    __slots__ = ("lines", "priority", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.lines = 0
        self.priority = DEBUG


class Log:
    """Writes events; never waits for whoever reads them, and is not flooded by what a peer can cause."""

    def __init__(self, sink: Sink | None = None, least: int = DEBUG, divider: str = "\t") -> None:
        """Writes what is at least as urgent as the priority `least` to `sink`, None for standard error.

        `divider` is what stands before the fields, where nobody but people reads them.
        """
        self.due: float | None = None
        """When `tick` has something to write, in seconds of the monotonic clock."""
        self._bare = sink is None and os.isatty(_STDERR)
        self._divider = " " if self._bare else divider
        self._sink = sink or _Stream()
        self._least = least
        self._lost = 0
        self._seconds: dict[str, _Second] = {}

    def say(self, priority: int, event: str, /, **fields: object) -> None:
        """Logs one line. Its kind is the event up to a colon; see `say_as`."""
        self.say_as(event.partition(":")[0], priority, event, **fields)

    def say_as(self, kind: str, priority: int, event: str, /, **fields: object) -> None:
        """Logs one line, unless there were as many of its `kind` in this second as are written."""
        if priority > self._least:
            return
        now = time.monotonic()
        second = self._seconds.get(kind)
        if second is None or now >= second.since + 1:
            if second is not None or len(self._seconds) >= KINDS:
                self.tick(now)
            second = self._seconds[kind] = _Second(now)
        second.lines += 1
        second.priority = min(second.priority, priority)
        if second.lines <= LINES:
            self._line(priority, event, fields)
        elif self.due is None:
            self.due = second.since + 1

    def tick(self, now: float) -> None:
        """Says of each second that is over by `now` how many lines were left out."""
        self.due = None
        for kind, second in list(self._seconds.items()):
            if now >= second.since + 1:
                del self._seconds[kind]
                if second.lines > LINES:
                    text = f"{kind}: more of this in one second than is logged"
                    self._line(second.priority, text, {"left_out": second.lines - LINES})
            elif second.lines > LINES and (self.due is None or second.since + 1 < self.due):
                self.due = second.since + 1

    def close(self) -> None:
        """Lets go of where the lines go."""
        self._sink.close()

    def _line(self, priority: int, event: str, fields: dict[str, object]) -> None:
        """Writes a line. A pipe that is full loses it; the next line that fits says how many were lost."""
        if self._lost:
            fields["lines_lost"] = self._lost
        text = event.replace("\n", " ").replace("\t", " ")
        if fields:
            told = " ".join([f"{key}={_quoted(value)}" for key, value in fields.items()])
            text += self._divider + told
        line = text if self._bare else f"<{priority}>{text}"
        try:
            self._sink.write(line.encode(errors="backslashreplace") + b"\n")
        except OSError:
            self._lost += 1
        else:
            self._lost = 0


class _Stream:
    """Standard error, written to without waiting, and unchanged for others who have it, too."""

    def __init__(self) -> None:
        self._own = -1
        self._socket: socket.socket | None = None
        if stat.S_ISSOCK(os.fstat(_STDERR).st_mode):
            # The journal's; a socket cannot be opened anew.
            self._socket = socket.socket(fileno=os.dup(_STDERR))
            return
        flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        with contextlib.suppress(OSError):
            # It may be another user's.
            self._own = os.open(f"/proc/self/fd/{_STDERR}", flags)

    def write(self, line: bytes) -> None:
        if self._socket is not None:
            self._socket.send(line, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        else:
            os.write(_STDERR if self._own < 0 else self._own, line)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        if self._own >= 0:
            os.close(self._own)


# Python loads it when it is first used, and then there may be no descriptor left to open its file.
codecs.lookup("unicode_escape")


def _quoted(field: object) -> str:
    value = str(field)
    if isinstance(field, int) or (value and value.isprintable() and not any(c in value for c in ' ="\\')):
        return value
    escaped = value.encode("unicode_escape").decode("ascii").replace('"', '\\"')
    return f'"{escaped}"'
