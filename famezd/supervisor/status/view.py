"""What can be said of a fabric at one moment: read from its stats page, frozen.

Everything that reports (metrics, API, page) reports from here. Nothing here asks a worker anything.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from famezd.config import Fabric, Problem
from famezd.mailbox import Slots
from famezd.statepage import StatePage, Table
from famezd.stats import ANYBODY, SWITCH_ROW, Page
from famezd.supervisor.faults import FaultView, look_at_faults
from famezd.supervisor.settings import misfits, personality
from famezd.supervisor.worker import Resumes, State, Worker


@dataclass(frozen=True)
class PeerView:
    """A peer that is on a fabric now."""

    id: int
    pid: int
    uid: int
    joined: float
    """Seconds of the real-time clock; 0 for the switch."""
    name: str
    """See `famezd.supervisor.status.names`."""
    kind: str


ACCEPTED, REFUSED = "accepted", "refused"
"""Results of a reload."""


@dataclass(frozen=True)
class ConfigView:
    """How the last attempt to read the configuration went."""

    successful: bool
    accepted: float
    """When one was accepted last, in seconds of the real-time clock."""
    problems: tuple[Problem, ...]
    reload_seconds: float = 0.0
    """How long the last reload took, be it refused; 0 before the first."""
    reloads: Mapping[str, int] = field(default_factory=lambda: {ACCEPTED: 0, REFUSED: 0})
    """How many there were, by result."""


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
    resumes: Mapping[str, Resumes] = field(default_factory=dict)
    """How often another worker went on with the fabric, by cause."""
    switch: PeerView | None = None
    """Where the switch is a peer itself, and the fabric is served; the pid is its worker's."""
    gauges: Mapping[str, int] = field(default_factory=dict)
    """By the names of `famezd.stats.GAUGES`; while it is not served, as its worker left them."""
    held: int = 0
    """Doorbells that fault rules hold up."""
    page: int = 0
    """Tells its stats page from others: where it is another one, the counters began anew; 0 while there is none."""
    state_page: StatePage | None = None
    """Where its switch keeps what it knows, None where it knows nothing."""
    slots: Slots | None = None
    """The mailbox's, None where it has none."""

    @property
    def everybody(self) -> tuple[PeerView, ...]:
        """The peers, and then the switch, where it is one."""
        return self.peers if self.switch is None else (*self.peers, self.switch)

    @property
    def switch_state(self) -> Table:
        """What its switch knows now; raises StateError if that cannot be read."""
        return {} if self.state_page is None else self.state_page.read()[0]

    @property
    def standing(self) -> int:
        """Messages that stand in slots, and were not taken yet; 0 where that cannot be read."""
        try:
            return 0 if self.slots is None else self.slots.pending_up_to(self.fabric.peers + 1)
        except OSError:
            return 0

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
    seen = FabricView(
        worker.fabric,
        worker.state,
        worker.pid,
        worker.restarts,
        peers=(),
        totals={},
        pairs={},
        vectors={},
        failure=worker.failure if worker.state is State.FAILED else "",
        waiting=() if awaited is None else tuple(misfits(awaited, worker.fabric, worker.settings)),
        faults=look_at_faults(worker.faults, page),
        resumes=worker.resumes,
        state_page=worker.state_page,
        slots=worker.slots,
    )
    return seen if page is None else _look_at_page(seen, worker, page)


def _look_at_page(seen: FabricView, worker: Worker, page: Page) -> FabricView:
    """With what the stats page tells."""
    occupants = page.occupants() if seen.up else []
    if seen.up:
        worker.names.look(occupants, worker.nodename, worker.switch)
    peers = tuple(PeerView(o.peer, o.pid, o.uid, o.joined / 1e9, *worker.names.of(o.peer)) for o in occupants)
    switch, there = None, {o.place for o in occupants}
    if seen.up and worker.switch is not None:
        there.add(worker.fabric.peers)
        # It began with its fabric, and nobody wrote down when.
        switch = PeerView(worker.switch, worker.pid, os.geteuid(), 0.0, *worker.names.of(worker.switch))
    relayed = worker.fabric.doorbells == "relayed"
    pairs, vectors = _doorbells(page, ids_of(worker.fabric, page), there, relayed=relayed)
    return replace(
        seen,
        peers=peers,
        switch=switch,
        totals=page.totals(),
        pairs=pairs,
        vectors=vectors,
        gauges=page.gauges(),
        held=sum(page.held().values()),
        page=page.identity,
    )


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
    # Most places of a large fabric are empty, and nobody there has ever rung.
    span = places * width
    telling = [row for row in range(rows) if row in there or any(counters[row * span : (row + 1) * span])]
    for dst, dst_id in enumerate(ids):
        if dst_id is None:
            continue
        former = departed[dst * width : (dst + 1) * width]
        could_be_rung = any(former)
        # Of a direct fabric only what the switch is party to is seen, and who rang it is not.
        sources = telling if relayed else [r for r in range(rows) if (r == ANYBODY) == (dst == places - 1)]
        starts = ((row * places + dst) * width for row in sources)
        rung = [counters[at : at + width] for at in starts]
        for row, counts in zip(sources, rung, strict=True):
            src = row if relayed else places - 1
            n, src_id = sum(counts), ids[src]
            if not n and not (dst in there and src in there and src != dst):
                continue
            could_be_rung = True
            if src_id is not None and (relayed or row == SWITCH_ROW):
                pairs[src_id, dst_id] += n
        if could_be_rung:
            for vector, n in enumerate(map(sum, zip(former, *rung, strict=True))):
                vectors[dst_id, vector] += n
    return dict(pairs), dict(vectors)
