"""Limits of open files: the worker's own, a newcomer's, and those of who is there already."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from famezd.client import ClientError
from famezd.fabric.handed import START_FAILED
from famezd.protocol import Message
from tests.fabric.conftest import Kind, Start, settings
from tests.fabric.test_bad_peers import rings
from tests.fabric.workers import DEADLINE, Worker

MEMBER = """
import sys
from famezd.client import ClientError, Peer
try:
    with Peer.join(sys.argv[1]) as peer:
        print(peer.id, flush=True)
        sys.stdin.read()
        while peer.wait(0.0):
            pass
        print(peer.peers, flush=True)
except ClientError as e:
    print(e, flush=True)
"""


@contextmanager
def member(worker: Worker, limit: int) -> Iterator[subprocess.Popen[str]]:
    """A process that joins with this soft limit, and when its input ends says whom it knows, and leaves."""
    command = ["/bin/sh", "-c", 'ulimit -S -n "$0"; exec "$@"', str(limit), sys.executable, "-c", MEMBER]
    with subprocess.Popen(
        [*command, worker.settings.socket], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    """The next line; the process prints one or dies."""
    assert process.stdout is not None
    return process.stdout.readline()


def test_worker_that_may_not_open_enough(folder: Path, kind: Kind) -> None:
    chosen = settings(folder, **kind._asdict(), peers=14, vectors=16)
    needed = chosen.descriptors(switch=False)
    with Worker(chosen, folder, limit=needed):
        pass
    Path(chosen.socket).unlink()
    worker = Worker(chosen, folder, limit=needed - 1)
    try:
        assert worker.ended() == START_FAILED
        assert f"a full fabric needs {needed} descriptors, and the hard limit is {needed - 1}" in worker.log
        assert worker.log.count("\n") == 1
    finally:
        worker.close()
    assert not Path(chosen.socket).exists()


def test_full_fabric_has_as_many_descriptors_as_were_foreseen(start: Start, kind: Kind) -> None:
    worker = start(**kind._asdict(), peers=14, vectors=16)
    # While nobody is there, what all can need is made already.
    full = 14 * 16 * (14 if kind.doorbells == "relayed" else 1)
    worker.wait(lambda: eventfds(worker) == full, "all eventfds are ready")
    idle = descriptors(worker)
    for _ in range(3):
        clients = [worker.join() for _ in range(14)]
        assert descriptors(worker) <= worker.settings.descriptors(switch=False)
        worker.barrier()
        assert eventfds(worker) == full
        for client in clients:
            client.close()
        worker.wait(lambda: not worker.present, "all have left")
    # Its ark may just be packed anew.
    worker.wait(lambda: descriptors(worker) == idle, "nothing is left open")


def descriptors(worker: Worker) -> int:
    """How many it has open."""
    return len(os.listdir(f"/proc/{worker.pid}/fd"))


def eventfds(worker: Worker) -> int:
    """How many of these are eventfds."""
    folder = f"/proc/{worker.pid}/fd"
    links = []
    for fd in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(f"{folder}/{fd}"))
    return links.count("anon_inode:[eventfd]")


def test_worker_raises_its_own_soft_limit(start: Start) -> None:
    worker = start()
    soft, hard = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
    assert soft == hard


def test_newcomer_that_could_not_hold_its_set_up(start: Start, kind: Kind) -> None:
    worker = start(**kind._asdict(), peers=14, vectors=16)
    witness, *_ = [worker.join() for _ in range(7)]
    with member(worker, 100) as process:
        assert "refuses" in line(process)
    worker.await_total("refused_own_limit", 1)
    handed = 1 + 16 * (14 if kind.ports == "sticky" else 8)
    worker.await_log(f"it would be handed {handed} descriptors")
    with member(worker, 400) as process:
        assert line(process) == "7\n"
        worker.wait(lambda: witness.can_ring(7), "it is announced")
        witness.ring(7, 15)
    worker.await_total("left_hangup", 1)


def test_newcomer_that_would_push_a_member_past_its_limit(start: Start, doorbells: str) -> None:
    worker = start(doorbells=doorbells, ports="fresh", peers=14, vectors=8)
    with member(worker, 64) as process:
        assert line(process) == "0\n"
        others = []
        while (message := (newcomer := worker.connect()).read()) == Message(0):
            newcomer.understand(message)
            others.append(newcomer.set_up())
        assert message == Message(-1)
        assert newcomer.at_end()
        worker.await_total("refused_member_limit", 1)
        assert 3 <= len(others) <= 6, "64 descriptors less the process's own, 8 to each"
        worker.await_log("it would hand peer 0 8 more descriptors")
        with pytest.raises(ClientError, match="refuses"):
            worker.peer()
        process.communicate("", timeout=DEADLINE)
    worker.await_total("left_hangup", 1)
    others.append(worker.join())
    rings(worker, others[0], others[-1])


def test_what_a_process_is_handed_by_its_own_next_membership_counts(start: Start, doorbells: str) -> None:
    """Who comes right behind that is not let in on what was left before."""
    worker = start(doorbells=doorbells, ports="fresh", peers=14, vectors=8)
    code = """if True:
        import socket, sys
        members = []
        for path in sys.stdin:
            members.append(socket.socket(socket.AF_UNIX))
            members[-1].connect(path.strip())
            print(flush=True)
    """
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True, bufsize=1) as process:
        assert process.stdin is not None
        for _ in range(2):
            process.stdin.write(f"{worker.settings.socket}\n")
            line(process)
        worker.await_total("joins", 2)
        worker.barrier()
        unread = 2 * 3 + 8 * (1 + 2) + 8
        third = 1 + 1 + 8 * 3 + 8 * 2
        # Room for what it was sent, for the third set-up, of which the others hear, and not for one more newcomer.
        limit = len(os.listdir(f"/proc/{process.pid}/fd")) + unread + third + 8
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (limit, limit))
        with socket.socket(socket.AF_UNIX) as stranger:
            process.stdin.write(f"{worker.settings.socket}\n")
            line(process)
            stranger.connect(worker.settings.socket)
            worker.await_total("refused_member_limit", 1)
        assert worker.totals["joins"] == 3


def test_member_at_its_limit_learns_of_all(start: Start, doorbells: str) -> None:
    """What the worker counted is what the member can really hold: no descriptor is lost on the way."""
    worker = start(doorbells=doorbells, ports="fresh", peers=14, vectors=8)
    with member(worker, 64) as process:
        assert line(process) == "0\n"
        known = []
        while (message := (newcomer := worker.connect()).read()) == Message(0):
            newcomer.understand(message)
            known.append(newcomer.set_up().id)
        out, _ = process.communicate("", timeout=DEADLINE)
        assert out == f"{known}\n"
