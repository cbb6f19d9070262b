"""What counters tell of the last seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from famezd.config import FabricSettings
from famezd.supervisor.status.rates import LEAST, WINDOW, History
from famezd.supervisor.status.view import FabricView
from famezd.supervisor.worker import State

IDLE = {"joins": 0, "dropped": 0, "busy_ns": 0, "refused_full": 0, "refused_access": 0, "personality_errors": 0}


def view(rung: dict[tuple[int, int], int], *, page: int = 1, restarts: int = 0, **totals: int) -> FabricView:
    fabric = FabricSettings().resolve("lab", Path("/run/famez"))
    return FabricView(fabric, State.SERVING, 1, restarts, (), IDLE | totals, {}, rung, page=page)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def history(clock: Clock) -> History:
    return History(clock)


def test_a_rate_is_of_the_last_seconds(history: History, clock: Clock) -> None:
    history.note([view({(1, 0): 1000}, joins=7)])
    clock.now += 4
    rates = history.rates(view({(1, 0): 1100, (2, 3): 20}, joins=9, dropped=10, busy_ns=10**9))
    assert rates is not None
    assert (rates.over, rates.doorbells, rates.dropped, rates.joins, rates.busy) == (4, 30, 2.5, 0.5, 0.25)


def test_nothing_is_known_before_there_was_time(history: History, clock: Clock) -> None:
    assert history.rates(view({})) is None
    history.note([view({})])
    clock.now += LEAST / 2
    assert history.rates(view({(1, 0): 5})) is None
    assert history.worries(view({}, refused_full=1)) == []


def test_what_is_older_is_forgotten(history: History, clock: Clock) -> None:
    for n in range(30):
        history.note([view({(1, 0): n * n})])
        clock.now += 1
    rates = history.rates(view({(1, 0): 30 * 30}))
    assert rates is not None
    assert rates.over == WINDOW + 1
    assert rates.doorbells == pytest.approx((30**2 - 19**2) / 11)


def test_counters_that_began_anew_give_no_negative_rate(history: History, clock: Clock) -> None:
    history.note([view({(1, 0): 1000, (2, 0): 10})])
    clock.now += 2
    # Another has the place, and its counters.
    rates = history.rates(view({(1, 0): 4, (2, 0): 10}))
    assert rates is not None
    assert rates.doorbells == 2


def test_another_page_is_another_story(history: History, clock: Clock) -> None:
    history.note([view({(1, 0): 10})])
    clock.now += 2
    other = view({(1, 0): 1000}, page=2)
    assert history.rates(other) is None
    history.note([other])
    clock.now += 2
    assert history.rates(view({(1, 0): 1000}, page=1)) is None
    rates = history.rates(other)
    assert rates is not None
    assert rates.doorbells == 0


def test_worries_are_told_with_their_numbers(history: History, clock: Clock) -> None:
    before = view({}, refused_full=5)
    history.note([before])
    clock.now += 3
    assert history.worries(before) == []
    after = view({}, restarts=2, refused_full=6, refused_access=2, personality_errors=1, busy_ns=29 * 10**8)
    assert history.worries(after) == [
        "in the last 3 s its personality raised an error, 1 times",
        "in the last 3 s newcomers were refused (full 1, access 2)",
        "in the last 3 s its worker died and was replaced, 2 times",
        "in the last 3 s its worker was busy for 97% of the time",
    ]
    clock.now += WINDOW
    for _ in range(2):
        history.note([after])
        clock.now += 1
    assert history.worries(after) == []
    assert history.worries(replace(after, restarts=3)) == ["in the last 2 s its worker died and was replaced, 1 times"]
