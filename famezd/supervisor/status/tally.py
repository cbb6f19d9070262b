"""How many doorbells a fabric has counted, all in all: looked at every few seconds, and so as cheaply as can be."""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

from famezd.stats import Page

AT_ONCE = 1 << 15
"""Counters that are looked at without letting others have their turn: if all have changed, a millisecond's worth."""


class Tally:
    """The doorbells of one page: what has not changed since the last look costs a checksum of it."""

    def __init__(self) -> None:
        self.total = 0
        """Of all counters, at the last look. It falls where a peer's counters begin anew."""
        self.rung = 0
        """How many doorbells looks have found to be new; what was rung while counters began anew may be missing."""
        self._marks: list[int] = []
        self._sums: list[int] = []

    def look(self, page: Page) -> Iterator[None]:
        """Brings all up to date; yields where others may have their turn.

        Raises ValueError if the page is closed meanwhile.
        """
        start, end, words = page.shape.doorbells_at, page.shape.answered_at, page.words
        is_first = not self._marks
        for part, at in enumerate(range(start, end, AT_ONCE)):
            if part:
                yield
            counters = words[at : min(at + AT_ONCE, end)]
            mark = crc32(counters)
            if part == len(self._marks):
                self._marks.append(mark)
                self._sums.append(sum(counters))
            elif mark != self._marks[part]:
                # Of four thousand million changes one has the same checksum: it is seen with the next one.
                self._marks[part], self._sums[part] = mark, sum(counters)
        before, self.total = self.total, sum(self._sums)
        if not is_first:
            # As a whole: of a peer that has left, what it rang moves from one part to another.
            self.rung += max(0, self.total - before)
