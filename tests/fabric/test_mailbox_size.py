"""A mailbox whose size a peer changes: nobody who only reads and writes it dies, and it gets its size back."""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Protocol

import pytest

from famezd.client import ClientError, Mailbox
from famezd.mailbox import SHM, FileMemory, MailboxError, Slots
from tests.fabric.conftest import settings
from tests.fabric.test_bad_peers import refused, rings
from tests.fabric.test_famez_client import run
from tests.fabric.workers import GENZ, PLAIN, Worker

PEERS = 5
SWITCH = PEERS + 1
OFTEN = 0.15
"""Seconds; a third of it between two looks."""
SELDOM = 0.0
"""Only a newcomer makes the worker look."""


class Begin(Protocol):
    def __call__(self, personality: str = GENZ, *, watchdog: float = OFTEN) -> Worker: ...


@pytest.fixture(params=["shm", "file"])
def begin(request: pytest.FixtureRequest, folder: Path) -> Iterator[Begin]:
    """Starts a worker whose mailbox is a file."""
    path = f"{SHM}/famezd-test-{os.getpid()}" if request.param == "shm" else str(folder / "mailbox")
    with contextlib.ExitStack() as workers:
        workers.callback(Path(path).unlink)

        def begun(personality: str = GENZ, *, watchdog: float = OFTEN) -> Worker:
            chosen = settings(folder, backing=request.param, memory=path, personality=personality, peers=PEERS)
            return workers.enter_context(Worker(chosen, folder, watchdog=watchdog))

        yield begun


def size(worker: Worker) -> int:
    return Path(worker.settings.memory).stat().st_size


def changed(worker: Worker, to: int) -> None:
    os.truncate(worker.settings.memory, to)


@pytest.mark.parametrize("part", [0.0, 0.5, 2.0])
def test_a_change_is_noticed_undone_told_and_counted(begin: Begin, part: float) -> None:
    worker = begin(PLAIN)
    whole = worker.settings.size
    first, second = worker.join(), worker.join()
    os.pwrite(first.memory, b"stays", 0)
    os.pwrite(first.memory, b"stays?", whole - 6)
    for n in (1, 2):
        changed(worker, int(whole * part))
        worker.await_total("resized", n)
        assert size(worker) == whole
    assert os.pread(second.memory, 5, 0) == (b"stays" if part else bytes(5))
    assert os.pread(second.memory, 6, whole - 6) == (b"stays?" if part > 1 else bytes(6))
    lost = "nothing is lost" if part > 1 else f"what stood beyond byte {int(whole * part)} is lost"
    worker.await_log(
        f"<3>mailbox resized: {worker.settings.memory} had {int(whole * part)} bytes, not {whole}; "
        f"it has its size back, {lost}; a machine that touches memory which its file has not dies of SIGBUS",
        2,
    )
    rings(worker, first, second)


@pytest.mark.parametrize("part", [0.0, 0.5, 2.0])
def test_a_newcomer_gets_a_mailbox_of_the_right_size(begin: Begin, part: float) -> None:
    worker = begin(PLAIN, watchdog=SELDOM)
    first = worker.join()
    changed(worker, int(worker.settings.size * part))
    newcomer = worker.join()
    assert os.fstat(newcomer.memory).st_size == worker.settings.size == os.fstat(first.memory).st_size
    worker.await_total("resized", 1)


def test_a_mapping_from_before_is_good_again(begin: Begin) -> None:
    """Who did not touch it meanwhile is spared; all of its memory is really there, and not just promised."""
    worker = begin(PLAIN)
    with mmap.mmap(worker.join().memory, worker.settings.size) as mapping:
        changed(worker, 0)
        worker.await_total("resized", 1)
        assert os.stat(worker.settings.memory).st_blocks * 512 >= worker.settings.size
        mapping[:] = b"x" * worker.settings.size


def test_a_machine_that_touches_what_is_gone_dies_of_sigbus_as_the_log_says(begin: Begin) -> None:
    worker = begin(PLAIN, watchdog=SELDOM)
    client = worker.join()
    code = f"import mmap; m = mmap.mmap({client.memory}, 4096); open('/proc/self/fd/{client.memory}', 'wb'); m[0] = 1"
    touched = subprocess.run([sys.executable, "-c", code], pass_fds=[client.memory], check=False)
    assert touched.returncode == -signal.SIGBUS


@pytest.mark.parametrize("part", [0.0, 0.5])
def test_the_switch_lays_out_anew_what_was_lost(begin: Begin, part: float) -> None:
    worker = begin()
    with worker.peer() as peer, worker.peer() as other, closing(Mailbox(peer, nodename="first")) as mailbox:
        slots = Slots(FileMemory(peer.memory))
        changed(worker, int(worker.settings.size * part))
        worker.await_total("resized", 1)
        worker.barrier()
        slots.check(worker.settings.size)
        assert [slots.memory.word(slot * 512 + 72) for slot in range(1, SWITCH + 1)] == [1, 2, 3, 4, 5, SWITCH]
        assert mailbox.names() == {
            peer.id: ("first", "Debugger") if part else ("", "Driverless QEMU"),
            other.id: ("", "Driverless QEMU"),
            SWITCH: ("Z-switch", "FabricSwitch"),
        }
        assert mailbox.ping(SWITCH) < 5


def test_a_message_that_waits_in_what_was_not_lost_is_still_taken(begin: Begin) -> None:
    worker = begin()
    with worker.peer() as peer, worker.peer() as other:
        slots = Slots(FileMemory(peer.memory))
        slots.put(peer.id, b"hello", other.id)
        changed(worker, worker.settings.size * 2)
        worker.await_total("resized", 1)
        worker.barrier()
        assert slots.take(peer.id) == b"hello"


def test_the_switch_is_rung_while_the_mailbox_is_cut(begin: Begin) -> None:
    """It reads zeroes, and writes nothing that would make the file look whole."""
    worker = begin(watchdog=SELDOM)
    with worker.peer() as peer, closing(Mailbox(peer)) as mailbox:
        for cut in (0, 512, 1500, worker.settings.size - 1):
            changed(worker, cut)
            for vector in range(SWITCH + 1):
                peer.ring(SWITCH, vector)
            worker.barrier()
            assert size(worker) == cut
        worker.join()
        assert mailbox.ping(SWITCH) < 5
    worker.await_total("resized", 1)


def test_a_size_that_cannot_be_given_back_lets_nobody_in(begin: Begin) -> None:
    worker = begin(PLAIN)
    first, second = worker.join(), worker.join()
    unlimited = resource.prlimit(worker.pid, resource.RLIMIT_FSIZE)
    # As on a full file system; and its log may still grow so far.
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (worker.settings.size // 2, unlimited[1]))
    changed(worker, 0)
    for n in range(1, 4):
        assert refused(worker.connect())
        worker.await_total("refused_mailbox", n)
    worker.await_log(f"had 0 bytes, not {worker.settings.size}, and there was no way to undo it: File too large", 4)
    rings(worker, first, second)
    assert worker.totals["resized"] == 0
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, unlimited)
    worker.await_total("resized", 1)
    assert os.fstat(worker.join().memory).st_size == worker.settings.size


def test_a_mailbox_that_was_cut_while_nobody_served(begin: Begin, folder: Path) -> None:
    worker = begin()
    with worker.peer() as peer, closing(Mailbox(peer)) as mailbox:
        # So that no message is just being sent, of which nobody could know whether it was.
        worker.barrier()
        worker.kill()
        changed(worker, 0)
        with Worker(worker.settings, folder, kept=worker.kept, watchdog=OFTEN) as successor:
            successor.await_total("resized", 1)
            assert mailbox.ping(SWITCH) < 5


def test_the_client_library_and_its_command_live(begin: Begin) -> None:
    worker = begin(watchdog=SELDOM)
    with worker.peer() as peer, worker.peer() as other, closing(Mailbox(peer)) as mailbox:
        for cut in (0, 512):
            changed(worker, cut)
            assert mailbox.names().keys() <= {peer.id}
            with pytest.raises(ClientError, match="no peer 'z09'"):
                mailbox.find("z09")
            with pytest.raises(
                MailboxError, match=f"somebody cut the mailbox from {worker.settings.size} to {cut} bytes"
            ):
                mailbox.send(other.id, "hello")
            assert mailbox.receive(timeout=0) is None
        assert run(worker, "who").returncode == 0
        worker.await_total("resized", 1)
