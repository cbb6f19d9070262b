"""Names and pinned ports, where famezd is a user of its own and is restarted."""

from __future__ import annotations

import shlex
from pathlib import Path

from famezd.client import Peer
from tests.daemon import eventually
from tests.qemu.machine import Machine
from tests.systemd.inside.unit import Unit

LAB = {"personality": "genz", "peers": 5, "vectors": 16, "pins": {3: {"user": "root"}, 4: {"socket": True}}}


def test_machines_of_others_have_names(tmp_path: Path) -> None:
    with Unit({"lab": LAB}) as unit:
        command = shlex.split(unit.ctl("qemu", "lab", "--port", "4").stdout)
        with Machine([*command, "-name", "guest=web"], tmp_path) as machine, unit.join("lab") as peer:
            assert (machine.peer_id, peer.id) == (4, 3)
            seen = {("4", "web", "qemu"): 1, ("3", "3", "host"): 1, ("6", "Z-switch", "switch"): 1}
            for _ in range(2):
                eventually(lambda: unit.metrics("famez_peer_info", "peer", "name", "kind") == seen, "all are named")
                unit.restart()


def test_ports_sockets_survive_famezd() -> None:
    with Unit({"lab": LAB}) as unit:
        path = unit.runtime / "lab.4.sock"
        file = path.stat().st_ino
        main = unit.main_pid
        unit.kill()
        unit.await_active(other_than=main)
        with Peer.join(path) as peer:
            assert peer.id == 4
            stored = unit.stored
            unit.restart()
            eventually(lambda: unit.stored == stored, "it stores what it stored before")
            assert path.stat().st_ino == file
        with unit.down():
            unit.write("lab", **LAB | {"pins": {2: {"socket": True}}})
        unit.await_active()
        assert not path.exists()
        with Peer.join(unit.runtime / "lab.2.sock") as peer:
            assert peer.id == 2
        eventually(lambda: unit.stored == stored, "it keeps no socket that nobody can find")
