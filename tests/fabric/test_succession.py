"""A worker is succeeded by another while it serves: it holds, the other prepares, it parks, the other goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pytest

from famezd.client import Mailbox
from famezd.fabric.handed import START_FAILED
from famezd.mailbox import Slots
from famezd.switch.messenger import QUEUED
from tests.fabric.conftest import Kind, Start, settings
from tests.fabric.lineage import handed_over, prepared
from tests.fabric.workers import DEADLINE, GENZ, Raw, Worker


def rings_all(worker: Worker, peers: list[Raw]) -> None:
    """Everybody can ring everybody, on all vectors."""
    worker.acquaint(*peers)
    for (src, dst), vector in [(pair, v) for pair in permutations(peers, 2) for v in range(worker.settings.vectors)]:
        src.ring(dst.id, vector)
        worker.wait(lambda: dst.take(vector), f"{src.id} rings {dst.id} on {vector}")  # noqa: B023 (called at once)


def test_peers_notice_nothing_and_all_is_counted_on(start: Start, folder: Path, kind: Kind) -> None:
    worker = start(**kind._asdict())
    peers = [worker.join() for _ in range(3)]
    rings_all(worker, peers)
    told = [len(peer.values) for peer in peers]
    worker.barrier()
    counted = worker.doorbells()
    successor = prepared(worker, folder)
    for peer, other in permutations(peers, 2):
        peer.ring(other.id, 1)
    with handed_over(worker, successor):
        for peer in peers:
            rung = 0
            while rung < 2:
                rung += successor.wait(lambda: peer.take(1), "all that was rung arrives")  # noqa: B023
            assert (rung, peer.take(1)) == (2, 0)
        rings_all(successor, peers)
        successor.barrier()
        assert [len(peer.values) for peer in peers] == told
        if kind.doorbells == "relayed":
            assert successor.doorbells() == {at: 2 * n + (at[2] == 1) for at, n in counted.items()}
        newcomer = successor.join()
        assert newcomer.id == 3
        rings_all(successor, [*peers, newcomer])


def test_while_it_holds_doorbells_pass_and_nobody_comes_or_goes(start: Start, kind: Kind) -> None:
    worker = start(**kind._asdict())
    one, other, leaver = (worker.join() for _ in range(3))
    rings_all(worker, [one, other, leaver])
    worker.order("hold")
    worker.await_answer("hold")
    leaver.connection.close()
    newcomer = worker.connect()
    one.ring(other.id, 2, 5)
    worker.wait(lambda: other.take(2) == 5, "doorbells pass")
    began, turns = time.monotonic(), worker.totals["turns"]
    worker.barrier()
    assert worker.present == [one.id, other.id, leaver.id]
    # It does not look again and again at what it must not do.
    assert worker.totals["turns"] - turns < 50 + 200 * (time.monotonic() - began)
    worker.order("carry on")
    newcomer.set_up()
    worker.wait(lambda: leaver.id not in worker.present or newcomer.id == leaver.id, "the leaver is missed")
    rings_all(worker, [one, other, newcomer])


@pytest.mark.parametrize("changed", [{"peers": 6}, {"vectors": 4}, {"size": 1 << 17}, {"doorbells": "direct"}])
def test_who_does_not_fit_does_not_take_over_and_costs_nobody_anything(
    start: Start, folder: Path, changed: dict[str, int]
) -> None:
    worker = start()
    peers = [worker.join() for _ in range(2)]
    worker.order("hold")
    worker.await_answer("hold")
    misfit = Worker(settings(folder, **changed), folder, kept=worker.kept, orders=["wait"])
    assert misfit.ended() == START_FAILED
    key, value = next(iter(changed.items()))
    shown = "mailbox.size" if key == "size" else key
    assert f"cannot succeed the worker that serves: {shown} is {value}, was " in misfit.log
    assert misfit.told == []
    misfit.close()
    worker.order("carry on")
    rings_all(worker, [*peers, worker.join()])


def test_a_successor_that_dies_before_it_goes_on_costs_nobody_anything(start: Start, folder: Path) -> None:
    worker = start()
    peers = [worker.join() for _ in range(2)]
    successor = prepared(worker, folder)
    successor.kill()
    successor.close()
    worker.order("carry on")
    rings_all(worker, [*peers, worker.join()])


def test_who_left_meanwhile_is_missed_by_the_successor(start: Start, folder: Path, kind: Kind) -> None:
    worker = start(**kind._asdict())
    one, other, leaver = (worker.join() for _ in range(3))
    successor = prepared(worker, folder)
    leaver.close()
    with handed_over(worker, successor):
        successor.wait(lambda: successor.present == [one.id, other.id], "the leaver is missed")
        if kind.ports == "fresh":
            successor.wait(lambda: one.knows(1), "and that is announced")
        rings_all(successor, [one, other])


def test_the_switch_finishes_what_it_has_begun(start: Start) -> None:
    worker = start(personality=GENZ)
    with worker.peer() as peer:
        mailbox = Mailbox(peer)
        slots, switch = Slots(mailbox._memory), mailbox.switch
        for _ in range(QUEUED):
            # Nobody acknowledges its answers, so they queue up.
            slots.put(peer.id, b"ping", switch)
            peer.ring(switch, peer.id)
            worker.wait(lambda: not slots.pending(peer.id), "it takes the message")
        worker.order("hold")
        worker.barrier()
        assert {"X_FAMEZ": "hold"} not in worker.told
        for _ in range(QUEUED):
            message = mailbox.receive(timeout=DEADLINE)
            assert message is not None
            assert message.text == "pong"
        worker.await_answer("hold")
        worker.order("carry on")
        assert mailbox.ping(switch) > 0
        mailbox.close()


def test_a_new_path_for_the_socket_leaves_who_is_there_alone(start: Start, folder: Path) -> None:
    worker = start()
    peers = [worker.join() for _ in range(2)]
    moved = settings(folder, socket=str(folder / "elsewhere"))
    with handed_over(worker, prepared(worker, folder, moved)) as successor:
        rings_all(successor, [*peers, successor.join()])


@pytest.mark.parametrize("dismiss", [Worker.hang_up, lambda worker: worker.order("stay away")])
def test_a_successor_that_is_not_needed_leaves_no_socket_behind(
    start: Start, folder: Path, dismiss: Callable[[Worker], None]
) -> None:
    worker = start()
    peers = [worker.join() for _ in range(2)]
    moved = settings(folder, socket=str(folder / "elsewhere"))
    successor = prepared(worker, folder, moved)
    assert os.path.lexists(moved.socket)
    dismiss(successor)
    assert successor.ended() == START_FAILED
    successor.close()
    assert not os.path.lexists(moved.socket)
    worker.order("carry on")
    rings_all(worker, [*peers, worker.join()])


def test_who_is_kicked_is_disconnected_and_may_come_back(start: Start, kind: Kind) -> None:
    worker = start(**kind._asdict())
    one, kicked = worker.join(), worker.join()
    worker.order(f"kick {kicked.id}")
    worker.await_answer(f"kick {kicked.id}")
    assert kicked.set_up().ended()
    assert worker.present == [one.id]
    worker.await_total("left_kicked", 1)
    worker.order("kick 4711")
    worker.await_answer("kick 4711")
    rings_all(worker, [one, worker.join()])


def test_a_socket_whose_file_was_removed_is_bound_again(start: Start, folder: Path) -> None:
    worker = start()
    peers = [worker.join() for _ in range(2)]
    os.unlink(worker.settings.socket)
    with handed_over(worker, prepared(worker, folder)) as successor:
        rings_all(successor, [*peers, successor.join()])
