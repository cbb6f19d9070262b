"""What famezd is told to do while it serves: reload, restart a fabric, kick a peer."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import re
import signal
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from famezd.client import ClientError, Doorbell, Peer
from famezd.mailbox import FileMemory, Slots
from tests.daemon import PATIENCE, Famezd, eventually
from tests.needs import need

LAB = {"personality": "genz", "peers": 4, "vectors": 16}
PLAIN = {"peers": 3, "vectors": 2, "ports": "fresh"}


@pytest.fixture
def famezd(tmp_path: Path) -> Iterator[Famezd]:
    with Famezd(tmp_path, {"lab": LAB, "plain": PLAIN}) as famezd:
        yield famezd


def define(famezd: Famezd, name: str, **changes: object) -> None:
    """Writes a fabric's file, as it was but for what is changed."""
    file = famezd.config.parent / "fabrics.d" / f"{name}.yaml"
    before = yaml.safe_load(file.read_text()) if file.exists() else {"mailbox": {"backing": "memfd"}}
    file.write_text(yaml.safe_dump(before | changes))


def settle(famezd: Famezd, **changes: object) -> None:
    """Writes famezd.yaml, as it was but for what is changed."""
    famezd.config.write_text(yaml.safe_dump(yaml.safe_load(famezd.config.read_text()) | changes))


def fabric(famezd: Famezd, name: str) -> dict[str, object]:
    """What famezctl says of a fabric."""
    found: dict[str, object] = next(
        f for f in json.loads(famezd.ctl("--json", "status").stdout)["fabrics"] if f["name"] == name
    )
    return found


def rings(src: Peer, dst: Peer, vector: int) -> None:
    src.ring(dst.id, vector)
    assert dst.wait(PATIENCE) == [Doorbell(vector, 1)]


class Traffic:
    """One peer rings another as fast as it hears, until the end of `with`; then none was lost."""

    def __init__(self, src: Peer, dst: Peer) -> None:
        self._src, self._dst = src, dst
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ring)
        self.rung = 0
        self.heard = 0

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        assert self.rung == self.heard

    def _ring(self) -> None:
        while not self._over.is_set():
            self._src.ring(self._dst.id, 1)
            self.rung += 1
            self.heard += sum(e.rings for e in self._dst.wait(PATIENCE) if isinstance(e, Doorbell))
            if self.heard < self.rung:
                return


# famezctl restart


def test_a_restart_of_a_fabric_disturbs_nobody(famezd: Famezd) -> None:
    with famezd.join("lab") as one, famezd.join("lab") as other:
        with Traffic(one, other) as traffic:
            for _ in range(5):
                before = fabric(famezd, "lab")["pid"]
                done = famezd.ctl("restart", "lab")
                assert (done.returncode, done.stderr) == (0, "")
                assert done.stdout.startswith("restarted; nobody served for ")
                assert fabric(famezd, "lab")["pid"] != before
        eventually(lambda: famezd.pairs("lab") == {(1, 2): traffic.rung}, "each is counted once")
        with famezd.join("lab") as third:
            rings(third, one, 3)
    assert famezd.metrics("famez_worker_restarts_total", "fabric")["lab",] == 0


def test_a_successor_that_cannot_start_leaves_all_as_it_was(famezd: Famezd) -> None:
    with famezd.join("lab") as one, famezd.join("lab") as other:
        pid = fabric(famezd, "lab")["pid"]
        # The directory that its socket is to be moved to goes away between the check and the start.
        define(famezd, "lab", socket={"path": str(famezd.runtime / "nowhere" / "lab.sock")})
        done = famezd.ctl("reload")
        assert done.returncode == 3
        assert "fabric lab failed: fabric lab: another process cannot take over: cannot listen on" in done.stdout
        assert fabric(famezd, "lab")["pid"] == pid
        with famezd.join("lab") as third:
            rings(third, other, 3)
            rings(one, third, 5)


def test_a_worker_that_hangs_is_succeeded_all_the_same(famezd: Famezd) -> None:
    with famezd.join("lab") as one, famezd.join("lab") as other:
        pid = fabric(famezd, "lab")["pid"]
        assert isinstance(pid, int)
        os.kill(pid, signal.SIGSTOP)
        failed = famezd.ctl("restart", "lab")
        assert failed.returncode == 1
        assert "does not answer to 'hold' within 5 s" in failed.stderr
        os.kill(pid, signal.SIGCONT)
        rings(one, other, 3)
        eventually(lambda: famezd.ctl("restart", "lab").returncode == 0, "it can be restarted")
        rings(one, other, 4)


# famezctl kick


def test_a_kicked_peer_is_disconnected_and_counted(famezd: Famezd) -> None:
    with famezd.join("lab") as one, famezd.join("lab") as other:
        done = famezd.ctl("kick", "lab", str(one.id))
        assert (done.returncode, done.stdout) == (0, f"peer {one.id} was disconnected\n")
        with pytest.raises(ClientError, match="the server has ended the membership"):
            one.wait(PATIENCE)
        with famezd.join("lab") as again:
            assert again.id == 1
            rings(again, other, 3)
    assert famezd.metrics("famez_leaves_total", "fabric", "reason")["lab", "kicked"] == 1
    asked = re.search(r"famezctl asks .*", famezd.log.read_text())
    assert asked is not None
    for field in ("what=kick", "fabric=lab", "peer=1", f"uid={os.getuid()}", "program=famezctl"):
        assert field in asked[0].split()


def test_whom_nobody_knows_cannot_be_kicked(famezd: Famezd) -> None:
    done = famezd.ctl("kick", "lab", "3")
    assert (done.returncode, done.stderr) == (
        1,
        "famezctl: fabric lab has no peer 3; `famezctl peers lab` lists them\n",
    )
    done = famezd.ctl("kick", "nosuch", "3")
    assert (done.returncode, done.stderr) == (1, "famezctl: no fabric 'nosuch'; there are: lab, plain\n")
    done = famezd.ctl("kick", "lab", "one")
    assert done.stderr == "famezctl: fabric lab has no peer one; `famezctl peers lab` lists them\n"


def test_nothing_can_be_changed_over_tcp(famezd: Famezd) -> None:
    for resource in ("reload", "fabrics/lab/restart", "fabrics/lab/peers/1/kick"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(f"{famezd.url}/api/v1/{resource}", method="POST"))
        with refused.value as answer:
            assert answer.code == 405


# Reload


def test_fabrics_are_added_and_removed_and_others_are_left_alone(famezd: Famezd) -> None:
    with famezd.join("lab") as one, famezd.join("lab") as other, famezd.join("plain") as leaver:
        pid = fabric(famezd, "lab")["pid"]
        for name in ("new", "also", "extra"):
            define(famezd, name, peers=2, vectors=1)
        (famezd.config.parent / "fabrics.d" / "plain.yaml").unlink()
        with Traffic(one, other):
            done = famezd.ctl("reload", "--force")
        told = "added: also, extra, new\nremoved: plain\nfabric plain had 1 peers, who were disconnected\n"
        assert (done.returncode, done.stdout, done.stderr) == (0, told, "")
        assert fabric(famezd, "lab")["pid"] == pid
        with pytest.raises(ClientError, match="the server has ended the membership"):
            leaver.wait(PATIENCE)
        assert not (famezd.runtime / "plain.sock").exists()
        assert not Path("/dev/shm", famezd.mailboxes["plain"]).exists()
        with Peer.join(famezd.runtime / "new.sock") as newcomer:
            assert newcomer.id == 0
        assert famezd.metrics("famez_fabric_up", "fabric") == {(name,): 1 for name in ("also", "extra", "lab", "new")}
        assert famezd.ctl("reload").stdout == "nothing has changed\n"


def test_a_fabric_that_has_peers_is_not_removed(famezd: Famezd) -> None:
    with famezd.join("plain") as one, famezd.join("plain") as other, famezd.join("lab") as named:
        while other.id not in one.peers:
            assert one.wait(PATIENCE)
        Slots(FileMemory(named.memory)).name(named.id, "web", "")
        define(famezd, "new", peers=2, vectors=1)
        for name in ("plain", "lab"):
            (famezd.config.parent / "fabrics.d" / f"{name}.yaml").rename(famezd.config.parent / f"{name}.off")
        with Traffic(one, other):
            done = famezd.ctl("reload")
            famezd.process.send_signal(signal.SIGHUP)
            eventually(lambda: "reload failed" in famezd.log.read_text(), "SIGHUP is refused, too")
        assert (done.returncode, done.stdout) == (1, "")
        for_lab, for_plain = done.stderr.splitlines()
        assert "fabrics.d/lab.yaml:1:1: has been removed, and there are peers on fabric lab: 1 web; " in for_lab
        assert "fabrics.d/plain.yaml:1:1: has been removed, and there are peers on fabric plain: 0, 1; " in for_plain
        assert "`famezctl reload --force`" in for_plain
        assert famezd.metrics("famez_fabric_up", "fabric") == {("lab",): 1, ("plain",): 1}
        assert famezd.metrics("famez_config_last_reload_successful").total() == 0
        assert "configuration refused: " in famezd.ctl("status").stdout
        (famezd.config.parent / "lab.off").rename(famezd.config.parent / "fabrics.d" / "lab.yaml")
    eventually(lambda: fabric(famezd, "plain")["peers"] == 0, "they have left")
    # Whom nobody is on goes without force.
    done = famezd.ctl("reload")
    assert (done.returncode, done.stdout) == (0, "added: new\nremoved: plain\n")


def test_what_was_rung_is_passed_on_before_a_fabric_is_removed(famezd: Famezd) -> None:
    with famezd.join("lab") as one, famezd.join("lab") as other:
        (famezd.config.parent / "fabrics.d" / "lab.yaml").unlink()
        pid = fabric(famezd, "lab")["pid"]
        assert isinstance(pid, int)
        os.kill(pid, signal.SIGSTOP)
        # It finds this when it is told to stop.
        one.ring(other.id, 3)
        reloading = threading.Thread(target=famezd.ctl, args=("reload", "--force"))
        reloading.start()
        told = r"fabric is removed, its peers are disconnected +fabric=lab peers='1, 2'"
        eventually(lambda: re.search(told, famezd.log.read_text()), "it is told to stop")
        os.kill(pid, signal.SIGCONT)
        reloading.join()
        rung = next(bell for bell, vector in other._bells.items() if vector == 3)
        assert int.from_bytes(os.read(rung, 8), "little") == 1
        with pytest.raises(ClientError, match="the server has ended the membership"):
            other.wait(PATIENCE)
    assert [f["name"] for f in json.loads(famezd.ctl("--json", "status").stdout)["fabrics"]] == ["plain"]


def test_with_any_mistake_nothing_changes(famezd: Famezd) -> None:
    accepted = famezd.metrics("famez_config_last_reload_success_timestamp_seconds").total()
    with famezd.join("lab") as one, famezd.join("lab") as other:
        define(famezd, "new", peers=2)
        define(famezd, "lab", peers=0, vectors="many")
        with Traffic(one, other):
            done = famezd.ctl("reload")
        assert (done.returncode, done.stdout) == (1, "")
        assert "fabrics.d/lab.yaml:" in done.stderr
        assert "peers: must be an integer from 1 to 65535, not 0" in done.stderr
        assert "vectors: must be an integer from 1 to 2048, not 'many'" in done.stderr
        assert "peers: must be an integer" in famezd.log.read_text()
        assert famezd.metrics("famez_config_last_reload_successful").total() == 0
        assert famezd.metrics("famez_config_last_reload_success_timestamp_seconds").total() == accepted
        assert famezd.metrics("famez_fabric_up", "fabric") == {("lab",): 1, ("plain",): 1}
        assert "configuration refused: " in famezd.ctl("status").stdout
        define(famezd, "lab", **LAB)
        assert famezd.ctl("reload").stdout == "added: new\n"
        assert famezd.metrics("famez_config_last_reload_successful").total() == 1
        assert "configuration refused: " not in famezd.ctl("status").stdout
        rings(one, other, 3)


def test_what_would_disconnect_peers_waits_for_a_restart(famezd: Famezd) -> None:
    with famezd.join("plain") as one:
        define(famezd, "plain", vectors=5, peers=7)
        done = famezd.ctl("reload")
        waits = "fabric plain waits for `famezctl restart plain`, which disconnects its peers: "
        assert (done.returncode, done.stdout) == (0, f"{waits}peers is 7, was 3; vectors is 5, was 2\n")
        assert waits in famezd.ctl("status").stdout
        with famezd.join("plain") as other:
            eventually(lambda: one.wait(0) or other.id in one.peers, "it hears of the other")
            rings(one, other, 1)
        # Taken back, it waits no more.
        define(famezd, "plain", **PLAIN)
        assert famezd.ctl("reload").stdout == "nothing has changed\n"
        assert "waits for" not in famezd.ctl("status").stdout
        define(famezd, "plain", personality="genz", peers=3, vectors=16)
        assert "disconnects its peers: personality is genz, was plain;" in famezd.ctl("reload").stdout
        define(famezd, "plain", **PLAIN, personality="plain")
        define(famezd, "plain", vectors=5)
        assert "waits for" in famezd.ctl("reload").stdout
        one.wait(0)
        done = famezd.ctl("restart", "plain")
        assert done.returncode == 0
        assert "; 1 peers were disconnected: vectors is 5, was 2" in done.stdout
        with pytest.raises(ClientError, match="the server has ended the membership"):
            one.wait(PATIENCE)
    assert "fabric ended, its peers are disconnected: vectors is 5, was 2" in famezd.log.read_text()
    with famezd.join("plain") as peer:
        assert peer.vectors == 5
    assert fabric(famezd, "plain")["waiting"] == []


def test_what_disconnects_nobody_is_done_at_once(famezd: Famezd) -> None:
    with famezd.join("lab"):
        define(famezd, "plain", vectors=5)
        assert famezd.ctl("reload").stdout == "changed: plain\n"
        with famezd.join("plain") as peer:
            assert peer.vectors == 5
        eventually(
            lambda: "plain" not in famezd.ctl("diff").stdout and fabric(famezd, "plain")["peers"] == 0, "it has left"
        )
        define(famezd, "plain", personality="genz", vectors=16)
        assert famezd.ctl("reload").stdout == "changed: plain\n"
    told = famezd.log.read_text()
    assert "fabric begins anew, nobody was on it: vectors is 5, was 2" in told
    assert "fabric begins anew, nobody was on it: personality is " in told
    assert "disconnected" not in told


def test_a_reload_tries_again_what_failed(famezd: Famezd) -> None:
    folder = famezd.config.parent / "not there yet"
    define(famezd, "new", peers=2, socket={"path": str(folder / "new.sock")})
    for _ in range(2):
        done = famezd.ctl("reload")
        assert done.returncode == 3
        assert "fabric new failed: cannot listen on" in done.stdout
    folder.mkdir()
    assert famezd.ctl("reload").stdout == "changed: new\n"
    with Peer.join(folder / "new.sock") as peer:
        assert peer.id == 0


def test_what_fits_is_changed_in_place(famezd: Famezd) -> None:
    with famezd.join("lab") as one, famezd.join("lab") as other:
        moved = famezd.runtime / "moved.sock"
        define(famezd, "lab", socket={"path": str(moved), "mode": "0600"})
        with Traffic(one, other):
            assert famezd.ctl("reload").stdout == "changed: lab\n"
        assert not (famezd.runtime / "lab.sock").exists()
        assert moved.stat().st_mode & 0o777 == 0o600
        with Peer.join(moved) as third:
            rings(third, one, 3)


def test_http_moves_where_it_is_told_to(famezd: Famezd) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        settle(famezd, http={"listen": f"127.0.0.1:{port}"})
        done = famezd.ctl("reload")
        assert done.returncode == 1
        assert f"http.listen: cannot serve HTTP on 127.0.0.1:{port}: Address already in use" in done.stderr
        assert famezd.metrics("famez_config_last_reload_successful").total() == 0
    assert famezd.ctl("reload").returncode == 0
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=PATIENCE) as answer:
        assert answer.read() == b"ok\n"
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{famezd.url}/healthz")
    settle(famezd, http={"listen": None})
    assert famezd.ctl("reload").returncode == 0
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz")


def test_the_log_and_the_control_socket_change(famezd: Famezd) -> None:
    settle(famezd, log={"level": "error", "format": "json"}, control={"mode": "0600"})
    assert famezd.ctl("reload").returncode == 0
    assert (famezd.runtime / "control.sock").stat().st_mode & 0o777 == 0o600
    before = famezd.log.read_text()
    with famezd.join("lab"):
        pass
    eventually(lambda: fabric(famezd, "lab")["peers"] == 0, "it has left")
    assert famezd.log.read_text() == before


def test_a_control_socket_that_cannot_be_given_away_stays_as_it_is(tmp_path: Path) -> None:
    with famezd_that_gives_nothing_away(tmp_path) as famezd:
        path = famezd.runtime / "control.sock"
        before = path.stat()
        not_ours = next(g.gr_name for g in grp.getgrall() if g.gr_gid not in (os.getegid(), *os.getgroups()))
        settle(famezd, control={"group": not_ours, "mode": "0666"})
        done = famezd.ctl("reload")
        assert done.returncode == 1
        assert (
            f"{famezd.config}:1:1: control: cannot give {path} its owner, group and mode: Operation not" in done.stderr
        )
        assert "; run as root, or choose an owner and a group that are ours to give" in done.stderr
        now = path.stat()
        assert (now.st_mode, now.st_gid) == (before.st_mode, before.st_gid)
        assert "configuration refused" in famezd.ctl("status").stdout
        settle(famezd, control={"mode": "0600"})
        assert famezd.ctl("reload").returncode == 0
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_fabric_that_cannot_be_given_away_is_served_and_told_of(tmp_path: Path) -> None:
    with famezd_that_gives_nothing_away(tmp_path) as famezd, famezd.join("lab") as one:
        path = famezd.runtime / "lab.sock"
        before = path.stat()
        not_ours = next(g.gr_name for g in grp.getgrall() if g.gr_gid not in (os.getegid(), *os.getgroups()))
        mailbox = yaml.safe_load((famezd.config.parent / "fabrics.d/lab.yaml").read_text())["mailbox"]
        define(famezd, "lab", socket={"group": not_ours}, mailbox=mailbox | {"group": not_ours})
        done = famezd.ctl("reload")
        assert done.returncode == 3
        told = f"{path} has group {path.group()}, not {not_ours}: famezd can give it only to groups that it is in"
        assert told in done.stdout + done.stderr
        assert path.stat().st_gid == before.st_gid
        remarks = fabric(famezd, "lab")["remarks"]
        assert isinstance(remarks, list)
        assert [remark.partition(" has ")[0] for remark in remarks] == [str(path), fabric(famezd, "lab")["mailbox"]]
        assert fabric(famezd, "lab")["health"] == "warning"
        with famezd.join("lab") as other:
            rings(other, one, 3)
        define(famezd, "lab", socket={}, mailbox=mailbox)
        assert famezd.ctl("reload").returncode == 0
        assert fabric(famezd, "lab")["remarks"] == []


def test_a_control_socket_that_was_removed_is_told_in_the_log(famezd: Famezd) -> None:
    (famezd.runtime / "control.sock").unlink()
    famezd.process.send_signal(signal.SIGHUP)
    told = "control.sock was removed, nobody can ask famezd; restart famezd"
    eventually(lambda: told in famezd.log.read_text(), "the reload is refused")
    with famezd.join("lab"):
        pass


def famezd_that_gives_nothing_away(directory: Path) -> Famezd:
    """A famezd that may not change a file's owner, or its group to one that it is not in, even if it is root."""
    famezd = Famezd(directory, {"lab": LAB})
    if os.geteuid() == 0:
        famezd.under = [need("setpriv", "util-linux"), "--bounding-set=-chown", "--inh-caps=-chown"]
    return famezd


def test_the_runtime_directory_stays(famezd: Famezd, tmp_path: Path) -> None:
    settle(famezd, runtime_directory=str(tmp_path / "other"))
    done = famezd.ctl("reload")
    assert done.returncode == 1
    assert f"runtime_directory: is {famezd.runtime} as long as famezd runs: restart famezd" in done.stderr


def test_sighup_reloads(famezd: Famezd) -> None:
    define(famezd, "new", peers=2, vectors=1)
    famezd.process.send_signal(signal.SIGHUP)
    eventually(lambda: "configuration reloaded" in famezd.log.read_text(), "it is reloaded")
    with Peer.join(famezd.runtime / "new.sock"):
        pass
    define(famezd, "new", peers=0)
    famezd.process.send_signal(signal.SIGHUP)
    eventually(lambda: "reload failed" in famezd.log.read_text(), "that fails")
    with Peer.join(famezd.runtime / "new.sock"):
        pass


# A fabric that is not served


def dies(famezd: Famezd, name: str) -> bool:
    """Kills a fabric's worker, if there is one; whether the fabric is reported as failed."""
    seen = fabric(famezd, name)
    if isinstance(pid := seen["pid"], int) and pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return seen["state"] == "failed"


def test_a_worker_that_dies_again_and_again_is_reported_and_served_when_it_can_be(tmp_path: Path) -> None:
    with Famezd(tmp_path, {"lab": LAB, "plain": PLAIN}) as famezd, famezd.join("plain") as one:
        with famezd.join("plain") as other:
            while other.id not in one.peers:
                assert one.wait(PATIENCE)
            with Traffic(one, other):
                failure = r"fabric lab is not served: its worker died \d+ times in a row \(killed by signal"

                def told(status: int, text: str, *arguments: str) -> bool:
                    # famezd tries it again after a while, which may be over before somebody has asked.
                    if not dies(famezd, "lab"):
                        return False
                    done = famezd.ctl(*arguments)
                    return done.returncode == status and bool(re.search(text, done.stdout + done.stderr))

                eventually(lambda: told(3, failure, "status"), "it is reported as failed")
                eventually(lambda: told(1, "famezctl: fabric lab is not served", "kick", "lab", "1"), "nobody is there")
                up = {("lab",): 0, ("plain",): 1}
                eventually(
                    lambda: dies(famezd, "lab") and famezd.metrics("famez_fabric_up", "fabric") == up, "it is not up"
                )
        assert famezd.ctl("restart", "lab").returncode == 0
        assert famezd.ctl("status").returncode == 0
        with famezd.join("lab"):
            pass
