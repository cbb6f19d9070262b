"""Deaths and hangs, of the supervisor and of workers: those who are on a fabric lose nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from famezd.client import ClientError, Doorbell, Peer
from tests.daemon import PATIENCE, eventually
from tests.systemd.inside.traffic import Traffic
from tests.systemd.inside.unit import Unit

FABRICS = {
    "lab": {"personality": "genz", "peers": 10, "vectors": 16},
    "fresh": {"peers": 10, "vectors": 4, "ports": "fresh"},
}
KILLS = 12
HANG = 40.0
"""Seconds in which what hangs is killed and replaced: a watchdog of ten, and a busy machine."""


def worker(unit: Unit, fabric: str) -> int:
    """A worker's process."""
    fabrics = json.loads(unit.ctl("--json", "status").stdout)["fabrics"]
    return next(int(f["pid"]) for f in fabrics if f["name"] == fabric)


def is_another(unit: Unit, main: int) -> bool:
    """Whether there is a supervisor other than `main`, be it ready or not."""
    return unit.main_pid not in (0, main)


@contextmanager
def comings_and_goings(unit: Unit, fabric: str) -> Iterator[list[int]]:
    """Peers that join and leave one after the other; those whose set-up a kill cuts short have to join again.

    Yields the ids that they had.
    """
    ids: list[int] = []
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            try:
                with Peer.join(unit.socket(fabric), timeout=HANG) as peer:
                    ids.append(peer.id)
            except ClientError:
                continue

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        yield ids
    finally:
        over.set()
        thread.join()


@pytest.mark.timeout(240)
def test_sigkill_at_any_moment(tmp_path: Path) -> None:
    moments = random.Random(1)
    with (
        Unit(FABRICS) as unit,
        Traffic(unit, "lab", tmp_path) as lab,
        Traffic(unit, "fresh", tmp_path, programs=2) as fresh,
    ):
        with comings_and_goings(unit, "lab") as lab_ids, comings_and_goings(unit, "fresh") as fresh_ids:
            for i in range(KILLS):
                before = unit.main_pid
                unit.kill()
                unit.await_active(other_than=before)
                if i % 3 == 2:
                    lab.flows()
                    fresh.flows()
                # A moment in the life of the next one, and not always one at which all is quiet.
                time.sleep(moments.uniform(0, 0.3))
        lab.flows()
        fresh.flows()
        assert lab_ids
        assert fresh_ids
        assert not set(lab_ids) & set(lab.ids)
        assert not set(fresh_ids) & set(fresh.ids)
        lab.settle(exactly=False)
        fresh.settle(exactly=False)


@pytest.mark.timeout(120)
def test_sigkill_during_a_start() -> None:
    """Also one that has not got as far as to take over what its predecessor left."""
    with Unit(FABRICS) as unit, unit.join("lab") as one, unit.join("lab") as other:
        for delay in (0.0, 0.1, 0.3, 0.6):
            before = unit.main_pid
            unit.kill()
            eventually(partial(is_another, unit, before), "the next one starts")
            now = unit.main_pid
            time.sleep(delay)  # which is how far it gets
            os.kill(now, signal.SIGKILL)
            unit.await_active(other_than=now)
            one.ring(other.id, 4)
            assert other.wait(HANG) == [Doorbell(4, 1)]


def test_a_worker_that_is_killed(tmp_path: Path) -> None:
    with Unit(FABRICS) as unit, Traffic(unit, "lab", tmp_path) as lab:
        main = unit.main_pid
        for _ in range(3):
            os.kill(worker(unit, "lab"), signal.SIGKILL)
            lab.flows()
        assert unit.main_pid == main
        lab.settle(exactly=False)


def test_a_worker_that_hangs_is_replaced_by_famezd() -> None:
    with Unit(FABRICS) as unit, unit.join("lab") as one, unit.join("lab") as other:
        main = unit.main_pid
        os.kill(worker(unit, "lab"), signal.SIGSTOP)
        one.ring(other.id, 3)
        assert other.wait(HANG) == [Doorbell(3, 1)]
        assert unit.main_pid == main


@pytest.mark.timeout(120)
def test_a_famezd_that_hangs_is_replaced_by_systemd(tmp_path: Path) -> None:
    with Unit(FABRICS) as unit, Traffic(unit, "lab", tmp_path) as lab:
        main = unit.main_pid
        unit.kill("STOP")
        lab.flows()  # workers go on without it
        deadline = time.monotonic() + HANG
        while unit.main_pid == main:
            assert time.monotonic() < deadline, "systemd has not killed it"
            lab.flows()
        unit.await_active(other_than=main)
        lab.flows()
        lab.settle(exactly=False)
        assert "Watchdog timeout" in unit.journal()


def test_a_famezd_that_was_killed_leaves_nothing_when_its_successor_is_stopped() -> None:
    with Unit(FABRICS) as unit, unit.join("lab") as peer:
        before = unit.main_pid
        unit.kill()
        unit.await_active(other_than=before)
        unit.stop()
        with pytest.raises(ClientError, match="the server has ended the membership"):
            peer.wait(PATIENCE)
        assert unit.left() == []
