"""Fault rules through the whole service: famezctl, files, metrics; and that they outlive what serves."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from famezd.client import Doorbell, Peer
from tests.daemon import PATIENCE, Famezd, eventually
from tests.descendants import children
from tests.system.test_changes import define, fabric

LAB = {"personality": "genz", "peers": 4, "vectors": 16}
DIRECT = {"peers": 3, "vectors": 2, "doorbells": "direct"}


@pytest.fixture
def famezd(tmp_path: Path) -> Iterator[Famezd]:
    with Famezd(tmp_path, {"lab": LAB, "direct": DIRECT}) as famezd:
        yield famezd


def rules(famezd: Famezd, name: str = "lab") -> list[dict[str, Any]]:
    """What famezctl lists."""
    found: list[dict[str, Any]] = json.loads(famezd.ctl("--json", "fault", "list", name).stdout)["faults"]
    return found


def added(famezd: Famezd, *arguments: str) -> int:
    """Adds a rule; its id."""
    done = famezd.ctl("fault", "add", "lab", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return int(done.stdout)


def passes(src: Peer, dst: Peer, vector: int) -> None:
    src.ring(dst.id, vector)
    assert dst.wait(PATIENCE) == [Doorbell(vector, 1)]


def is_lost(famezd: Famezd, src: Peer, dst: Peer, vector: int, kind: str = "block") -> None:
    """A doorbell is struck, and does not arrive."""
    before = struck(famezd)[kind]
    src.ring(dst.id, vector)
    eventually(lambda: struck(famezd)[kind] == before + 1, "it is struck")
    assert dst.wait(0) == []


def struck(famezd: Famezd) -> dict[str, int]:
    counted = famezd.metrics("famez_faults_total", "fabric", "kind")
    return {kind: n for (name, kind), n in counted.items() if name == "lab"}


def test_rules_are_added_listed_counted_and_cleared(famezd: Famezd) -> None:
    assert famezd.ctl("fault", "list", "lab").stdout == "ID  RULE  FROM  SEEN  STRUCK\n"
    with famezd.join("lab") as one, famezd.join("lab") as other:
        assert added(famezd, "1", "2", "--vector", "3", "--block") == 1
        assert added(famezd, "*", "switch", "--drop", "10%", "--seed", "7") == 2
        assert added(famezd, "2", "*", "--delay", "1ms..5ms") == 3
        for _ in range(3):
            is_lost(famezd, one, other, 3)
        passes(one, other, 4)
        passes(other, one, 3)
        eventually(lambda: famezd.pairs("lab") == {(1, 2): 4, (2, 1): 1}, "all are counted as rung")
        assert struck(famezd) == {"block": 3, "delay": 1, "drop": 0, "duplicate": 0, "corrupt": 0}
        listed = famezd.ctl("fault", "list", "lab").stdout.splitlines()
        assert re.fullmatch(r"1   src=1 dst=2 vector=3 block seed=\d+ +famezctl  3     3", listed[1])
        assert re.fullmatch(r"2   src=\* dst=switch drop=0.1 seed=7 +famezctl  0     0", listed[2])
        assert re.fullmatch(r"3   src=2 dst=\* delay=1ms\.\.5ms seed=\d+ +famezctl  1     1", listed[3])
        done = famezd.ctl("fault", "clear", "lab", "1")
        assert (done.returncode, done.stdout) == (0, "cleared: 1\n")
        passes(one, other, 3)
        assert [rule["id"] for rule in rules(famezd)] == [2, 3]
        assert famezd.ctl("fault", "clear", "lab").stdout == "cleared: 2, 3\n"
        assert famezd.ctl("fault", "clear", "lab").stdout == "cleared: none\n"
        # No id comes back.
        assert added(famezd, "1", "2", "--duplicate", "0.5") == 4
    log = famezd.log.read_text()
    assert re.search(r"famezctl asks .*what=add_fault", log)
    assert re.search(r"fault rule added .*rule='id=1 src=1 dst=2 vector=3 block", log)
    assert re.search(r"famezctl asks .*rule=1.*what=clear_faults|famezctl asks .*what=clear_faults.*rule=1", log)


def test_a_rule_for_messages(famezd: Famezd) -> None:
    added(famezd, "1", "2", "--message", "--drop", "1")
    added(famezd, "1", "switch", "--corrupt", "1")
    assert [rule["rule"].rpartition(" ")[0] for rule in rules(famezd)] == [
        "src=1 dst=2 message drop=1.0",
        "src=1 dst=switch message corrupt=1.0",
    ]


NO_RULES = [
    (("lab", "5", "2", "--drop", "1"), "src must be written switch: 5 is the id of the switch"),
    (("lab", "9", "2", "--drop", "1"), "src must be one of this fabric's ids, 1 to 4, not 9"),
    (("lab", "one", "2", "--drop", "1"), "src must be a peer's id, switch or *, not 'one'"),
    (("lab", "1", "1", "--drop", "1"), "dst must be another than src: nobody rings itself through famezd"),
    (("lab", "1", "2", "--drop", "2"), "drop must be a probability from 0 to 1, such as 0.1 or 10%, not '2'"),
    (("lab", "1", "2", "--vector", "16", "--block"), "vector must be 0 to 15, as there are 16 vectors, not 16"),
    (("lab", "1", "2", "--message", "--block"), "message is for drop and corrupt, not for block: leave it out"),
    (("lab", "1", "2", "--seed", "x", "--block"), "seed must be an integer from 0 to 9223372036854775807, not 'x'"),
    (("lab", "1", "2", "--delay", "5"), "delay must be 5ms, 1ms..5ms (evenly between) or 5ms+-1ms (mean"),
    (("direct", "1", "2", "--block"), "fault rules are for relayed doorbells, and this fabric's are direct"),
    (("nosuch", "1", "2", "--block"), "no fabric 'nosuch'; there are: direct, lab"),
]


def test_what_is_no_rule_is_told_and_changes_nothing(famezd: Famezd) -> None:
    for arguments, told in NO_RULES:
        done = famezd.ctl("fault", "add", *arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"famezctl: {told}")
    assert rules(famezd) == []


def test_a_rule_that_is_not_there_cannot_be_cleared(famezd: Famezd) -> None:
    added(famezd, "1", "2", "--block")
    done = famezd.ctl("fault", "clear", "lab", "2")
    assert (done.returncode, done.stderr) == (1, "famezctl: no fault rule 2; there are: 1\n")
    assert famezd.ctl("fault", "add", "lab", "1", "2").returncode == 2
    assert famezd.ctl("fault", "add", "lab", "1", "2", "--block", "--drop", "1").returncode == 2


def test_over_tcp_rules_can_be_seen_and_not_changed(famezd: Famezd) -> None:
    added(famezd, "1", "2", "--block")
    with urllib.request.urlopen(f"{famezd.url}/api/v1/fabrics/lab/faults", timeout=PATIENCE) as answer:
        assert json.load(answer)["faults"] == rules(famezd)
    for resource in ("faults", "faults/clear", "faults/1/clear"):
        request = urllib.request.Request(f"{famezd.url}/api/v1/fabrics/lab/{resource}", data=b"{}", method="POST")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=PATIENCE)
        with refused.value as answer:
            assert answer.code in (404, 405)
    assert len(rules(famezd)) == 1


def test_rules_outlive_the_worker_and_go_on_where_they_are(famezd: Famezd) -> None:
    with famezd.join("lab") as one, famezd.join("lab") as other:
        added(famezd, "1", "2", "--vector", "3", "--block")
        is_lost(famezd, one, other, 3)
        pid = fabric(famezd, "lab")["pid"]
        assert isinstance(pid, int)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: fabric(famezd, "lab")["pid"] not in (0, pid), "another serves")
        is_lost(famezd, one, other, 3)
        assert famezd.ctl("restart", "lab").returncode == 0
        is_lost(famezd, one, other, 3)
        passes(one, other, 4)
        assert [(rule["id"], rule["seen"], rule["struck"]) for rule in rules(famezd)] == [(1, 3, 3)]


def test_a_rule_that_is_added_while_a_worker_starts_is_in_force_when_it_serves(famezd: Famezd) -> None:
    with famezd.join("lab") as one, famezd.join("lab") as other:
        pid = fabric(famezd, "lab")["pid"]
        assert isinstance(pid, int)
        before = programs(famezd)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: programs(famezd) - before, "another is started")
        (starting,) = programs(famezd) - before
        os.kill(starting, signal.SIGSTOP)
        assert fabric(famezd, "lab")["state"] == "starting"
        added(famezd, "1", "2", "--vector", "3", "--block")
        os.kill(starting, signal.SIGCONT)
        eventually(lambda: fabric(famezd, "lab")["state"] == "serving", "it serves")
        passes(one, other, 4)
        is_lost(famezd, one, other, 3)


def programs(famezd: Famezd) -> set[int]:
    """Its children that run a program of their own: one that does not yet holds its parent up while it is stopped."""
    pid = famezd.process.pid
    return {child for child in children(pid) if _command(child) not in (b"", _command(pid))}


def _command(pid: int) -> bytes:
    """The command of a process; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def test_rules_of_a_file_are_in_force_and_changed_in_place(tmp_path: Path) -> None:
    block = {"src": 1, "dst": 2, "vector": 3, "block": True}
    with (
        Famezd(tmp_path, {"lab": LAB | {"faults": [block]}}) as famezd,
        famezd.join("lab") as one,
        famezd.join("lab") as other,
    ):
        pid = fabric(famezd, "lab")["pid"]
        is_lost(famezd, one, other, 3)
        assert added(famezd, "1", "2", "--vector", "5", "--block") == 2
        define(famezd, "lab", faults=[{"src": 1, "vector": 4, "block": True}, block])
        assert famezd.ctl("reload").stdout == "changed: lab\n"
        # By the same process, without any pause; what was there before goes on where it is.
        assert fabric(famezd, "lab")["pid"] == pid
        for vector in (3, 4, 5):
            is_lost(famezd, one, other, vector)
        passes(one, other, 6)
        listed = [(rule["id"], rule["configured"], rule["struck"]) for rule in rules(famezd)]
        assert listed == [(3, True, 1), (1, True, 2), (2, False, 1)]
        # What is cleared comes back with the file.
        assert famezd.ctl("fault", "clear", "lab").returncode == 0
        passes(one, other, 3)
        assert famezd.ctl("reload").stdout == "changed: lab\n"
        is_lost(famezd, one, other, 3)
        assert famezd.ctl("reload").stdout == "nothing has changed\n"
        define(famezd, "lab", faults=[])
        assert famezd.ctl("reload").stdout == "changed: lab\n"
        passes(one, other, 3)


def test_mistakes_in_a_file_are_told_with_their_places_and_change_nothing(famezd: Famezd) -> None:
    define(famezd, "lab", faults=[{"src": 1, "block": True}, {"src": 7, "drop": "110%"}])
    define(famezd, "direct", faults=[{"block": True}])
    done = famezd.ctl("reload")
    assert done.returncode == 1
    assert re.search(
        r"lab\.yaml:\d+:\d+: faults\[1\]\.src: must be one of this fabric's ids, 1 to 4, not 7", done.stderr
    )
    assert re.search(r"lab\.yaml:\d+:\d+: faults\[1\]\.drop: must be a probability from 0 to 1", done.stderr)
    assert re.search(r"direct\.yaml:\d+:\d+: faults: are for relayed doorbells, and direct ones do not", done.stderr)
    assert rules(famezd) == []
