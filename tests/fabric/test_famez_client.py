"""famez-client at the shell, on a real fabric."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from famezd.cli import famez_client
from famezd.client import Mailbox
from tests.fabric.conftest import Start
from tests.fabric.workers import DEADLINE, GENZ, Worker

# A test that runs in the background of a shell ignores SIGINT, and so would its children.
CLIENT = [
    "env",
    "--default-signal=INT",
    sys.executable,
    "-c",
    "import sys; from famezd.cli.famez_client import main; sys.exit(main())",
    "-S",
]


@pytest.fixture
def worker(start: Start, doorbells: str) -> Worker:
    return start(doorbells=doorbells, personality=GENZ, peers=4)


def run(worker: Worker, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*CLIENT, worker.settings.socket, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)


@contextmanager
def listening(worker: Worker) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*CLIENT, worker.settings.socket, "listen"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as client:
        try:
            assert line(client) == "peer 1 listens; Ctrl-C ends it\n"
            yield client
        finally:
            client.kill()


def line(client: subprocess.Popen[str]) -> str:
    """The next line; each comes alone, so that none is hidden in a buffer."""
    assert client.stdout is not None
    assert select.select([client.stdout], [], [], DEADLINE)[0], "it prints a line"
    return client.stdout.readline()


def test_who(worker: Worker) -> None:
    worker.join()
    done = run(worker, "who")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "   ID  NODENAME                         CCLASS",
        "    1  -                                Driverless QEMU",
        "    2  z02                              Debugger  (this client)",
        "    5  Z-switch                         FabricSwitch",
    ]


def test_ping(worker: Worker) -> None:
    for name in ("switch", "5", "Z-switch"):
        done = run(worker, "ping", name)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("pong from 5: time=")
    done = run(worker, "ping", "nobody")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("famez-client: no peer 'nobody'; there are: 1 (z01), 5 (Z-switch)")


def test_listen_and_send(worker: Worker) -> None:
    with listening(worker) as client:
        for text in ("hello", "two words"):
            done = run(worker, "send", "z01", *text.split())
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
            assert line(client) == f"2: {text}\n"
        done = run(worker, "ping", "1")
        assert (done.returncode, done.stderr) == (0, "")
        assert line(client) == "2: ping\n"
        with worker.peer() as peer, closing(Mailbox(peer)) as mailbox:
            mailbox.ping(1)
            assert line(client) == f"{peer.id}: ping\n"
        client.send_signal(signal.SIGINT)
        assert client.wait(DEADLINE) == 0
        assert client.stderr is not None
        assert client.stderr.read() == ""


def test_listener_on_a_fabric_that_ends(worker: Worker) -> None:
    with listening(worker) as client:
        worker.check()
        assert client.wait(DEADLINE) == 1
        assert client.stderr is not None
        assert client.stderr.read() == "famez-client: the server has ended the membership\n"


def test_send_to_who_takes_nothing(worker: Worker) -> None:
    worker.join()
    done = run(worker, "send", "1", "hello", "--timeout", "0.05")
    assert done.returncode == 1
    assert done.stderr.startswith("famez-client: the message to peer 1 was not acknowledged in time")


def test_fabric_without_a_mailbox(start: Start, doorbells: str) -> None:
    worker = start(doorbells=doorbells)
    done = run(worker, "who")
    assert done.returncode == 1
    assert "personality genz?" in done.stderr


def test_full_fabric(worker: Worker) -> None:
    for _ in range(4):
        worker.join()
    done = run(worker, "who")
    assert done.returncode == 1
    assert "the server refuses" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_a_timeout_is_some_time(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        famez_client._parser().parse_args(["-S", "socket", "ping", "1", f"--timeout={seconds}"])
    assert caught.value.code == 2
    assert f"--timeout: must be a number of seconds above 0, not '{seconds}'" in capsys.readouterr().err
