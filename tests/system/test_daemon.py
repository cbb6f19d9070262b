"""famezd as a daemon, for hosts without systemd: there when the command returns, or a failure told at the terminal."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from famezd.client import Peer
from tests.daemon import PATIENCE, Famezd, eventually
from tests.famez_server import Ended, run

LAB = {"personality": "genz", "peers": 4, "vectors": 16}


class Daemon(Famezd):
    """famezd with --daemon: it has no process of ours."""

    @property
    def pid_file(self) -> Path:
        return self.config.parent / "famezd.pid"

    @property
    def arguments(self) -> list[str | Path]:
        return ["-c", self.config, "--daemon", "--pidfile", self.pid_file, "--logfile", self.log]

    def start(self) -> None:
        done = run("famezd", *self.arguments, RUNTIME_DIRECTORY=str(self.runtime))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        self.daemon = Ended(int(self.pid_file.read_text()))

    def stop(self) -> int:
        with self.daemon:
            if self.daemon.alive:
                self.daemon.signal(signal.SIGTERM)
                self.daemon.wait()
        return os.EX_OK

    def socket(self, fabric: str) -> Path:
        return self.runtime / f"{fabric}.sock"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path, {"lab": LAB}) as daemon:
        yield daemon
    assert not daemon.pid_file.exists()
    assert "Traceback" not in daemon.log.read_text()


def failed(daemon: Daemon, *options: str | Path, status: int = 1, **environ: str) -> str:
    """What a start that fails complains of."""
    done = run("famezd", *daemon.arguments, *options, RUNTIME_DIRECTORY=str(daemon.runtime), **environ)
    assert (done.returncode, done.stdout) == (status, "")
    return done.stderr


def test_every_fabric_serves_when_the_command_returns(daemon: Daemon) -> None:
    with daemon.join("lab") as peer:
        assert peer.id == 1
    assert os.readlink(f"/proc/{daemon.daemon.pid}/cwd") == "/"
    assert "famezd is ready" in daemon.log.read_text()
    status = daemon.ctl("status")
    assert (status.returncode, "serving" in status.stdout) == (0, True)


def test_it_reads_its_configuration_anew(daemon: Daemon) -> None:
    reload = daemon.ctl("reload")
    assert (reload.returncode, reload.stdout) == (0, "nothing has changed\n")
    (daemon.config.parent / "fabrics.d" / "lab.yaml").write_text("peers: many\n")
    daemon.daemon.signal(signal.SIGHUP)
    eventually(lambda: "configuration refused" in daemon.log.read_text(), "it has read it")
    with daemon.join("lab") as peer:
        assert peer.id == 1


def test_relative_paths_mean_what_they_meant_to_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    class Relative(Daemon):
        @property
        def arguments(self) -> list[str | Path]:
            return ["-c", "famezd.yaml", "--daemon", "--pidfile", "famezd.pid", "--logfile", "famezd.log"]

    with Relative(tmp_path, {"lab": LAB}) as daemon:
        assert daemon.ctl("reload").returncode == 0


def test_a_second_one_fails_and_disturbs_nobody(daemon: Daemon, tmp_path: Path) -> None:
    pid = daemon.daemon.pid
    with daemon.join("lab") as peer:
        assert f"the pid file {daemon.pid_file} is that of process {pid}, which runs" in failed(daemon)
        complaint = failed(daemon, "--pidfile", tmp_path / "other.pid")
        assert f"another famezd uses the runtime directory {daemon.runtime} (process {pid})" in complaint
        assert not (tmp_path / "other.pid").exists()
        assert daemon.pid_file.read_text() == f"{pid}\n"
        with daemon.join("lab") as other:
            other.ring(peer.id)
            assert peer.wait(PATIENCE)


def test_what_keeps_it_from_starting_is_told_at_the_terminal(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        daemon = Daemon(tmp_path, {"lab": LAB}, http={"listen": address})
        assert f"famezd: cannot serve HTTP on {address}: Address already in use" in failed(daemon)
        # Where the caller is not looking it is told, too.
        assert f"cannot serve HTTP on {address}" in daemon.log.read_text()
    nowhere = tmp_path / "nowhere" / "file"
    because = "No such file or directory"
    assert f"famezd: cannot make the pid file {nowhere}: {because}" in failed(daemon, "--pidfile", nowhere)
    assert f"famezd: cannot write the log to {nowhere}: {because}" in failed(daemon, "--logfile", nowhere)
    daemon.config.write_text("http: nonsense\n")
    assert failed(daemon, status=2).startswith(f"{daemon.config}:1:7: http: must be ")
    assert not daemon.pid_file.exists()
    assert not daemon.runtime.exists() or list(daemon.runtime.iterdir()) == []
    assert not Path("/dev/shm", daemon.mailboxes["lab"]).exists()


def test_under_systemd_it_is_a_mistake(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, {"lab": LAB})
    complaint = failed(daemon, status=2, NOTIFY_SOCKET=str(tmp_path / "notify"))
    assert "--daemon is for hosts without systemd: leave it out of the unit" in complaint


def test_in_the_foreground_it_has_a_pid_file_if_it_is_to(tmp_path: Path) -> None:
    pid_file = tmp_path / "famezd.pid"

    famezd = Famezd(tmp_path, {"lab": LAB})
    famezd.options = ["--pidfile", pid_file]
    with famezd:
        assert pid_file.read_text() == f"{famezd.process.pid}\n"
        Peer.join(famezd.socket("lab")).leave()
    assert not pid_file.exists()
