"""What workers write to their standard error, line by line, and back into fields."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from typing import NamedTuple

_FIELD = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|[^\s="\\]+)(?!\S)')
_LEVELS = {"3": "error", "4": "warning", "6": "info", "7": "debug"}
_LONGEST = 65536
"""Bytes of a line that are kept: who writes no line ends must not fill our memory."""


class Entry(NamedTuple):
    """One line of a worker's log."""

    level: str
    event: str
    fields: dict[str, str]


def parse(line: str) -> Entry:
    """Reads a line as `famezd.fabric.log` writes it, the fields after a tab; any other line is an error's event."""
    if not re.match(r"<\d>", line):
        return Entry("error", line, {})
    event, _, told = line[3:].partition("\t")
    fields = {field[1]: _unquoted(field[2]) for field in _FIELD.finditer(told)}
    return Entry(_LEVELS.get(line[1], "info"), event, fields)


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    return value[1:-1].replace('\\"', '"').encode("ascii", "replace").decode("unicode_escape", "replace")


class LinePipe:
    """A pipe whose reading end is ours. A writer never waits: what does not fit is its loss."""

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._reading = -1
        self._rest = b""

    def open(self) -> int:
        """Opens the pipe; returns the writing end, which is the caller's to close."""
        self._reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._loop.add_reader(self._reading, self._read)
        return writing

    def close(self) -> None:
        """Takes what is left, then closes the pipe."""
        while self._read():
            pass
        if self._rest:
            self._take(self._rest.decode(errors="replace"))
            self._rest = b""
        self._loop.remove_reader(self._reading)
        os.close(self._reading)

    def _read(self) -> bool:
        try:
            data = os.read(self._reading, 65536)
        except BlockingIOError:
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[:_LONGEST]
        for line in lines:
            self._take(line.decode(errors="replace"))
        if not data:
            # Nobody writes any more: a reader that stays would be called for ever.
            self._loop.remove_reader(self._reading)
        return bool(data)
