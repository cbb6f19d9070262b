"""A worker outlives its manager by some milliseconds. What it does in them has to be in the ark, or not to be done."""

from __future__ import annotations

from collections import defaultdict
from contextlib import closing
from pathlib import Path

import pytest

from famezd.protocol import PeerLeft, VectorAdded
from tests.fabric.conftest import settings
from tests.fabric.lineage import Lineage
from tests.fabric.workers import Raw, Worker

WAITS = "cannot be kept"


class Witness:
    """A peer that dies, as QEMU does, of an id that comes again."""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw
        self.told: defaultdict[int, int] = defaultdict(int)
        self.departed: set[int] = set()

    def hear(self) -> None:
        for event in self.raw.hear():
            if isinstance(event, VectorAdded):
                assert event.peer not in self.departed, f"{event.peer} comes again"
                self.told[event.peer] += 1
            elif isinstance(event, PeerLeft):
                assert event.peer in self.told
                assert event.peer not in self.departed, f"{event.peer} leaves again"
                self.departed.add(event.peer)


def come_and_go(worker: Worker, witnesses: list[Witness], times: int) -> int:
    """Peers join and leave until the worker takes no more; how many it took."""
    for n in range(times):
        before = worker.totals["joins"]
        newcomer = Raw(worker.settings)
        worker.wait(lambda: worker.totals["joins"] > before or WAITS in worker.log, "it joins, or has to wait")  # noqa: B023
        taken = worker.totals["joins"] > before
        if taken:
            newcomer.set_up()
        newcomer.close()
        for witness in witnesses:
            witness.hear()
        if not taken:
            return n
        worker.wait(lambda: len(worker.present) == len(witnesses) or WAITS in worker.log, "it leaves, or has to wait")
    return times


@pytest.mark.parametrize("ports", ["fresh", "sticky"])
def test_who_comes_and_goes_after_its_managers_death_is_known_to_the_successor_or_waits_for_it(
    folder: Path, ports: str
) -> None:
    lineage = Lineage(folder, settings(folder, ports=ports, vectors=30))
    one, other = Raw(lineage.settings).set_up(), Raw(lineage.settings).set_up()
    with closing(lineage), closing(one), closing(other):
        endure(lineage, [Witness(one), Witness(other)])


def endure(lineage: Lineage, witnesses: list[Witness]) -> None:
    worker = lineage.worker
    come_and_go(worker, witnesses, 3)
    worker.lose_manager()
    # Far more than what an ark can be appended without being packed, or without another pair for it.
    assert come_and_go(worker, witnesses, 2000) < 2000
    witnesses[0].raw.ring(witnesses[1].raw.id, 1)
    worker.wait(lambda: witnesses[1].raw.take(1), "doorbells pass all the while")
    lineage.kill()
    lineage.succeed()
    assert come_and_go(lineage.worker, witnesses, 20) == 20
    witnesses[0].raw.ring(witnesses[1].raw.id, 1)
    lineage.worker.wait(lambda: witnesses[1].raw.take(1), "doorbells pass again")
