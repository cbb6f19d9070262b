"""What peers are called where people and Prometheus look."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from pathlib import Path

import pytest

from famezd.client import ClientError, Peer
from famezd.mailbox import SLOT_SIZE
from tests.daemon import PATIENCE, Famezd, eventually

LAB = {"personality": "genz", "peers": 4, "vectors": 16}
PLAIN = {"peers": 3, "vectors": 2, "ports": "fresh"}
SWITCH = 5

JOIN = """
import sys
from famezd.client import Peer
with Peer.join(sys.argv[1]) as peer:
    print(peer.id, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def famezd(tmp_path: Path) -> Iterator[Famezd]:
    with Famezd(tmp_path, {"lab": LAB, "plain": PLAIN}) as famezd:
        yield famezd


def write_nodename(peer: Peer, slot: int, name: bytes) -> None:
    """Writes into a slot as any guest can."""
    os.pwrite(peer.memory, name.ljust(32, b"\0"), slot * SLOT_SIZE)


@contextmanager
def joined_by(famezd: Famezd, fabric: str, command: Sequence[str]) -> Iterator[int]:
    """A process with this command line joins, and stays; its id."""
    script = 'exec -a "$0" "$PYTHON" -c "$CODE" "$SOCKET" "${@:1}"'
    environ = {**os.environ, "PYTHON": sys.executable, "CODE": JOIN, "SOCKET": str(famezd.socket(fabric))}
    # It looks for its library where its command line says that it is.
    environ |= {"PYTHONHOME": sys.base_prefix, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        ["bash", "-c", script, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ
    ) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.communicate(timeout=PATIENCE)


def info(famezd: Famezd, fabric: str) -> set[tuple[str, ...]]:
    """Peer, name and kind, as /metrics has them."""
    values = famezd.metrics("famez_peer_info", "fabric", "peer", "name", "kind", "uid")
    assert set(values.values()) <= {1}
    assert {uid for *_, uid in values} <= {str(os.getuid())}
    return {tuple(labels[:3]) for name, *labels, _ in values if name == fabric}


def await_info(famezd: Famezd, fabric: str, expected: Set[tuple[str, ...]]) -> None:
    """Waits until that is so: a command line is not waited for for long."""
    eventually(lambda: info(famezd, fabric) == expected, f"the peers are {expected}")


def test_a_peer_is_called_as_its_slot_says(famezd: Famezd) -> None:
    with famezd.join("lab") as one, famezd.join("lab") as other:
        write_nodename(one, one.id, b"host1.1")
        seen = {("1", "host1.1", "host"), ("2", "2", "host"), ("5", "Z-switch", "switch")}
        assert info(famezd, "lab") == seen
        answer = json.loads(famezd.ctl("--json", "peers", "lab").stdout)
        assert [(p["id"], p["name"], p["kind"]) for p in answer["peers"]] == [(1, "host1.1", "host"), (2, "2", "host")]
        assert [answer["switch"][key] for key in ("id", "name", "kind")] == [5, "Z-switch", "switch"]
        head, *rows = famezd.ctl("peers", "lab").stdout.splitlines()
        assert head.split() == ["ID", "NAME", "KIND", "PROGRAM", "PID", "UID", "SINCE"]
        assert [tuple(row.split()[:3]) for row in rows] == sorted(seen)
        one.ring(other.id, 3)
        other.ring(one.id, 4)
        other.ring(SWITCH, 4)
        eventually(lambda: famezd.pairs("lab").total() == 3, "all are counted")
        # Ids there: names are written by guests.
        assert famezd.pairs("lab") == {(1, 2): 1, (2, 1): 1, (2, 5): 1}
        doorbells = famezd.ctl("doorbells", "lab", "--list").stdout
        assert re.search(r"^1 host1\.1 +2 +1$", doorbells, re.MULTILINE)
        assert re.search(r"^2 +1 host1\.1 +1$", doorbells, re.MULTILINE)
        assert re.search(r"^2 +5 Z-switch +1$", doorbells, re.MULTILINE)
    eventually(lambda: info(famezd, "lab") == {("5", "Z-switch", "switch")}, "they have left")


def test_a_peer_is_kicked_by_its_name(famezd: Famezd) -> None:
    with famezd.join("lab") as one, famezd.join("lab") as other:
        for peer, name in ((one, "50% a/b?c#d é"), (other, "web")):
            write_nodename(peer, peer.id, name.encode())
        done = famezd.ctl("kick", "lab", "50% a/b?c#d é")
        assert (done.returncode, done.stdout, done.stderr) == (0, "peer 1 50% a/b?c#d é was disconnected\n", "")
        with pytest.raises(ClientError, match="the server has ended the membership"):
            one.wait(PATIENCE)
        done = famezd.ctl("kick", "lab", "Z-switch")
        assert done.stderr == "famezctl: fabric lab has no peer Z-switch; `famezctl peers lab` lists them\n"
        assert other.wait(0) == []
        done = famezd.ctl("kick", "lab", "")
        assert done.returncode == 2
        assert done.stderr.endswith("famezctl: error: PEER must not be empty\n")
        done = famezd.ctl("kick", "lab", "web")
        assert done.stdout == "peer 2 web was disconnected\n"
    eventually(lambda: re.search(r"peer left.* peer=2 reason=kicked name=web", famezd.log.read_text()), "it is logged")


def test_what_a_guest_writes_is_made_harmless_and_unique(famezd: Famezd) -> None:
    with famezd.join("lab") as one, famezd.join("lab") as other, famezd.join("lab") as third:
        write_nodename(one, one.id, b"n" * 32)
        write_nodename(other, other.id, b"\x1b[2J\xff\xfe\xe2\x80\xaeweb\n")
        write_nodename(third, third.id, b"1")
        write_nodename(third, SWITCH, b"web")
        named = {("1", "n" * 31, "host"), ("2", "[2J web", "host"), ("3", "1~3", "host")}
        assert info(famezd, "lab") == named | {("5", "web", "switch")}
        assert "\x1b" not in famezd.ctl("peers", "lab").stdout
        with famezd.join("lab") as fourth:
            write_nodename(fourth, fourth.id, b"n" * 31)
            # For a newcomer the switch writes its own name anew; it is called so when it may change again.
            named |= {("4", f"{'n' * 31}~4", "host"), ("5", "Z-switch", "switch")}
            eventually(lambda: info(famezd, "lab") == named, "all are called right")


def test_a_guest_that_renames_itself_all_the_time_has_a_few_names(famezd: Famezd) -> None:
    with famezd.join("lab") as one:
        seen = set()
        for turn in range(200):
            for step in range(10):
                write_nodename(one, one.id, f"name {turn}.{step}".encode())
            seen |= info(famezd, "lab")
            if turn % 50 == 0:
                famezd.ctl("peers", "lab")
        names = {name for peer, name, _ in seen if peer == "1"}
        # Ten seconds apart; nobody knows how long this took.
        assert "name 0.9" in names
        assert len(names) < 20


def test_a_mailbox_that_is_cut_names_nobody(famezd: Famezd) -> None:
    with famezd.join("lab") as one:
        write_nodename(one, one.id, b"web")
        os.ftruncate(one.memory, 0)
        assert ("1", "1", "host") in info(famezd, "lab")


LIBVIRT = ["/usr/bin/qemu-system-x86_64", "-name", "guest=dom1,debug-threads=on", "-S", "-machine", "q35"]


def test_a_machine_of_libvirts_is_called_as_its_domain(famezd: Famezd) -> None:
    with joined_by(famezd, "plain", LIBVIRT) as peer:
        eventually(
            lambda: re.search(rf"peer joined .*peer={peer} .*name=dom1", famezd.log.read_text()), "its join is logged"
        )
        await_info(famezd, "plain", {(str(peer), "dom1", "qemu")})
        with joined_by(famezd, "plain", LIBVIRT) as second:
            await_info(famezd, "plain", {(str(peer), "dom1", "qemu"), (str(second), f"dom1~{second}", "qemu")})
    eventually(lambda: re.search(rf"peer left .*peer={peer} .*name=dom1", famezd.log.read_text()), "its end is logged")


def test_a_name_outlives_the_worker(famezd: Famezd) -> None:
    with joined_by(famezd, "plain", LIBVIRT) as peer, joined_by(famezd, "plain", LIBVIRT) as second:
        named = {(str(peer), "dom1", "qemu"), (str(second), f"dom1~{second}", "qemu")}
        await_info(famezd, "plain", named)
        assert famezd.ctl("restart", "plain").returncode == 0
        await_info(famezd, "plain", named)


def test_who_only_connects_has_no_name(famezd: Famezd) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(famezd.socket("plain")))
        eventually(lambda: famezd.metrics("famez_fabric_peers", "fabric")["plain",], "it is a peer")
        assert {kind for *_, kind in info(famezd, "plain")} == {"host"}
