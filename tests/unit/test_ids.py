"""Peer ids: no connected peer is ever told of an id that it has seen depart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from famezd.fabric.ids import Coming, FreshIds, StickyIds
from famezd.fabric.pins import Pins, PinsError, pins
from famezd.protocol import MAX_PEER_ID, PeerId

UID = 1000
MOVES = st.lists(st.one_of(st.none(), st.integers(0, 9)), max_size=80)
"""None for a join, a number for the departure of one of those who are there."""


@given(st.integers(0, 2), st.integers(1, 6), MOVES)
def test_a_sticky_id_is_the_lowest_free_one(first: int, count: int, moves: list[int | None]) -> None:
    ports = range(first, first + count)
    ids, taken = StickyIds(ports), list[PeerId]()
    for move in moves:
        if move is None:
            peer = ids.take(UID)
            assert peer == min(set(ports) - set(taken), default=None)
            if peer is not None:
                taken.append(peer)
        elif taken:
            ids.release(taken.pop(move % len(taken)))


@given(st.integers(0, 2), st.integers(1, 8), MOVES)
def test_a_fresh_id_is_the_next_that_is_free_and_that_no_connected_peer_has_seen_depart(
    first: int, count: int, moves: list[int | None]
) -> None:
    everyone = range(first, first + count)
    ids, seen, last = FreshIds(everyone), dict[PeerId, set[int]](), first - 1
    for move in moves:
        if move is None:
            peer = ids.take()
            barred = set(seen).union(*seen.values())
            # From the one after the last, round the end of the range.
            expected = next((i for i in [*range(last + 1, first + count), *everyone] if i not in barred), None)
            assert peer == expected
            if peer is not None:
                seen[peer] = set()
                last = peer
        elif seen:
            peer = list(seen)[move % len(seen)]
            del seen[peer]
            ids.release(peer)
            for departures in seen.values():
                departures.add(peer)


def test_fresh_ids_wrap_at_the_end_of_the_range() -> None:
    ids = FreshIds(range(MAX_PEER_ID - 1, MAX_PEER_ID + 1))
    given_out = []
    for _ in range(5):
        peer = ids.take()
        assert peer is not None
        given_out.append(peer)
        ids.release(peer)
    assert given_out == [65534, 65535, 65534, 65535, 65534]


def test_no_fresh_id_is_left_while_a_witness_of_all_departures_stays() -> None:
    ids = FreshIds(range(4))
    witness = ids.take()
    assert witness == 0
    for expected in (1, 2, 3):
        peer = ids.take()
        assert peer == expected
        ids.release(PeerId(expected))
    assert ids.take() is None
    ids.release(witness)
    # Everything is good again, and the next one is where the count had got to.
    assert [ids.take() for _ in range(5)] == [0, 1, 2, 3, None]


def test_a_departure_is_forgotten_when_those_who_saw_it_have_left_even_if_later_comers_stay() -> None:
    ids = FreshIds(range(3))
    witness, leaver = ids.take(), ids.take()
    assert (witness, leaver) == (0, 1)
    ids.release(PeerId(1))
    assert ids.take() == 2
    assert ids.take() is None
    ids.release(PeerId(0))
    # 2 joined after 1 had left, and has seen 0 depart.
    assert [ids.take(), ids.take()] == [1, None]


# Succession


class Witnesses:
    """Who is connected, and which departures each has seen: what the law is about."""

    def __init__(self) -> None:
        self.seen: dict[PeerId, set[int]] = {}

    @property
    def barred(self) -> set[int]:
        return set(self.seen).union(*self.seen.values())

    def move(self, ids: FreshIds, count: int, move: int | None) -> Coming | None:
        """Somebody joins, or one of those who are there leaves; returns what a ledger writes down of it."""
        if move is None:
            barred = self.barred
            peer = ids.take()
            assert (peer is None) == (len(barred) == count)
            if peer is None:
                return None
            assert peer not in barred
            self.seen[peer] = set()
            return Coming(peer, came=True)
        if not self.seen:
            return None
        peer = list(self.seen)[move % len(self.seen)]
        del self.seen[peer]
        ids.release(peer)
        for departures in self.seen.values():
            departures.add(peer)
        return Coming(peer, came=False)


@given(st.integers(0, 2), st.integers(1, 8), MOVES, st.lists(st.integers(0, 80), max_size=4))
def test_a_successor_that_relives_the_history_keeps_the_law_and_wastes_no_id(
    first: int, count: int, moves: list[int | None], successions: list[int]
) -> None:
    ids, witnesses = FreshIds(range(first, first + count)), Witnesses()
    for n, move in enumerate(moves):
        for _ in range(successions.count(n)):
            history = ids.history()
            ids = FreshIds(range(first, first + count))
            ids.relive(history)
            assert ids.history() == history
        witnesses.move(ids, count, move)


@given(st.integers(1, 8), MOVES, st.integers(0, 80), st.integers(0, 80))
def test_a_successor_that_relives_all_since_the_last_packing_goes_on_as_its_predecessor(
    count: int, moves: list[int | None], packed: int, killed: int
) -> None:
    ids, witnesses = FreshIds(range(count)), Witnesses()
    ledger: list[Coming] = []
    for n, move in enumerate(moves):
        if n == packed:
            # So that both give the same ids again, they begin with the same history.
            ledger = ids.history()
            ids = FreshIds(range(count))
            ids.relive(ledger)
        if n == killed:
            ids = FreshIds(range(count))
            ids.relive(ledger)
        going_on = FreshIds(range(count))
        going_on.relive(ledger)
        coming = witnesses.move(ids, count, move)
        if coming is not None:
            ledger.append(coming)
            if coming.came:
                assert going_on.take() == coming.peer
        elif move is None:
            assert going_on.take() is None


@given(st.integers(1, 6), MOVES, st.integers(0, 80))
def test_a_successor_with_sticky_ids_goes_on_as_its_predecessor(
    count: int, moves: list[int | None], killed: int
) -> None:
    ids, going_on, taken = StickyIds(range(count)), StickyIds(range(count)), list[PeerId]()
    for n, move in enumerate(moves):
        if n == killed:
            history = ids.history()
            ids = StickyIds(range(count))
            ids.relive(history)
        if move is None:
            peer = ids.take(UID)
            assert going_on.take(UID) == peer
            if peer is not None:
                taken.append(peer)
        elif taken:
            leaver = taken.pop(move % len(taken))
            ids.release(leaver)
            going_on.release(leaver)


def test_who_was_there_when_somebody_left_remembers_it_under_a_successor() -> None:
    ids = FreshIds(range(3))
    ids.relive([Coming(PeerId(0), came=True), Coming(PeerId(1), came=True), Coming(PeerId(1), came=False)])
    # 0 has seen 1 depart.
    assert [ids.take(), ids.take()] == [2, None]
    ids.release(PeerId(0))
    # 2 joined after that, and has seen 0 depart.
    assert [ids.take(), ids.take()] == [1, None]


def test_an_id_that_departed_twice_is_remembered_by_who_saw_the_second_departure() -> None:
    """A successor may read of the first one, too: the ark keeps it until it is packed."""
    ids = FreshIds(range(3))
    ids.relive([Coming(PeerId(1), came=False), Coming(PeerId(0), came=True), Coming(PeerId(1), came=True)])
    ids.release(PeerId(1))
    assert [ids.take(), ids.take()] == [2, None]


# Pins

ALICE, BOB = 1001, 1002
PINNED = Pins({2: ALICE, 3: ALICE, 5: BOB}, frozenset({1}))


def test_a_pinned_port_is_for_its_user_alone() -> None:
    ids = StickyIds(range(1, 8), PINNED)
    assert [ids.take(UID) for _ in range(4)] == [4, 6, 7, None]
    assert [ids.take(ALICE) for _ in range(3)] == [2, 3, None]
    assert ids.take(BOB) == 5


def test_a_user_beyond_its_pins_gets_an_ordinary_port_and_a_pinned_one_again_when_it_is_free() -> None:
    ids = StickyIds(range(1, 8), PINNED)
    assert [ids.take(ALICE) for _ in range(3)] == [2, 3, 4]
    assert ids.misses(ALICE)
    assert not ids.misses(BOB)
    assert not ids.misses(UID)
    ids.release(PeerId(3))
    assert not ids.misses(ALICE)
    assert ids.take(ALICE) == 3


def test_a_port_with_a_socket_of_its_own_is_for_who_comes_there() -> None:
    ids = StickyIds(range(1, 3), PINNED)
    assert [ids.take(ALICE), ids.take(UID)] == [2, None]
    assert [ids.take(UID, 1), ids.take(UID, 1)] == [1, None]
    ids.release(PeerId(1))
    assert ids.take(UID) is None
    assert ids.take(BOB, 1) == 1


def test_who_was_on_a_port_before_it_was_pinned_stays_there() -> None:
    ids = StickyIds(range(1, 8), PINNED)
    ids.relive([Coming(PeerId(2), came=True), Coming(PeerId(1), came=True)])
    assert [ids.take(ALICE), ids.take(ALICE), ids.take(UID, 1)] == [3, 4, None]
    ids.release(PeerId(2))
    assert [ids.take(UID), ids.take(ALICE)] == [6, 2]


@given(
    st.dictionaries(st.integers(1, 6), st.sampled_from([ALICE, BOB, None])),
    st.lists(st.tuples(st.sampled_from([UID, ALICE, BOB]), st.booleans()), max_size=40),
)
def test_nobody_is_given_what_is_kept_for_another(pinned: dict[int, int | None], moves: list[tuple[int, bool]]) -> None:
    users = {port: uid for port, uid in pinned.items() if uid is not None}
    kept = Pins(users, frozenset(pinned.keys() - users.keys()))
    assert pins(str(kept)) == kept
    ids, taken = StickyIds(range(1, 7), kept), dict[PeerId, int]()
    for uid, comes in moves:
        if comes:
            peer = ids.take(uid)
            open_to = [p for p in range(1, 7) if p not in taken and pinned.get(p, uid) == uid]
            own = [p for p in open_to if p in pinned]
            assert peer == min(own or open_to, default=None)
            if peer is not None:
                taken[peer] = uid
        elif taken:
            leaver = next(iter(taken))
            del taken[leaver]
            ids.release(leaver)


@pytest.mark.parametrize("text", ["3", "3:", "3:alice", ":1", "socket:3", "3:1,", ",", "3:1 4:2"])
def test_pins_that_are_none_are_named(text: str) -> None:
    with pytest.raises(PinsError, match=f"pins={text}: pins are PORT:UID or PORT:socket, with commas between"):
        pins(text)
