"""Doorbells: each lands on its vector of its receiver and nowhere else, and where they are relayed each is counted."""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from itertools import product
from pathlib import Path

import pytest

from tests.fabric.conftest import Kind, Start, settings
from tests.fabric.workers import GENZ, PLAIN, Raw, Worker, stood_still

BIG = 1 << 32
"""The most rings that are taken at once for what they are."""


def fill(worker: Worker) -> list[Raw]:
    """As many peers as there are ports, all of whom know all."""
    clients = [worker.join() for _ in range(worker.settings.peers)]
    worker.acquaint(*clients)
    return clients


def gather(worker: Worker, client: Raw, vector: int, expected: int) -> None:
    """Waits until `client` was rung as often as expected."""
    rung = 0

    def arrived() -> bool:
        nonlocal rung
        rung += client.take(vector)
        return rung >= expected

    worker.wait(arrived, f"peer {client.id} is rung on vector {vector}")
    assert rung == expected


def all_to_all(worker: Worker, clients: list[Raw]) -> Counter[tuple[int, int, int]]:
    """Everybody rings everybody on all vectors, each by a number that shows who it was; returns how often who rang."""
    first, vectors = clients[0].id, range(worker.settings.vectors)
    expected: Counter[tuple[int, int, int]] = Counter()
    for (i, src), dst, vector in product(enumerate(clients), clients, vectors):
        if src is not dst:
            src.ring(dst.id, vector, 1 << i)
            expected[src.id - first, dst.id - first, vector] += 1 << i
    everybody = (1 << len(clients)) - 1
    for (i, dst), vector in product(enumerate(clients), vectors):
        gather(worker, dst, vector, everybody - (1 << i))
    worker.barrier()
    assert not any(client.take(vector) for client, vector in product(clients, vectors)), "rung twice, or astray"
    return expected


def test_all_to_all(start: Start, kind: Kind) -> None:
    worker = start(**kind._asdict(), peers=6, vectors=4)
    clients = fill(worker)
    expected = all_to_all(worker, clients)
    worker.await_doorbells(expected if kind.doorbells == "relayed" else {})
    assert worker.totals["dropped"] == 0


def test_all_to_all_on_a_full_genz_fabric(start: Start, doorbells: str) -> None:
    worker = start(doorbells=doorbells, personality=GENZ, peers=14)
    clients = fill(worker)
    expected = all_to_all(worker, clients)
    worker.await_doorbells(expected if doorbells == "relayed" else {})
    for client, vector in product(clients, range(16)):
        client.ring(15, vector, 3)
        expected[client.id - 1 if doorbells == "relayed" else 0, 14, vector] += 3
    rung = {key: n for key, n in expected.items() if doorbells == "relayed" or key[1] == 14}
    worker.await_doorbells(rung)


def test_all_to_all_after_everybody_was_replaced(start: Start, kind: Kind) -> None:
    worker = start(**kind._asdict())
    for _ in range(3):
        clients = fill(worker)
        for gone in clients:
            gone.close()
        worker.wait(lambda: not worker.present, "all have left")
    clients = fill(worker)
    assert clients[0].id == (0 if kind.ports == "sticky" else 15)
    all_to_all(worker, clients)


@pytest.mark.parametrize(("personality", "ports"), [(PLAIN, "sticky"), (PLAIN, "fresh"), (GENZ, "sticky")])
def test_bursts_are_counted_exactly(start: Start, ports: str, personality: str) -> None:
    worker = start(doorbells="relayed", ports=ports, personality=personality)
    src, dst, *_ = fill(worker)
    for _ in range(100):
        src.ring(dst.id, 1)
    src.ring(dst.id, 2, 10**9)
    src.ring(dst.id, 0, BIG)
    for _ in range(100):
        dst.ring(src.id, 0, 12345)
    gather(worker, dst, 1, 100)
    gather(worker, dst, 2, 10**9)
    gather(worker, dst, 0, BIG)
    gather(worker, src, 0, 1234500)
    worker.await_doorbells({(0, 1, 1): 100, (0, 1, 2): 10**9, (0, 1, 0): BIG, (1, 0, 0): 1234500})
    assert worker.totals["clipped"] == 0


def test_nothing_rung_is_lost_when_the_ringer_closes_its_socket(start: Start, ports: str) -> None:
    worker = start(doorbells="relayed", ports=ports)
    witness = worker.join()
    for round_ in range(30):
        ringer = worker.join()
        for vector in range(3):
            ringer.ring(witness.id, vector, 1000 + round_)
        ringer.close()
        for vector in range(3):
            gather(worker, witness, vector, 1000 + round_)
    worker.await_total("left_hangup", 30)
    if ports == "sticky":
        worker.await_doorbells({(1, 0, vector): sum(range(1000, 1030)) for vector in range(3)})
    assert worker.totals["dropped"] == 0


def test_nothing_rung_is_lost_when_newcomers_come_in_between(start: Start, ports: str) -> None:
    """With fresh ports the worker may find out that the ringer has gone when it tells it of a newcomer."""
    worker = start(doorbells="relayed", ports=ports, peers=8, vectors=16)
    witness, ringer = worker.join(), worker.join()
    for round_ in range(50):
        first, *newcomers = [worker.connect() for _ in range(4)]
        # It is with one of them now.
        first.read()
        ringer.ring(witness.id, 1, 1000 + round_)
        ringer.close()
        gather(worker, witness, 1, 1000 + round_)
        first.close()
        ringer, *others = [newcomer.set_up() for newcomer in newcomers]
        for other in others:
            other.close()
    assert worker.totals["dropped"] == 0


def test_doorbells_to_an_empty_port_are_counted_and_dropped(start: Start) -> None:
    worker = start(doorbells="relayed", ports="sticky")
    src, gone = worker.join(), worker.join()
    src.ring(4, 2, 7)
    worker.await_total("dropped", 7)
    gone.close()
    worker.wait(lambda: worker.present == [0], "it has left")
    src.ring(1, 0, 5)
    worker.await_total("dropped", 12)
    worker.await_doorbells({(0, 4, 2): 7, (0, 1, 0): 5})
    successor = worker.join()
    worker.barrier()
    assert [successor.take(vector) for vector in range(3)] == [0, 0, 0]
    src.ring(successor.id, 0)
    gather(worker, successor, 0, 1)


def test_doorbells_to_who_has_gone_disturb_nobody(start: Start, doorbells: str) -> None:
    """On fresh ports: by bells that the ringer was to close, but has not."""
    worker = start(doorbells=doorbells, ports="fresh")
    src, gone, witness = worker.join(), worker.join(), worker.join()
    src.hear()
    stale = [os.dup(bell) for bell in src.bells(gone.id)]
    gone.close()
    worker.wait(lambda: src.knows(1), "it has left")
    successor = worker.join()
    for bell in stale:
        os.eventfd_write(bell, 9)
        os.close(bell)
    worker.barrier()
    assert not any(client.take(vector) for client in (src, witness, successor) for vector in range(3))
    assert not worker.doorbells()


def test_doorbells_that_nobody_takes_pile_up_unharmed(start: Start, kind: Kind) -> None:
    worker = start(**kind._asdict())
    src, dst, *_ = fill(worker)
    for _ in range(50):
        src.ring(dst.id, 0, 1 << 20)
        worker.barrier()
    gather(worker, dst, 0, 50 << 20)


def test_what_is_due_is_done_amid_doorbells(folder: Path) -> None:
    """A worker that is rung again before it can sleep gives its signs of life, and takes newcomers in."""
    with Worker(settings(folder, doorbells="relayed"), folder, watchdog=0.03) as worker:
        src, dst = worker.join(), worker.join()
        signs = set[float]()

        def again() -> bool:
            src.ring(dst.id)
            gather(worker, dst, 0, 1)
            signs.add(worker.page.lived_at)
            return len(signs) >= 10

        worker.wait(again, "it gives signs of life")
        worker.join().ring(dst.id)
        gather(worker, dst, 0, 1)


def test_worker_sleeps_when_nothing_is_rung(start: Start) -> None:
    """Its watch over writes that stand still ends with them, and begins with the next."""
    worker = start(doorbells="relayed")
    src, dst, stalled, *_ = fill(worker)
    for _ in range(2):
        src.ring(dst.id)
        gather(worker, dst, 0, 1)
        worker.wait(lambda: stood_still(worker, 0.3), "it sleeps")
    fcntl.fcntl(stalled.own[0], fcntl.F_SETFL, 0)
    os.eventfd_write(stalled.own[0], 2**64 - 2)
    src.ring(stalled.id)
    worker.await_total("left_stalled", 1)
