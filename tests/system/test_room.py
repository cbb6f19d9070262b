"""Fabrics for which there is no room: refused before anything is done, and those who are there lose nothing."""

from __future__ import annotations

import itertools
import os
import resource
import subprocess
from pathlib import Path

import yaml

from famezd.client import Doorbell, Peer
from famezd.fabric.settings import Settings
from tests.daemon import BIN, PATIENCE, Famezd
from tests.needs import need

LAB = {"peers": 4, "vectors": 4}
LIMIT = 300


def limited(tmp_path: Path) -> Famezd:
    """A famezd whose processes may have so many open files, with one small fabric."""
    famezd = Famezd(tmp_path, {"lab": LAB})
    famezd.under = ["/bin/sh", "-c", f'ulimit -n {LIMIT}; exec "$@"', "sh"]
    return famezd


def define(famezd: Famezd, name: str, **settings: object) -> None:
    """Writes a fabric's file."""
    file = famezd.config.parent / "fabrics.d" / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"mailbox": {"backing": "memfd"}, **settings}))


def rings(src: Peer, dst: Peer, vector: int) -> None:
    src.ring(dst.id, vector)
    assert dst.wait(PATIENCE) == [Doorbell(vector, 1)]


def test_a_reload_that_finds_no_room_changes_nothing(tmp_path: Path) -> None:
    with limited(tmp_path) as famezd, famezd.join("lab") as one, famezd.join("lab") as two:
        define(famezd, "big", peers=5, vectors=16)
        why = "5 peers of 16 vectors, relayed, need 437 open files in the fabric's worker, and the hard limit is 300"
        for verb in ("check", "diff", "reload"):
            asked = famezd.ctl(verb)
            assert asked.returncode != 0
            assert f"big.yaml:3:8: peers: {why}: have at most 4 peers" in asked.stdout + asked.stderr
        rings(one, two, 3)
        assert "big" not in famezd.ctl("--json", "peers", "lab").stdout
        define(famezd, "big", peers=4, vectors=16)
        reloaded = famezd.ctl("reload")
        assert "big" in reloaded.stdout, (reloaded, famezd.log.read_text())
        with Peer.join(famezd.runtime / "big.sock"):
            rings(two, one, 0)


def test_a_reload_to_more_fabrics_than_famezd_has_room_for(tmp_path: Path) -> None:
    with limited(tmp_path) as famezd, famezd.join("lab") as one, famezd.join("lab") as two:
        for n in range(30):
            define(famezd, f"f{n}", peers=1, vectors=1)
        asked = famezd.ctl("reload")
        assert asked.returncode == 1
        assert "famezd.yaml:1:1: 31 fabrics need 536 open files in famezd itself, and the hard limit is" in asked.stderr
        rings(one, two, 3)


def test_a_start_that_finds_no_room_says_so_and_the_check_warns(tmp_path: Path) -> None:
    famezd = limited(tmp_path)
    define(famezd, "big", peers=5, vectors=16)
    command = [*famezd.under, BIN / "famezd", "-c", famezd.config]
    started = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert started.returncode == 2
    assert started.stderr.splitlines()[0].startswith(f"{tmp_path}/fabrics.d/big.yaml:3:8: peers: 5 peers of 16 vectors")
    checked = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert checked.returncode == 0, "systemd may start it with another limit"
    assert checked.stderr.startswith("warning: started from here it could not be served: ")
    assert started.stderr.splitlines()[0] in checked.stderr


def test_that_not_all_have_room_in_flight_is_told_once(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    # As many peers as the worker may have: packed anew, what they park would be twice that for a moment.
    most = next(n for n in itertools.count(1) if Settings("", "", "", 0, peers=n + 1).descriptors(switch=False) > limit)
    famezd = Famezd(tmp_path, {"lab": {"peers": most}})
    if os.geteuid() == 0:
        # Who has these may have any number in flight.
        famezd.under = [need("setpriv", "util-linux"), "--bounding-set=-sys_admin,-sys_resource"]
    said = f"when all fabrics are full they park {2 * most * (1 + 16 * most)} descriptors"
    with famezd:
        assert famezd.log.read_text().count(said) == 1
        assert famezd.ctl("reload").returncode == 0
        assert famezd.log.read_text().count(said) == 1
