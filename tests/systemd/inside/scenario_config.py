"""Configurations that changed: at a start, at a reload, and wrong ones."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from famezd.client import ClientError, Doorbell, Joined, Peer
from tests.daemon import PATIENCE, eventually
from tests.systemd.inside.unit import NAME, Unit, run, systemctl

LAB = {"personality": "genz", "peers": 4, "vectors": 16}
FRESH = {"peers": 4, "vectors": 4, "ports": "fresh"}
BOTH = {"lab": LAB, "fresh": FRESH}


class Pair:
    """Two peers of a fabric."""

    def __init__(self, unit: Unit, fabric: str) -> None:
        self.one, self.other = unit.join(fabric), unit.join(fabric)
        if self.other.id not in self.one.peers:
            assert self.one.wait(PATIENCE) == [Joined(self.other.id)]

    def works(self) -> None:
        """They are what they were to each other."""
        self.one.ring(self.other.id, 3)
        assert self.other.wait(PATIENCE) == [Doorbell(3, 1)]

    def ended(self) -> None:
        """Both memberships have been ended."""
        for peer in (self.one, self.other):
            assert has_ended(peer)


def has_ended(peer: Peer) -> bool:
    """Whether the peer's membership is ended, at the latest in a while."""
    with pytest.raises(ClientError, match="the server has ended the membership"):
        peer.wait(PATIENCE)
    return True


@contextmanager
def pairs(unit: Unit, *fabrics: str) -> Iterator[list[Pair]]:
    """A pair on each of the fabrics."""
    with ExitStack() as stack:
        made = [Pair(unit, fabric) for fabric in fabrics]
        for pair in made:
            stack.enter_context(pair.one)
            stack.enter_context(pair.other)
        yield made


def last_reload_successful(unit: Unit) -> bool:
    """What the metric tells of the last reload."""
    return unit.metrics("famez_config_last_reload_successful")[()] == 1


# Found at the start


@pytest.mark.parametrize(
    "change", [{"vectors": 20}, {"peers": 3}, {"mailbox": {"size": "64K"}}, {"doorbells": "direct"}], ids=str
)
def test_a_fabric_that_is_to_be_another_is_ended_and_no_other_one(change: dict[str, object]) -> None:
    with Unit(BOTH) as unit, pairs(unit, "lab", "fresh") as (lab, fresh):
        unit.write("lab", **LAB | change)
        unit.restart()
        lab.ended()
        fresh.works()
        with unit.join("lab") as newcomer:
            assert newcomer.vectors == (LAB | change)["vectors"]
        (key,) = change
        told = [line for line in unit.journal().splitlines() if "fabric='lab'" in line and key in line]
        assert told, f"no line tells that lab was ended because of its {key}"


def test_fabrics_that_were_added_and_removed_meanwhile() -> None:
    with Unit(BOTH) as unit, pairs(unit, "lab", "fresh") as (lab, fresh):
        unit.file("lab").unlink()
        unit.write("new", **FRESH)
        unit.restart()
        lab.ended()
        fresh.works()
        assert not unit.socket("lab").exists()
        assert not Path("/dev/shm/famez-lab").exists()
        with unit.join("new"):
            pass
        assert unit.show("StatusText").startswith("2 of 2 fabrics")


def test_mistakes_found_at_the_start_change_nothing() -> None:
    with Unit(BOTH) as unit, pairs(unit, "lab", "fresh") as both:
        unit.write("lab", **LAB | {"vectors": 1})
        unit.restart()
        for pair in both:
            pair.works()
        assert f"{unit.file('lab')}:" in unit.journal()
        status = unit.show("StatusText")
        assert status.startswith("2 of 2 fabrics serve 4 peers")
        assert "configuration" in status
        assert not last_reload_successful(unit)
        unit.write("lab", **LAB)
        systemctl("reload", NAME)
        assert last_reload_successful(unit)
        assert unit.show("StatusText") == "2 of 2 fabrics serve 4 peers"
        for pair in both:
            pair.works()


def test_a_group_that_has_gone_is_a_mistake_that_ends_nothing() -> None:
    assert run("groupadd", "machines").returncode == 0
    access = {"users": ["root"], "groups": ["machines"]}
    with Unit({"lab": LAB | {"access": access}}) as unit, pairs(unit, "lab") as (lab,):
        assert run("groupdel", "machines").returncode == 0
        unit.restart()
        lab.works()
        assert "access.groups[0]: must be the name or number of a group" in unit.journal()
        assert "this system has no group 'machines'" in unit.journal()
        assert run("systemctl", "reload", NAME).returncode != 0
        done = unit.ctl("restart", "lab")
        assert done.returncode == 0, done.stderr
        lab.works()
        unit.write("lab", **LAB)
        systemctl("reload", NAME)
        lab.works()


def test_a_port_that_is_taken_at_the_start_keeps_no_fabric_from_going_on() -> None:
    with Unit(BOTH) as unit, pairs(unit, "lab", "fresh") as both:
        with unit.down():
            taken = socket.create_server(("127.0.0.1", 9991))
        with taken:
            unit.await_active()
            for pair in both:
                pair.works()
            assert "cannot serve HTTP on 127.0.0.1:9991: Address already in use" in unit.journal()
        systemctl("reload", NAME)
        assert last_reload_successful(unit)
        for pair in both:
            pair.works()


def test_a_directory_that_cannot_be_written_at_the_start_loses_nothing() -> None:
    with Unit(BOTH) as unit, pairs(unit, "lab", "fresh") as both:
        stored = unit.stored
        before = unit.main_pid
        unit.write_settings(runtime_directory="/proc/self")
        systemctl("--no-block", "restart", NAME)
        eventually(lambda: int(unit.show("NRestarts")) > 2, "starts fail")
        assert unit.stored == stored
        unit.write_settings()
        unit.await_active(other_than=before)
        for pair in both:
            pair.works()
        eventually(lambda: unit.stored == stored, "as much is stored as before")


# Reloads


def test_a_reload_adds_and_removes_fabrics() -> None:
    with Unit(BOTH) as unit, pairs(unit, "lab", "fresh") as (lab, fresh):
        main = unit.main_pid
        unit.file("fresh").unlink()
        unit.write("new", **LAB)
        assert run("systemctl", "reload", NAME).returncode != 0
        assert "has been removed, and there are peers on fabric fresh: " in unit.journal()
        assert not unit.socket("new").exists()
        for pair in (lab, fresh):
            pair.works()
        done = unit.ctl("reload", "--force")
        assert done.returncode == 0, done.stderr
        assert (unit.main_pid, last_reload_successful(unit)) == (main, True)
        with unit.join("new") as peer:
            assert peer.id == 1
        lab.works()
        fresh.ended()
        assert not unit.socket("fresh").exists()
        assert not Path("/dev/shm/famez-fresh").exists()


def test_a_reload_with_a_mistake_fails_visibly_and_changes_nothing() -> None:
    with Unit(BOTH) as unit, pairs(unit, "lab", "fresh") as both:
        main = unit.main_pid
        unit.write("lab", **LAB | {"vectors": 1})
        unit.write("new", **LAB)
        assert run("systemctl", "reload", NAME).returncode != 0
        assert f"{unit.file('lab')}:" in unit.journal()
        assert not last_reload_successful(unit)
        assert not unit.socket("new").exists()
        for pair in both:
            pair.works()
        unit.write("lab", **LAB)
        systemctl("reload", NAME)
        assert last_reload_successful(unit)
        with unit.join("new"):
            pass
        for pair in both:
            pair.works()
        assert (unit.main_pid, unit.show("ActiveState")) == (main, "active")


def test_sighup_reloads() -> None:
    with Unit({"lab": LAB}) as unit, pairs(unit, "lab") as (lab,):
        unit.write("new", **LAB)
        unit.kill("HUP")
        eventually(unit.socket("new").exists, "the new fabric is served")
        lab.works()


# famezctl


def test_one_fabric_is_restarted() -> None:
    with Unit(BOTH) as unit, pairs(unit, "lab", "fresh") as both:
        before = unit.main_pid
        done = unit.ctl("restart", "lab")
        assert done.returncode == 0, done.stderr
        assert unit.main_pid == before
        for pair in both:
            pair.works()


def test_one_peer_is_kicked() -> None:
    with Unit(BOTH) as unit, pairs(unit, "lab", "fresh") as (lab, fresh):
        done = unit.ctl("kick", "lab", str(lab.one.id))
        assert done.returncode == 0, done.stderr
        assert has_ended(lab.one)
        with unit.join("lab") as newcomer:
            assert newcomer.id != lab.other.id
            newcomer.ring(lab.other.id, 5)
            assert lab.other.wait(PATIENCE) == [Doorbell(5, 1)]
        fresh.works()
        assert os.path.exists(unit.socket("lab"))
