"""Round trips of doorbells between two processes: through eventfds alone, a fabric, or the relay in C.

A doorbell goes from the one that measures to another process, which rings back.
"""

from __future__ import annotations

import os
import select
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from bench.programs import WORKER, bells, echoing, worker
from bench.relay.yardstick import relay_in_c
from famezd.client import Peer
from famezd.fabric.settings import Settings
from famezd.fabric.worker import SOON

PEERS, VECTORS = 14, 16
ROUND_TRIPS = 2_000
BARE, DIRECT, IN_C, RELAYED = "eventfds alone", "direct fabric", "relay in C", "relayed fabric"
ASLEEP, AWAKE = "relayed, asleep at once", "relay in C, awake for a while"

SLEEPS = "import famezd.fabric.worker as worker; worker.SOON = 0; raise SystemExit(worker.main())"
"""A worker that sleeps at once when it has nothing to do."""


class Way(NamedTuple):
    """How two processes ring each other."""

    out: int
    """The eventfd by which the first rings."""
    echo_in: int
    """By which the second is rung."""
    echo_out: int
    """By which the second rings back."""
    back: int
    """By which the first is rung."""
    relay: int | None = None
    """The pid of what is between them."""


class Placement(NamedTuple):
    """On which processors the three processes may run."""

    name: str
    first: set[int]
    second: set[int]
    relay: set[int]


def placements() -> list[Placement]:
    """The ways in which three processes share two processors, that of virtual machines first."""
    everywhere = os.sched_getaffinity(0)
    one, other = ({processor} for processor in (sorted(everywhere) * 2)[:2])
    return [
        Placement("peers on two processors", one, other, everywhere),
        Placement("peers on two, the relay kept on one of them", one, other, one),
        Placement("peers on one, the relay on another", one, one, other),
        Placement("all on one processor", one, one, one),
        Placement("all where the scheduler likes", everywhere, everywhere, everywhere),
    ]


@contextmanager
def ways(directory: Path) -> Iterator[dict[str, Way]]:
    """All ways, each with as many bells as the others, which are nobody's."""
    with ExitStack() as stack:
        there, back = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2))
        yield {
            BARE: Way(there, there, back, back),
            DIRECT: stack.enter_context(fabric(directory, "direct")),
            IN_C: stack.enter_context(yardstick()),
            AWAKE: stack.enter_context(yardstick(SOON)),
            RELAYED: stack.enter_context(fabric(directory, "relayed")),
            ASLEEP: stack.enter_context(fabric(directory, "relayed", SLEEPS)),
        }
        os.close(there)
        os.close(back)


@contextmanager
def fabric(directory: Path, doorbells: str, program: str = WORKER) -> Iterator[Way]:
    """Two peers of a fabric of famezd's."""
    path = str(directory / f"{'asleep' if program is SLEEPS else doorbells}.sock")
    settings = Settings("bench", path, "famez-bench", 1 << 20, backing="memfd", doorbells=doorbells)
    with worker(settings, program) as process, Peer.join(path) as a, Peer.join(path) as b:
        out, back = bells(a, b.id)[0], bells(a, a.id)[0]
        echo_in, echo_out = bells(b, b.id)[0], bells(b, a.id)[0]
        # A client waits for all its bells, which costs who rings them a little; the two here wait for themselves.
        a._epoll.unregister(back)
        b._epoll.unregister(echo_in)
        yield Way(out, echo_in, echo_out, back, process.pid if doorbells == "relayed" else None)


@contextmanager
def yardstick(look: int = 0) -> Iterator[Way]:
    """The relay in C, with as many bells as two peers of a full fabric have."""
    first, second = ([os.eventfd(0, os.EFD_NONBLOCK) for _ in range(VECTORS)] for _ in range(2))
    leads_to = [eventfd for receivers in (first, second) for _ in range(PEERS - 1) for eventfd in receivers]
    pairs = [(os.eventfd(0, os.EFD_NONBLOCK), eventfd) for eventfd in leads_to]
    with relay_in_c(pairs, look) as (pid, _):
        yield Way(out=pairs[-VECTORS][0], echo_in=second[0], echo_out=pairs[0][0], back=first[0], relay=pid)
    for eventfd in [*(bell for bell, _ in pairs), *first, *second]:
        os.close(eventfd)


@dataclass
class Trips:
    """Round trips of one way at one placement, by rounds, in microseconds."""

    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)

    def add(self, times: Sequence[float]) -> None:
        """The times of a round, in seconds."""
        self.p50.append(statistics.median(times) * 1e6)
        self.p99.append(statistics.quantiles(times, n=100)[98] * 1e6)


def measure(ways: Mapping[str, Way], placement: Placement, rounds: int, n: int = ROUND_TRIPS) -> dict[str, Trips]:
    """Round trips of all ways in turns."""
    everywhere = os.sched_getaffinity(0)
    found = {name: Trips() for name in ways}
    with ExitStack() as stack:
        for way in ways.values():
            stack.enter_context(echoing(way.echo_in, way.echo_out, placement.second))
            if way.relay is not None:
                os.sched_setaffinity(way.relay, placement.relay)
        os.sched_setaffinity(0, placement.first)
        try:
            for _ in range(rounds):
                for name, way in ways.items():
                    found[name].add(round_trips(way.out, way.back, n))
        finally:
            os.sched_setaffinity(0, everywhere)
            for way in ways.values():
                if way.relay is not None:
                    os.sched_setaffinity(way.relay, everywhere)
    return found


def round_trips(out: int, back: int, n: int) -> list[float]:
    """Seconds of each of `n` round trips."""
    poll = select.poll()
    poll.register(back, select.POLLIN)
    times = []
    for _ in range(n):
        began = time.perf_counter()
        os.eventfd_write(out, 1)
        poll.poll()
        os.eventfd_read(back)
        times.append(time.perf_counter() - began)
    return times
