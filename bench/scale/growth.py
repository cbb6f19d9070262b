"""What a fabric of so many peers takes: its joins, its worker's memory, its doorbells, its worker's death."""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.programs import bells, echo, famezd, peers_of, processor_time, worker_of
from bench.relay.roundtrips import round_trips
from bench.scale.crowd import PATIENCE, Crowd, CrowdError, Member
from famezd.client import Peer
from famezd.fabric.settings import Settings
from famezd.stats import WORD

VECTORS = 16
PROCESSES = 20
"""In which a thousand peers are: each can open what one set-up hands it, beside what its fifty peers keep."""
AT_ONCE = 2
"""Peers that join at the same time while a fabric is filled: as many as there are processors."""
ALONE = 10
"""Peers that join one after the other, to be timed."""
STEADY = 1.2
"""Seconds between two deaths: a worker that dies sooner is taken for one that cannot start, and waits."""
DEATHS = 3
ROUND_TRIPS = 200


@dataclass(frozen=True)
class Kind:
    """A kind of fabric."""

    doorbells: str
    ports: str

    def __str__(self) -> str:
        return f"{self.doorbells}, {self.ports}"

    def text(self, peers: int) -> str:
        """A fabric's file."""
        return (
            f"peers: {peers}\nvectors: {VECTORS}\ndoorbells: {self.doorbells}\nports: {self.ports}\n"
            "mailbox: {backing: memfd}\n"
        )

    def settings(self, peers: int) -> Settings:
        """What its worker is told, as far as that decides what it takes."""
        return Settings("", "", "", 0, peers=peers, vectors=VECTORS, doorbells=self.doorbells, ports=self.ports)


RELAYED, DIRECT, FRESH = Kind("relayed", "sticky"), Kind("direct", "sticky"), Kind("direct", "fresh")


@dataclass
class Grown:
    """One fabric, full, or with so many peers."""

    kind: Kind
    peers: int
    join: float
    """Seconds of a join, the median of those that were timed."""
    cpu: float
    """Seconds of the worker's processor time for it."""
    filled: float = 0.0
    """Seconds until all were there."""
    parted: float = 0.0
    """Seconds until all had left."""
    rung: int = 0
    """Doorbells that were rung, and arrived."""
    descriptors: int = 0
    """That the worker has open."""
    pss: int = 0
    """Bytes of the worker's proportional memory."""
    rss: int = 0
    latency: Sequence[float] = ()
    """Seconds from a doorbell until it is there, through the worker: medians."""
    bare: Sequence[float] = ()
    """The same there and back between two processes with eventfds alone, in turns: as many changes of process."""
    resumed: Sequence[float] = ()
    """Seconds from the worker's death until another one welcomes a newcomer."""
    delivered: Sequence[float] = ()
    """Seconds from the worker's death until a doorbell is there that was rung after it, where the worker relays."""

    @property
    def page(self) -> int:
        """Bytes of the stats page, all of which are allocated at its start."""
        return self.kind.settings(self.peers).shape(switch=False).words * WORD


def memory(pid: int) -> tuple[int, int]:
    """Bytes of a process's memory: proportional, resident."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    of = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines}
    return of["Pss"], of["Rss"]


def descriptors(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def full(kind: Kind, peers: int, *, rounds: int, deaths: bool) -> Grown:
    """Fills a fabric of so many peers, and looks at it.

    Two peers of a relayed one are this process's own, to time doorbells.
    """
    own = 2 if kind == RELAYED else 0
    crowded = max(peers - own, 2)
    with ExitStack() as stack:
        url, directory = stack.enter_context(service({"grown": kind.text(max(peers, own + crowded))}))
        path = directory / "run" / "grown.sock"
        crowd = stack.enter_context(Crowd(min(crowded, PROCESSES), VECTORS, crowded))
        began = time.perf_counter()
        grown = _timed(crowd, kind, peers, path, worker_of(url, "grown"), crowded)
        two = [stack.enter_context(Peer.join(path, timeout=PATIENCE)) for _ in range(own)]
        grown.filled = time.perf_counter() - began
        grown.rung = crowd.ring()
        pid = worker_of(url, "grown")
        grown.descriptors, (grown.pss, grown.rss) = descriptors(pid), memory(pid)
        _look_closer(grown, url, two, rounds=rounds, deaths=deaths)
        if deaths:
            crowd.leave_one()
            grown.resumed = [_death(url, lambda: _welcome(path)) for _ in range(DEATHS)]
            # None of those who stayed has lost anything.
            crowd.join(path, 1)
            crowd.ring()
        grown.parted = _parted(url, crowd, two)
    return grown


def _timed(crowd: Crowd, kind: Kind, peers: int, path: Path, pid: int, n: int) -> Grown:
    """Has `n` more join, and times the last of them one by one; returns that of a fabric of so many `peers`."""
    alone = min(ALONE, max(1, n // 2))
    crowd.join(path, n - alone, at_once=AT_ONCE)
    used = processor_time(pid)
    joins = crowd.join(path, alone)
    return Grown(kind, peers, statistics.median(joins), (processor_time(pid) - used) / alone)


def _look_closer(grown: Grown, url: str, own: Sequence[Peer], *, rounds: int, deaths: bool) -> None:
    """Times doorbells that the worker relays, before and after its death."""
    if own:
        with _pinned(worker_of(url, "grown")) as processor:
            grown.latency, grown.bare = _latencies(own[0], own[1], processor, rounds)
    if own and deaths:
        grown.delivered = [_death(url, lambda: _ring(own[0], own[1])) for _ in range(DEATHS)]


def _parted(url: str, crowd: Crowd, own: Sequence[Peer]) -> float:
    """Has all leave; returns the seconds until nobody is there."""
    began = time.perf_counter()
    for peer in own:
        peer.leave()
    crowd.leave()
    _await_nobody(url)
    return time.perf_counter() - began


def growing(kind: Kind, sizes: Sequence[int]) -> list[Grown]:
    """Fills one fabric, and looks at the joins when so many are there; last is the full one."""
    found = []
    with service({"grown": kind.text(sizes[-1])}) as (url, directory), Crowd(PROCESSES, VECTORS, sizes[-1]) as crowd:
        path, pid = directory / "run" / "grown.sock", worker_of(url, "grown")
        began, there = time.perf_counter(), 0
        for size in sizes:
            grown = _timed(crowd, kind, size, path, pid, size - there)
            crowd.await_acquaintance(size)
            grown.pss, grown.rss = memory(pid)
            found.append(grown)
            there = size
        grown.filled, grown.descriptors, grown.rung = time.perf_counter() - began, descriptors(pid), crowd.ring()
        grown.parted = _parted(url, crowd, ())
    return found


@contextmanager
def service(fabrics: dict[str, str]) -> Iterator[tuple[str, Path]]:
    """A famezd with these fabrics; yields its URL and its directory."""
    with tempfile.TemporaryDirectory() as folder, famezd(Path(folder), fabrics) as url:
        yield url, Path(folder)


def _await_nobody(url: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while peers_of(url)["grown"]:
        if time.monotonic() > deadline:
            raise CrowdError(f"not all have left within {PATIENCE:g} s")
        time.sleep(0.02)


def _ring(ringer: Peer, rung: Peer) -> None:
    ringer.ring(rung.id, 3)
    if not rung.wait(PATIENCE):
        raise CrowdError(f"a doorbell was not delivered within {PATIENCE:g} s")


def _welcome(path: Path) -> None:
    newcomer = Member(str(path), VECTORS, 0)
    try:
        poll = select.poll()
        poll.register(newcomer.connection, select.POLLIN)
        while not newcomer.greeted:
            if not poll.poll(PATIENCE * 1e3):
                raise CrowdError(f"nobody welcomes a newcomer within {PATIENCE:g} s")
            newcomer.hear()
    finally:
        newcomer.close()


def _death(url: str, then: Callable[[], None]) -> float:
    """Kills the worker; returns the seconds until that is done."""
    time.sleep(STEADY)
    os.kill(worker_of(url, "grown"), signal.SIGKILL)
    began = time.perf_counter()
    then()
    return time.perf_counter() - began


@contextmanager
def _pinned(pid: int) -> Iterator[int]:
    """Has the worker run on a processor that is not ours, where there are two; yields which."""
    everywhere = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(pid, everywhere[-1:])
    os.sched_setaffinity(0, everywhere[:1])
    try:
        yield everywhere[-1]
    finally:
        for process in (pid, 0):
            os.sched_setaffinity(process, everywhere)


def _latencies(ringer: Peer, rung: Peer, processor: int, rounds: int) -> tuple[list[float], list[float]]:
    there, back = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2))
    process = multiprocessing.get_context("fork").Process(target=echo, args=(there, back), daemon=True)
    process.start()
    assert process.pid is not None
    os.sched_setaffinity(process.pid, [processor])
    try:
        pairs = [
            (_latency(bells(ringer, rung.id)[0], bells(rung, rung.id)[0]), _latency(there, back)) for _ in range(rounds)
        ]
    finally:
        process.kill()
        process.join()
        os.close(there)
        os.close(back)
    return [relayed for relayed, _ in pairs], [bare for _, bare in pairs]


def _latency(out: int, back: int) -> float:
    """Seconds from a ring to its arrival, the median."""
    return statistics.median(round_trips(out, back, ROUND_TRIPS))
