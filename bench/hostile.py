"""Hostile peers, measured: `python -m bench.hostile`.

Two honest peers ring each other through a relayed fabric, in turns alone and beside one hostile peer of each kind. The
figures are the median and the 99th percentile of their round trips; only the ratios, with the hostile one and without
in the same run, are claims. The aim is a p99 of at most 3 times. The whole service runs, with its log and its arks.

The worker has one processor for itself, as it has on a host that is not overloaded, and the peers share another, where
the honest ones go before the hostile one: its computing alone is nothing that a server can do anything about. As root
they and the worker go before all else on the machine, too (SCHED_FIFO), or the figures would be of what else runs.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import resource
import select
import signal
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.programs import bells, echoing, famezd, worker_of
from famezd.client import ClientError, Peer
from famezd.mailbox import slots_size

PEERS, VECTORS = 14, 16
ROUND_TRIPS = 2_000
ROUNDS = 5
FULL = 2**64 - 2
IDLE = 300

Attack = Callable[[Path], None]


def floods_one_bell(path: Path) -> None:
    """Rings one peer on one vector, without a pause."""
    with Peer.join(path) as peer:
        bell = bells(peer, peer.peers[0])[3]
        while True:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_write(bell, 1)


def floods_all_bells(path: Path) -> None:
    """Rings every other port on every vector, without a pause, and the most that an eventfd holds each time."""
    with Peer.join(path) as peer:
        mine = [bell for other in peer.peers for bell in bells(peer, other)[1:]]
        while True:
            for bell in mine:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_write(bell, FULL)


def makes_all_block(path: Path) -> None:
    """Makes its eventfds block, fills what it receives on, drains what it rings by; comes again when it is expelled."""
    while True:
        try:
            peer = Peer.join(path)
        except ClientError:
            continue
        with peer:
            own, mine = bells(peer, peer.id), [bell for other in peer.peers for bell in bells(peer, other)[1:]]
            for eventfd in own + mine:
                fcntl.fcntl(eventfd, fcntl.F_SETFL, fcntl.fcntl(eventfd, fcntl.F_GETFL) & ~os.O_NONBLOCK)
            for eventfd in own:
                os.eventfd_write(eventfd, FULL)
            # Readable when it is expelled; to read its own bells would empty them.
            hung_up = select.poll()
            hung_up.register(peer._connection, select.POLLIN)
            while not hung_up.poll(0):
                for bell in mine:
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_write(bell, 1)
                        os.preadv(bell, [bytearray(8)], -1, os.RWF_NOWAIT)


def joins_and_leaves(path: Path) -> None:
    """Joins, reads the whole set-up, and leaves."""
    while True:
        Peer.join(path).leave()


def connects_and_hangs_up(path: Path) -> None:
    """Connects and reads nothing, many at a time."""
    while True:
        crowd = [socket.socket(socket.AF_UNIX) for _ in range(PEERS)]
        for connection in crowd:
            connection.connect(str(path))
        for connection in crowd:
            connection.close()


def is_refused(path: Path) -> None:
    """Takes all the ports that there are and goes on asking for more."""
    with ExitStack() as stack:
        with contextlib.suppress(ClientError):
            while True:
                stack.enter_context(Peer.join(path))
        connects_and_hangs_up(path)


def stands_about(path: Path) -> None:
    """Opens 300 connections, reads from none, and keeps those that it was given."""
    crowd = [socket.socket(socket.AF_UNIX) for _ in range(IDLE)]
    for connection in crowd:
        connection.connect(str(path))
    signal.pause()


def scribbles(path: Path) -> None:
    """Writes noise all over the mailbox, and rings the switch about it."""
    with Peer.join(path) as peer:
        while True:
            os.pwrite(peer.memory, os.urandom(slots_size(PEERS)), 0)
            for vector in range(VECTORS):
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_write(bells(peer, PEERS + 1)[vector], 1)


ATTACKS: tuple[Attack, ...] = (
    floods_one_bell,
    floods_all_bells,
    makes_all_block,
    joins_and_leaves,
    connects_and_hangs_up,
    is_refused,
    stands_about,
    scribbles,
)


@contextmanager
def attacked(attack: Attack | None, path: Path, processor: int) -> Iterator[None]:
    """While this lasts a process attacks."""
    if attack is None:
        # Until what the last one left behind is cleared away.
        time.sleep(0.3)
        yield
        return
    pid = os.fork()
    if pid == 0:
        os.sched_setaffinity(0, {processor})
        try:
            last_of_all()
            attack(path)
        finally:
            os._exit(1)
    try:
        # Until it is at its work.
        time.sleep(0.3)
        yield
        if os.waitpid(pid, os.WNOHANG) != (0, 0):
            raise RuntimeError(f"{attack.__name__} has not lasted")
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def last_of_all() -> None:
    """This process has what honest peers leave over."""
    os.sched_setscheduler(0, os.SCHED_OTHER if os.geteuid() == 0 else os.SCHED_IDLE, os.sched_param(0))


def first_of_all(pid: int) -> None:
    """A process, and those that it forks, go before others, if we may decide that."""
    if os.geteuid() == 0:
        os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(1))


def round_trips(ringer: Peer, rung: Peer) -> tuple[float, float]:
    """Median and 99th percentile, in microseconds."""
    poll = select.poll()
    out, back = bells(ringer, rung.id)[0], bells(ringer, ringer.id)[0]
    poll.register(back, select.POLLIN)
    times = []
    for _ in range(ROUND_TRIPS):
        began = time.perf_counter()
        os.eventfd_write(out, 1)
        if not poll.poll(10_000):
            raise RuntimeError("no answer within 10 s")
        os.eventfd_read(back)
        times.append((time.perf_counter() - began) * 1e6)
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


def measure(attack: Attack, directory: Path, rounds: int) -> None:
    """Prints what one kind of hostile peer does to two honest ones."""
    fabric = f"personality: genz\npeers: {PEERS}\nvectors: {VECTORS}\nmailbox: {{backing: memfd}}\n"
    path = directory / "run" / "bench.sock"
    alone: list[tuple[float, float]] = []
    beside: list[tuple[float, float]] = []
    processors = sorted(os.sched_getaffinity(0))
    first, second = processors[0], processors[-1]
    with famezd(directory, {"bench": fabric}) as url, Peer.join(path) as a, Peer.join(path) as b:
        pid = worker_of(url, "bench")
        os.sched_setaffinity(pid, {first})
        os.sched_setaffinity(0, {second})
        first_of_all(pid)
        first_of_all(0)
        with echoing(bells(b, b.id)[0], bells(b, a.id)[0], {second}):
            for _ in range(rounds):
                for chosen, taken in ((None, alone), (attack, beside)):
                    with attacked(chosen, path, second):
                        taken.append(round_trips(a, b))
        os.sched_setaffinity(0, processors)
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    (p50, p99), (p50_beside, p99_beside) = (
        tuple(statistics.median(figures) for figures in zip(*taken, strict=True)) for taken in (alone, beside)
    )
    ratios = sorted(y[1] / x[1] for x, y in zip(alone, beside, strict=True))
    print(
        f"  {attack.__name__.replace('_', ' '):<24}{p50:8.1f}{p50_beside:8.1f}{p99:10.1f}{p99_beside:8.1f}"
        f"{p50_beside / p50:10.2f}{statistics.median(ratios):8.2f}  ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


def main() -> None:
    """Measures, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="pairs of measurements (%(default)s)")
    parser.add_argument("--attack", choices=[attack.__name__ for attack in ATTACKS], help="this one only")
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(f"round trips of two honest peers, alone and beside a hostile one, us; {PEERS} peers of {VECTORS} vectors")
    print(f"  {'a peer that ...':<24}{'p50':>8}{'beside':>8}{'p99':>10}{'beside':>8}{'p50 ratio':>10}{'p99':>8}")
    for attack in ATTACKS:
        if arguments.attack in (None, attack.__name__):
            with tempfile.TemporaryDirectory() as directory:
                measure(attack, Path(directory), arguments.rounds)


if __name__ == "__main__":
    main()
