"""The stats page: what is counted stays counted, whoever dies, and nobody reads what is none of ours."""

import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from famezd.fabric.settings import Settings
from famezd.faults import MAX_RULES
from famezd.stats import (
    ANYBODY,
    BATCHES,
    BELLS,
    COUNT_LIMIT,
    GAUGES,
    IDLE,
    IN_FLIGHT,
    JOINS,
    LAYOUT_VERSION,
    RULE_WORDS,
    SWITCH_ROW,
    TOLD_WORDS,
    TOTALS,
    TOTALS_AT,
    TOTALS_WORDS,
    WORD,
    InFlight,
    Occupant,
    Page,
    Shape,
    StatsError,
)

RELAYED = Shape(places=4, rows=4, vectors=3)
DIRECT = Shape(places=4, rows=2, vectors=3)
UNCOUNTED = Shape(places=4, rows=0, vectors=3)


@pytest.fixture(params=[RELAYED, DIRECT, UNCOUNTED], ids=["relayed", "direct", "uncounted"])
def page(request: pytest.FixtureRequest) -> Iterator[Page]:
    page = Page.create("test", request.param)
    yield page
    page.close()


@pytest.fixture
def relayed() -> Iterator[Page]:
    page = Page.create("test", RELAYED)
    yield page
    page.close()


def counter(shape: Shape, row: int, place: int, vector: int) -> int:
    """Index of the word that counts how often `row` rang `place` on `vector`."""
    return shape.doorbells_at + (row * shape.places + place) * shape.vectors + vector


def in_another_process(page: Page, code: str) -> str:
    """What a process says that opens the page as `page` and runs `code`."""
    prelude = f"from famezd.stats import Page, Occupant; page = Page.open({page.descriptor}, writable=True); "
    command = [sys.executable, "-c", prelude + code]
    return subprocess.run(command, pass_fds=[page.descriptor], check=True, capture_output=True, text=True).stdout


def test_a_new_page_is_all_zero_and_as_large_as_its_shape_says(page: Page) -> None:
    assert os.fstat(page.descriptor).st_size == page.shape.words * WORD
    assert page.words[:4].tolist() == [LAYOUT_VERSION, *page.shape]
    assert not any(page.words[4:])


def test_a_page_lies_in_a_memfd_of_its_name_all_of_which_is_allocated() -> None:
    page = Page.create("famez-a-stats", Shape(62, 62, 64))
    assert os.readlink(f"/proc/self/fd/{page.descriptor}") == "/memfd:famez-a-stats (deleted)"
    status = os.fstat(page.descriptor)
    assert status.st_blocks * 512 >= status.st_size
    page.close()


def test_counts_are_seen_in_another_process_and_survive_it(relayed: Page) -> None:
    relayed.add(JOINS)
    told = in_another_process(
        relayed,
        "print(page.totals()['joins'], page.shape); page.add('joins', 2); page.words[page.shape.doorbells_at + 5] = 7;"
        "page.occupy(Occupant(2, 9, 100, 1000, 12345)); page.close()",
    )
    assert told == "1 Shape(places=4, rows=4, vectors=3)\n"
    assert relayed.totals() == {name: 3 if name == JOINS else 0 for name in TOTALS}
    assert relayed.doorbells() == [7 if i == 5 else 0 for i in range(4 * 4 * 3)]
    assert relayed.occupants() == [Occupant(2, 9, 100, 1000, 12345)]


def test_a_page_that_is_open_for_reading_cannot_be_written(relayed: Page) -> None:
    reader = Page.open(os.dup(relayed.descriptor))
    relayed.add("turns")
    assert reader.totals()["turns"] == 1
    with pytest.raises(TypeError, match="read-only"):
        reader.add("turns")
    reader.close()


@pytest.mark.parametrize("size", [0, 8, 7 * WORD - 8, 7 * WORD + 1])
def test_a_size_that_no_page_has_is_refused(size: int) -> None:
    descriptor = os.memfd_create("test")
    os.ftruncate(descriptor, size)
    with pytest.raises(StatsError, match=f"a stats page of {size} bytes is none of ours"):
        Page.open(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize(
    ("word", "value"), [(0, LAYOUT_VERSION + 1), (0, 0), (1, 5), (2, 3), (3, 4), (1, 2**63), (3, 2**64 - 1)]
)
def test_another_layout_or_a_shape_that_is_not_the_size_is_refused(relayed: Page, word: int, value: int) -> None:
    relayed.words[word] = value
    with pytest.raises(
        StatsError, match=rf"layout {relayed.words[0]} and {RELAYED.words * WORD} bytes; this is layout"
    ):
        Page.open(relayed.descriptor)


def test_totals_are_added_by_name_each_to_its_own_word(page: Page) -> None:
    for n, name in enumerate(TOTALS):
        page.add(name, n)
        page.words[page.total_at(name)] += 100
    expected = {name: 100 + n for n, name in enumerate(TOTALS)}
    # Each turn is in a class of turns, and counted there.
    expected["turns"] += sum(n for name, n in expected.items() if name.startswith("batch_") and name != BELLS)
    assert page.totals() == expected
    assert page.doorbells() == [0] * len(page.doorbells())
    assert page.occupants() == []


# The doorbell in flight


STEPS = ["nothing", "addressed", "taken", "counted", "delivered"]


def relay_until(page: Page, at: int, rings: int, step: str) -> None:
    """Writes what a relay has written when it is killed after `step`."""
    if step == "nothing":
        return
    before = page.words[at]
    page.words[IN_FLIGHT + 1], page.words[IN_FLIGHT + 2] = at, before
    if step == "addressed":
        return
    page.words[IN_FLIGHT] = rings
    if step == "taken":
        return
    page.words[at] = before + rings
    if step == "delivered":
        page.delivered()


@pytest.mark.parametrize("resumed", [1, 2, 3])
@pytest.mark.parametrize("step", STEPS)
def test_a_doorbell_is_counted_once_wherever_its_relay_was_killed(relayed: Page, step: str, resumed: int) -> None:
    at = counter(RELAYED, 1, 2, 0)
    relayed.words[at] = 1000
    relay_until(relayed, at, 5, step)
    taken = step in ("taken", "counted")
    for _ in range(resumed):
        # Who resumes may be killed, too, before it can say `delivered`.
        assert relayed.recover() == (InFlight(at - RELAYED.doorbells_at, 5) if taken else None)
    assert relayed.words[at] == (1000 if step in ("nothing", "addressed") else 1005)
    assert sum(relayed.doorbells()) == relayed.words[at]
    relayed.delivered()
    assert relayed.recover() is None


class Mortal:
    """A page's words, for somebody who is killed after so many stores."""

    def __init__(self, words: memoryview, stores: int) -> None:
        self.words = words
        self.left = stores

    def __getitem__(self, at: Any) -> Any:
        return self.words[at]

    def __setitem__(self, at: int, value: int) -> None:
        if not self.left:
            raise KilledError
        self.left -= 1
        self.words[at] = value


class KilledError(Exception):
    """It would be dead now."""


def test_a_place_is_taken_over_exactly_wherever_that_is_killed() -> None:
    for stores in itertools.count():
        page = Page.create("test", RELAYED)
        for dst, vector in product((0, 2, 3), range(RELAYED.vectors)):
            page.words[counter(RELAYED, 1, dst, vector)] = 10 * dst + vector
            page.words[RELAYED.former_at + dst * RELAYED.vectors + vector] = 100
        words, mortal = page.words, Mortal(page.words, stores)
        page.words = cast(memoryview, mortal)
        with contextlib.suppress(KilledError):
            page.forget(1)
        page.words = words
        assert page.recover() is None
        page.forget(1)
        assert page.former() == [100 + v for v in range(3)] + [0] * 3 + [
            100 + 10 * d + v for d in (2, 3) for v in range(3)
        ]
        assert not any(page.doorbells())
        assert page.recover() is None
        page.close()
        if mortal.left:
            break
    assert stores > 5 * 8


def test_what_is_recovered_is_clipped_as_what_is_relayed(relayed: Page) -> None:
    at = counter(RELAYED, 0, 0, 0)
    relay_until(relayed, at, 2**64 - 2, "taken")
    assert relayed.recover() == InFlight(0, COUNT_LIMIT)
    assert relayed.words[at] == COUNT_LIMIT


def test_another_process_recovers_what_this_one_left(relayed: Page) -> None:
    relay_until(relayed, counter(RELAYED, 3, 3, 2), 6, "taken")
    assert in_another_process(relayed, "print(page.recover()); page.delivered()") == "InFlight(bell=47, rings=6)\n"
    assert relayed.recover() is None
    assert relayed.doorbells()[47] == 6


# Who is there


def test_a_place_shows_its_occupant_until_it_is_vacated_and_remembers_its_id(page: Page) -> None:
    first, second = Occupant(1, 0, 100, 1000, 7), Occupant(3, 65535, 0, 0, 8)
    assert page.last_id(1) is None
    page.occupy(first)
    page.occupy(second)
    assert page.occupants() == [first, second]
    page.vacate(1)
    assert page.occupants() == [second]
    assert (page.last_id(1), page.last_id(3), page.last_id(0)) == (0, 65535, None)
    page.occupy(first._replace(peer=5))
    assert page.occupants() == [first._replace(peer=5), second]
    assert not any(page.doorbells())
    assert not any(page.totals().values())


def test_an_occupant_is_read_whole_while_places_change_hands(relayed: Page) -> None:
    code = f"from famezd.stats import Page, Occupant; page = Page.open({relayed.descriptor}, writable=True); n = 0\n"
    code += "while True: n += 1; page.occupy(Occupant(0, n, n, n, n))"
    with subprocess.Popen([sys.executable, "-c", code], pass_fds=[relayed.descriptor]) as writer:
        reads = 0
        try:
            while reads < 100_000:
                assert writer.poll() is None
                for _, peer, pid, uid, joined in relayed.occupants():
                    assert peer == pid == uid == joined
                    reads += 1
        finally:
            writer.kill()


# Forgetting


@given(st.data())
def test_forget_begins_the_counters_of_a_place_anew_and_takes_nothing_from_who_was_rung(data: st.DataObject) -> None:
    places, vectors = data.draw(st.integers(3, 5)), data.draw(st.integers(1, 3))
    rows = data.draw(st.sampled_from([places, 2, 0]))
    shape, place = Shape(places, rows, vectors), data.draw(st.integers(0, places - 1))
    counts = data.draw(st.lists(st.integers(0, 9), min_size=rows * places * vectors, max_size=rows * places * vectors))
    # Last, because a draw may end the example.
    page = Page.create("test", shape)
    for i, count in enumerate(counts):
        page.words[shape.doorbells_at + i] = count
    before = page.words.tolist()
    page.forget(place)
    relayed = rows == places
    for row, other, vector in product(range(rows), range(places), range(vectors)):
        kept = other != place and not (relayed and row == place)
        at = counter(shape, row, other, vector)
        assert page.words[at] == before[at] * kept
    for other, vector in product(range(places), range(vectors)):
        due = sum(before[counter(shape, row, other, vector)] for row in range(rows)) * (other != place)
        now = sum(page.words[counter(shape, row, other, vector)] for row in range(rows))
        assert now + page.former()[other * vectors + vector] == due
    assert page.words[IN_FLIGHT] == 0
    assert page.words.tolist()[TOTALS_AT : shape.doorbells_at] == before[TOTALS_AT : shape.doorbells_at]
    page.close()


# The shape


def test_a_relayed_page_has_a_row_for_each_place() -> None:
    settings = Settings("a", "s", "m", 4096, peers=14, vectors=16)
    assert settings.shape(switch=False) == Shape(14, 14, 16)
    assert settings.shape(switch=True) == Shape(15, 15, 16)


def test_a_direct_page_counts_only_what_concerns_the_switch() -> None:
    settings = Settings("a", "s", "m", 4096, peers=14, vectors=16, doorbells="direct")
    assert settings.shape(switch=False) == Shape(14, 0, 16)
    assert settings.shape(switch=True) == Shape(15, 2, 16)
    assert {ANYBODY, SWITCH_ROW} == {0, 1}


# What peers have been told


def test_each_peer_has_marks_of_its_own_for_the_greeting_and_every_place(page: Page) -> None:
    places = page.shape.places
    at = [page.told_at(place) + word for place in range(places) for word in range(TOLD_WORDS)]
    at += [page.told_at(place, other) for place in range(places) for other in range(places)]
    assert sorted(at) == list(range(page.shape.told_at, page.shape.journal_at))


def test_a_newcomer_has_been_told_nothing_and_others_what_they_were(page: Page) -> None:
    words, places = page.words, page.shape.places
    for at in range(page.shape.told_at, page.shape.words):
        words[at] = at
    before = words.tolist()
    page.tell_nothing(1)
    mine = range(page.told_at(1), page.told_at(1) + TOLD_WORDS + places)
    assert words.tolist() == [0 if at in mine else word for at, word in enumerate(before)]


# What the switch has answered


@pytest.mark.parametrize("shape", [RELAYED, DIRECT], ids=["relayed", "direct"])
def test_what_was_rung_and_not_answered_is_found_by_row_and_vector(shape: Shape) -> None:
    page, switch = Page.create("test", shape), shape.places - 1
    assert page.unanswered(switch) == []
    page.words[counter(shape, 0, switch, 2)] = 7
    page.words[counter(shape, 0, switch, 1)] = 5
    page.words[counter(shape, 0, 0, 0)] = 9
    # The switch's own doorbells are for others.
    page.words[counter(shape, SWITCH_ROW if shape is DIRECT else switch, 0, 0)] = 9
    page.answered(0, 2, 4)
    page.answered(0, 1, 5)
    assert page.unanswered(switch) == [(0, 2, 3)]
    page.answered(0, 2, 3)
    assert page.unanswered(switch) == []
    page.close()


def test_nobody_has_to_answer_what_a_former_peer_rang(relayed: Page) -> None:
    relayed.words[counter(RELAYED, 0, 3, 2)] = 7
    relayed.words[counter(RELAYED, 1, 3, 2)] = 5
    relayed.answered(0, 2, 4)
    relayed.answered(1, 2, 4)
    relayed.forget(0)
    assert relayed.unanswered(3) == [(1, 2, 1)]
    relayed.words[counter(RELAYED, 0, 3, 2)] += 1
    assert relayed.unanswered(3) == [(0, 2, 1), (1, 2, 1)]


def test_the_doorbells_follow_the_places(page: Page) -> None:
    shape = page.shape
    assert shape.doorbells_at == 7 + TOTALS_WORDS + shape.places * 5
    assert shape.former_at - shape.doorbells_at == shape.rows * shape.places * shape.vectors == len(page.doorbells())
    assert shape.answered_at - shape.former_at == shape.places * shape.vectors == len(page.former())
    assert shape.journal_at == shape.told_at + shape.places * (TOLD_WORDS + shape.places)
    assert shape.ruled_at - shape.rules_at == MAX_RULES * RULE_WORDS
    assert shape.passed_at - shape.ruled_at == shape.words - shape.passed_at == shape.places * shape.vectors


@pytest.mark.parametrize("bells", range(2, 300))
def test_a_batch_is_of_the_first_class_that_has_room_for_it(page: Page, bells: int) -> None:
    page.batch(bells)
    page.batch(bells)
    most = next((str(most) for most in BATCHES if bells <= most), "inf")
    counted = {name: n for name, n in page.totals().items() if n}
    assert counted == {f"batch_{most}": 2, "batch_bells": 2 * bells, "turns": 2}


def test_every_turn_is_counted_in_its_class(page: Page) -> None:
    # As a page of an older famezd has them.
    page.add("turns", 100)
    page.words[page.total_at(IDLE)] += 3
    page.words[page.total_at(IDLE) + 1] += 4
    page.batch(7)
    counted = {name: n for name, n in page.totals().items() if n}
    assert counted == {"turns": 108, "batch_0": 3, "batch_1": 4, "batch_16": 1, "batch_bells": 7}


def test_gauges_and_totals_have_room(page: Page) -> None:
    assert len(TOTALS) + len(GAUGES) <= TOTALS_WORDS
    for n, name in enumerate(GAUGES, 1):
        page.words[page.gauge_at(name)] = n
    assert page.gauges() == {name: n for n, name in enumerate(GAUGES, 1)}
    assert set(page.totals().values()) == {0}
    assert not any(page.doorbells())
    assert not page.occupants()
