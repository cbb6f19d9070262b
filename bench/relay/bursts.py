"""Round trips of many doorbells at once: some peers ring another in the same moment, which rings all of them back."""

from __future__ import annotations

import os
import select
import signal
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.programs import bells, worker
from bench.relay.roundtrips import AWAKE, BARE, RELAYED
from bench.relay.yardstick import relay_in_c
from famezd.client import Peer
from famezd.fabric.settings import Settings
from famezd.fabric.worker import SOON

MOST = 14
AT_ONCE = (1, 2, 4, 8, MOST)
BURSTS = 300


class Lines(NamedTuple):
    """By which eventfds MOST peers ring another, and are rung back; one of each for each of them."""

    out: Sequence[int]
    echo_in: Sequence[int]
    echo_out: Sequence[int]
    back: Sequence[int]


def measure(directory: Path, rounds: int) -> dict[int, dict[str, list[float]]]:
    """Microseconds until all have been rung back, by how many ring at once and by ways, in turns."""
    everywhere = os.sched_getaffinity(0)
    first, second = min(everywhere), max(everywhere)
    found: dict[int, dict[str, list[float]]] = {n: {} for n in AT_ONCE}
    with ExitStack() as stack:
        ways = {
            BARE: stack.enter_context(_bare()),
            AWAKE: stack.enter_context(_yardstick()),
            RELAYED: stack.enter_context(_fabric(directory)),
        }
        for lines in ways.values():
            stack.enter_context(_echoing(lines, second))
        os.sched_setaffinity(0, {first})
        stack.callback(os.sched_setaffinity, 0, everywhere)
        for n in AT_ONCE:
            for _ in range(rounds):
                for name, lines in ways.items():
                    found[n].setdefault(name, []).append(_burst(lines, n) * 1e6)
    return found


@contextmanager
def _bare() -> Iterator[Lines]:
    out, back = _eventfds(), _eventfds()
    yield Lines(out, out, back, back)
    _close(out, back)


@contextmanager
def _yardstick() -> Iterator[Lines]:
    lines = Lines(_eventfds(), _eventfds(), _eventfds(), _eventfds())
    pairs = [*zip(lines.out, lines.echo_in, strict=True), *zip(lines.echo_out, lines.back, strict=True)]
    with relay_in_c(pairs, SOON):
        yield lines
    _close(*lines)


@contextmanager
def _fabric(directory: Path) -> Iterator[Lines]:
    path = str(directory / "bursts.sock")
    settings = Settings("bench", path, "famez-bench", 1 << 20, backing="memfd", peers=MOST + 1)
    with worker(settings), ExitStack() as stack:
        *ringers, rung = [stack.enter_context(Peer.join(path)) for _ in range(MOST + 1)]
        yield Lines(
            out=[bells(peer, rung.id)[vector] for vector, peer in enumerate(ringers)],
            echo_in=bells(rung, rung.id)[:MOST],
            echo_out=[bells(rung, peer.id)[0] for peer in ringers],
            back=[bells(peer, peer.id)[0] for peer in ringers],
        )


@contextmanager
def _echoing(lines: Lines, processor: int) -> Iterator[None]:
    """A process that rings everybody back."""
    pid = os.fork()
    if pid == 0:
        os.sched_setaffinity(0, {processor})
        answers = dict(zip(lines.echo_in, lines.echo_out, strict=True))
        poll = select.epoll()
        for eventfd in answers:
            poll.register(eventfd, select.EPOLLIN)
        while True:
            for rung, _ in poll.poll():
                os.eventfd_read(rung)
                os.eventfd_write(answers[rung], 1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _burst(lines: Lines, n: int) -> float:
    """Seconds until all of `n` that ring at once have been rung back, the median."""
    poll = select.epoll()
    for eventfd in lines.back[:n]:
        poll.register(eventfd, select.EPOLLIN)
    times = []
    for _ in range(BURSTS):
        began = time.perf_counter()
        for eventfd in lines.out[:n]:
            os.eventfd_write(eventfd, 1)
        waiting = n
        while waiting:
            for eventfd, _ in poll.poll():
                os.eventfd_read(eventfd)
                waiting -= 1
        times.append(time.perf_counter() - began)
    poll.close()
    return statistics.median(times)


def _eventfds() -> list[int]:
    return [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(MOST)]


def _close(*many: Sequence[int]) -> None:
    for eventfds in many:
        for eventfd in eventfds:
            os.close(eventfd)
