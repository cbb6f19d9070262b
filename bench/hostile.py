"""Hostile peers, measured: `python -m bench.hostile`.

Two honest peers ring each other through a relayed fabric, in turns alone and beside one hostile peer of each kind. The
whole service runs, with its log and its arks.

The worker has one processor for itself, as it has on a host that is not overloaded, and the peers share another, where
the honest ones go before the hostile one: its computing alone is nothing that a server can do anything about. As root
they and the worker go before all else on the machine, too (SCHED_FIFO), or the figures would be of what else runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.programs import bells, echoing, famezd, worker_of
from bench.relay.roundtrips import Trips, round_trips
from bench.report import Comparison, Row, Section, main
from famezd.client import ClientError, Peer
from famezd.mailbox import slots_size

PEERS, VECTORS = 14, 16
ROUND_TRIPS = 1_500
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


def measure(attack: Attack, directory: Path, rounds: int) -> tuple[Trips, Trips]:
    """Medians and 99th percentiles of two honest peers, alone and beside one kind of hostile peer."""
    fabric = f"personality: genz\npeers: {PEERS}\nvectors: {VECTORS}\nmailbox: {{backing: memfd}}\n"
    path = directory / "run" / "bench.sock"
    alone, beside = Trips(), Trips()
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
                        taken.add(round_trips(bells(a, b.id)[0], bells(a, a.id)[0], ROUND_TRIPS))
        os.sched_setaffinity(0, processors)
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return alone, beside


def section(rounds: int) -> Section:
    """What hostile peers do to honest ones."""
    found = {}
    for attack in ATTACKS:
        with TemporaryDirectory() as directory:
            found[attack.__name__.replace("_", " ")] = measure(attack, Path(directory), rounds)
    told = f"""
        Round trips of two honest peers, alone and beside one that does its worst, on a fabric of {PEERS} peers and
        {VECTORS} vectors. The worker has a processor, and the peers share another, on which the honest ones go first.
        A join and a departure are made in parts, between which the worker relays. That the 99th percentiles beside one
        that joins and leaves come of the longest of those parts is likely, and was not measured."""
    medians = [Row(name, beside.p50, alone.p50) for name, (alone, beside) in found.items()]
    tails = [Row(name, beside.p99, alone.p99, most=3) for name, (alone, beside) in found.items()]
    return Section(
        "Hostile peers",
        [
            told,
            Comparison("Medians, beside a peer that ...", "us", "alone", medians, ours="beside"),
            Comparison("99th percentiles, beside a peer that ...", "us", "alone", tails, ours="beside"),
        ],
    )


if __name__ == "__main__":
    main("bench.hostile", section, __doc__)
