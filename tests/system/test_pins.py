"""Pinned ports through the whole service."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from famezd.client import ClientError, Peer
from tests.daemon import Famezd, eventually
from tests.system.test_changes import Traffic, define, fabric, rings

LAB = {"personality": "genz", "peers": 5, "vectors": 16, "pins": {3: {"user": os.getuid()}, 4: {"socket": True}}}
PLAIN = {"peers": 3, "vectors": 2, "ports": "fresh"}


@pytest.fixture
def famezd(tmp_path: Path) -> Iterator[Famezd]:
    with Famezd(tmp_path, {"lab": LAB, "plain": PLAIN}) as famezd:
        yield famezd


def join_at(famezd: Famezd, port: int) -> Peer:
    """A peer that joins at a port's own socket."""
    return Peer.join(famezd.runtime / f"lab.{port}.sock")


def test_ids_are_the_same_in_any_order(famezd: Famezd) -> None:
    with join_at(famezd, 4) as at_socket, famezd.join("lab") as first, famezd.join("lab") as second:
        assert (at_socket.id, first.id, second.id) == (4, 3, 1)
    with famezd.join("lab") as first, famezd.join("lab") as second, join_at(famezd, 4) as at_socket:
        assert (at_socket.id, first.id, second.id) == (4, 3, 1)
        with pytest.raises(ClientError):
            join_at(famezd, 4)
        rings(at_socket, first, 4)
    refusals = famezd.metrics("famez_refusals_total", "fabric", "reason")
    assert refusals["lab", "pinned"] == 1
    assert "port 4, whose own socket this is, is taken" in famezd.log.read_text()


def test_a_ports_socket_survives_its_worker(famezd: Famezd) -> None:
    with famezd.join("lab") as one, join_at(famezd, 4) as other:
        for _ in range(3):
            pid = fabric(famezd, "lab")["pid"]
            assert isinstance(pid, int)
            os.kill(pid, signal.SIGKILL)
            rings(one, other, 3)
        other.leave()
        with join_at(famezd, 4) as again:
            rings(again, one, 4)
    assert famezd.ctl("restart", "lab").returncode == 0
    with join_at(famezd, 4) as again:
        assert again.id == 4


def test_a_reload_adds_and_removes_pins_in_place(famezd: Famezd) -> None:
    with famezd.join("lab") as one, join_at(famezd, 4) as other:
        with Traffic(one, other):
            define(famezd, "lab", pins={2: {"socket": True}, 3: {"socket": True}})
            assert famezd.ctl("reload").stdout == "changed: lab\n"
        assert not (famezd.runtime / "lab.4.sock").exists()
        with join_at(famezd, 2) as two, famezd.join("lab") as ordinary:
            assert (two.id, ordinary.id) == (2, 1)
            rings(two, other, 2)
        with pytest.raises(ClientError):
            # One is on this port since before.
            join_at(famezd, 3)
        one.leave()
        with join_at(famezd, 3) as three:
            rings(three, other, 3)
        with Traffic(other, other):
            define(famezd, "lab", pins={})
            assert famezd.ctl("reload").stdout == "changed: lab\n"
        assert sorted(path.name for path in famezd.runtime.glob("lab*")) == ["lab.sock"]


def test_a_fabric_takes_the_place_of_a_ports_socket_and_back(famezd: Famezd) -> None:
    path = famezd.runtime / "lab.4.sock"
    with famezd.join("lab") as one:
        define(famezd, "lab", pins={})
        define(famezd, "lab.4", peers=2, vectors=1)
        assert famezd.ctl("reload").stdout == "added: lab.4\nchanged: lab\n"
        with Peer.join(path) as peer:
            assert peer.id == 0
        define(famezd, "lab", pins=LAB["pins"])
        refused = famezd.ctl("reload")
        assert refused.returncode == 1
        assert f"pins.4.socket: {path} is the socket of fabric 'lab.4' already" in refused.stderr
        (famezd.config.parent / "fabrics.d" / "lab.4.yaml").unlink()
        assert famezd.ctl("reload").stdout == "removed: lab.4\nchanged: lab\n"
        with join_at(famezd, 4) as other:
            rings(other, one, 4)


def test_famezctl_tells_qemus_arguments(famezd: Famezd) -> None:
    assert shlex.split(famezd.ctl("qemu", "lab").stdout) == famezd.qemu("lab")
    own = shlex.split(famezd.ctl("qemu", "lab", "--port", "4").stdout)
    assert own == [word.replace("lab.sock", "lab.4.sock") for word in famezd.qemu("lab")]
    for port, whose in (
        (2, ""),
        (3, f"; it is kept for user {os.getuid()}, at the fabric's own socket"),
    ):
        unknown = famezd.ctl("qemu", "lab", "--port", str(port))
        assert unknown.returncode == 1
        assert unknown.stderr.startswith(
            f"famezctl: port {port} of fabric lab has no socket of its own{whose}; give it"
        )
    for none in ("0", "99999999"):
        assert f"fabric lab has no port {none}: its ports are 1 to " in famezd.ctl("qemu", "lab", "--port", none).stderr
    assert famezd.ctl("qemu", "nosuch").stderr == "famezctl: no fabric 'nosuch'; there are: lab, plain\n"


def test_mistakes_are_told_with_their_place(famezd: Famezd) -> None:
    define(famezd, "plain", pins={1: {"socket": True}})
    done = famezd.ctl("reload")
    assert done.returncode == 1
    assert "plain.yaml:" in done.stderr
    assert "pins: are for sticky ports only" in done.stderr


def test_what_a_killed_famezd_left_is_taken_over(famezd: Famezd) -> None:
    famezd.process.kill()
    famezd.process.wait()
    assert famezd.process.stdout is not None
    famezd.process.stdout.close()
    assert (famezd.runtime / "lab.4.sock").exists()
    famezd.start()
    eventually(lambda: fabric(famezd, "lab")["state"] == "serving", "it serves")
    with join_at(famezd, 4) as peer:
        assert peer.id == 4
