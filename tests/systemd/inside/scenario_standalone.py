"""famez-fabric@.service: one fabric, straight under systemd."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from famezd.client import ClientError, Doorbell, Peer
from tests.daemon import PATIENCE, eventually
from tests.qemu.machine import Machine
from tests.systemd.inside.unit import ETC, NAME, Standalone, Unit, run, systemctl

LAB = {"personality": "genz", "peers": 6, "vectors": 16, "pins": {6: {"socket": True}}}
FRESH = {"peers": 4, "vectors": 4, "ports": "fresh"}
HANG = 40.0
"""Seconds in which what hangs is killed and replaced: a watchdog of ten, and a busy machine."""


class Three:
    """Two host programs and a machine on a fabric."""

    def __init__(self, one: Peer, other: Peer, machine: Machine) -> None:
        self.one, self.other, self.machine = one, other, machine

    def ring(self) -> None:
        """Each of them rings another."""
        self.one.ring(self.other.id, 3)
        assert self.other.wait(HANG) == [Doorbell(3, 1)]
        self.other.ring(self.machine.peer_id, 4)
        self.machine.wait_interrupts({4}, HANG)
        self.machine.clear()
        self.machine.ring(self.one.id, 5)
        assert self.one.wait(HANG) == [Doorbell(5, 1)]


@pytest.mark.timeout(180)
def test_nothing_is_lost_in_restarts_crashes_and_hangs(tmp_path: Path) -> None:
    with (
        Standalone("lab", **LAB) as unit,
        unit.join("lab") as one,
        unit.join("lab") as other,
        Machine(unit.qemu("lab"), tmp_path, patience=HANG) as machine,
    ):
        three = Three(one, other, machine)
        three.ring()
        stored = unit.stored
        ids = {one.id, other.id, machine.peer_id}
        for end in ("restart", "KILL", "restart", "STOP"):
            main = unit.main_pid
            if end == "restart":
                unit.restart()
            else:
                unit.kill(end)
                # It waits in its eventfd.
                one.ring(other.id, 7)
                eventually(lambda: unit.main_pid not in (0, main), "it is replaced", HANG)  # noqa: B023 (waited for)
                unit.await_active(other_than=main)
                assert other.wait(HANG) == [Doorbell(7, 1)]
            three.ring()
            with Peer.join(unit.runtime / "lab.6.sock") as newcomer:
                assert newcomer.id == 6
            with unit.join("lab") as newcomer:
                assert newcomer.id not in ids
            eventually(lambda: unit.stored == stored, "as much is stored as before")
        eventually(lambda: unit.show("StatusText") == "3 of 6 peers", "the status tells of them")
        assert "Watchdog timeout" in unit.journal()


def test_a_stop_ends_all_memberships_and_leaves_nothing() -> None:
    with Standalone("fresh-1.a", **FRESH) as unit, unit.join("fresh-1.a") as peer:
        unit.kill()
        unit.await_active()
        unit.stop()
        with pytest.raises(ClientError, match="the server has ended the membership"):
            peer.wait(PATIENCE)
        assert unit.left() == []
        assert unit.show("Result") == "success"


def test_what_it_logs_can_be_read() -> None:
    with Standalone("lab", **LAB) as unit, unit.join("lab"):
        pass
    run("journalctl", "--sync")
    lines = run("journalctl", "-u", unit.name, "-o", "json").stdout.splitlines()
    told = {(entry["PRIORITY"], entry["MESSAGE"]) for entry in map(json.loads, lines)}
    assert ("6", "fabric serves socket=/run/famez/lab.sock peers=6") in told
    assert ("6", f"peer joined peer=1 pid={os.getpid()} uid=0") in told


def test_a_broken_file_keeps_nobody_from_going_on() -> None:
    with Standalone("lab", **LAB) as unit, unit.join("lab") as one, unit.join("lab") as other:
        unit.write("lab", **LAB | {"vectors": 1})
        for _ in range(2):
            unit.restart()
            one.ring(other.id, 3)
            assert other.wait(PATIENCE) == [Doorbell(3, 1)]
        assert unit.journal().count("configuration refused, the one before it is served") == 2
        assert f"{unit.file('lab')}:" in unit.journal()
        unit.write("lab", **LAB | {"access": {"users": ["root"]}})
        unit.restart()
        one.ring(other.id, 3)
        assert other.wait(PATIENCE) == [Doorbell(3, 1)]
        unit.write("lab", **LAB | {"vectors": 20})
        unit.restart()
        assert "fabric ended, its peers are disconnected: vectors is 20, was 16" in unit.journal()


def test_a_first_start_with_a_mistake_is_tried_until_it_succeeds() -> None:
    unit = Standalone("lab", **LAB | {"vectors": 1})
    assert run("systemctl", "start", unit.name).returncode != 0
    assert f"{unit.file('lab')}:" in unit.journal()
    unit.write("lab", **LAB)
    unit.await_active()
    with unit, unit.join("lab"):
        pass


def test_one_without_a_file_says_where_it_is_to_be() -> None:
    unit = Standalone("lab", **LAB)
    unit.file("lab").unlink()
    assert run("systemctl", "start", unit.name).returncode != 0
    assert f"{unit.file('lab')}:1:1: is not there: make it" in unit.journal()
    systemctl("stop", unit.name)


def test_no_fabric_is_served_twice() -> None:
    with Unit({"lab": LAB}) as unit:
        (ETC / "standalone.d/lab.yaml").write_text(unit.file("lab").read_text())
        assert run("systemctl", "reload", NAME).returncode != 0
        assert "/etc/famez/standalone.d/lab.yaml defines for famez-fabric@lab.service" in unit.journal()
        assert run("systemctl", "start", "famez-fabric@lab").returncode != 0
        told = run("journalctl", "-u", "famez-fabric@lab", "-o", "cat").stdout
        assert "/etc/famez/fabrics.d/lab.yaml defines for famezd.service: move one of the two away" in told
        systemctl("stop", "famez-fabric@lab")
        with unit.join("lab"):
            pass


def test_it_and_famezd_leave_each_other_alone() -> None:
    with Unit({"lab": LAB}) as unit, unit.join("lab") as one, unit.join("lab") as other:
        (ETC / "standalone.d/own.yaml").write_text("peers: 4\n")
        systemctl("start", "famez-fabric@own")
        with unit.join("own") as mine:
            unit.restart()
            unit.stop()
            with unit.join("own") as newcomer:
                newcomer.ring(mine.id, 1)
                assert mine.wait(PATIENCE) == [Doorbell(1, 1)]
            unit.start()
        with unit.join("lab"):
            systemctl("stop", "famez-fabric@own")
            assert not unit.socket("own").exists()
            with unit.join("lab"):
                pass
        for peer in (one, other):
            with pytest.raises(ClientError):
                peer.wait(PATIENCE)


def test_famez_client_finds_it_by_its_name() -> None:
    with Standalone("lab", **LAB | {"socket": {"path": "/run/famez/elsewhere.sock"}}):
        done = run("famez-client", "-f", "lab", "ping", "-c1", "switch")
        assert done.returncode == 0, done.stderr
