"""famez-server as a daemon and in the foreground: how it starts, fails and stops, and what it leaves behind."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from famezd.client import ClientError, Mailbox, Message, Peer
from famezd.messages import untrack
from famezd.notify import NotifySocket
from tests.daemon import BIN, PATIENCE, eventually
from tests.famez_server import Ended, FamezServer, run


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FamezServer]:
    with FamezServer(tmp_path, "-v") as server:
        yield server


@pytest.fixture
def memory() -> Iterator[Path]:
    """A place in /dev/shm where nothing is."""
    path = Path("/dev/shm", f"famez-test-{uuid.uuid4().hex[:12]}")
    yield path
    assert not path.exists()


def failed(tmp_path: Path, *options: str | Path) -> str:
    """What a start that fails complains of; it leaves nothing behind."""
    before = sorted(tmp_path.iterdir())
    given: list[str | Path] = ["-S", tmp_path / "failed.sock", "-p", tmp_path / "failed.pid"]
    done = run("famez-server", *given, *options)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("famez-server: ")
    assert sorted(tmp_path.iterdir()) == before
    return done.stderr


def opened(pid: int) -> list[str]:
    """What a process has open."""
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        # It may be closed meanwhile.
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(descriptor))
    return found


# FAME-Z's options

GENZ = ("--personality", "genz", "--nClients", "4")


def test_a_switch_that_is_no_manager_asks_newcomers_for_their_attributes(tmp_path: Path) -> None:
    with (
        FamezServer(tmp_path, *GENZ, "--noPFM", vectors=6) as server,
        Peer.join(server.socket) as peer,
        closing(Mailbox(peer)) as mailbox,
    ):
        asked = mailbox.receive(timeout=PATIENCE)
        assert asked is not None
        assert (asked.src, untrack(asked.text)[0]) == (5, "Link CTL Peer-Attribute")
        assert mailbox.names()[5] == ("Z-server", "FabricSwitch")


def test_a_silent_switch_is_no_peer(tmp_path: Path) -> None:
    with (
        FamezServer(tmp_path, *GENZ, "-s", vectors=6) as server,
        Peer.join(server.socket) as peer,
        closing(Mailbox(peer)) as mailbox,
        Peer.join(server.socket) as other,
        closing(Mailbox(other)) as theirs,
    ):
        assert peer.peers == [2, 3, 4]
        assert 5 not in mailbox.names()
        mailbox.slots.put(peer.id, b"hello", other.id)
        peer.ring(other.id, peer.id)
        assert theirs.receive(timeout=PATIENCE) == Message(peer.id, "hello")


# The daemon


def test_it_serves_when_the_command_returns(server: FamezServer) -> None:
    pid = server.process.pid
    with Peer.join(server.socket) as peer:
        assert peer.id == 0
    assert server.pid_file.read_text() == f"{pid}\n"
    # It has let go of all that its caller has: session, directory, and files.
    assert os.getsid(pid) not in (pid, os.getsid(0))
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)] == ["/dev/null", "/dev/null", str(server.log)]
    eventually(lambda: not any(file.startswith("pipe:") for file in opened(pid)), "it has closed what told us of it")


def test_socket_and_memory_have_the_stock_servers_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with FamezServer(tmp_path, "-l", "64K") as server:
            assert stat.S_IMODE(server.socket.stat().st_mode) == 0o750
            assert stat.S_IMODE(server.memory.stat().st_mode) == 0o600
            assert server.memory.stat().st_size == 65536
    finally:
        os.umask(before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_nothing_is_left(tmp_path: Path, memory: Path, number: signal.Signals) -> None:
    pid_file = tmp_path / "pid"
    assert run("famez-server", "-S", tmp_path / "socket", "-p", pid_file, "-M", memory.name).returncode == 0
    with Ended(int(pid_file.read_text())) as process:
        process.signal(number)
        process.wait()
    assert list(tmp_path.iterdir()) == []


def test_a_hang_up_of_the_terminal_is_harmless(server: FamezServer) -> None:
    with Peer.join(server.socket) as peer:
        server.process.signal(signal.SIGHUP)
        with Peer.join(server.socket) as other:
            assert other.id == 1
        assert peer.id == 0


@pytest.mark.parametrize("verbose", [False, True])
def test_the_log_has_what_is_wrong_and_with_v_all_else(tmp_path: Path, verbose: bool) -> None:
    with FamezServer(tmp_path, "--nClients", "1", *(["-v"] if verbose else [])) as server:
        with Peer.join(server.socket), pytest.raises(ClientError, match="the server refuses"):
            Peer.join(server.socket)
        eventually(lambda: " warning: peer refused: " in server.log.read_text(), "it is logged")
    assert (" info: peer joined " in server.log.read_text()) == verbose


def test_a_pid_file_whose_process_is_dead_and_a_socket_that_nobody_serves_are_replaced(tmp_path: Path) -> None:
    with FamezServer(tmp_path, "-l", "4096") as server:
        killed = server.process.pid
        with Ended(killed) as process:
            process.signal(signal.SIGKILL)
            process.wait()
        assert server.pid_file.read_text() == f"{killed}\n"
        assert server.socket.exists()
        server.process.__exit__()
        # The memory that was left is used, made larger, and keeps what stood there.
        server.memory.write_bytes(b"before".ljust(4096, b"\0"))
        server.options[server.options.index("-l") + 1] = "8K"
        server.__enter__()
        with Peer.join(server.socket) as peer:
            assert os.pread(peer.memory, 6, 0) == b"before"
            assert os.fstat(peer.memory).st_size == 8192


def test_a_daemon_is_no_business_of_the_service_that_started_it(tmp_path: Path, memory: Path) -> None:
    pid_file = tmp_path / "pid"
    notifications = NotifySocket(str(tmp_path / "notify"))
    try:
        options: list[str | Path] = ["-S", tmp_path / "socket", "-p", pid_file, "-M", memory.name]
        done = run("famez-server", *options, NOTIFY_SOCKET=notifications.path)
        assert done.returncode == 0
        with Ended(int(pid_file.read_text())) as process:
            process.signal(signal.SIGTERM)
            process.wait()
        with pytest.raises(BlockingIOError):
            notifications.receive()
    finally:
        notifications.close()


# The foreground


def test_in_the_foreground_it_has_no_pid_file_and_logs_to_standard_error(tmp_path: Path, memory: Path) -> None:
    command: list[str | Path] = ["-F", "-v", "-S", tmp_path / "socket", "-p", tmp_path / "pid", "-M", memory.name]
    with subprocess.Popen([BIN / "famez-server", *command], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "fabric serves" in process.stderr.readline()
        with Peer.join(tmp_path / "socket") as peer:
            assert peer.id == 0
            assert "peer joined" in process.stderr.readline()
            assert not (tmp_path / "pid").exists()
            process.send_signal(signal.SIGTERM)
            rest = process.stderr.read()
        assert process.wait() == 0
        assert "fabric stopped" in rest
    assert list(tmp_path.iterdir()) == []


# Failures: told at the terminal, and nothing left behind


def test_a_socket_that_is_served_already_is_left_alone(server: FamezServer, tmp_path: Path, memory: Path) -> None:
    complaint = failed(tmp_path, "-S", server.socket, "-M", memory.name)
    holder = f"process {server.process.pid} listens there already; stop it first"
    assert complaint == f"famez-server: cannot listen on {server.socket}: {holder}\n"
    Peer.join(server.socket).leave()


def test_a_pid_file_of_a_running_server_is_left_alone(server: FamezServer, tmp_path: Path, memory: Path) -> None:
    complaint = failed(tmp_path, "-p", server.pid_file, "-M", memory.name)
    assert f"the pid file {server.pid_file} is that of process {server.process.pid}, which runs" in complaint
    assert server.pid_file.read_text() == f"{server.process.pid}\n"


def test_memory_that_another_server_has_is_left_alone(server: FamezServer, tmp_path: Path) -> None:
    complaint = failed(tmp_path, "-M", server.memory.name, "-l", "8M")
    assert f"in use by another server (pid {server.process.pid}); stop that one or choose another one (-M)" in complaint
    assert server.memory.stat().st_size == 4 << 20


def test_memory_of_another_size_is_not_cut_under_its_users(tmp_path: Path) -> None:
    path = Path("/dev/shm", f"famez-test-{uuid.uuid4().hex[:12]}")
    path.write_bytes(bytes(8192))
    try:
        assert "it has 8192 bytes, not 4096" in failed(tmp_path, "-M", path.name, "-l", "4096")
        assert path.stat().st_size == 8192
    finally:
        path.unlink()


@pytest.mark.parametrize("content", ["", "nonsense\n"])
def test_a_file_that_is_no_pid_file_is_left_alone(tmp_path: Path, memory: Path, content: str) -> None:
    path = tmp_path / "precious"
    path.write_text(content)
    assert f"the pid file {path} is there, and holds no pid" in failed(tmp_path, "-p", path, "-M", memory.name)
    assert path.read_text() == content


def test_what_cannot_be_written_is_named(tmp_path: Path, memory: Path) -> None:
    nowhere = tmp_path / "nowhere" / "file"
    because = "No such file or directory"
    assert f"cannot make the pid file {nowhere}: {because}" in failed(tmp_path, "-p", nowhere, "-M", memory.name)
    assert f"cannot listen on {nowhere}: {because}" in failed(tmp_path, "-S", nowhere, "-M", memory.name)
    assert f"cannot write the log to {nowhere}: {because}" in failed(tmp_path, "-L", nowhere, "-M", memory.name)
    assert f"-m: cannot use {nowhere}: {because}" in failed(tmp_path, "-m", nowhere)
    assert "cannot make a mailbox in /dev/null: Not a directory" in failed(tmp_path, "-m", "/dev/null")


def test_a_fabric_that_is_too_large_for_the_limit_of_descriptors_is_refused(tmp_path: Path, memory: Path) -> None:
    command: list[str | Path] = ["-S", tmp_path / "s", "-p", tmp_path / "p", "-M", memory.name, "-n", "64"]
    done = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -n 500; exec "$@"', "sh", BIN / "famez-server", *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 1
    assert "and the hard limit is 500: raise it" in done.stderr
    assert "or have fewer peers (--nClients) or vectors (-n)" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_caller_whose_standard_streams_are_closed_gets_a_daemon_all_the_same(tmp_path: Path, memory: Path) -> None:
    command: list[str | Path] = ["-S", tmp_path / "s", "-p", tmp_path / "p", "-M", memory.name]
    shell: list[str | Path] = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", BIN / "famez-server", *command]
    assert subprocess.run(shell, check=False, timeout=PATIENCE).returncode == 0
    with Ended(int((tmp_path / "p").read_text())) as process:
        Peer.join(tmp_path / "s").leave()
        assert [os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in range(3)] == ["/dev/null"] * 3
        process.signal(signal.SIGTERM)
        process.wait()
    assert list(tmp_path.iterdir()) == []
