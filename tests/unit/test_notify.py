"""systemd's protocols, spoken by both ends over a real datagram socket."""

import json
import os
import select
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from famezd.notify import FIRST_DESCRIPTOR, Manager, Notification, NotifySocket, has_hung_up, inherited
from tests.unit.conftest import closing, state_of, wait_until


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NotifySocket]:
    """The manager's end; its path is in the environment."""
    for key in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(key, raising=False)
    path = str(tmp_path / "notify")
    listening = NotifySocket(path)
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    yield listening
    listening.close()
    assert not os.path.lexists(path)


def hang_up(service: Manager) -> None:
    if service._socket is not None:
        service._socket.close()


@pytest.fixture
def service(manager: NotifySocket) -> Iterator[Manager]:
    service = Manager()
    yield service
    hang_up(service)


def test_what_a_service_tells_arrives_with_its_pid(manager: NotifySocket, service: Manager) -> None:
    service.tell("READY=1", "STATUS=3 of 14 peers = few")
    told = manager.receive()
    assert told == (os.getpid(), {"READY": "1", "STATUS": "3 of 14 peers = few"}, [])
    with pytest.raises(BlockingIOError):
        manager.receive()


def test_the_pid_is_what_the_kernel_says_whatever_is_told(manager: NotifySocket) -> None:
    code = "import os; from famezd.notify import Manager; Manager().tell('MAINPID=1', 'PID=%d' % os.getpid())"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
    told = manager.receive()
    assert told.assignments == {"MAINPID": "1", "PID": str(told.pid)}
    assert told.pid not in (0, 1, os.getpid())


def test_stored_descriptors_arrive_by_name_as_the_same_open_files(manager: NotifySocket, service: Manager) -> None:
    pipe = os.pipe()
    with closing(*pipe):
        service.store("stats", pipe)
        told = manager.receive()
        assert told.assignments == {"FDSTORE": "1", "FDPOLL": "0", "FDNAME": "stats"}
        with closing(*told.descriptors):
            assert [os.fstat(fd).st_ino for fd in told.descriptors] == [os.fstat(fd).st_ino for fd in pipe]
            assert not set(told.descriptors) & set(pipe)
            assert not any(os.get_inheritable(fd) for fd in told.descriptors)
            os.write(told.descriptors[1], b"through")
            assert os.read(pipe[0], 7) == b"through"


@pytest.mark.parametrize(("count", "messages"), [(253, [253]), (254, [253, 1]), (600, [253, 253, 94])])
def test_more_descriptors_than_a_message_takes_come_in_several(
    manager: NotifySocket, service: Manager, count: int, messages: list[int]
) -> None:
    with open(os.devnull) as null:
        service.store("ark.1", [null.fileno()] * count)
    for expected in messages:
        told = manager.receive()
        with closing(*told.descriptors):
            assert (len(told.descriptors), told.assignments["FDNAME"]) == (expected, "ark.1")


def test_storing_nothing_tells_nothing(manager: NotifySocket, service: Manager) -> None:
    service.store("stats", [])
    with pytest.raises(BlockingIOError):
        manager.receive()


def test_a_manager_that_does_not_read_stops_nobody(manager: NotifySocket, service: Manager) -> None:
    for _ in range(2000):
        service.tell("WATCHDOG=1")
    assert manager.receive().assignments == {"WATCHDOG": "1"}


def test_readiness_and_descriptors_wait_for_a_manager_that_is_busy(manager: NotifySocket, service: Manager) -> None:
    for _ in range(2000):
        service.tell("WATCHDOG=1")
    code = (
        "from famezd.notify import Manager; service = Manager(); service.tell('STATUS=lost'); print(flush=True); "
        "service.store('stats', [0, 1]); service.tell('READY=1', wait=True)"
    )
    told: list[Notification] = []
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"\n"
        # Nothing is read before the other one waits for room, or has ended for want of it.
        wait_until(lambda: state_of(other.pid) in "SZ")
        poll = select.poll()
        poll.register(manager, select.POLLIN)
        while not told or told[-1].assignments != {"READY": "1"}:
            assert poll.poll(60_000), "READY=1 was lost"
            told.append(manager.receive())
            for descriptor in told[-1].descriptors:
                os.close(descriptor)
        assert other.wait() == 0
    assert [t.assignments for t in told if t.pid == other.pid] == [
        {"FDSTORE": "1", "FDPOLL": "0", "FDNAME": "stats"},
        {"READY": "1"},
    ]


def test_the_managers_socket_is_its_users_alone(manager: NotifySocket) -> None:
    assert stat.S_IMODE(os.stat(manager.path).st_mode) == 0o600


def test_a_path_that_is_taken_is_not_bound_and_leaves_the_umask_alone(manager: NotifySocket) -> None:
    umask = os.umask(0o022)
    with pytest.raises(OSError, match="Address already in use"):
        NotifySocket(manager.path)
    assert os.umask(umask) == 0o022


def test_lines_that_are_no_assignments_and_bytes_that_are_no_text_do_no_harm(manager: NotifySocket) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as anybody:
        anybody.sendto(b"READY\nX=\xff\n\n=1\nSTATUS=a=b", manager.path)
    told = manager.receive()
    assert told.assignments == {"READY": "", "X": "\ufffd", "": "1", "STATUS": "a=b"}


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("path", [None, "/nonexistent/notify"])
def test_where_nobody_listens_a_service_is_silent(path: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    # The warnings are for a socket that sdnotify drops unclosed in that case.
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if path is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", path)
    service = Manager()
    service.tell("READY=1")
    with open(os.devnull) as null:
        service.store("stats", [null.fileno()])
    assert service.settle()


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "2500000"}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": str(os.getpid())}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "1"}, 0.0),
    ],
)
def test_the_watchdog_counts_only_for_whom_it_is_meant(
    manager: NotifySocket, environ: dict[str, str], seconds: float
) -> None:
    service = Manager(environ)
    assert service.watchdog == seconds
    hang_up(service)


# Descriptors handed on


def given_to_a_process(environ: dict[str, str]) -> dict[str, list[int]]:
    """What `inherited` returns in a process with five descriptors from 3 on; `$$` in the environment is its pid."""
    code = (
        "import os, json; from famezd.notify import has_hung_up, inherited; "
        "env = {k: v.replace('$$', str(os.getpid())) for k, v in json.loads(os.environ['GIVEN']).items()}; "
        "[os.dup2(0, n) for n in range(3, 8)]; "
        "found = inherited(env); "
        "assert not any(os.get_inheritable(fd) for fds in found.values() for fd in fds); "
        "print(json.dumps(found))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"GIVEN": json.dumps(environ)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, list[int]] = json.loads(done.stdout)
    return found


def test_descriptors_are_taken_by_name_from_the_third_on() -> None:
    environ = {"LISTEN_PID": "$$", "LISTEN_FDS": "4", "LISTEN_FDNAMES": "socket:ark:ark:stats"}
    assert given_to_a_process(environ) == {"socket": [3], "ark": [4, 5], "stats": [6]}
    assert FIRST_DESCRIPTOR == 3


@pytest.mark.parametrize("names", [{}, {"LISTEN_FDNAMES": ""}])
def test_descriptors_without_names_are_unknown(names: dict[str, str]) -> None:
    assert given_to_a_process({"LISTEN_PID": "$$", "LISTEN_FDS": "2", **names}) == {"unknown": [3, 4]}


def test_descriptors_beyond_the_names_are_unknown() -> None:
    environ = {"LISTEN_PID": "$$", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "socket"}
    assert given_to_a_process(environ) == {"socket": [3], "unknown": [4, 5]}


@pytest.mark.parametrize("pid", [{}, {"LISTEN_PID": "1"}, {"LISTEN_PID": str(os.getppid())}, {"LISTEN_PID": ""}])
def test_descriptors_for_another_process_are_not_touched(pid: dict[str, str]) -> None:
    assert inherited({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b", **pid}) == {}


# Barriers


def test_a_barrier_hangs_up_when_all_that_was_told_before_is_taken(manager: NotifySocket, service: Manager) -> None:
    service.tell("STATUS=before")
    taken = service.barrier()
    with closing(taken):
        assert not has_hung_up(taken)
        assert manager.receive().assignments == {"STATUS": "before"}
        told = manager.receive()
        assert told.assignments == {"BARRIER": "1"}
        assert not has_hung_up(taken)
        os.close(told.descriptors[0])
        assert has_hung_up(taken)


def answer(manager: NotifySocket, *, confirming: bool) -> None:
    """Takes a barrier that comes, and answers it, or only dies."""
    select.select([manager], [], [])
    barrier = manager.receive()
    (barrier.confirm if confirming else barrier.close)()


@pytest.mark.parametrize(
    ("confirms", "confirming", "settled"), [(False, False, True), (True, True, True), (True, False, False)]
)
def test_the_death_of_a_manager_that_confirms_is_no_answer(
    manager: NotifySocket, service: Manager, confirms: bool, confirming: bool, settled: bool
) -> None:
    service.confirms = confirms
    answering = threading.Thread(target=answer, args=(manager,), kwargs={"confirming": confirming})
    answering.start()
    assert service.settle() is settled
    answering.join()


def test_a_dead_manager_refuses_again_and_again(manager: NotifySocket, service: Manager) -> None:
    manager.close()
    with open(os.devnull) as null:
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                service.store("stats", [null.fileno()])
    assert not service.settle()


def test_who_is_in_a_hurry_waits_a_moment_only(service: Manager) -> None:
    service.hurry()
    assert not service.settle()


def test_what_a_busy_manager_was_not_asked_to_let_go_of_is_not_what_has_the_name_next(
    manager: NotifySocket, service: Manager
) -> None:
    service.hurry()
    for _ in range(1000):
        service.tell("STATUS=much is told")
    service.forget("pair")
    heard = [told.assignments for told in all_of(manager)]
    assert not any("FDSTOREREMOVE" in told for told in heard)
    reading, writing = os.pipe()
    with closing(reading, writing):
        service.store("pair", [reading])
    service.forget("other")
    told = list(all_of(manager))
    assert [(set(one.assignments) & {"FDSTORE", "FDSTOREREMOVE"}, one.assignments["FDNAME"]) for one in told] == [
        ({"FDSTOREREMOVE"}, "pair"),
        ({"FDSTORE"}, "pair"),
        ({"FDSTOREREMOVE"}, "other"),
    ]


def test_who_stops_waits_until_a_busy_manager_was_asked_to_let_go_of_everything(
    manager: NotifySocket, service: Manager
) -> None:
    names = [f"pair.{i}" for i in range(1000)]
    for name in names:
        service.forget(name)
    assert service._obsolete
    told: list[Notification] = []

    def read() -> None:
        while len(told) < len(names):
            told.extend(all_of(manager))

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    service.flush()
    reading.join(10)
    assert [one.assignments["FDNAME"] for one in told] == names


@pytest.mark.parametrize("dead", [True, False])
def test_who_stops_does_not_wait_for_ever(manager: NotifySocket, service: Manager, dead: bool) -> None:
    for i in range(1000):
        service.forget(f"pair.{i}")
    service.patience = 0.1
    if dead:
        manager.close()
    service.flush()
    assert service._obsolete


def all_of(manager: NotifySocket) -> Iterator[Notification]:
    """What was told until now; its descriptors are closed."""
    while True:
        try:
            told = manager.receive()
        except BlockingIOError:
            return
        told.close()
        yield told
