"""The relay, measured: `python -m bench.relay`.

The round trip of a doorbell between two processes, and how many ready doorbells a worker relays in a second; beside
them eventfds alone, and a relay of the same shape in C (bench/relay/relay.c).
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.relay import bursts, turns
from bench.relay.roundtrips import (
    ASLEEP,
    AWAKE,
    BARE,
    DIRECT,
    IN_C,
    RELAYED,
    ROUND_TRIPS,
    SLEEPS,
    Placement,
    Trips,
    Way,
    fabric,
    measure,
    placements,
    ways,
)
from bench.relay.throughput import PEERS, VECTORS, Rate, bare_beside, bare_pairs, crowd_in_c, on, rate, worker_crowd
from bench.report import Comparison, Grid, Part, Plot, Ratio, Row, Section, Series
from famezd.fabric.worker import SOON

AIM = 500_000
"""Ready doorbells that a worker is to relay in a second."""
BURSTS = 3
"""Measurements of a round, of which the median is taken: each is but some milliseconds long."""
MANY = 20
"""Peers of each of two fabrics that are measured beside each other: what they do takes long enough to compare."""
SHARED: Mapping[str, Sequence[int | None]] = {
    "one": [0],
    "two, a processor each": [0, 1],
    "two, on one processor": [0, 0],
    "two, anywhere": [None, None],
}
"""Fabrics beside each other, and the processors of their workers."""
RULES = {
    "no rule": "",
    "a rule for another pair": "id=1 src=0 dst=1 drop=0.5",
    "a rule for these, which never strikes": "id=1 drop=0",
}
TRIED = """
    What was tried to make it faster, measured in turns with what was there before, on two processors of a virtual
    machine with Linux 6.18 and Python 3.11:

    - To look what is due only after a turn that did more than relay: a round trip took 0.90 of the time, with all on
      one processor 0.71. Kept.
    - To look for the next doorbell for 50 us before going to sleep, if the last came as soon: 0.54, on one processor
      0.62. Kept. Where others compute on both processors it was 0.65, and with all on one of them the 99th
      percentile rose from 0.2 to 1.7 ms. A worker that is rung a thousand times a second takes 0.74 of the processor
      time, one that is rung every 40 us twice as much: 80% of a processor. For 25 or 35 us a round
      trip took at most a tenth more; for 20 us the same if nobody else computes, else 1.18.
    - To give way (sched_yield) between two looks: 0.61, and where others compute 75 times as long as before. Not kept.
    - A relay in Python that does nothing else, not even look after its peers: 0.87 on two processors and 0.60 on one,
      without looking. More is not to be had in Python but by fewer instructions before the write.
    - Fewer events at once (64, 256), no garbage collection, the ringer kept beside each bell, indexes as local names:
      all within 3% of a ready doorbell's time. Not kept."""
"""Of designs that are not there any more, and so are measured no more."""

Trip = Mapping[str, Trips]


def section(rounds: int) -> Section:
    """All figures of the relay."""
    with TemporaryDirectory() as directory:
        parts = [part(Path(directory), rounds) for part in (latency, at_once, throughput, rules, profile)]
        return Section("Relayed doorbells", [*chain.from_iterable(parts)])


def latency(directory: Path, rounds: int) -> Iterator[Part]:
    """Round trips."""
    with ways(directory) as found:
        trips = {placement.name: measure(found, placement, rounds) for placement in placements()}
    yield f"""
        A process rings another, which rings back. Machines have processors of their own, and each of the two is woken
        from its sleep: that is the claim. With all on one processor a round trip without a relay is two changes of
        process and nothing else, which is the extreme; and where the scheduler puts who may run anywhere is not known
        beforehand. Times are medians of {ROUND_TRIPS:,} round trips.

        What takes long is to wake a processor that sleeps. So a worker that has just relayed a doorbell, and had the
        one before not long ago, looks for the next for {SOON // 1000} us before it goes to sleep: that is why a round
        trip through it can take less than one through eventfds alone, which wakes two processors. Beside it a worker
        that never does."""
    # A direct fabric hands out eventfds and does nothing else: 1.0, as far as that can be measured.
    yield _against("eventfds alone", trips, [(RELAYED, BARE, 1.6), (ASLEEP, BARE, 1.6), (DIRECT, BARE, 1.05)])
    yield _against("a relay in C that waits in the same way", trips, [(RELAYED, AWAKE, 1.2), (ASLEEP, IN_C, 1.2)])
    yield _spread(trips)


def _against(what: str, trips: Mapping[str, Trip], pairs: Sequence[tuple[str, str, float]]) -> Comparison:
    claimed = next(iter(trips))
    rows = [
        Row(f"{ours}, {where}", trip[ours].p50, trip[theirs].p50, most=most if where == claimed else None)
        for ours, theirs, most in pairs
        for where, trip in trips.items()
    ]
    return Comparison(f"Round trips of a doorbell, against {what}", "us", what, rows)


def _spread(trips: Mapping[str, Trip]) -> Grid:
    rows = [
        [f"{name}, {where}", *(f"{statistics.median(times):.1f}" for times in (way.p50, way.p99))]
        for where, trip in trips.items()
        for name, way in trip.items()
    ]
    return Grid("Median and 99th percentile of each, us", ["", "p50", "p99"], rows)


def at_once(directory: Path, rounds: int) -> Iterator[Part]:
    """Round trips of several doorbells at once."""
    found = bursts.measure(directory, rounds)
    yield """
        Several peers, one for each vector, ring another one in the same moment, and all are rung back: the time until
        the last has been. The peers are on one processor, and who is rung on another."""
    rows = [Row(f"{n} at once", ways[RELAYED], ways[AWAKE], ways[BARE]) for n, ways in found.items()]
    yield Comparison("Until all have been rung back", "us", AWAKE, rows, limit=BARE)
    series = [
        Series(name, list(found), [statistics.median(ways[name]) for ways in found.values()])
        for name in (BARE, AWAKE, RELAYED)
    ]
    yield Plot("relay", "Doorbells of several peers at once", "peers that ring", "us until all are rung back", series)


def throughput(directory: Path, rounds: int) -> Iterator[Part]:
    """Ready doorbells a second, of one worker and of two."""
    one, in_c, bare = list[Rate](), list[Rate](), list[float]()
    with worker_crowd(directory) as crowd, crowd_in_c() as yardstick:
        for _ in range(rounds):
            bare.append(bare_pairs())
            one.append(rate([crowd]))
            in_c.append(rate([yardstick]))
    busy, wall = ([r[i] for r in one] for i in (1, 0))
    n = len(crowd.bells)
    verdict = "met" if statistics.median(busy) >= AIM else "**missed**"
    yield f"""
        {n:,} bells of {PEERS} peers with {VECTORS} vectors have been rung when the relay begins to look. The target is
        {AIM:,} doorbells in a second of the worker's busy time: {verdict}. What takes long is that so many eventfds,
        with their files and whoever waits for them, are not in the processor's cache when they are needed, which the
        relay in C has to wait for, too."""
    rows = [
        Row("of its busy time", busy, [r.wall for r in in_c], bare),
        Row("of all time, its start included", wall, [r.wall for r in in_c], bare),
    ]
    limit = "an eventfd read and one written in a bare Python loop"
    yield Comparison("Ready doorbells relayed", "a second", IN_C, rows, limit=limit)
    yield from two(directory, rounds)


def two(directory: Path, rounds: int) -> Iterator[Part]:
    """Two fabrics beside each other, against one."""
    measured = {name: list[float]() for name in SHARED}
    bare, bare_two = list[float](), list[float]()
    with ExitStack() as stack:
        crowds = [stack.enter_context(worker_crowd(directory, f"two{n}", peers=MANY)) for n in range(2)]
        for _ in range(rounds):
            for name, processors in SHARED.items():
                chosen = crowds[: len(processors)]
                with on(processors, chosen):
                    measured[name].append(statistics.median(rate(chosen).wall for _ in range(BURSTS)))
            bare.append(bare_beside([0]))
            bare_two.append(bare_beside([0, 1]))
    one = measured.pop("one")
    rows = [Row(name, rates, one, least=1.8 if "each" in name else None) for name, rates in measured.items()]
    caption = f"Ready doorbells of two fabrics of {MANY} peers, until the last has arrived"
    yield Comparison(caption, "a second", "one fabric", rows, ours="two fabrics")
    yield f"""
        Two bare loops on two processors do {Ratio.of(bare_two, bare)} times what one does. Where the scheduler may
        choose, it begins with both workers on the processor of whoever woke them, and parts them after some
        milliseconds, when most is done."""


def rules(directory: Path, rounds: int) -> Iterator[Part]:
    """What fault rules cost the doorbells that they concern, and the others."""
    with ExitStack() as stack:
        crowds = {
            name: stack.enter_context(worker_crowd(directory, f"rules{n}", faults))
            for n, (name, faults) in enumerate(RULES.items())
        }
        times = {name: list[float]() for name in crowds}
        for _ in range(rounds):
            for name, crowd in crowds.items():
                times[name].append(1e9 / rate([crowd]).busy)
    without = times.pop("no rule")
    rows = [Row(name, measured, without) for name, measured in times.items()]
    yield Comparison("With fault rules", "ns a doorbell", "no rule", rows)


def profile(directory: Path, rounds: int) -> Iterator[Part]:
    """Where the time goes."""
    yield turns.steps()
    if os.geteuid() != 0:
        yield "Only root may see what is the kernel's: perf and strace look into other processes."
        return
    everywhere, one = placements()[0], placements()[3]
    with (
        worker_crowd(directory, "profile") as crowd,
        fabric(directory, "relayed") as way,
        fabric(directory, "relayed", SLEEPS) as sleepy,
    ):

        def trips(placement: Placement, way: Way = way) -> None:
            measure({RELAYED: way}, placement, rounds)

        def many() -> None:
            for _ in range(10 * rounds):
                rate([crowd])

        assert way.relay is not None
        assert sleepy.relay is not None
        yield turns.kernel(
            {
                "ready doorbells": (crowd.pid, many),
                f"round trips, {everywhere.name}": (way.relay, lambda: trips(everywhere)),
                f"round trips, {one.name}": (way.relay, lambda: trips(one)),
                f"round trips, {everywhere.name}, asleep at once": (sleepy.relay, lambda: trips(everywhere, sleepy)),
                f"round trips, {one.name}, asleep at once": (sleepy.relay, lambda: trips(one, sleepy)),
            }
        )
        yield turns.system_calls(way.relay, 2 * rounds * ROUND_TRIPS, lambda: trips(everywhere))
    yield TRIED
