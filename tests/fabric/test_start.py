"""A worker's start, its end, and the start of its successor."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from famezd.client import ClientError
from famezd.fabric.handed import START_FAILED
from famezd.fabric.settings import Settings
from famezd.notify import NotifySocket
from famezd.stats import IN_FLIGHT, Page
from tests.fabric.conftest import Kind, Start, settings
from tests.fabric.workers import Worker, stood_still, take

NOBODY = 65534


def failure(chosen: Settings, folder: Path) -> str:
    """What a worker says that cannot start, and must not be started again as it is."""
    worker = Worker(chosen, folder)
    try:
        assert worker.ended() == START_FAILED, worker.log
        (line,) = worker.log.splitlines()
        assert {"READY": "1"} not in worker.told
    finally:
        worker.close()
    return line


@pytest.fixture
def shm() -> Iterator[Path]:
    """A path for shared memory that nobody else uses."""
    path = Path(f"/dev/shm/famezd-test-{os.getpid()}-{secrets.token_hex(4)}")
    yield path
    path.unlink(missing_ok=True)


def test_ready_means_ready(start: Start) -> None:
    worker = start()
    assert set(worker.kept) == {"socket", "mailbox", "stats", "ark.0.0"}
    worker.await_log("fabric serves")
    worker.join()
    worker.wait(lambda: {"STATUS": "1 of 5 peers"} in worker.told, "it tells its status")
    assert stat.S_IMODE(os.stat(worker.settings.socket).st_mode) == 0o660


def test_who_finds_no_supervisor_any_more_touches_nothing(folder: Path) -> None:
    """The next one may have started another worker."""
    worker = Worker(settings(folder), folder)
    worker.hang_up()
    try:
        assert worker.ended() == START_FAILED
        assert "the supervisor is gone" in worker.log
        assert not worker.kept
        assert not os.path.lexists(worker.settings.socket)
    finally:
        worker.close()


def test_unknown_arguments(folder: Path) -> None:
    chosen = settings(folder, personality="famezd.switch.nothing:Nothing")
    assert "cannot load the personality famezd.switch.nothing:Nothing" in failure(chosen, folder)
    chosen = settings(folder, personality="famezd.mailbox:Slots")
    assert "famezd.mailbox:Slots is no personality" in failure(chosen, folder)
    done = subprocess.run(
        [sys.executable, "-m", "famezd.fabric", "x", "vectors=many"], stderr=subprocess.PIPE, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (START_FAILED, "<3>vectors=many: vectors is a whole number\n")


# The mailbox


@pytest.mark.parametrize("backing", ["shm", "file"])
def test_mailbox_is_made_and_adopted(start: Start, folder: Path, shm: Path, backing: str) -> None:
    path = shm if backing == "shm" else folder / "mailbox"
    worker = start(backing=backing, memory=str(path), memory_mode=0o600, size=8192)
    os.pwrite(worker.join().memory, b"stays", 4096)
    assert (path.stat().st_size, stat.S_IMODE(path.stat().st_mode)) == (8192, 0o600)
    worker.check()
    worker = start(backing=backing, memory=str(path), memory_mode=0o640, size=8192, socket=str(folder / "t"))
    assert os.pread(worker.join().memory, 5, 4096) == b"stays"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def link(path: Path) -> None:
    target = path.with_name("target")
    target.write_bytes(bytes(8192))
    path.symlink_to(target)


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def hard_link(path: Path) -> None:
    target = path.with_name("target")
    target.write_bytes(bytes(8192))
    path.hardlink_to(target)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (link, "a symbolic link is not followed"),
        (dangling, "a symbolic link is not followed"),
        (hard_link, "it has 2 names"),
        (lambda path: path.write_bytes(bytes(4096)), "it has 4096 bytes, not 8192"),
        (lambda path: path.write_bytes(b""), "it has 0 bytes, not 8192"),
        (lambda path: path.write_bytes(bytes(16384)), "it has 16384 bytes, not 8192"),
        (lambda path: path.mkdir(), "Is a directory"),
        (os.mkfifo, "it is no regular file"),
    ],
)
def test_mailbox_that_is_not_ours(folder: Path, make: Callable[[Path], Any], why: str) -> None:
    path = folder / "mailbox"
    make(path)
    before = path.lstat()
    said = failure(settings(folder, backing="file", memory=str(path), size=8192), folder)
    assert str(path) in said
    assert why in said
    assert path.lstat() == before
    assert not Path(folder / "s").exists()
    assert not Path(folder / "nowhere").exists()


def test_mailbox_of_somebody_else(folder: Path) -> None:
    path, why = Path("/etc/passwd"), "Permission denied"
    if os.geteuid() == 0:
        path, why = folder / "mailbox", f"it belongs to user id {NOBODY}, not 0"
        path.write_bytes(bytes(8192))
        os.chown(path, NOBODY, NOBODY)
    before = path.lstat()
    said = failure(settings(folder, backing="file", memory=str(path), size=8192), folder)
    assert str(path) in said
    assert why in said
    assert path.lstat() == before


def test_mailbox_in_use_by_another_worker(start: Start, folder: Path, shm: Path) -> None:
    worker = start(backing="shm", memory=str(shm))
    other = settings(folder, backing="shm", memory=str(shm), socket=str(folder / "t"))
    said = failure(other, folder)
    assert f"the mailbox {shm} is in use by another server (pid {worker.pid})" in said
    worker.join()


def test_mailbox_without_room(folder: Path) -> None:
    path = Path(f"/dev/shm/famezd-test-{secrets.token_hex(4)}")
    said = failure(settings(folder, backing="shm", memory=str(path), size=1 << 50), folder)
    assert str(path) in said
    assert not path.exists()


# The socket


def test_stale_socket_is_replaced(start: Start, folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(str(folder / "s"))
        stale.listen()
    start().join()


def test_socket_of_a_killed_worker_is_replaced(start: Start, folder: Path) -> None:
    killed = start()
    killed.kill()
    killed.forget()
    start().join()


def test_live_socket_is_refused_with_its_owner(start: Start, folder: Path) -> None:
    worker = start()
    said = failure(worker.settings, folder)
    assert f"cannot listen on {worker.settings.socket}: process {worker.pid} listens there already" in said
    worker.join()


def test_what_is_no_socket_stays(folder: Path) -> None:
    (folder / "s").write_text("precious")
    assert f"{folder}/s: there is a file that is no socket" in failure(settings(folder), folder)
    assert (folder / "s").read_text() == "precious"


def test_socket_in_no_folder(folder: Path) -> None:
    path = str(folder / "none" / "s")
    assert f"cannot listen on {path}: No such file" in failure(settings(folder, socket=path), folder)


# The manager


def test_manager_that_reads_late_misses_nothing(folder: Path) -> None:
    """Its queue, of ten datagrams by default, is full of what others told it when the worker starts."""
    notify = NotifySocket(str(folder / "notify"))
    fill(notify)
    worker = Worker(settings(folder), folder, notify=notify)
    with worker.unheard():
        worker.wait(lambda: waits(worker), "it waits for room to store its page")
    with worker:
        assert set(worker.kept) == {"socket", "mailbox", "stats", "ark.0.0"}
        worker.join()


def fill(notify: NotifySocket) -> None:
    """Tells a manager things until it has no room for more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as teller:
        teller.connect(notify.path)
        with contextlib.suppress(BlockingIOError):
            while True:
                teller.send(b"STATUS=busy")


def waits(worker: Worker) -> bool:
    """Whether the worker sleeps, and has a page of counters already."""
    process = Path(f"/proc/{worker.pid}")
    return "famez-test-stats" in (process / "maps").read_text() and "State:\tS" in (process / "status").read_text()


def test_manager_that_never_reads_again_stops_nobody(start: Start) -> None:
    worker = start()
    worker.join()
    worker.wait(lambda: {"STATUS": "1 of 5 peers"} in worker.told, "it tells its status")
    with worker.unheard():
        fill(worker.notify)
        worker.join()
        # When a second has passed it has a new status to tell.
        worker.wait(lambda: stood_still(worker, 1.1), "it has told it in vain")
        worker.connect()
        worker.wait(lambda: len(worker.present) == 3, "it lives on")


# The end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_cleanly(start: Start, kind: Kind, number: int) -> None:
    worker = start(**kind._asdict())
    clients = [worker.join() for _ in range(4)]
    worker.acquaint(*clients)
    told = [len(client.values) for client in clients]
    clients[0].ring(clients[1].id)
    assert worker.kill(number) == 0
    assert worker.present == [client.id for client in clients], "a successor would find them"
    worker.forget()
    assert {"STOPPING": "1"} in worker.told
    assert worker.log.endswith("<6>fabric stopped\n")
    for client, n in zip(clients, told, strict=True):
        assert client.at_end()
        assert len(client.values) == n
    assert clients[1].take() == 1, "what was rung before is passed on"


def test_clean_end_while_it_relays(start: Start) -> None:
    for _ in range(8):
        worker = start(doorbells="relayed")
        src, dst = worker.join(), worker.join()
        for n in range(200):
            src.ring(dst.id, n % 3)
        assert worker.kill(signal.SIGTERM) == 0
        assert sum(dst.take(vector) for vector in range(3)) == 200
        worker.forget()


def test_hangup_signal_means_nothing(start: Start) -> None:
    worker = start()
    os.kill(worker.pid, signal.SIGHUP)
    worker.barrier()
    worker.join()


def test_end_of_the_supervisor_ends_it(start: Start, kind: Kind) -> None:
    worker = start(**kind._asdict())
    client = worker.join()
    worker.hang_up()
    assert worker.ended() == 0
    # Its manager lets go of what it kept, too.
    worker.forget()
    assert client.at_end()


# Its successor


@pytest.mark.parametrize("added", [False, True])
def test_doorbell_in_flight_when_the_worker_was_killed(start: Start, folder: Path, added: bool) -> None:
    """As a worker leaves its page that was killed before it cleared the record; it may have counted, or not yet."""
    worker = start(doorbells="relayed")
    src, dst = worker.join(), worker.join()
    src.ring(dst.id, 2, 10)
    worker.await_doorbells({(0, 1, 2): 10})
    worker.kill()
    page = Page.open(os.dup(worker.kept["stats"][0]), writable=True)
    counter = page.shape.doorbells_at + (0 * 5 + 1) * 3 + 2
    page.words[counter] += 7 * added
    for at, value in enumerate((7, counter, 10), IN_FLIGHT):
        page.words[at] = value
    page.close()
    with Worker(worker.settings, folder, kept=worker.kept) as successor:
        successor.await_doorbells({(0, 1, 2): 17})
        assert successor.page.words[IN_FLIGHT] == 0


@pytest.mark.parametrize("seed", range(8))
def test_kill_loses_no_count(start: Start, folder: Path, seed: int) -> None:
    """Whatever was rung is either counted or still in the bell."""
    worker = start(doorbells="relayed")
    src, dst = worker.join(), worker.join()
    src.ring(dst.id)
    worker.await_doorbells({(0, 1, 0): 1})
    choose = random.Random(seed)
    die_at, rung = choose.randint(100, 3000), 1
    for n in range(die_at + 200):
        times = choose.randint(1, 100)
        src.ring(dst.id, 0, times)
        rung += times
        if n == die_at:
            os.kill(worker.pid, signal.SIGKILL)
    assert worker.ended() == -signal.SIGKILL
    rung -= take(src.bells(dst.id)[0])
    with Worker(worker.settings, folder, kept=worker.kept) as successor:
        successor.await_doorbells({(0, 1, 0): rung})


def test_stored_page_of_another_fabric_is_not_used(start: Start, folder: Path) -> None:
    worker = start(peers=5)
    worker.join()
    worker.kill()
    changed = worker.settings._replace(peers=6)
    with Worker(changed, folder, kept=worker.kept) as successor:
        assert "the counters begin anew: the fabric has another size" in successor.log
        assert successor.totals["joins"] == 0
        assert [successor.join().id for _ in range(6)] == [0, 1, 2, 3, 4, 5]


def test_nobody_listens_where_all_have_gone(start: Start) -> None:
    worker = start()
    worker.check()
    worker.forget()
    with pytest.raises(ClientError, match=r"Connection refused; is famezd running\?"):
        worker.peer()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_who_may_not_use_the_socket_is_told_what_to_do(start: Start) -> None:
    worker = start()
    os.seteuid(NOBODY)
    try:
        with pytest.raises(ClientError, match="Permission denied; run as a user, or in a group, that may write to it"):
            worker.peer()
    finally:
        os.seteuid(0)
