"""How busy fabrics are: what their counters have grown by in the last seconds, and whether that is a worry.

Counters are noted every few seconds, so that who asks is answered at once. Nothing is asked of a worker.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from famezd.supervisor.status.view import FabricView

EVERY = 2.0
"""Seconds between two notes."""
WINDOW = 10.0
"""Seconds that a rate is of, or up to EVERY less; less also where there has not been as much time."""
LEAST = 1.0
"""Seconds that a rate is of at least: one of less would say nothing."""
BUSY = 0.8
"""Share of the time from which on a worker's loop has little left."""

_WORRIES = {
    "resized": "somebody changed the size of its mailbox, {} times",
    "clipped": "a bell held an absurd count, {} times",
    "personality_errors": "its personality raised an error, {} times",
    "messages_malformed": "peers sent the switch {} messages that are none",
}
"""By the names of `famezd.stats.TOTALS`."""


@dataclass(frozen=True)
class Rates:
    """What a fabric did in the last seconds."""

    over: float
    """How many seconds these were."""
    doorbells: float
    """Counted ones, per second."""
    dropped: float
    """Those of them that nobody was there for, or that could not be delivered, per second."""
    joins: float
    """Per second."""
    busy: float
    """Share of the time, 0 to 1, for which the worker's loop did not wait."""


class _Note(NamedTuple):
    """The counters of a fabric at one time."""

    at: float
    vectors: Mapping[tuple[int, int], int]
    totals: Mapping[str, int]
    restarts: int


class History:
    """The counters of all fabrics in the last seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._notes: dict[tuple[str, int], deque[_Note]] = {}
        """By fabric and page: where a page is another one, the counters began anew."""

    def note(self, views: Iterable[FabricView]) -> None:
        """Takes down the counters as they are now; fabrics that are not there any more are forgotten."""
        now, before = self._clock(), self._notes
        self._notes = {}
        for view in views:
            notes = before.get(_which(view), deque())
            while notes and now - notes[0].at > WINDOW:
                notes.popleft()
            notes.append(_Note(now, view.vectors, view.totals, view.restarts))
            self._notes[_which(view)] = notes

    def rates(self, view: FabricView) -> Rates | None:
        """What the fabric did lately, None if too little is known yet."""
        found = self._since(view)
        if found is None:
            return None
        over, before = found
        grown = _grown(before.totals, view.totals)
        return Rates(
            over=over,
            doorbells=sum(_grown(before.vectors, view.vectors).values()) / over,
            dropped=grown.get("dropped", 0) / over,
            joins=grown.get("joins", 0) / over,
            busy=min(1.0, grown.get("busy_ns", 0) / over / 1e9),
        )

    def worries(self, view: FabricView) -> list[str]:
        """What happened lately on a fabric that an operator should look at, a phrase each."""
        found = self._since(view)
        if found is None:
            return []
        over, before = found
        grown = _grown(before.totals, view.totals)
        said = [text.format(grown[total]) for total, text in _WORRIES.items() if grown.get(total)]
        refused = {name.removeprefix("refused_"): n for name, n in grown.items() if name.startswith("refused_") and n}
        if refused:
            reasons = ", ".join(f"{reason} {n}" for reason, n in refused.items())
            said.append(f"newcomers were refused ({reasons})")
        if died := view.restarts - before.restarts:
            said.append(f"its worker died and was replaced, {died} times")
        if (busy := grown.get("busy_ns", 0) / over / 1e9) > BUSY:
            said.append(f"its worker was busy for {min(1.0, busy):.0%} of the time")
        return [f"in the last {over:.0f} s {what}" for what in said]

    def _since(self, view: FabricView) -> tuple[float, _Note] | None:
        """The oldest note of a fabric, and how old it is."""
        notes = self._notes.get(_which(view))
        if not notes or (over := self._clock() - notes[0].at) < LEAST:
            return None
        return over, notes[0]


def _which(view: FabricView) -> tuple[str, int]:
    return view.fabric.name, view.page


Key = TypeVar("Key", bound=Hashable)


def _grown(before: Mapping[Key, int], now: Mapping[Key, int]) -> dict[Key, int]:
    """By how much each counter has grown; one that is less than before began anew."""
    return {key: n - old if n >= (old := before.get(key, 0)) else n for key, n in now.items()}
