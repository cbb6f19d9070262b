"""What a worker says of itself for the metrics: what waits, and how many bells it finds rung at once."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from pathlib import Path

from famezd.stats import UNSENT
from tests.fabric.conftest import Start, settings
from tests.fabric.lineage import Lineage
from tests.fabric.workers import Raw, Worker, stood_still


def unsent(worker: Worker) -> int:
    return worker.page.gauges()[UNSENT]


def batches(worker: Worker) -> dict[str, int]:
    """The classes of turns that are not empty, and the number of bells of turns that relayed more than one."""
    return {name.removeprefix("batch_"): n for name, n in worker.totals.items() if name.startswith("batch_") and n}


def test_what_waits_for_a_newcomer_that_does_not_read(start: Start) -> None:
    # More messages than a socket takes, so that some wait.
    worker = start(peers=4, vectors=400)
    reader = worker.join()
    worker.wait(lambda: unsent(worker) == 0, "all is sent")
    stubborn = worker.connect()
    worker.await_total("joins", 2)
    worker.wait(lambda: unsent(worker) > 0, "some of its set-up waits")
    # Of its id, the memory, and the bells of three others and its own.
    assert unsent(worker) <= 7
    stubborn.set_up()
    worker.wait(lambda: unsent(worker) == 0, "it has read all")
    worker.connect()
    worker.await_total("joins", 3)
    last = worker.connect()
    worker.await_total("joins", 4)
    worker.wait(lambda: unsent(worker) > 3, "two set-ups wait")
    last.close()
    worker.await_total("left_hangup", 1)
    worker.wait(lambda: 0 < unsent(worker) <= 7, "one waits")
    reader.ring(stubborn.id)
    worker.await_doorbells({(reader.id, stubborn.id, 0): 1})


def test_a_successor_counts_what_waits_anew(folder: Path) -> None:
    fabric = Lineage(folder, settings(folder, peers=4, vectors=400))
    with closing(fabric), closing(fabric.member()), closing(Raw(fabric.settings)) as stubborn:
        fabric.worker.await_total("joins", 2)
        # Whoever is killed while it sends leaves a doubt, and that membership would end.
        fabric.worker.wait(lambda: stood_still(fabric.worker, 0.2), "it can send no more")
        assert unsent(fabric.worker) > 0, "some of its set-up waits"
        fabric.kill()
        fabric.succeed()
        fabric.worker.wait(lambda: 0 < unsent(fabric.worker) <= 7, "it waits still")
        stubborn.set_up()
        fabric.worker.wait(lambda: unsent(fabric.worker) == 0, "it has read all")


def test_bells_that_are_found_rung_at_once_are_one_batch(start: Start) -> None:
    worker = start(peers=3, vectors=12)
    one, other = worker.join(), worker.join()
    # What it sees to while it makes something ready is part of no turn.
    worker.rest()
    before = batches(worker)
    os.kill(worker.pid, signal.SIGSTOP)
    worker.wait(lambda: worker.state == "T", "it stands still")
    for vector in range(10):
        one.ring(other.id, vector, 5)
    os.kill(worker.pid, signal.SIGCONT)
    worker.await_doorbells({(one.id, other.id, vector): 5 for vector in range(10)})
    worker.wait(lambda: batches(worker).get("16") == before.get("16", 0) + 1, "it is one of 5 to 16")
    assert batches(worker)["bells"] == before.get("bells", 0) + 10
