"""How busy fabrics are: what their counters have grown by in the last seconds, and whether that is a worry.

Counters are noted every few seconds, so that who asks is answered at once. Nothing is asked of a worker, and little is
looked at: this goes on while nobody asks.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from famezd.config import Fabric
from famezd.stats import Page, named_totals
from famezd.supervisor.status.tally import Tally
from famezd.supervisor.status.view import FabricView

WINDOW = 10.0
"""Seconds that a rate is of, give or take what is between two notes; less where there has not been as much time."""
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


class Counted(Protocol):
    """A fabric's worker."""

    @property
    def fabric(self) -> Fabric:
        """Which it is."""

    @property
    def page(self) -> Page | None:
        """Its counters, as soon as there are any."""

    @property
    def restarts(self) -> int:
        """How often a dead worker was replaced."""


class _Note(NamedTuple):
    """The counters of a fabric at one time."""

    at: float
    rung: int
    """As `Tally.rung`."""
    totals: Sequence[int]
    """As `Page.total_words`."""
    restarts: int


class _Kept:
    """What is known of a fabric's counters."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.notes: deque[_Note] = deque()
        """The oldest first."""

    def add(self, note: _Note) -> None:
        """One more note."""
        while self.notes and note.at - self.notes[0].at > WINDOW:
            self.notes.popleft()
        self.notes.append(note)

    def rates_until(self, now: float, rung: int, totals: Mapping[str, int]) -> Rates | None:
        """What the fabric did from the oldest note until `now`, None if that is too short a time."""
        before = self.notes[0]
        if (over := now - before.at) < LEAST:
            return None
        grown = _grown(before, totals)
        return Rates(
            over=over,
            doorbells=(rung - before.rung) / over,
            dropped=grown.get("dropped", 0) / over,
            joins=grown.get("joins", 0) / over,
            busy=min(1.0, grown.get("busy_ns", 0) / over / 1e9),
        )


class History:
    """The counters of all fabrics in the last seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: dict[tuple[str, int], _Kept] = {}
        """By fabric and page: where a page is another one, the counters began anew."""

    async def note(self, fabrics: Iterable[Counted]) -> None:
        """Takes down the counters as they are now; fabrics that are not there any more are forgotten."""
        noted: dict[tuple[str, int], _Kept] = {}
        for counted in list(fabrics):
            if (page := counted.page) is None:
                continue
            which = counted.fabric.name, page.identity
            kept = self._kept.get(which) or _Kept()
            try:
                for _ in kept.tally.look(page):
                    await asyncio.sleep(0)
                kept.add(_Note(self._clock(), kept.tally.rung, page.total_words(), counted.restarts))
            except ValueError:
                # The fabric was removed, or began anew, while its counters were being read.
                continue
            noted[which] = kept
        self._kept = noted

    def noted(self) -> dict[str, Rates | None]:
        """What fabrics did between the oldest note and the last one, by name; None if too little is known yet."""
        last = {name: (kept, kept.notes[-1]) for (name, _), kept in self._kept.items()}
        return {
            name: kept.rates_until(note.at, note.rung, named_totals(note.totals)) for name, (kept, note) in last.items()
        }

    def rates(self, view: FabricView) -> Rates | None:
        """What the fabric did lately, None if too little is known yet."""
        if (kept := self._kept.get(_which(view))) is None:
            return None
        rung = kept.tally.rung + max(0, view.doorbells - kept.tally.total)
        return kept.rates_until(self._clock(), rung, view.totals)

    def worries(self, view: FabricView) -> list[str]:
        """What happened lately on a fabric that an operator should look at, a phrase each."""
        kept = self._kept.get(_which(view))
        if kept is None or (over := self._clock() - kept.notes[0].at) < LEAST:
            return []
        before = kept.notes[0]
        grown = _grown(before, view.totals)
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


def _which(view: FabricView) -> tuple[str, int]:
    return view.fabric.name, view.page


def _grown(before: _Note, now: Mapping[str, int]) -> dict[str, int]:
    """By how much each total has grown."""
    then = named_totals(before.totals)
    return {name: n - then[name] for name, n in now.items()}
