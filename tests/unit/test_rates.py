"""What counters tell of the last seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from famezd.config import FabricSettings
from famezd.stats import Occupant, Page, Shape
from famezd.supervisor.status import tally
from famezd.supervisor.status.rates import LEAST, WINDOW, History
from famezd.supervisor.status.tally import Tally
from famezd.supervisor.status.view import FabricView
from famezd.supervisor.worker import State

SHAPE = Shape(3, 3, 2)


class Counted:
    """A fabric with a real page, whose counters are added to as a worker does."""

    def __init__(self) -> None:
        self.fabric = FabricSettings().resolve("lab", Path("/run/famez"))
        self.page = Page.create("test", SHAPE)
        self.restarts = 0

    def ring(self, n: int, *, row: int = 0, place: int = 1, vector: int = 0) -> None:
        places, _, vectors = self.page.shape
        self.page.words[self.page.shape.doorbells_at + (row * places + place) * vectors + vector] += n

    def add(self, **totals: int) -> None:
        for name, n in totals.items():
            self.page.add(name, n)

    @property
    def view(self) -> FabricView:
        rung = sum(self.page.doorbells()) + sum(self.page.former())
        totals, page = self.page.totals(), self.page.identity
        return FabricView(self.fabric, State.SERVING, 1, self.restarts, (), totals, {}, {(1, 0): rung}, page=page)


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


@pytest.fixture
def lab() -> Iterator[Counted]:
    lab = Counted()
    yield lab
    lab.page.close()


def note(history: History, *fabrics: Counted) -> None:
    asyncio.run(history.note(fabrics))


def test_a_rate_is_of_the_last_seconds(history: History, clock: Clock, lab: Counted) -> None:
    lab.ring(1000)
    lab.add(joins=7)
    note(history, lab)
    clock.now += 4
    lab.ring(100)
    lab.ring(20, row=2, place=0, vector=1)
    lab.add(joins=2, dropped=10, busy_ns=10**9)
    rates = history.rates(lab.view)
    assert rates is not None
    assert (rates.over, rates.doorbells, rates.dropped, rates.joins, rates.busy) == (4, 30, 2.5, 0.5, 0.25)
    note(history, lab)
    assert history.noted() == {"lab": rates}


def test_nothing_is_known_before_there_was_time(history: History, clock: Clock, lab: Counted) -> None:
    assert history.rates(lab.view) is None
    note(history, lab)
    clock.now += LEAST / 2
    lab.ring(5)
    lab.add(refused_full=1)
    assert history.rates(lab.view) is None
    assert history.noted() == {"lab": None}
    assert history.worries(lab.view) == []


def test_what_is_older_is_forgotten(history: History, clock: Clock, lab: Counted) -> None:
    for n in range(30):
        note(history, lab)
        clock.now += 1
        lab.ring(2 * n + 1)
    rates = history.rates(lab.view)
    assert rates is not None
    assert rates.over == WINDOW + 1
    assert rates.doorbells == pytest.approx((30**2 - 19**2) / 11)


def test_counters_that_begin_anew_hide_nothing_that_is_rung_before_or_after(
    history: History, clock: Clock, lab: Counted
) -> None:
    lab.ring(1000, row=0, place=1)
    lab.ring(10, row=1, place=2)
    note(history, lab)
    lab.ring(50, row=0, place=1)
    clock.now += 2
    note(history, lab)
    # Another has place 1: what it was rung is gone, and what it rang counts for whom it rang.
    lab.page.occupy(Occupant(1, 7, 1, 0, 1))
    lab.page.forget(1)
    clock.now += 2
    note(history, lab)
    lab.ring(30, row=1, place=0)
    clock.now += 1
    rates = history.rates(lab.view)
    assert rates is not None
    assert rates.doorbells == (50 + 30) / 5


def test_another_page_is_another_story(history: History, clock: Clock, lab: Counted) -> None:
    other = Counted()
    note(history, lab)
    clock.now += 2
    other.ring(1000)
    assert history.rates(other.view) is None
    note(history, other)
    clock.now += 2
    assert history.rates(lab.view) is None
    rates = history.rates(other.view)
    assert rates is not None
    assert rates.doorbells == 0
    other.page.close()


def test_a_page_that_is_mapped_anew_goes_on(history: History, clock: Clock, lab: Counted) -> None:
    note(history, lab)
    before, lab.page = lab.page, Page.open(lab.page.descriptor, writable=True)
    before.words.release()
    clock.now += 2
    lab.ring(8)
    note(history, lab)
    rates = history.noted()["lab"]
    assert rates is not None
    assert rates.doorbells == 4


def test_a_fabric_that_is_removed_while_it_is_looked_at_is_forgotten(
    history: History, lab: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "AT_ONCE", 4)
    other = Counted()

    async def remove_meanwhile() -> None:
        noting = asyncio.ensure_future(history.note([other, lab]))
        await asyncio.sleep(0)
        other.page.close()
        await noting

    asyncio.run(remove_meanwhile())
    assert history.noted() == {"lab": None}


def test_a_tally_finds_what_was_rung_in_any_part(lab: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "AT_ONCE", 4)
    counted = Tally()
    lab.ring(3)
    assert len(list(counted.look(lab.page))) == SHAPE.places * (SHAPE.rows + 1) * SHAPE.vectors // 4 - 1
    assert (counted.total, counted.rung) == (3, 0), "what was rung before is no news"
    rung = 0
    for row in range(SHAPE.rows):
        for place in range(SHAPE.places):
            for vector in range(SHAPE.vectors):
                lab.ring(1 << 40, row=row, place=place, vector=vector)
                list(counted.look(lab.page))
                rung += 1 << 40
                assert (counted.total, counted.rung) == (3 + rung, rung)


def test_worries_are_told_with_their_numbers(history: History, clock: Clock, lab: Counted) -> None:
    lab.add(refused_full=5)
    note(history, lab)
    clock.now += 3
    assert history.worries(lab.view) == []
    lab.add(refused_full=1, refused_access=2, personality_errors=1, busy_ns=29 * 10**8)
    lab.restarts = 2
    assert history.worries(lab.view) == [
        "in the last 3 s its personality raised an error, 1 times",
        "in the last 3 s newcomers were refused (access 2, full 1)",
        "in the last 3 s its worker died and was replaced, 2 times",
        "in the last 3 s its worker was busy for 97% of the time",
    ]
    clock.now += WINDOW
    for _ in range(2):
        note(history, lab)
        clock.now += 1
    assert history.worries(lab.view) == []
    lab.restarts = 3
    assert history.worries(lab.view) == ["in the last 2 s its worker died and was replaced, 1 times"]
