"""Becoming a daemon: what its caller learns of it, whatever happens."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from famezd.daemonize import DaemonError, pid_written
from tests.unit.conftest import wait_until

_PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from famezd.daemonize import daemonize
from famezd.daemonlog import LogFile

folder = Path(sys.argv[1])

def wait_for(name):
    while not (folder / name).exists():
        time.sleep(0.001)

def serve(ready):
    {}

{}
sys.exit(daemonize(serve, folder / "pid", LogFile(str(folder / "log"))))
"""


@contextmanager
def started(folder: Path, serve: str, *, before: str = "") -> Iterator[subprocess.Popen[str]]:
    """A program that becomes a daemon, whose `serve` is this line, and another what it does before."""
    command: list[str | Path] = [sys.executable, "-c", _PROGRAM.format(serve, before), folder]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as caller:
        yield caller


def told(folder: Path, serve: str) -> tuple[int, str]:
    """The caller's status and what stood on its terminal, when the daemon has let go of that."""
    with started(folder, serve) as caller:
        complaint = caller.communicate(timeout=60)[1]
    return caller.returncode, complaint


def test_its_status_is_the_callers(tmp_path: Path) -> None:
    assert told(tmp_path, "print('no', file=sys.stderr); return 7") == (7, "no\n")
    assert not (tmp_path / "pid").exists()


def test_it_goes_on_when_it_serves(tmp_path: Path) -> None:
    serve = "ready(); print('serves', file=sys.stderr); wait_for('end'); return 7"
    assert told(tmp_path, serve) == (0, "")
    assert int((tmp_path / "pid").read_text())
    (tmp_path / "end").touch()
    wait_until(lambda: not (tmp_path / "pid").exists())
    assert (tmp_path / "log").read_text() == "serves\n"


def test_its_death_is_told(tmp_path: Path) -> None:
    serve = "os.kill(os.getpid(), signal.SIGKILL)"
    assert told(tmp_path, serve) == (1, "-c: the daemon has ended before it served\n")


def test_what_fails_before_it_serves_is_at_the_terminal(tmp_path: Path) -> None:
    status, complaint = told(tmp_path, "raise RuntimeError('out of order')")
    assert status == 1
    assert "RuntimeError: out of order\n" in complaint
    assert not (tmp_path / "pid").exists()


def test_what_fails_later_is_in_the_log(tmp_path: Path) -> None:
    assert told(tmp_path, "ready(); raise RuntimeError('out of order')") == (0, "")
    wait_until(lambda: "RuntimeError: out of order\n" in (tmp_path / "log").read_text())


def test_a_start_that_is_ended_leaves_no_pid_file(tmp_path: Path) -> None:
    with started(tmp_path, "wait_for('nothing')"):
        wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        os.kill(int((tmp_path / "pid").read_text()), 15)
    assert not (tmp_path / "pid").exists()


_ENDED_AS_IT_WRITES = """
from famezd.daemonize import TimeoutPIDLockFile
acquire = TimeoutPIDLockFile.acquire
TimeoutPIDLockFile.acquire = lambda lock: (acquire(lock), os.kill(os.getpid(), signal.SIGTERM))
"""


def test_a_start_that_is_ended_as_it_writes_its_pid_file_leaves_none(tmp_path: Path) -> None:
    with started(tmp_path, "wait_for('nothing')", before=_ENDED_AS_IT_WRITES) as caller:
        assert caller.wait(timeout=60) == 1
    assert not (tmp_path / "pid").exists()


def test_without_its_caller_it_does_not_start(tmp_path: Path) -> None:
    with started(tmp_path, "wait_for('end'); ready()") as caller:
        wait_until((tmp_path / "pid").exists)
        caller.kill()
        caller.wait()
        (tmp_path / "end").touch()
        wait_until(lambda: not (tmp_path / "pid").exists())
    wait_until(lambda: (tmp_path / "log").read_text() == "-c: who started it has not waited for it\n")


# The pid file


def test_a_pid_file_has_our_pid_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with pid_written(path):
        assert path.read_text() == f"{os.getpid()}\n"
        with pytest.raises(DaemonError, match=f"is that of process {os.getpid()}, which runs"), pid_written(path):
            pass
    assert not path.exists()


def test_a_dead_process_has_no_pid_file(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as dead:
        assert dead.stdout is not None
        dead.stdout.read()
        path.write_text(f"{dead.pid}\n")
        os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
        # Nobody has waited for it yet.
        with pid_written(path):
            assert path.read_text() == f"{os.getpid()}\n"
    path.write_text(f"{dead.pid}\n")
    with pid_written(path):
        assert path.read_text() == f"{os.getpid()}\n"
    path.write_text(f"{10**30}\n")
    with pid_written(path):
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_pid_file_that_somebody_put_in_place_of_ours_stays(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with pid_written(path):
        path.write_text("1\n")
    assert path.read_text() == "1\n"
    with pid_written(tmp_path / "other"):
        (tmp_path / "other").unlink()
