"""What can be said of a fabric at one moment: read from its stats page, frozen.

Everything that reports (metrics, API, page) reports from here. Nothing here asks a worker anything.
"""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass, replace

from famezd.config import Fabric, Problem
from famezd.statepage import StatePage, Table
from famezd.stats import ANYBODY, SWITCH_ROW, Page
from famezd.supervisor.faults import FaultView, look_at_faults
from famezd.supervisor.settings import misfits, personality
from famezd.supervisor.worker import State, Worker


@dataclass(frozen=True)
class PeerView:
    """A peer that is on a fabric now."""

    id: int
    pid: int
    uid: int
    joined: float
    """Seconds of the real-time clock; 0 for the switch."""
    name: str
    """See `famezd.supervisor.names`."""
    kind: str


@dataclass(frozen=True)
class ConfigView:
    """How the last attempt to read the configuration went."""

    successful: bool
    accepted: float
    """When one was accepted last, in seconds of the real-time clock."""
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class FabricView:
    """A fabric at one moment."""

    fabric: Fabric
    state: State
    pid: int
    """Of its worker, 0 while there is none."""
    restarts: int
    peers: tuple[PeerView, ...]
    totals: dict[str, int]
    """By the names of `famezd.stats.TOTALS`; empty before the first worker served."""
    pairs: dict[tuple[int, int], int]
    """Doorbells by (src, dst), ids: what was rung at least once, or could be now."""
    vectors: dict[tuple[int, int], int]
    """Doorbells by (dst, vector): as pairs."""
    failure: str = ""
    """Why it is not served, if its state is FAILED."""
    waiting: tuple[str, ...] = ()
    """Settings that have changed, and are in force when it is restarted: a phrase each."""
    faults: tuple[FaultView, ...] = ()
    """The fault rules, in order."""
    switch: PeerView | None = None
    """Where the switch is a peer itself, and the fabric is served; the pid is its worker's."""

    page: int = 0
    """Tells its stats page from others: where it is another one, the counters began anew; 0 while there is none."""
    state_page: StatePage | None = None
    """Where its switch keeps what it knows, None where it knows nothing."""

    @property
    def everybody(self) -> tuple[PeerView, ...]:
        """The peers, and then the switch, where it is one."""
        return self.peers if self.switch is None else (*self.peers, self.switch)

    @property
    def switch_state(self) -> Table:
        """What its switch knows now; raises StateError if that cannot be read."""
        return {} if self.state_page is None else self.state_page.read()[0]

    @property
    def up(self) -> bool:
        """Whether the fabric is being served."""
        return self.state is State.SERVING

    @property
    def doorbells(self) -> int:
        """All doorbells that were counted."""
        return sum(self.vectors.values())


def look(worker: Worker, awaited: Fabric | None = None) -> FabricView:
    """What is to be seen of a worker's fabric now; `awaited` is what it is to be when it is restarted."""
    page = worker.page
    waiting = () if awaited is None else tuple(misfits(awaited, worker.fabric, worker.settings))
    failure = worker.failure if worker.state is State.FAILED else ""
    faults = look_at_faults(worker.faults, page)
    seen = FabricView(
        worker.fabric, worker.state, worker.pid, worker.restarts, (), {}, {}, {}, failure, waiting, faults
    )
    seen = replace(seen, state_page=worker.state_page)
    if page is None:
        return seen
    seen = replace(seen, page=page.identity)
    ids = ids_of(worker.fabric, page)
    occupants = page.occupants() if seen.up else []
    if seen.up:
        worker.names.look(occupants, worker.nodename, worker.switch)
    peers = tuple(PeerView(o.peer, o.pid, o.uid, o.joined / 1e9, *worker.names.of(o.peer)) for o in occupants)
    switch, there = None, {o.place for o in occupants}
    if seen.up and worker.switch is not None:
        there.add(worker.fabric.peers)
        # It began with its fabric, and nobody wrote down when.
        switch = PeerView(worker.switch, worker.pid, os.geteuid(), 0.0, *worker.names.of(worker.switch))
    pairs, vectors = _doorbells(page, ids, there, relayed=worker.fabric.doorbells == "relayed")
    return replace(seen, peers=peers, switch=switch, totals=page.totals(), pairs=pairs, vectors=vectors)


def ids_of(fabric: Fabric, page: Page) -> list[int | None]:
    """The peer id of each place: with fresh ports that of its present or last occupant."""
    first = personality(fabric.personality).first_id
    if fabric.ports == "sticky":
        return [first + place for place in range(page.shape.places)]
    ids = [page.last_id(place) for place in range(fabric.peers)]
    return [*ids, *(first + place for place in range(fabric.peers, page.shape.places))]


def _doorbells(
    page: Page, ids: list[int | None], there: set[int], *, relayed: bool
) -> tuple[dict[tuple[int, int], int], dict[tuple[int, int], int]]:
    """Sums of the counters by (src, dst) and by (dst, vector)."""
    counters, departed, (places, rows, width) = page.doorbells(), page.former(), page.shape
    pairs: defaultdict[tuple[int, int], int] = defaultdict(int)
    vectors: defaultdict[tuple[int, int], int] = defaultdict(int)
    for dst, dst_id in enumerate(ids):
        if dst_id is None:
            continue
        former = departed[dst * width : (dst + 1) * width]
        if any(former):
            for vector, n in enumerate(former):
                vectors[dst_id, vector] += n
        # Of a direct fabric only what the switch is party to is seen, and who rang it is not.
        sources = range(rows) if relayed else [r for r in range(rows) if (r == ANYBODY) == (dst == places - 1)]
        for row in sources:
            src = row if relayed else places - 1
            src_id = ids[src]
            at = (row * places + dst) * width
            rung = counters[at : at + width]
            if not any(rung) and not (dst in there and src in there and src != dst):
                continue
            for vector, n in enumerate(rung):
                vectors[dst_id, vector] += n
            if src_id is not None and (relayed or row == SWITCH_ROW):
                pairs[src_id, dst_id] += sum(rung)
    return dict(pairs), dict(vectors)
