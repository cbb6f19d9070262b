"""famezd as a service: what it tells systemd, what it serves, how it starts, fails and stops."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import resource
import select
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from famezd.client import ClientError, Doorbell, Peer
from famezd.notify import Notification, NotifySocket
from tests.daemon import BIN, PATIENCE, Famezd, eventually
from tests.needs import need

LAB = {"personality": "genz", "peers": 4, "vectors": 16}
PLAIN = {"peers": 3, "vectors": 2, "doorbells": "direct", "ports": "fresh"}


@pytest.fixture
def famezd(tmp_path: Path) -> Iterator[Famezd]:
    with Famezd(tmp_path, {"lab": LAB, "plain": PLAIN}) as famezd:
        yield famezd


def run(config: Path, runtime: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs a famezd that is expected to end by itself."""
    return subprocess.run(
        [BIN / "famezd", "-c", config, *arguments],
        env=os.environ | {"RUNTIME_DIRECTORY": str(runtime)} | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def read_all(notifications: NotifySocket, process: subprocess.Popen[str]) -> Iterator[Notification]:
    """What a process tells its manager, until it ends."""
    news, pidfd = notifications.fileno(), os.pidfd_open(process.pid)
    try:
        while True:
            ready, _, _ = select.select([news, pidfd], [], [], PATIENCE)
            assert ready, "no news"
            try:
                while True:
                    with closing(notifications.receive()) as notification:
                        yield notification
            except BlockingIOError:
                if pidfd in ready:
                    return
    finally:
        os.close(pidfd)


@pytest.fixture
def notifications(tmp_path: Path) -> Iterator[NotifySocket]:
    with closing(NotifySocket(str(tmp_path / "notify"))) as notifications:
        yield notifications


# What systemd is told


def test_ready_is_told_when_every_fabric_listens_and_stopping_at_the_end(
    tmp_path: Path, notifications: NotifySocket
) -> None:
    famezd = Famezd(tmp_path, {"lab": LAB, "plain": PLAIN})
    environ = os.environ | {"RUNTIME_DIRECTORY": str(famezd.runtime), "NOTIFY_SOCKET": notifications.path}
    told = []
    with subprocess.Popen([BIN / "famezd", "-c", famezd.config], env=environ, text=True, stdout=subprocess.PIPE) as p:
        for notification in read_all(notifications, p):
            assert notification.pid == p.pid
            told.append(notification.assignments)
            if "READY" in notification.assignments:
                for name in ("lab", "plain"):
                    Peer.join(famezd.runtime / f"{name}.sock").leave()
                p.send_signal(signal.SIGTERM)
        assert p.wait() == 0
        assert p.stdout is not None
        # systemd needs no telling what to do next.
        assert p.stdout.read() == ""
    ready = [assignments for assignments in told if "READY" in assignments]
    assert ready == [{"READY": "1", "STATUS": "2 of 2 fabrics serve 0 peers"}]
    stopping = [assignments for assignments in told if "STOPPING" in assignments]
    assert len(stopping) == 1
    assert told.index(ready[0]) < told.index(stopping[0])
    # Nobody is to go on with what ends.
    stored = {assignments["FDNAME"] for assignments in told if "FDSTORE" in assignments}
    removed = {assignments["FDNAME"] for assignments in told if "FDSTOREREMOVE" in assignments}
    assert {"lab.socket", "lab.mailbox", "lab.lock", "lab.stats", "lab.ark.0.0", "plain.socket", "config.0"} <= stored
    assert stored == removed


def test_the_status_follows_the_peers_and_the_watchdog_is_fed(tmp_path: Path, notifications: NotifySocket) -> None:
    famezd = Famezd(tmp_path, {"lab": LAB})
    environ = os.environ | {
        "RUNTIME_DIRECTORY": str(famezd.runtime),
        "NOTIFY_SOCKET": notifications.path,
        "WATCHDOG_USEC": "300000",
    }
    fed, told, asked = 0, False, False
    peers: list[Peer] = []
    with subprocess.Popen([BIN / "famezd", "-c", famezd.config], env=environ, text=True) as p:
        for notification in read_all(notifications, p):
            fed += "WATCHDOG" in notification.assignments
            if "READY" in notification.assignments:
                peers += [Peer.join(famezd.runtime / "lab.sock") for _ in range(2)]
            told |= notification.assignments.get("STATUS") == "1 of 1 fabrics serve 2 peers"
            if told and fed >= 3 and not asked:
                # Once: a second one may come when nobody in the process listens any more.
                p.send_signal(signal.SIGTERM)
                asked = True
        assert p.wait() == 0
    for peer in peers:
        peer.leave()
    assert len(peers) == 2


# What it serves


def test_promtool_has_nothing_to_say_about_the_metrics(famezd: Famezd) -> None:
    with famezd.join("lab") as one, famezd.join("lab") as other:
        one.ring(other.id, 3)
        assert other.wait(PATIENCE) == [Doorbell(3, 1)]
        promtool = need("promtool", "prometheus")
        done = subprocess.run(
            [promtool, "check", "metrics"], input=famezd.scrape().encode(), capture_output=True, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_the_metrics_tell_of_fabrics_and_peers(famezd: Famezd) -> None:
    assert famezd.metrics("famez_build_info").total() == 1
    assert famezd.metrics("famez_fabric_up", "fabric") == {("lab",): 1, ("plain",): 1}
    with famezd.join("lab"), famezd.join("plain"), famezd.join("plain"):
        assert famezd.metrics("famez_fabric_peers", "fabric") == {("lab",): 1, ("plain",): 2}
        assert famezd.metrics("famez_joins_total", "fabric") == {("lab",): 1, ("plain",): 2}
    eventually(lambda: famezd.metrics("famez_fabric_peers").total() == 0, "the peers have left")
    assert famezd.metrics("famez_leaves_total", "fabric", "reason")["plain", "hangup"] == 2
    assert famezd.metrics("famez_fabric_peers_limit", "fabric") == {("lab",): 4, ("plain",): 3}


def test_http_is_read_only_and_says_what_it_does_not_know(famezd: Famezd) -> None:
    with pytest.raises(urllib.error.HTTPError) as unknown:
        urllib.request.urlopen(f"{famezd.url}/api/v1/fabrics/nosuch/peers")
    with unknown.value as answer:
        assert answer.code == 404
        assert json.load(answer) == {"error": "no fabric 'nosuch'; there are: lab, plain"}
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(f"{famezd.url}/api/v1/status", method="POST"))
    with refused.value as answer:
        assert answer.code == 405


def test_famezctl_shows_fabrics_peers_and_doorbells(famezd: Famezd) -> None:
    with famezd.join("lab") as one, famezd.join("lab") as other:
        for _ in range(3):
            one.ring(other.id, 7)
        assert other.wait(PATIENCE)
        status = famezd.ctl("status")
        assert status.returncode == 0
        head, lab, plain, *_ = status.stdout.splitlines()
        assert head.split()[:3] == ["FABRIC", "STATE", "PERSONALITY"]
        assert lab.split()[:7] == ["lab", "serving", "genz", "relayed", "sticky", "2/4", "16"]
        assert plain.split()[:5] == ["plain", "serving", "plain", "direct", "fresh"]
        fabrics = {fabric["name"]: fabric for fabric in json.loads(famezd.ctl("--json", "status").stdout)["fabrics"]}
        assert fabrics["lab"]["peers"] == 2
        peers = json.loads(famezd.ctl("--json", "peers", "lab").stdout)["peers"]
        assert [(p["id"], p["pid"], p["uid"]) for p in peers] == [
            (1, os.getpid(), os.getuid()),
            (2, os.getpid(), os.getuid()),
        ]
        assert str(os.getpid()) in famezd.ctl("peers", "lab").stdout
        eventually(lambda: famezd.pairs("lab").total() == 3, "all are counted")
        doorbells = json.loads(famezd.ctl("--json", "doorbells", "lab").stdout)
        assert {"src": 1, "dst": 2, "count": 3} in doorbells["pairs"]
        assert {"dst": 2, "vector": 7, "count": 3} in doorbells["vectors"]
        assert famezd.ctl("doorbells", "lab", "--list").stdout.split() == ["SRC", "DST", "DOORBELLS", "1", "2", "3"]
        note = "Doorbells of fabric plain are direct: those between peers are not counted"
        assert famezd.ctl("doorbells", "plain").stdout.startswith(note)


def test_famezctl_says_what_is_wrong(famezd: Famezd, tmp_path: Path) -> None:
    unknown = famezd.ctl("peers", "nosuch")
    assert (unknown.returncode, unknown.stderr) == (1, "famezctl: no fabric 'nosuch'; there are: lab, plain\n")
    nobody = subprocess.run(
        [BIN / "famezctl", "-s", tmp_path / "nobody", "status"], capture_output=True, text=True, check=False
    )
    assert nobody.returncode == 1
    assert "is famezd running?" in nobody.stderr


# Deaths


def test_a_killed_worker_is_replaced_and_its_peers_stay(famezd: Famezd) -> None:
    with famezd.join("lab") as one, famezd.join("lab") as other:
        one.ring(other.id, 3)
        assert other.wait(PATIENCE) == [Doorbell(3, 1)]
        eventually(lambda: famezd.pairs("lab") == {(1, 2): 1}, "it is counted")
        pid = json.loads(famezd.ctl("--json", "status").stdout)["fabrics"][0]["pid"]
        os.kill(pid, signal.SIGKILL)
        # Rung while nobody serves; it waits in its eventfd.
        one.ring(other.id, 4)
        assert other.wait(PATIENCE) == [Doorbell(4, 1)]
        with famezd.join("lab") as third:
            assert third.id == 3
            third.ring(one.id, 5)
            assert one.wait(PATIENCE) == [Doorbell(5, 1)]
        eventually(lambda: famezd.pairs("lab") == {(1, 2): 2, (3, 1): 1}, "the counters go on")
    assert famezd.metrics("famez_worker_restarts_total", "fabric") == {("lab",): 1, ("plain",): 0}
    assert "worker died, it is started again" in famezd.log.read_text()
    assert "fabric resumed" in famezd.log.read_text()


def test_it_uses_all_the_descriptors_that_it_may_have(tmp_path: Path) -> None:
    """Its manager takes none of one whose workers have more in flight than its own soft limit."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        with Famezd(tmp_path, {"lab": LAB}) as famezd:
            assert resource.prlimit(famezd.process.pid, resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("more", [0, 2, 4, 6])
def test_a_worker_that_cannot_be_started_for_want_of_descriptors_is_started_later(famezd: Famezd, more: int) -> None:
    """Whatever the first thing is for which there is none."""
    pid = json.loads(famezd.ctl("--json", "status").stdout)["fabrics"][0]["pid"]
    with famezd.join("lab") as one, famezd.join("lab") as other:
        # Until the worker knows, too, that they have been told all.
        eventually(lambda: famezd.log.read_text().count("peer joined") == 2, "both have joined")
        before = resource.prlimit(famezd.process.pid, resource.RLIMIT_NOFILE)
        there = {int(name) for name in os.listdir(f"/proc/{famezd.process.pid}/fd")}
        first_free = itertools.islice((n for n in itertools.count() if n not in there), more, None)
        resource.prlimit(famezd.process.pid, resource.RLIMIT_NOFILE, (next(first_free), before[1]))
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: "cannot be started" in famezd.log.read_text(), "it cannot be started")
        resource.prlimit(famezd.process.pid, resource.RLIMIT_NOFILE, before)
        one.ring(other.id, 3)
        assert other.wait(PATIENCE) == [Doorbell(3, 1)]
    assert "Traceback" not in famezd.log.read_text()


def test_a_hanging_worker_is_killed_and_replaced(famezd: Famezd) -> None:
    status = json.loads(famezd.ctl("--json", "status").stdout)["fabrics"][0]
    with famezd.join("lab") as one, famezd.join("lab") as other:
        os.kill(status["pid"], signal.SIGSTOP)
        one.ring(other.id, 3)
        assert other.wait(PATIENCE) == [Doorbell(3, 1)]
    assert famezd.metrics("famez_worker_restarts_total", "fabric")[("lab",)] == 1


def test_a_killed_famezd_takes_its_workers_along_and_the_next_one_starts(tmp_path: Path) -> None:
    with Famezd(tmp_path, {"lab": LAB, "plain": PLAIN}) as famezd:
        with famezd.join("lab") as peer:
            famezd.process.kill()
            famezd.process.wait()
            with pytest.raises(ClientError, match="the server has ended the membership"):
                peer.wait(PATIENCE)
        # What it left behind (sockets, mailboxes) is found and taken over.
        assert (famezd.runtime / "lab.sock").exists()
        assert famezd.process.stdout is not None
        famezd.process.stdout.close()
        famezd.start()
        with famezd.join("lab") as peer:
            assert peer.id == 1


# Starts that fail: a clear error, and nothing left behind


def test_a_second_famezd_on_the_same_runtime_directory_is_refused(famezd: Famezd) -> None:
    done = run(famezd.config, famezd.runtime)
    assert done.returncode == 1
    assert f"another famezd uses the runtime directory {famezd.runtime} (process {famezd.process.pid})" in done.stderr
    assert famezd.ctl("status").returncode == 0


def test_a_taken_metrics_port_is_an_error_that_leaves_nothing_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        famezd = Famezd(tmp_path, {"lab": LAB}, http={"listen": address})
        done = run(famezd.config, famezd.runtime)
    assert done.returncode == 1
    assert (
        f"cannot serve HTTP on {address}: Address already in use; stop what listens there or set http.listen"
        in done.stderr
    )
    assert list(famezd.runtime.iterdir()) == []
    assert not Path("/dev/shm", famezd.mailboxes["lab"]).exists()


def test_a_mailbox_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    famezd = Famezd(tmp_path, {"lab": LAB, "plain": PLAIN})
    mailbox = Path("/dev/shm", famezd.mailboxes["lab"])
    mailbox.symlink_to(tmp_path / "elsewhere")
    try:
        done = run(famezd.config, famezd.runtime)
        assert done.returncode == 1
        assert f"fabric lab: cannot use the mailbox {mailbox}" in done.stderr
        assert "a symbolic link is not followed" in done.stderr
        assert mailbox.is_symlink()
        assert list(famezd.runtime.iterdir()) == []
        assert not Path("/dev/shm", famezd.mailboxes["plain"]).exists()
    finally:
        mailbox.unlink()


def test_two_famezds_do_not_share_a_mailbox(famezd: Famezd, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    second = Famezd(tmp_path / "second", {"other": LAB | {"mailbox": {"name": famezd.mailboxes["lab"]}}})
    done = run(second.config, second.runtime)
    assert done.returncode == 1
    assert "is in use by another server" in done.stderr
    assert Path("/dev/shm", famezd.mailboxes["lab"]).exists()


def test_mistakes_in_the_configuration_are_all_told_and_nothing_starts(tmp_path: Path) -> None:
    famezd = Famezd(tmp_path, {"lab": LAB | {"vectors": 5}, "plain": PLAIN | {"peers": "many", "sockets": {}}})
    for arguments in ((), ("--check",)):
        done = run(famezd.config, famezd.runtime, *arguments)
        assert done.returncode == 2
        lines = done.stderr.splitlines()
        assert len(lines) == 3
        assert all(line.startswith(f"{tmp_path}/fabrics.d/") for line in lines)
        assert not famezd.runtime.exists()


def test_check_only_checks(tmp_path: Path) -> None:
    famezd = Famezd(tmp_path, {"lab": LAB})
    done = run(famezd.config, famezd.runtime, "--check")
    assert (done.returncode, done.stderr) == (0, "")
    assert not famezd.runtime.exists()


def test_a_descriptor_limit_that_is_too_low_is_an_error_with_the_number(tmp_path: Path) -> None:
    famezd = Famezd(tmp_path, {"lab": {"peers": 14, "vectors": 16}})
    limit = f"{need('prlimit', 'util-linux')} --nofile=512:512 {BIN / 'famezd'} -c {famezd.config}"
    done = subprocess.run(
        limit.split(),
        env=os.environ | {"RUNTIME_DIRECTORY": str(famezd.runtime)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 2
    assert "lab.yaml:3:8: peers: 14 peers of 16 vectors, relayed, need 3182 open files" in done.stderr
    assert "the hard limit is 512: have at most 5 peers" in done.stderr
    assert "LimitNOFILE=3182" in done.stderr


# The log


@pytest.mark.parametrize("style", ["text", "journal", "json"])
def test_the_log_has_a_line_an_event(tmp_path: Path, style: str) -> None:
    with Famezd(tmp_path, {"lab": LAB}, log={"format": style}) as famezd, famezd.join("lab"):
        eventually(lambda: "peer joined" in famezd.log.read_text(), "the join is logged")
        line = next(line for line in famezd.log.read_text().splitlines() if "peer joined" in line)
    if style == "json":
        entry = json.loads(line)
        assert (entry["event"], entry["fabric"], entry["peer"], entry["level"]) == ("peer joined", "lab", "1", "info")
    elif style == "journal":
        assert line.startswith("<6>peer joined fabric='lab' peer='1'")
    else:
        assert "[info" in line
        assert "fabric=lab" in line


def test_under_systemd_the_log_is_the_journals(tmp_path: Path) -> None:
    famezd = Famezd(tmp_path, {"lab": LAB | {"peers": 14, "vectors": 20}})
    famezd.log.touch()
    found = famezd.log.stat()
    environ = os.environ | {
        "RUNTIME_DIRECTORY": str(famezd.runtime),
        "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}",
    }
    with (
        famezd.log.open("ab") as log,
        subprocess.Popen(
            [BIN / "famezd", "-c", famezd.config], env=environ, stderr=log, stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        eventually(lambda: "<6>famezd is ready" in famezd.log.read_text(), "the journal's prefix")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_no_fabrics_at_all_are_worth_a_warning(tmp_path: Path) -> None:
    warning = f"no fabric is served: there is no file such as lab.yaml in {tmp_path / 'fabrics.d'}"
    with Famezd(tmp_path, {}) as famezd:
        assert warning in famezd.log.read_text()
    done = run(famezd.config, famezd.runtime, "--check")
    assert (done.returncode, done.stderr) == (0, f"warning: {warning}\n")


# What others may do


def test_the_lock_is_a_file_that_nobody_else_can_open(famezd: Famezd) -> None:
    lock = famezd.runtime / "famezd.lock"
    assert stat.S_IMODE(lock.stat().st_mode) == 0o600
    with lock.open("rb") as opened, pytest.raises(BlockingIOError):
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert yaml.safe_load(famezd.config.read_text()) == {"http": {"listen": "127.0.0.1:0"}}


def test_a_lock_on_the_runtime_directory_keeps_nobody_from_starting(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    directory = os.open(tmp_path / "run", os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        with Famezd(tmp_path, {"lab": LAB}) as famezd, famezd.join("lab"):
            pass
    finally:
        os.close(directory)


def test_a_lock_that_was_left_behind_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "famezd.lock").touch(mode=0o600)
    with Famezd(tmp_path, {"lab": LAB}), pytest.raises(BlockingIOError), (tmp_path / "run" / "famezd.lock").open() as f:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("what", ["notify", "famezd.lock", "control.sock"])
def test_a_directory_in_the_way_is_an_error_that_names_it(tmp_path: Path, what: str) -> None:
    famezd = Famezd(tmp_path, {"lab": LAB})
    (famezd.runtime / what).mkdir(parents=True)
    done = run(famezd.config, famezd.runtime)
    assert done.returncode == 1
    assert str(famezd.runtime / what) in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in famezd.runtime.iterdir()] == [what]


def test_a_runtime_directory_that_cannot_be_written_to_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    famezd = Famezd(tmp_path, {"lab": LAB})
    # No user, not even root, makes files here.
    done = run(famezd.config, Path("/proc/self"))
    assert done.returncode == 1
    assert "cannot use the runtime directory /proc/self: " in done.stderr
    assert "set runtime_directory to one that" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_control_socket_that_is_not_ours_stays(tmp_path: Path) -> None:
    famezd = Famezd(tmp_path, {"lab": LAB})
    famezd.runtime.mkdir()
    control = famezd.runtime / "control.sock"
    control.write_text("mine")
    done = run(famezd.config, famezd.runtime)
    assert done.returncode == 1
    assert f"cannot listen on {control}: there is a file that is no socket; move it away" in done.stderr
    assert control.read_text() == "mine"
    control.unlink()
    with closing(socket.socket(socket.AF_UNIX)) as other:
        other.bind(str(control))
        other.listen()
        done = run(famezd.config, famezd.runtime)
        assert f"cannot listen on {control}: process {os.getpid()} listens there already" in done.stderr
        assert control.is_socket()


def test_sockets_that_others_put_in_the_place_of_ours_stay(tmp_path: Path) -> None:
    famezd = Famezd(tmp_path, {"lab": LAB})
    famezd.start()
    paths = [famezd.runtime / name for name in ("lab.sock", "control.sock")]
    with closing(socket.socket(socket.AF_UNIX)) as one, closing(socket.socket(socket.AF_UNIX)) as other:
        for path, their in zip(paths, (one, other), strict=True):
            path.unlink()
            their.bind(str(path))
        assert famezd.stop() == 0
        assert sorted(famezd.runtime.iterdir()) == sorted(paths)


def test_a_socket_that_was_removed_is_no_error_at_the_end(tmp_path: Path) -> None:
    with Famezd(tmp_path, {"lab": LAB}) as famezd:
        for path in famezd.runtime.iterdir():
            path.unlink()
    assert "Traceback" not in famezd.log.read_text()


def test_connections_that_say_nothing_do_not_hold_up_the_end(tmp_path: Path) -> None:
    famezd = Famezd(tmp_path, {"lab": LAB})
    famezd.start()
    host, port = famezd.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))), socket.create_connection((host, int(port))) as half:
        half.sendall(b"GET /metrics HTT")
        with urllib.request.urlopen(f"{famezd.url}/healthz", timeout=PATIENCE):
            pass  # what connected before is known by now
        began = time.monotonic()
        assert famezd.stop() == 0
        assert time.monotonic() - began < 5


def test_the_status_tells_of_a_worker_that_died(tmp_path: Path, notifications: NotifySocket) -> None:
    famezd = Famezd(tmp_path, {"lab": LAB})
    environ = os.environ | {"RUNTIME_DIRECTORY": str(famezd.runtime), "NOTIFY_SOCKET": notifications.path}
    told = []
    with subprocess.Popen([BIN / "famezd", "-c", famezd.config], env=environ, text=True) as p:
        for notification in read_all(notifications, p):
            if "STATUS" not in notification.assignments:
                continue
            told.append(notification.assignments["STATUS"])
            if "READY" in notification.assignments:
                os.kill(json.loads(famezd.ctl("--json", "status").stdout)["fabrics"][0]["pid"], signal.SIGKILL)
            elif told[-1] == "1 of 1 fabrics serve 0 peers":
                p.send_signal(signal.SIGTERM)
        assert p.wait() == 0
    served, down = "1 of 1 fabrics serve 0 peers", "0 of 1 fabrics serve 0 peers; not served: lab"
    assert told == [served, down, served, "stopping"]


def test_output_that_nobody_takes_does_not_keep_famezd_from_serving(tmp_path: Path) -> None:
    famezd = Famezd(tmp_path, {"lab": LAB})
    environ = os.environ | {"RUNTIME_DIRECTORY": str(famezd.runtime)}
    for output in (os.open("/dev/full", os.O_WRONLY), _pipe_without_reader()):
        with (
            open(output, "w") as stdout,
            subprocess.Popen(
                [BIN / "famezd", "-c", famezd.config], env=environ, stdout=stdout, stderr=subprocess.PIPE, text=True
            ) as process,
        ):
            eventually(lambda: famezd.ctl("status").returncode == 0, "it serves")
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=PATIENCE)
        assert (process.returncode, "Traceback" in errors, "Exception" in errors) == (0, False, False)


def test_it_serves_with_standard_streams_that_are_closed(tmp_path: Path) -> None:
    famezd = Famezd(tmp_path, {"lab": LAB})
    famezd.under = ["sh", "-c", 'exec "$@" <&- 2>&-', "sh"]
    with famezd, famezd.join("lab"):
        streams = [os.readlink(f"/proc/{famezd.process.pid}/fd/{descriptor}") for descriptor in (0, 2)]
        assert streams == [os.devnull] * 2


def test_a_command_whose_reader_has_gone_ends_quietly(famezd: Famezd) -> None:
    commands = (
        ["famezctl", "-s", str(famezd.runtime / "control.sock"), "status"],
        ["famez-client", "-S", str(famezd.socket("lab")), "who"],
    )
    for name, *arguments in commands:
        with open(_pipe_without_reader(), "w") as stdout:
            done = subprocess.run(
                [BIN / name, *arguments], stdout=stdout, stderr=subprocess.PIPE, check=False, timeout=PATIENCE
            )
        assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("where", ["import", "main"])
def test_an_interrupt_before_famezd_serves_ends_it_quietly(tmp_path: Path, where: str) -> None:
    interrupt = "os.kill(os.getpid(), signal.SIGINT)"
    text = f"{interrupt}\ndef main(): pass" if where == "import" else f"def main():\n    {interrupt}"
    (tmp_path / "interrupted.py").write_text(f"import os, signal\n{text}\n")
    # Tests that run in the background of a shell ignore SIGINT, and so would their children.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{heed}; import sys; from famezd.cli.entry import run; sys.exit(run('interrupted'))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (130, b"")


def _pipe_without_reader() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing
