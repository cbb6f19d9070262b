"""Ready doorbells that relays pass on: every bell of every peer is rung before they look.

They are stopped (SIGSTOP) while everything is rung, so nobody else needs a processor when they go on. Whoever measures
sleeps meanwhile, until the bell that was rung last arrives.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, cycle, islice
from pathlib import Path
from typing import NamedTuple

from bench.programs import bells, worker
from bench.relay.yardstick import COUNTERS, relay_in_c
from famezd.client import Peer
from famezd.fabric.settings import Settings
from famezd.stats import Page

PEERS, VECTORS = 14, 16
BELLS = PEERS * (PEERS - 1) * VECTORS - VECTORS - (PEERS - 2)
"""Those of all peers, but for those from peer 0 to peer 1, which have a fault rule of their own in some figures, and
those that lead where the last one does."""


class Rate(NamedTuple):
    """Ready doorbells a second."""

    wall: float
    """From when the relays may go on until the last has arrived."""
    busy: float
    """Of the relay's own time, as it counts that itself; 0 where it does not."""


class Crowd(ABC):
    """A relay and all the bells that it watches."""

    def __init__(self, pid: int, bells: Sequence[int], last: int) -> None:
        """`last` is the receiver of the last of the bells, and of no other."""
        self.pid = pid
        self.bells = bells
        self.last = last

    @abstractmethod
    def counted(self) -> int:
        """How many doorbells were counted."""

    @abstractmethod
    def busy_ns(self) -> int:
        """How long it was at work, 0 if it does not say."""


class Worker(Crowd):
    """A worker whose fabric is full."""

    def __init__(self, process: subprocess.Popen[bytes], settings: Settings) -> None:
        self._peers = [Peer.join(settings.socket) for _ in range(settings.peers)]
        self._page = Page.open(_page_descriptor(process.pid))
        pairs = [(peer, other) for peer in self._peers for other in peer.peers if (peer.id, other) != (0, 1)]
        ringer, rung = pairs[-1]
        # By the last bell and no other is its receiver rung.
        rings = [bells(*pair)[: -1 if pair[0] is not ringer and pair[1] == rung else None] for pair in pairs]
        receiver = next(peer for peer in self._peers if peer.id == rung)
        super().__init__(process.pid, list(chain.from_iterable(rings)), bells(receiver, rung)[-1])

    def counted(self) -> int:
        """How many doorbells were counted."""
        return sum(self._page.doorbells())

    def busy_ns(self) -> int:
        """How long it was at work."""
        return self._page.words[self._page.total_at("busy_ns")]

    def close(self) -> None:
        """Lets go of all that was opened here."""
        for peer in self._peers:
            peer.leave()
        self._page.close()


class InC(Crowd):
    """The relay in C, with as many bells."""

    def __init__(self, pid: int, page: memoryview, pairs: Sequence[tuple[int, int]]) -> None:
        super().__init__(pid, [bell for bell, _ in pairs], pairs[-1][1])
        self._page = page

    def counted(self) -> int:
        """How many doorbells were counted."""
        return sum(self._page[COUNTERS:].tolist())

    def busy_ns(self) -> int:
        """It does not say."""
        return 0


@contextmanager
def worker_crowd(directory: Path, name: str = "bench", faults: str = "", peers: int = PEERS) -> Iterator[Worker]:
    """A worker with all its bells."""
    path = str(directory / f"{name}.sock")
    settings = Settings("bench", path, "famez-bench", 1 << 20, backing="memfd", faults=faults, peers=peers)
    with worker(settings) as process:
        crowd = Worker(process, settings)
        try:
            yield crowd
        finally:
            crowd.close()


@contextmanager
def crowd_in_c() -> Iterator[InC]:
    """The relay in C with as many bells and receivers."""
    receivers = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(PEERS * VECTORS)]
    # As the clients of a fabric do.
    waiting = select.epoll()
    for receiver in receivers:
        waiting.register(receiver, select.EPOLLIN)
    leads_to = [*islice(cycle(receivers[:-1]), BELLS - 1), receivers[-1]]
    pairs = [(os.eventfd(0, os.EFD_NONBLOCK), receiver) for receiver in leads_to]
    with relay_in_c(pairs) as (pid, page):
        yield InC(pid, page, pairs)
    waiting.close()
    for eventfd in [*receivers, *(bell for bell, _ in pairs)]:
        os.close(eventfd)


def rate(crowds: Sequence[Crowd]) -> Rate:
    """How many ready doorbells all these relays together pass on in a second."""
    for crowd in crowds:
        _ring_all(crowd)
    expected = [crowd.counted() + len(crowd.bells) for crowd in crowds]
    busy = [crowd.busy_ns() for crowd in crowds]
    began = time.perf_counter()
    for crowd in crowds:
        os.kill(crowd.pid, signal.SIGCONT)
    _await_last(crowds)
    wall = time.perf_counter() - began
    for crowd, count in zip(crowds, expected, strict=True):
        _await_count(crowd, count)
    # Once more: when this one is counted, the time of the turns before it is, too.
    for crowd, count in zip(crowds, expected, strict=True):
        os.eventfd_write(crowd.bells[0], 1)
        _await_count(crowd, count + 1)
    at_work = sum(crowd.busy_ns() - before for crowd, before in zip(crowds, busy, strict=True)) / 1e9
    n = sum(len(crowd.bells) for crowd in crowds)
    return Rate(n / wall, n / at_work if at_work else 0.0)


def _ring_all(crowd: Crowd) -> None:
    """Rings all its bells while it cannot see to them."""
    os.kill(crowd.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, crowd.pid, os.WSTOPPED)
    for bell in crowd.bells:
        os.eventfd_write(bell, 1)
    os.eventfd_write(crowd.last, 1)
    os.eventfd_read(crowd.last)


def _await_last(crowds: Sequence[Crowd]) -> None:
    """Sleeps until the last bell of each has arrived."""
    poll = select.poll()
    for crowd in crowds:
        poll.register(crowd.last, select.POLLIN)
    for _ in crowds:
        for receiver, _ in poll.poll()[:1]:
            poll.unregister(receiver)


def _await_count(crowd: Crowd, expected: int) -> None:
    while crowd.counted() < expected:
        time.sleep(0.001)


def bare_pairs() -> float:
    """Pairs a second of one eventfd read and one written, in a bare loop: what no relay in Python can pass."""
    pairs = [(os.eventfd(1, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)) for _ in range(PEERS * VECTORS)]
    one, into = (1).to_bytes(8, "little"), bytearray(8)
    n = 0
    began = time.perf_counter()
    for _ in range(50):
        for source, target in pairs:
            os.readv(source, [into])
            os.write(target, one)
            os.write(source, one)
            n += 1
    seconds = time.perf_counter() - began
    for pair in pairs:
        for descriptor in pair:
            os.close(descriptor)
    # A third of what was timed made the bells ready again.
    return n / (seconds * 2 / 3)


def bare_beside(processors: Sequence[int]) -> float:
    """The same of bare loops on these processors at once, together."""
    readable, writable = os.pipe()
    with open(readable) as told, open(writable, "w") as tells:
        pids = []
        for processor in processors:
            pids.append(os.fork())
            if pids[-1] == 0:
                os.sched_setaffinity(0, {processor})
                tells.write(f"{bare_pairs()}\n")
                tells.flush()
                os._exit(0)
        tells.close()
        for pid in pids:
            os.waitpid(pid, 0)
        return sum(map(float, told))


@contextmanager
def on(processors: Sequence[int | None], crowds: Sequence[Crowd]) -> Iterator[None]:
    """These relays on a processor each, or wherever the scheduler likes."""
    everywhere = os.sched_getaffinity(0)
    for processor, crowd in zip(processors, crowds, strict=True):
        os.sched_setaffinity(crowd.pid, everywhere if processor is None else {processor})
    try:
        yield
    finally:
        for crowd in crowds:
            os.sched_setaffinity(crowd.pid, everywhere)


def _page_descriptor(pid: int) -> int:
    """The worker's stats page, opened beside it."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if "famez-bench-stats" in os.readlink(link):
            return os.open(link, os.O_RDWR)
    raise RuntimeError("the worker has no stats page")
