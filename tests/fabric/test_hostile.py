"""Peers that attack: floods, exhaustion, noise. The others are served meanwhile, and after it all is as before."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import random
import re
import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from famezd.client import Mailbox
from famezd.fabric.fabric import SETTLE
from famezd.fabric.log import LINES
from tests.fabric.conftest import Kind, Start, settings
from tests.fabric.test_bad_peers import FULL, fill, let_block, refused, rings
from tests.fabric.test_limits import eventfds
from tests.fabric.workers import DEADLINE, GENZ, Worker, stood_still

SWITCH = 6


@contextmanager
def limited_to(worker: Worker, more: int) -> Iterator[None]:
    """While this lasts the worker can open so many more descriptors: its limit is what their numbers stay below."""
    there = {int(name) for name in os.listdir(f"/proc/{worker.pid}/fd")}
    first_denied = next(itertools.islice((n for n in itertools.count() if n not in there), more, None))
    before = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (first_denied, before[1]))
    try:
        yield
    finally:
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, before)


def open_in(worker: Worker) -> int:
    """How many descriptors the worker has open."""
    return len(os.listdir(f"/proc/{worker.pid}/fd"))


def log_lines(worker: Worker, kind: str) -> tuple[int, int]:
    """How many lines of a kind it wrote, and how many it says that it left out."""
    lines = [line for line in worker.log.splitlines() if line[3:].startswith(kind)]
    left_out = [int(found[1]) for line in lines if (found := re.search(r"\tleft_out=(\d+)$", line))]
    return len(lines) - len(left_out), sum(left_out)


# Floods


def test_a_flood_of_refusals_is_counted_in_full_and_logged_in_part(start: Start) -> None:
    worker = start(users=str(os.geteuid() + 1))
    began = time.monotonic()
    for _ in range(10 * LINES):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(worker.settings.socket)
    worker.await_total("refused_access", 10 * LINES)
    seconds = time.monotonic() - began
    worker.wait(lambda: sum(log_lines(worker, "peer refused")) == 10 * LINES, "each was logged or left out")
    assert log_lines(worker, "peer refused")[0] <= LINES * (seconds + 2)


def is_rung(eventfd: int) -> bool:
    """Waits a moment for an eventfd; whether it was rung."""
    poll = select.poll()
    poll.register(eventfd, select.POLLIN)
    return bool(poll.poll(1000 * DEADLINE))


def test_what_was_left_out_is_told_before_the_end(folder: Path) -> None:
    with Worker(settings(folder), folder) as worker:
        for _ in range(2 * LINES):
            worker.join().close()
        worker.wait(lambda: worker.left == 2 * LINES, "all have left")
        worker.check()
        for kind in ("peer joined", "peer left"):
            assert sum(log_lines(worker, kind)) == 2 * LINES


def test_others_ring_each_other_while_one_rings_all_it_can(start: Start, ports: str) -> None:
    """All bells of one peer are rung again and again, with all that an eventfd holds; nobody waits for the last."""
    worker = start(doorbells="relayed", ports=ports, peers=14, vectors=16)
    flooder, src, dst, *others = fill(worker)
    worker.acquaint(flooder, src, dst)
    flooder.hear()
    bells = [bell for peer in flooder.peers for bell in flooder.bells(peer)]
    for _ in range(100):
        for bell in bells:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_write(bell, FULL)
        src.ring(dst.id, 2)
        assert is_rung(dst.own[2]), "it is rung"
        dst.take(2)
    worker.wait(lambda: worker.doorbells()[1, 2, 2] == 100, "each is counted")
    worker.barrier()
    assert len({key for key in worker.doorbells() if key[0] == 0}) == len(bells)
    assert worker.left == 0
    worker.wait(lambda: stood_still(worker, 0.3), "nothing spins")
    others[1].take()
    rings(worker, others[0], others[1])


def test_who_joins_and_leaves_without_end_holds_up_nobody(start: Start, kind: Kind) -> None:
    worker = start(**kind._asdict(), peers=14, vectors=16)
    src, dst = worker.join(), worker.join()
    worker.acquaint(src, dst)
    for _ in range(40):
        crowd = [socket.socket(socket.AF_UNIX) for _ in range(10)]
        for connection in crowd:
            connection.connect(worker.settings.socket)
        src.ring(dst.id, 5)
        assert is_rung(dst.own[5]), "it is rung"
        assert dst.take(5) == 1
        for connection in crowd:
            connection.close()
        src.hear(), dst.hear()
    worker.wait(lambda: worker.present == [src.id, dst.id], "the others have left")
    assert worker.refused == 0


def test_an_idle_worker_does_nothing_whatever_was_done_to_it(start: Start, kind: Kind) -> None:
    """After a flood of everything nothing spins: neither what waits, nor what left."""
    worker = start(**kind._asdict())
    first, second = worker.join(), worker.join()
    for _ in range(30):
        for client in (worker.connect(), worker.connect()):
            client.connection.send(b"x")
            client.close()
    worker.wait(lambda: worker.present == [first.id, second.id], "the others have left")
    worker.await_total("joins", 62)
    # What it had to say is said within a second.
    worker.wait(lambda: stood_still(worker, 0.9), "it stands still")


def test_a_flood_without_end_keeps_the_worker_from_nothing(start: Start) -> None:
    """Another process rings the switch and all others on all vectors: newcomers are refused, and it stops when told."""
    worker = start(personality=GENZ, doorbells="relayed")
    flooder, *others = fill(worker)
    bells = [bell for peer in flooder.peers for bell in flooder.bells(peer)]
    code = f"import os\nwhile True:\n for bell in {bells}: os.eventfd_write(bell, 1)"
    with subprocess.Popen([sys.executable, "-c", code], pass_fds=bells) as process:
        try:
            worker.wait(lambda: len(worker.doorbells()) >= len(bells), "it rings")
            for n in range(1, 21):
                assert refused(worker.connect())
                worker.await_total("refused_full", n)
            others[0].close()
            others[0] = worker.join()
            worker.check()
        finally:
            process.kill()


# Exhaustion


def test_no_descriptor_for_a_newcomers_connection(start: Start, kind: Kind) -> None:
    """Nobody is served before there is one, nothing spins, and then all are, without a restart."""
    worker = start(**kind._asdict())
    src, dst = worker.join(), worker.join()
    worker.acquaint(src, dst)
    let_go_of_what_is_ready(worker)
    with limited_to(worker, 0):
        waiting = [worker.connect() for _ in range(3)]
        worker.await_log("newcomers have to wait: Too many open files")
        turns = worker.totals["turns"]
        rings(worker, src, dst)
        worker.await_log("newcomers have to wait: Too many open files", 3)
        # Twice a second or so, less what its doorbells and its clock took.
        assert worker.totals["turns"] - turns < 30
    for client in waiting:
        client.set_up()
    rings(worker, waiting[0], dst)
    assert worker.refused == 0


# With direct sticky ports nothing is ready that not everybody has been told of.
@pytest.mark.parametrize(("doorbells", "ports"), [("relayed", "sticky"), ("relayed", "fresh"), ("direct", "fresh")])
def test_what_is_ready_gives_way_to_a_newcomers_connection(start: Start, doorbells: str, ports: str) -> None:
    worker = start(doorbells=doorbells, ports=ports, peers=5, vectors=16)
    full = 16 * 5 * (5 if doorbells == "relayed" else 1)
    first = worker.join()
    worker.wait(lambda: eventfds(worker) == full, "all eventfds are ready")
    with limited_to(worker, 0):
        client = worker.connect()
        worker.await_log("newcomers have to wait: Too many open files")
        worker.acquaint(first, client.set_up())
        rings(worker, first, client)
    assert worker.refused == 0


@pytest.mark.parametrize("more", [1, 2, 5, 17])
@pytest.mark.parametrize("ready", [True, False])
def test_no_descriptor_for_a_newcomers_eventfds(start: Start, kind: Kind, ready: bool, more: int) -> None:
    worker = start(**kind._asdict(), peers=5, vectors=16)
    src, dst = worker.join(), worker.join()
    worker.acquaint(src, dst)
    relayed, sticky = kind.doorbells == "relayed", kind.ports == "sticky"
    full, theirs = (16 * 5 * 5, 16 * 2 * (5 if sticky else 2)) if relayed else (16 * 5, 16 * (5 if sticky else 2))
    worker.wait(lambda: eventfds(worker) == full, "all eventfds are ready")
    if not ready:
        let_go_of_what_is_ready(worker)
        worker.wait(lambda: eventfds(worker) == theirs, "none is ready")
    worker.barrier()
    before = open_in(worker)
    with limited_to(worker, more):
        client = worker.connect()
        if ready or (not relayed and (sticky or more == 17)):
            # What it is sent may have to wait: the limit is also that of descriptors in flight, but for root.
            worker.await_total("joins", 3 if ready else 4)
        else:
            assert refused(client)
            worker.await_total("refused_resources", 1)
            worker.await_log("its eventfds cannot be made: Too many open files")
            worker.barrier()
            # Of what it was to get nothing is left; its connection stays until it has surely read the refusal.
            assert open_in(worker) == before + 1
        rings(worker, src, dst)
    client.close()
    rings(worker, worker.join(), dst)


def let_go_of_what_is_ready(worker: Worker) -> None:
    """Has a peer come and go while there is no room for what another one would need."""
    before = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
    leaver = worker.join()
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        leaver.close()
        worker.wait(lambda: len(worker.present) == 2, "it has left")
        # It has tried to make ready what the next one needs.
        worker.rest()
    finally:
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, before)


def test_no_room_for_descriptors_in_flight(folder: Path, ports: str) -> None:
    """Peers that do not read leave descriptors in flight, which the kernel bounds for all of a user's processes."""
    # Root is exempt, unless it has lost these.
    through = ["setpriv", "--bounding-set=-sys_resource,-sys_admin"] if os.geteuid() == 0 else []
    chosen = settings(folder, doorbells="direct", ports=ports, peers=14, vectors=16)
    with Worker(chosen, folder, through=through) as worker:
        src, dst = worker.join(), worker.join()
        worker.acquaint(src, dst)
        before = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
        # Enough for all that it opens, and not for what is then in flight.
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (14 * 17 + 60, before[1]))
        idle = [worker.connect() for _ in range(10)]
        worker.await_log("messages have to wait: Too many references")
        worker.wait(lambda: len(worker.present) == 12, "they are members all the same")
        rings(worker, src, dst)
        assert worker.left == worker.refused == 0
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, before)
        for client in idle:
            client.set_up()
        worker.acquaint(idle[0], idle[-1], dst)
        rings(worker, idle[0], dst)
        rings(worker, dst, idle[-1])
        assert worker.left == worker.refused == 0


def test_no_memory_for_the_mailbox_hurts_nobody_who_is_there(folder: Path) -> None:
    """/dev/shm is full when a mailbox that was cut is to be made whole: see test_mailbox_size; here at a start."""
    size = 1 << 40
    path = f"/dev/shm/famezd-test-{os.getpid()}"
    worker = Worker(settings(folder, backing="shm", memory=path, size=size), folder)
    try:
        assert worker.ended() != 0
        assert f"cannot make the mailbox {path} of {size} bytes" in worker.log
        assert not Path(path).exists()
    finally:
        worker.close()


def test_what_a_departed_peer_had_is_let_go_of(folder: Path) -> None:
    """Also in the ark: the eventfds that only it kept are gone soon after, whether or not others come or go."""
    with Worker(settings(folder, doorbells="relayed", vectors=16), folder) as worker:
        first = worker.join()
        hostile = worker.join()
        generation = {name for name in worker.kept if name.startswith("ark")}
        hostile.close()
        worker.wait(
            lambda: not generation & set(worker.kept), "the ark is packed without it", timeout=SETTLE + DEADLINE
        )
        assert first.id in worker.present


# Noise


def test_a_guest_that_scribbles_over_the_whole_mailbox_upsets_nothing(start: Start, doorbells: str) -> None:
    worker = start(personality=GENZ, doorbells=doorbells)
    choose = random.Random(9)
    with worker.peer() as peer, worker.peer() as scribbler:
        for _ in range(300):
            os.pwrite(scribbler.memory, choose.randbytes(worker.settings.size), 0)
            for vector in choose.sample(range(SWITCH + 1), 3):
                scribbler.ring(SWITCH, vector)
        worker.barrier()
        assert worker.left == worker.refused == 0
        # Its own slots, and the globals, are the only ones that a peer needs; all else is nobody's business.
        os.pwrite(peer.memory, bytes(worker.settings.size), 0)
        for at, word in ((0, 512), (8, 128), (16, 5), (24, 7), (32, SWITCH)):
            os.pwrite(peer.memory, word.to_bytes(8, "little"), at)
        with closing(Mailbox(peer)) as mailbox:
            worker.wait(lambda: mailbox.ping(SWITCH) < DEADLINE, "the switch answers")


def test_a_peer_that_does_everything_at_once(start: Start, ports: str) -> None:
    worker = start(doorbells="relayed", ports=ports, vectors=8)
    src, dst, hostile = (worker.join() for _ in range(3))
    worker.acquaint(src, dst, hostile)
    for eventfd in hostile.own:
        let_block(eventfd)
        os.eventfd_write(eventfd, FULL)
    for peer in (src.id, dst.id):
        for bell in hostile.bells(peer):
            let_block(bell)
            os.eventfd_write(bell, FULL)
    for vector in range(8):
        src.ring(hostile.id, vector)
    for _ in range(20):
        src.ring(dst.id, 3)
        worker.wait(lambda: dst.take(3), "the other is rung")
    worker.await_total("left_stalled", 1)
    worker.await_total("clipped", 16)
    assert refused(worker.connect())
    for vector in range(8):
        src.take(vector)
    rings(worker, dst, src)


# The open file of the mailbox, which all share


@pytest.mark.parametrize("backing", ["memfd", "file"])
def test_who_has_all_that_is_written_to_the_mailbox_go_to_its_end(start: Start, folder: Path, backing: str) -> None:
    worker = start(personality=GENZ, backing=backing, memory=str(folder / "mailbox"))
    one, hostile = worker.join(), worker.join()
    fcntl.fcntl(hostile.memory, fcntl.F_SETFL, os.O_APPEND)
    hostile.close()
    worker.await_total("left_hangup", 1)
    with worker.peer() as newcomer, closing(Mailbox(newcomer)) as mailbox:
        assert mailbox.ping(SWITCH) < DEADLINE
    assert os.fstat(one.memory).st_size == worker.settings.size
