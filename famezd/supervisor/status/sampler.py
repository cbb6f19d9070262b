"""By how much a fabric's doorbell counters grow, looked at several times a second: only what has changed is touched."""

from __future__ import annotations

import asyncio
from array import array
from collections import Counter
from typing import NamedTuple

from famezd.config import Fabric
from famezd.stats import SWITCH_ROW, Page
from famezd.supervisor.status.view import ids_of

AT_ONCE = 1 << 20
"""Counters that are read without letting others of the loop have their turn: a fraction of a millisecond."""


class Growth(NamedTuple):
    """What was rung between two looks."""

    pairs: Counter[tuple[int, int]]
    """By (src, dst), ids; of a direct fabric only what the switch rang."""
    vectors: Counter[tuple[int, int]]
    """By (dst, vector)."""


class Sampler:
    """The counters of one page as they were at the last look."""

    def __init__(self, fabric: Fabric, page: Page) -> None:
        self.page = page
        self._fabric = fabric
        self._relayed = fabric.doorbells == "relayed"
        span = page.shape.places * page.shape.vectors
        self._zero = array("Q", bytes(8 * span))
        self._rows = [self._zero] * page.shape.rows
        self._is_first = True

    async def grown(self) -> Growth:
        """What was rung since the last look, nothing at the first; the page may be closed meanwhile: ValueError."""
        growth, span = Growth(Counter(), Counter()), len(self._zero)
        ids = ids_of(self._fabric, self.page)
        for row, before in enumerate(self._rows):
            start = self.page.shape.doorbells_at + row * span
            now: array[int] = array("Q")
            now.frombytes(self.page.words[start : start + span].tobytes())
            if now != before:
                self._rows[row] = now
                if not self._is_first:
                    self._add(growth, ids, row, before, now)
            if (row + 1) * span % AT_ONCE < span and len(self._rows) * span > AT_ONCE:
                await asyncio.sleep(0)
        self._is_first = False
        return growth

    def _add(self, growth: Growth, ids: list[int | None], row: int, before: array[int], now: array[int]) -> None:
        places, _, width = self.page.shape
        src = ids[row] if self._relayed else ids[places - 1] if row == SWITCH_ROW else None
        for at, (old, new) in enumerate(zip(before, now, strict=True)):
            if old == new:
                continue
            # One that is less than before began anew: somebody else has the place.
            n = new - old if new > old else new
            dst, vector = divmod(at, width)
            dst_id = ids[dst]
            if dst_id is None or not n:
                continue
            growth.vectors[dst_id, vector] += n
            if src is not None:
                growth.pairs[src, dst_id] += n
