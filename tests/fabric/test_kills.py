"""A thousand kills at random moments under traffic: every doorbell is counted once, and delivered.

How many of them catch one in flight is for the scheduler to decide; test_every_step.py kills at each step of that.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import permutations, product
from pathlib import Path

import pytest

from tests.fabric.conftest import settings
from tests.fabric.lineage import Lineage
from tests.fabric.workers import Raw

KILLS = 500
"""For each kind of ports."""
PEERS, VECTORS = 4, 3
START = 0.1
"""Seconds that a worker takes to start, about: some are killed meanwhile."""

Bell = tuple[int, int, int]
"""A place that rings, a place that is rung, and the vector: what a counter is for."""


class Traffic:
    """Peers that ring each other, while one worker after the other is killed."""

    def __init__(self, lineage: Lineage, peers: list[Raw], order: random.Random) -> None:
        self.lineage = lineage
        self.made: Counter[Bell] = Counter()
        """What was rung since the beginning."""
        self._peers = peers
        self._order = order
        self._bells = [
            (src, dst, vector) for (src, dst), vector in product(permutations(range(len(peers)), 2), range(VECTORS))
        ]
        self._due: Counter[tuple[int, int]] = Counter()
        self._again: Counter[tuple[int, int]] = Counter()

    def round(self, *, starting: bool) -> None:
        """Everybody rings everybody; amid that the worker is killed, or while it starts, and another takes over."""
        if starting:
            self._kill()
            self.lineage.begin_succession()
            self._ring(self._order.sample(self._bells, len(self._bells)))
            # Nothing tells how far it is: that is what makes the moment random.
            time.sleep(self._order.uniform(0, START))
            self._kill()
        else:
            bells = self._order.choices(self._bells, k=300)
            at = self._order.randrange(1, len(bells))
            self._ring(bells[:at])
            os.kill(self.lineage.worker.pid, signal.SIGKILL)
            self._ring(bells[at:])
            self._kill()
        self.lineage.succeed()
        self._settle()

    def _ring(self, bells: list[Bell]) -> None:
        for src, dst, vector in bells:
            self._peers[src].ring(self._peers[dst].id, vector)
            self.made[src, dst, vector] += 1
            self._due[dst, vector] += 1

    def _kill(self) -> None:
        self.lineage.kill()
        if (found := self.lineage.in_flight()) is not None:
            (_, dst, vector), rings = found
            self._again[dst, vector] += rings

    def _settle(self) -> None:
        """Every counter is exact, and everybody was rung as often as it was, or in doubt once more."""
        self.lineage.worker.await_doorbells(self.made)
        self.lineage.worker.barrier()
        assert self.lineage.in_flight() is None
        for place, vector in product(range(len(self._peers)), range(VECTORS)):
            due, again = self._due[place, vector], self._again[place, vector]
            assert due <= self._peers[place].take(vector) <= due + again
        self._due.clear()
        self._again.clear()


@pytest.fixture(params=["sticky", "fresh"])
def lineage(request: pytest.FixtureRequest, folder: Path) -> Iterator[Lineage]:
    """A relayed fabric."""
    chosen = settings(folder, ports=request.param, peers=PEERS, vectors=VECTORS)
    with closing(Lineage(folder, chosen)) as lineage:
        yield lineage


def test_kills_at_random_moments_lose_no_doorbell_and_no_count(lineage: Lineage) -> None:
    order = random.Random(1)
    peers = [lineage.member() for _ in range(PEERS)]
    lineage.worker.acquaint(*peers)
    traffic = Traffic(lineage, peers, order)
    kills = 0
    while kills < KILLS:
        starting = order.random() < 0.2
        traffic.round(starting=starting)
        kills += 1 + starting
    assert set(traffic.made) == set(lineage.worker.doorbells())
    for peer in peers:
        assert not peer.ended()
        peer.close()
