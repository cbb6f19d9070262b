"""What leaks has a slope, and what does not leak has none that counts."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.soak.sampling import ENOUGH, WARM, Samples, Slope, process, table

TIMES = [60.0 * n for n in range(40)]
"""Seconds: a sample a minute."""


def slope(*lives: Callable[[float], float], quantity: str = "descriptors") -> Slope:
    """Of one quantity of processes that lived one after the other."""
    samples = Samples()
    for pid, life in enumerate(lives):
        for at in TIMES:
            samples.note("workers", pid, {quantity: life(at)}, at)
    (found,) = samples.slopes()
    return found


def test_what_stays_the_same_does_not_leak() -> None:
    found = slope(lambda _: 40.0)
    assert (found.quantity, found.first, found.an_hour, found.leaks) == ("workers: descriptors", 40.0, 0.0, False)


def test_a_descriptor_that_is_lost_every_few_minutes_is_a_leak() -> None:
    found = slope(lambda at: 40.0 + at // 300)
    assert found.an_hour == pytest.approx(12, rel=0.1)
    assert found.leaks
    assert "LEAKS" in table([found])


def test_a_process_is_compared_with_itself_alone() -> None:
    assert not slope(lambda _: 40.0, lambda _: 50.0, lambda _: 60.0).leaks
    assert slope(lambda at: 40 + at / 60, lambda at: 20 + at / 60).leaks


def test_what_comes_and_goes_is_no_leak() -> None:
    chance = random.Random(1)
    assert not slope(lambda _: 30 + chance.random() * 4, quantity="resident").leaks


def test_memory_that_grows_under_such_noise_is_a_leak() -> None:
    chance = random.Random(1)
    found = slope(lambda at: 30 + chance.random() * 2 + at / 360, quantity="resident")
    assert found.an_hour == pytest.approx(10, rel=0.2)
    assert found.leaks


def test_what_a_process_takes_at_first_is_no_leak() -> None:
    assert not slope(lambda at: 30.0 if at < TIMES[WARM] else 45.0, quantity="resident").leaks


def test_few_samples_are_no_slope() -> None:
    samples = Samples()
    for at in TIMES[: WARM + ENOUGH - 1]:
        samples.note("files", 0, {"children": at}, at)
    assert samples.slopes() == []


def test_a_process_that_loses_descriptors_is_caught_by_its_own_samples() -> None:
    program = "import os, sys\nfor line in sys.stdin: os.dup(0); print(flush=True)"
    samples = Samples()
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as leaking:
        assert leaking.stdin is not None
        assert leaking.stdout is not None
        for at in TIMES[:10]:
            leaking.stdin.write(b"\n")
            leaking.stdin.flush()
            leaking.stdout.readline()
            samples.note("supervisor", leaking.pid, process(leaking.pid), at)
    leaks = {found.quantity for found in samples.slopes() if found.leaks}
    assert leaks == {"supervisor: descriptors"}
