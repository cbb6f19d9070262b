"""The state page: what the switch of a fabric knows, as text in shared memory.

The worker writes it whenever that changes, the supervisor reads it whenever it likes, and neither waits for the other.
The page is a memfd: it outlives the worker, and its successor goes on with what it finds.

It holds tables: things by name, and of each what is known, text by text. It has two halves. What is new is written to
the one that is not valid, and then one word says that it is, and how long: whoever reads finds the old or the new, and
so does who comes after a worker that was killed in the midst.

Layout: two words, the version and that word, which is `number << 32 | bytes`, the number's last bit telling the half;
from byte HEAD on the two halves, ROOM bytes each. Memory is used only for what was ever written.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from typing import Final

from famezd.errors import FamezError
from famezd.escapes import escape, joined, split, unescape

LAYOUT_VERSION: Final = 1
HEAD: Final = 4096
ROOM: Final = 1 << 20
"""Bytes that a state may have, at most."""
_VERSION, _VALID = 0, 1
_NUMBERS: Final = 1 << 32
_LOOKS: Final = 1000
"""Times that a reader begins anew because the page was written meanwhile, before it gives up."""

State = Mapping[str, Mapping[str, str]]
"""Things by name, and what is known of each."""
Table = dict[str, dict[str, str]]
"""The same, as it is read."""


class StateError(FamezError):
    """The page is none that this version can read, or the state is none that fits into it."""


class StatePage:
    """A state page. Its descriptor is its own."""

    def __init__(self, descriptor: int, words: memoryview) -> None:
        self.descriptor = descriptor
        self._words = words

    @classmethod
    def create(cls, name: str) -> StatePage:
        """A new page without tables, in a memfd called `name`; raises OSError if there is no memory for it."""
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
        os.ftruncate(descriptor, HEAD + 2 * ROOM)
        # Allocated now: a page fault could only be answered by a signal. The halves are written by calls, which fail.
        os.posix_fallocate(descriptor, 0, HEAD)
        words = memoryview(mmap.mmap(descriptor, HEAD)).cast("Q")
        words[_VERSION] = LAYOUT_VERSION
        return cls(descriptor, words)

    @classmethod
    def open(cls, descriptor: int, *, writable: bool = False) -> StatePage:
        """The page that another process, or an earlier one, made; takes the descriptor over, unless it raises.

        Raises StateError if it has another layout.
        """
        size = os.fstat(descriptor).st_size
        if size != HEAD + 2 * ROOM:
            raise StateError(f"a state page of {size} bytes is none of ours")
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        words = memoryview(mmap.mmap(descriptor, HEAD, access=access)).cast("Q")
        if words[_VERSION] != LAYOUT_VERSION:
            raise StateError(f"a state page of layout {words[_VERSION]}; this is layout {LAYOUT_VERSION}")
        return cls(descriptor, words)

    def close(self) -> None:
        """Unmaps the page and closes its descriptor."""
        # The mapping goes with the last view of it.
        self._words.release()
        os.close(self.descriptor)

    def write(self, *tables: State) -> None:
        """Puts these tables in place of those that are there, all or nothing.

        Raises StateError if they are too large or no tables of text, OSError if there is no memory for them.
        """
        text = b"\n".join(_lines(tables))
        if len(text) > ROOM:
            raise StateError(f"a state of {len(text)} bytes; at most {ROOM} are kept")
        number = (self._words[_VALID] // _NUMBERS + 1) % _NUMBERS
        if os.pwrite(self.descriptor, text, _half(number)) != len(text):
            raise StateError("there is no memory for the state")
        self._words[_VALID] = number * _NUMBERS + len(text)

    def read(self, tables: int = 1) -> list[Table]:
        """So many tables, those that were not written empty.

        Raises StateError if they are written all the time, or are no tables.
        """
        for _ in range(_LOOKS):
            valid = self._words[_VALID]
            number, size = divmod(valid, _NUMBERS)
            text = os.pread(self.descriptor, min(size, ROOM), _half(number))
            # A half is not written as long as it is the valid one.
            if self._words[_VALID] == valid:
                return _tables(text, tables)
        raise StateError("the state changes faster than it can be read")


def _half(number: int) -> int:
    return HEAD + number % 2 * ROOM


def _lines(tables: tuple[State, ...]) -> list[bytes]:
    """A line for each thing: the table's number, its name, and its fields, with tabs between."""
    lines = []
    try:
        for i, table in enumerate(tables):
            for name, fields in table.items():
                lines.append("\t".join([str(i), escape(name), *filter(None, [joined(fields, "\t")])]).encode("ascii"))
    except (TypeError, AttributeError) as e:
        raise StateError(f"the state is no table of text: {e}") from e
    return lines


def _tables(text: bytes, n: int) -> list[Table]:
    found: list[Table] = [{} for _ in range(n)]
    try:
        for line in text.decode("ascii").splitlines():
            table, name, *fields = line.split("\t", 2)
            if int(table) < n:
                found[int(table)][unescape(name)] = split(fields[0] if fields else "", "\t")
    except ValueError as e:
        raise StateError(f"the state page holds no tables: {e}") from e
    return found
