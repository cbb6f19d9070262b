"""Peer ids: no connected peer is ever told of an id that it has seen depart."""

from hypothesis import given
from hypothesis import strategies as st

from famezd.fabric.ids import FreshIds, StickyIds
from famezd.protocol import MAX_PEER_ID, PeerId

MOVES = st.lists(st.one_of(st.none(), st.integers(0, 9)), max_size=80)
"""None for a join, a number for the departure of one of those who are there."""


@given(st.integers(0, 2), st.integers(1, 6), MOVES)
def test_a_sticky_id_is_the_lowest_free_one(first: int, count: int, moves: list[int | None]) -> None:
    ports = range(first, first + count)
    ids, taken = StickyIds(ports), list[PeerId]()
    for move in moves:
        if move is None:
            peer = ids.take()
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
