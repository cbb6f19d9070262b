"""What a newcomer is told, in which order, and what it is told afterwards."""

from __future__ import annotations

import os
import random
from collections.abc import Set as AbstractSet

from famezd.protocol import PeerLeft, VectorAdded
from tests.fabric.conftest import Kind, Start
from tests.fabric.workers import GENZ, Raw, Worker, eventfd_id


def messages(client: Raw, n: int) -> list[tuple[int, bool]]:
    """The next n messages, as value and whether there is a descriptor; understood, so that nothing leaks."""
    found = []
    for _ in range(n):
        message = client.read()
        assert message is not None
        found.append((message.value, message.descriptor is not None))
        client.understand(message)
    return found


def times(vectors: int, *peers: int) -> list[tuple[int, bool]]:
    return [(peer, True) for peer in peers for _ in range(vectors)]


def test_no_child_of_a_program_inherits_what_it_was_given(start: Start, kind: Kind) -> None:
    worker = start(**kind._asdict(), peers=3, vectors=2)
    with worker.peer() as peer, worker.peer():
        given = [peer.memory, *(bell for other in (peer.id, *peer.peers) for bell in peer.bells(other))]
        assert len(given) > 2
        assert not any(map(os.get_inheritable, given))


def test_set_up_in_the_protocols_order(start: Start, kind: Kind) -> None:
    worker = start(**kind._asdict(), peers=4, vectors=3)
    first = worker.connect()
    others: tuple[int, ...] = (1, 2, 3) if kind.ports == "sticky" else ()
    assert messages(first, 3 + 3 * (len(others) + 1)) == [
        (0, False),
        (0, False),
        (-1, True),
        *times(3, *others),
        *times(3, 0),
    ]
    worker.join()
    third = worker.connect()
    others = (0, 1, 3) if kind.ports == "sticky" else (0, 1)
    assert messages(third, 3 + 3 * (len(others) + 1)) == [
        (0, False),
        (2, False),
        (-1, True),
        *times(3, *others),
        *times(3, 2),
    ]
    worker.barrier()
    assert not third.hear()
    assert os.fstat(first.memory).st_ino == os.fstat(third.memory).st_ino
    assert os.fstat(third.memory).st_size == worker.settings.size
    eventfds = [eventfd_id(fd) for bells in third.client.peers.values() for fd in bells]
    assert len(set(eventfds)) == len(eventfds), "every bell is an eventfd of its own"


def test_switch_is_announced_last_before_the_newcomers_own(start: Start, doorbells: str) -> None:
    worker = start(doorbells=doorbells, personality=GENZ, peers=4)
    vectors = worker.settings.vectors
    for peer, others in ((1, (2, 3, 4)), (2, (1, 3, 4))):
        client = worker.connect()
        assert messages(client, 3 + vectors * 5) == [
            (0, False),
            (peer, False),
            (-1, True),
            *times(vectors, *others),
            *times(vectors, 5),
            *times(vectors, peer),
        ]


def test_sticky_peer_is_told_nothing_after_its_set_up(start: Start, doorbells: str) -> None:
    worker = start(doorbells=doorbells, ports="sticky")
    witness = worker.join()
    told = len(witness.values)
    for _ in range(3):
        others = [worker.join() for _ in range(4)]
        for other in others:
            other.ring(witness.id)
            witness.ring(other.id)
        others[0].connection.send(b"x")
        for other in others:
            other.close()
    worker.wait(lambda: worker.present == [witness.id], "all others have left")
    worker.barrier()
    assert not witness.hear()
    worker.check()
    assert witness.at_end()
    assert len(witness.values) == told


def test_fresh_peers_hear_of_joins_and_departures(start: Start, doorbells: str) -> None:
    worker = start(doorbells=doorbells, ports="fresh", vectors=3)
    first, second = worker.join(), worker.join()
    assert messages(first, 3) == times(3, 1)
    third = worker.join()
    for other in (first, second):
        assert messages(other, 3) == times(3, 2)
    second.close()
    for other in (first, third):
        assert messages(other, 1) == [(1, False)]
        assert 1 not in other.peers
    fourth = worker.join()
    assert (fourth.id, fourth.peers) == (3, [0, 2]), "an id that was seen to depart is not given again"
    for other in (first, third):
        assert messages(other, 3) == times(3, 3)
    worker.check()
    for other in (first, third, fourth):
        assert other.at_end(), "the end tells of no departures"


def test_sticky_ids_are_the_lowest_free_ports(start: Start, doorbells: str) -> None:
    worker = start(doorbells=doorbells, ports="sticky", peers=4)
    clients = [worker.join() for _ in range(4)]
    assert [client.id for client in clients] == [0, 1, 2, 3]
    for gone in ((1,), (2, 0), (3, 1, 0, 2)):
        for peer in gone:
            clients[peer].close()
        worker.wait(lambda: len(worker.present) == 4 - len(gone), "they have left")  # noqa: B023 (called at once)
        for peer in sorted(gone):
            clients[peer] = worker.join()
            assert clients[peer].id == peer


def test_sticky_direct_port_keeps_its_eventfds_but_not_what_was_rung(start: Start) -> None:
    worker = start(doorbells="direct", ports="sticky")
    witness, occupant = worker.join(), worker.join()
    port = [eventfd_id(fd) for fd in occupant.own]
    assert port == [eventfd_id(fd) for fd in witness.bells(occupant.id)]
    for _ in range(3):
        for vector in range(3):
            witness.ring(occupant.id, vector, 5 + vector)
        occupant.close()
        worker.wait(lambda: worker.present == [witness.id], "the occupant has left")
        witness.ring(1, 0, 3)
        occupant = worker.join()
        assert [eventfd_id(fd) for fd in occupant.own] == port
        assert [occupant.take(vector) for vector in range(3)] == [0, 0, 0]
        witness.ring(occupant.id, 2, 7)
        assert [occupant.take(vector) for vector in range(3)] == [0, 0, 7]


def test_relayed_bells_belong_to_one_peer_each(start: Start, ports: str) -> None:
    worker = start(doorbells="relayed", ports=ports, peers=4)
    clients = [worker.join() for _ in range(4)]
    for client in clients:
        worker.wait(lambda: client.knows(3), "all know all")  # noqa: B023 (called at once)
    eventfds = [eventfd_id(fd) for client in clients for bells in client.client.peers.values() for fd in bells]
    assert len(set(eventfds)) == len(eventfds)


class Crowd:
    """Peers that come and go at random, and check what they are told against the law that QEMU's life depends on."""

    def __init__(self, worker: Worker, seed: int, always: AbstractSet[int] = frozenset()) -> None:
        """`always`: the ids of those who are peers from the start to the end."""
        self._worker = worker
        self._always = always
        self._random = random.Random(seed)
        self._departed: dict[Raw, set[int]] = {}
        self.refused = 0
        self.joins = 0

    def step(self) -> None:
        """One of them joins, leaves or reads."""
        here = list(self._departed)
        choice = self._random.random()
        if choice < 0.4:
            self._join()
        elif choice < 0.7 and here:
            self._leave(self._random.choice(here))
        elif here:
            # Only one: others fall behind.
            self._hear(self._random.choice(here))

    def settle(self) -> None:
        """Everybody reads all, and knows exactly those who are there."""
        here = {client.id for client in self._departed}
        self._worker.wait(lambda: self._worker.present == sorted(here), "the page shows who is there")
        for client in self._departed:
            self._worker.wait(lambda: self._knows(client, here | self._always), "all know all")  # noqa: B023

    def _knows(self, client: Raw, peers: AbstractSet[int]) -> bool:
        self._hear(client)
        return set(client.client.peers) == peers

    def _join(self) -> None:
        refused = self._worker.refused
        client = self._worker.connect()
        message = client.read()
        assert message is not None
        if message.value == -1:
            assert client.at_end()
            self._worker.wait(lambda: self._worker.refused == refused + 1, "the refusal is counted")
            self.refused += 1
            return
        client.understand(message)
        client.set_up()
        self.joins += 1
        present = {other.id for other in self._departed}
        assert client.id not in present
        for other, departed in self._departed.items():
            assert client.id not in departed, f"peer {other.id} has seen {client.id} depart"
        self._departed[client] = set()

    def _leave(self, client: Raw) -> None:
        left = self._worker.left
        peer = client.id
        del self._departed[client]
        client.close()
        self._worker.wait(lambda: self._worker.left == left + 1, "the departure is counted")
        for departed in self._departed.values():
            # Whether they have read it yet or not: they will.
            departed.add(peer)

    def _hear(self, client: Raw) -> None:
        told: set[int] = set()
        for event in client.hear():
            if isinstance(event, VectorAdded):
                assert event.peer not in told, "announced again after its departure"
            elif isinstance(event, PeerLeft):
                told.add(event.peer)


def test_fresh_ids_obey_the_law_whoever_comes_and_goes(start: Start, doorbells: str) -> None:
    worker = start(doorbells=doorbells, ports="fresh", peers=6, vectors=2)
    crowd = Crowd(worker, seed=7)
    for _ in range(200):
        crowd.step()
    crowd.settle()
    assert crowd.joins > 50
    assert worker.totals["refused_ids"] == 0, "there are plenty of ids"


def test_few_fresh_ids_obey_the_law_too(start: Start, doorbells: str) -> None:
    """Ids 1 to 6 only, so that they come back all the time; one that must not come back is a refusal."""
    worker = start(doorbells=doorbells, ports="fresh", personality=GENZ, peers=6, vectors=8)
    worker_ids = set()
    for seed in range(4):
        crowd = Crowd(worker, seed=seed, always={7})
        for _ in range(60):
            crowd.step()
        crowd.settle()
        worker_ids |= set(worker.present)
        for client in worker._clients:
            client.close()
        worker.wait(lambda: not worker.present, "all have left")
    assert worker_ids <= set(range(1, 7))
    assert worker.totals["refused_ids"] > 0
