"""A restart disturbs nobody: peers keep what they have, and no doorbell is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from famezd.client import Doorbell, Left
from tests.daemon import PATIENCE, eventually
from tests.systemd.inside.traffic import Program, Traffic
from tests.systemd.inside.unit import Unit, systemctl

FABRICS = {
    "lab": {"personality": "genz", "peers": 8, "vectors": 16},
    "fresh": {"peers": 8, "vectors": 4, "ports": "fresh"},
    "direct": {"peers": 4, "vectors": 4, "doorbells": "direct"},
}
RESTARTS = 10


@pytest.mark.timeout(180)
def test_restarts_under_traffic(tmp_path: Path) -> None:
    with (
        Unit(FABRICS) as unit,
        Traffic(unit, "lab", tmp_path) as lab,
        Traffic(unit, "fresh", tmp_path, programs=2) as fresh,
        unit.join("direct") as one,
        unit.join("direct") as other,
    ):
        for _ in range(RESTARTS):
            before = unit.main_pid
            unit.restart()
            assert unit.main_pid != before
            lab.flows()
            fresh.flows()
            one.ring(other.id, 2)
            assert other.wait(PATIENCE) == [Doorbell(2, 1)]
            for fabric, ids in (("lab", lab.ids), ("fresh", fresh.ids), ("direct", [one.id, other.id])):
                with unit.join(fabric) as newcomer:
                    assert newcomer.id not in ids
        lab.settle()
        fresh.settle()
        peers = json.loads(unit.ctl("--json", "peers", "lab").stdout)["peers"]
        assert sorted(peer["id"] for peer in peers) == sorted(lab.ids)
        assert unit.metrics("famez_joins_total", "fabric")[("lab",)] == len(lab.ids) + RESTARTS


def test_what_happens_while_it_is_down_is_noticed_when_it_is_back() -> None:
    with Unit(FABRICS) as unit, unit.join("lab") as one, unit.join("lab") as other, unit.join("fresh") as told:
        leavers = unit.join("lab"), unit.join("fresh")
        left = leavers[0].id, leavers[1].id
        told.wait(PATIENCE)
        with unit.down():
            for _ in range(3):
                one.ring(other.id, 4)
            for leaver in leavers:
                leaver.leave()
            # Its connection waits in the listening socket.
            newcomer = Program(unit.socket("lab"))
        with newcomer:
            unit.await_active()
            assert other.wait(PATIENCE) == [Doorbell(4, 3)]
            assert told.wait(PATIENCE) == [Left(left[1])]
            assert newcomer.id not in {one.id, other.id}
        eventually(lambda: unit.pairs("lab") == {(one.id, other.id): 3}, "what was rung meanwhile is counted")
        eventually(lambda: unit.metrics("famez_fabric_peers", "fabric")[("lab",)] == 2, "departures are noticed")


def test_counters_go_on_and_the_store_does_not_grow() -> None:
    with Unit(FABRICS) as unit, unit.join("lab") as one, unit.join("lab") as other:
        stored = unit.stored
        assert stored > 0
        for i in range(1, 4):
            one.ring(other.id, 4)
            assert other.wait(PATIENCE) == [Doorbell(4, 1)]
            assert unit.pairs("lab") == {(one.id, other.id): i}
            unit.restart()
            eventually(lambda: unit.stored == stored, "as much is stored as before")


@pytest.mark.parametrize("verb", ["try-restart", "reload-or-restart", "restart --no-block"])
def test_other_ways_to_restart_it(verb: str) -> None:
    with Unit(FABRICS) as unit, unit.join("lab") as one, unit.join("lab") as other:
        before = unit.main_pid
        systemctl(*verb.split(), "famezd.service")
        if verb != "reload-or-restart":  # which reloads what can be
            unit.await_active(other_than=before)
        one.ring(other.id, 4)
        assert other.wait(PATIENCE) == [Doorbell(4, 1)]
