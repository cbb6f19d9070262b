"""The relay under fault rules: what is held up and until when, and what peers can do to it meanwhile."""

import os
import time
from array import array
from collections.abc import Callable, Iterator

import pytest

from famezd.fabric import faults
from famezd.fabric.faults import Faults
from famezd.fabric.relay import AT_ONCE, EMPTY, SWITCH, Relay
from famezd.faults import MAX_RULES, parse_rules
from famezd.stats import IN_FLIGHT, Shape
from tests.unit.test_relay import FULL, Rig, alarm, rings, set_blocking

__all__ = ["alarm"]  # a fixture, which applies here, too

pytestmark = pytest.mark.timeout(120, method="thread")

Eventfd = Callable[[], int]
LATER = 3600.0


class Ruled(Rig):
    """Three peers with the ids 1 to 3, of two vectors, and the switch, under rules."""

    def __init__(self, rules: str = "") -> None:
        super().__init__(Shape(places=4, rows=4, vectors=2))
        self.relay.connect(3, [SWITCH, SWITCH])
        self.relay.faults.switch = 3
        for place in range(4):
            self.relay.faults.seat(place, place + 1)
        self.relay.faults.begin()
        self.relay.change_rules(parse_rules(rules))

    def ring(self, bell: int, n: int = 1) -> None:
        """Rings, and has it relayed."""
        os.eventfd_write(bell, n)
        self.turn()


@pytest.fixture
def ruled() -> Iterator[Callable[[str], Ruled]]:
    made: list[Ruled] = []

    def make(rules: str) -> Ruled:
        made.append(Ruled(rules))
        return made[-1]

    yield make
    for rig in made:
        rig.close()


Make = Callable[[str], Ruled]


def test_what_is_held_up_is_delivered_when_it_is_due_and_not_before(ruled: Make, eventfd: Eventfd) -> None:
    rig, bell, receiver = ruled("id=1 src=1 dst=2 delay=60s"), eventfd(), eventfd()
    rig.relay.connect(1, [receiver, EMPTY])
    rig.relay.add(bell, 0, 1, 0)
    assert rig.relay.faults.due is None
    assert rig.relay.calm
    before = time.monotonic()
    rig.ring(bell, 3)
    assert not rig.relay.calm
    rig.ring(bell, 4)
    due = rig.relay.faults.due
    assert due is not None
    assert before + 60 <= due <= time.monotonic() + 60
    rig.relay.release(due - 0.001)
    assert rings(receiver) == 0
    rig.relay.release(due)
    assert rings(receiver) == 3
    rig.relay.release(due + LATER)
    assert rings(receiver) == 4
    assert rig.relay.calm
    assert (rig.relay.faults.due, rig.page.held(), rig.count(0, 1, 0)) == (None, {}, 7)
    assert rig.settled()


def test_what_is_due_at_once_is_delivered_in_parts(ruled: Make, eventfd: Eventfd) -> None:
    rig, receiver = ruled("id=1 delay=1s"), eventfd()
    rig.relay.connect(1, [receiver, receiver])
    bell = eventfd()
    rig.relay.add(bell, 0, 1, 0)
    for _ in range(AT_ONCE + 1):
        rig.ring(bell)
    rig.relay.release(time.monotonic() + LATER)
    assert rings(receiver) == AT_ONCE
    rig.relay.release(time.monotonic() + LATER)
    assert rings(receiver) == 1


def test_so_many_times_are_kept_and_no_more(ruled: Make, eventfd: Eventfd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "HELD", 3)
    rig, bells, receiver = ruled("id=1 delay=1s"), [eventfd(), eventfd()], eventfd()
    rig.relay.connect(1, [receiver, receiver])
    for row, bell in enumerate(bells):
        rig.relay.add(bell, 2 * row, 1, 0)
    for _ in range(10):
        rig.ring(bells[0])
    # A bell that has none among them gets one.
    rig.ring(bells[1])
    parts = []
    while rig.relay.faults.due is not None:
        rig.relay.release(rig.relay.faults.due)
        parts.append(rings(receiver))
    assert parts == [1, 1, 8, 1]


def test_a_receiver_that_blocks_is_given_up_under_a_rule_too(ruled: Make, eventfd: Eventfd) -> None:
    rig, blocked, bells = ruled("id=1 vector=0 duplicate=1; id=2 vector=1 delay=1s"), [eventfd(), eventfd()], []
    rig.relay.connect(1, blocked)
    for vector, receiver in enumerate(blocked):
        bells.append(eventfd())
        rig.relay.add(bells[-1], 0, 1, vector)
        os.eventfd_write(receiver, FULL)
        set_blocking(receiver)
    rig.ring(bells[1], 5)
    rig.ring(bells[0], 2)
    assert rig.stalled == [1]
    # What was held up for it is gone as well.
    assert (rig.page.totals()["dropped"], rig.relay.faults.due, rig.page.held()) == (4 + 5, None, {})
    assert not rig.page.words[IN_FLIGHT]


def test_a_receiver_that_blocks_meanwhile_is_given_up_when_it_is_due(ruled: Make, eventfd: Eventfd) -> None:
    rig, bell, receiver = ruled("id=1 delay=1s"), eventfd(), eventfd()
    rig.relay.connect(1, [receiver, EMPTY])
    rig.relay.add(bell, 0, 1, 0)
    rig.ring(bell)
    os.eventfd_write(receiver, FULL)
    set_blocking(receiver)
    rig.relay.release(time.monotonic() + LATER)
    assert rig.stalled == [1]
    assert rig.page.held() == {}


def test_the_switch_rings_and_is_rung_under_rules(ruled: Make, eventfd: Eventfd) -> None:
    rig, bell, receiver = ruled("id=1 src=switch dst=2 block; id=2 src=1 dst=switch duplicate=1"), eventfd(), eventfd()
    for place in (0, 1):
        rig.relay.connect(place, [receiver, receiver])
    rig.relay.add(bell, 0, 3, 1)
    rig.relay.ring(3, 1, 0)
    assert rings(receiver) == 0
    rig.relay.ring(3, 0, 0)
    assert rings(receiver) == 1
    rig.ring(bell, 3)
    assert rig.relay.for_switch == {(0, 1): 6}
    # Three were rung, and six have to be answered.
    assert rig.page.unanswered(3) == [(0, 1, 6)]
    rig.page.answered(0, 1, 6)
    assert rig.page.unanswered(3) == []
    assert rig.count(3, 1, 0) == 1


def test_what_the_switch_is_to_be_told_later_is_told_before_its_ringer_goes(ruled: Make, eventfd: Eventfd) -> None:
    rig, bells = ruled("id=1 dst=switch delay=60s"), [eventfd(), eventfd()]
    for row, bell in enumerate(bells):
        rig.relay.add(bell, row, 3, 1)
        rig.ring(bell, row + 2)
    assert rig.relay.for_switch == {}
    rig.relay.hurry(1)
    assert rig.relay.for_switch == {(1, 1): 3}
    assert rig.relay.faults.due is not None


def test_a_successor_delivers_what_is_held_up(ruled: Make, eventfd: Eventfd) -> None:
    rig, bell, receiver = ruled("id=1 delay=60s"), eventfd(), eventfd()
    rig.relay.connect(1, [receiver, EMPTY])
    rig.relay.add(bell, 0, 1, 0)
    rig.ring(bell, 5)
    # As if it had been killed in the midst of this one: taken, and not decided.
    counter = rig.page.shape.doorbells_at + 2
    rig.page.words[IN_FLIGHT + 1], rig.page.words[IN_FLIGHT + 2], rig.page.words[IN_FLIGHT] = counter, 5, 2
    rig.relay.redeliver()
    assert (rings(receiver), rig.count(0, 1, 0), rig.page.totals()["fault_delay"]) == (7, 7, 7)
    assert (rig.relay.faults.due, rig.page.held()) == (None, {})


def test_a_journal_that_was_not_written_to_its_end_is_written_by_the_successor(ruled: Make, eventfd: Eventfd) -> None:
    rig, receiver = ruled(""), eventfd()
    rig.relay.connect(1, [receiver, EMPTY])
    shape, words = rig.page.shape, rig.page.words
    ruled_at, total = shape.ruled_at + 2, rig.page.total_at("fault_duplicate")
    for i, (index, value) in enumerate([(ruled_at, 4), (total, 2), (IN_FLIGHT, 0)]):
        words[shape.journal_at + 1 + 2 * i], words[shape.journal_at + 2 + 2 * i] = index, value
    words[IN_FLIGHT + 1], words[IN_FLIGHT + 2], words[IN_FLIGHT] = shape.doorbells_at + 2, 0, 2
    words[shape.journal_at] = 3
    rig.relay.redeliver()
    assert (rings(receiver), rig.page.totals()["fault_duplicate"], words[shape.journal_at]) == (4, 2, 0)


def test_rules_come_and_go_and_those_that_stay_keep_their_words(ruled: Make, eventfd: Eventfd) -> None:
    rig, bell = ruled("id=1 src=1 block seed=1"), eventfd()
    rig.relay.add(bell, 0, 1, 0)
    rig.ring(bell, 3)
    for n in range(2, 10):
        others = "".join(f"; id={n * 100 + i} src=2 block" for i in range(MAX_RULES - 1))
        rig.relay.change_rules(parse_rules(f"id=1 src=1 block seed=1{others}"))
        assert sorted(rig.page.rules().values()) == [(0, 0)] * (MAX_RULES - 1) + [(3, 3)]
    rig.ring(bell, 4)
    assert sorted(rig.page.rules().values())[-1] == (7, 7)
    # One with the same id that is another begins anew.
    rig.relay.change_rules(parse_rules("id=1 src=1 block seed=2"))
    assert list(rig.page.rules().values()) == [(0, 0)]


def test_what_was_decided_before_a_kill_is_not_counted_for_a_rule_that_came_since(ruled: Make) -> None:
    rig = ruled("id=1 src=1 dst=2 drop=1 seed=1")
    page = rig.page
    rule, journal = page.shape.rules_at, page.shape.journal_at
    # Killed when it was to be written that the rule has struck.
    page.words[journal + 1 : journal + 5] = memoryview(array("Q", [rule + 1, 5, rule + 2, 5]))
    page.words[journal] = 2
    successor = Relay(rig.epoll, page, rig.stalled.append, Faults(page, parse_rules("id=2 src=1 dst=2 drop=1 seed=2")))
    successor.redeliver()
    successor.close()
    assert list(page.rules().values()) == [(0, 0)]
