"""Fault rules in a real worker: what they strike, what they spare, and that no kill loses what they let go on."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import permutations, product
from pathlib import Path

import pytest

from famezd.client import Doorbell, Mailbox, Message, NotTakenError, Peer
from famezd.fabric.handed import START_FAILED
from famezd.faults import Chance
from famezd.mailbox import FileMemory, Slots
from famezd.stats import FAULTS
from tests.fabric.conftest import Start, settings
from tests.fabric.lineage import Lineage
from tests.fabric.workers import DEADLINE, GENZ, Raw, Worker

SWITCH = 6
"""Of a genz fabric with five peers."""


def struck(worker: Worker) -> dict[str, int]:
    """How often rules struck, by kind, where they did."""
    totals = worker.totals
    return {name.removeprefix("fault_"): totals[name] for name in FAULTS if totals[name]}


def rings(worker: Worker, peer: Raw, vector: int, n: int) -> None:
    """Waits until a peer has been rung so often, and no more."""
    taken = 0

    def arrived() -> bool:
        nonlocal taken
        taken += peer.take(vector)
        return taken >= n

    worker.wait(arrived, f"peer {peer.id} is rung {n} times on {vector}")
    worker.barrier()
    assert taken + peer.take(vector) == n


def change(worker: Worker, rules: str) -> None:
    """Has other rules in force, which the worker says it has."""
    worker.told.clear()
    worker.order(f"faults {rules}")
    worker.await_answer("faults")


# Doorbells


def test_what_is_dropped_is_counted_as_rung_and_nobody_else_is_concerned(start: Start) -> None:
    worker = start(faults="id=1 src=0 dst=1 vector=2 drop=1 seed=1")
    one, other, third = (worker.join() for _ in range(3))
    for vector in range(3):
        one.ring(1, vector, 5)
        one.ring(2, vector, 5)
        third.ring(1, vector, 7)
    rings(worker, other, 0, 12)
    rings(worker, other, 1, 12)
    rings(worker, other, 2, 7)
    for vector in range(3):
        rings(worker, third, vector, 5)
    assert worker.doorbells()[0, 1, 2] == 5
    assert struck(worker) == {"drop": 5}
    assert list(worker.page.rules().values()) == [(5, 5)]
    assert worker.totals["dropped"] == 0


@pytest.mark.parametrize("ports", ["sticky", "fresh"])
def test_a_block_is_for_an_id_wherever_it_is(start: Start, ports: str) -> None:
    worker = start(ports=ports, faults="id=1 src=* dst=2 block seed=1")
    one, other = worker.join(), worker.join()
    leaver = worker.join()
    worker.acquaint(one, other, leaver)
    assert leaver.id == 2
    one.ring(2, 0, 3)
    one.ring(1, 0, 4)
    rings(worker, other, 0, 4)
    rings(worker, leaver, 0, 0)
    leaver.close()
    worker.await_total("left_hangup", 1)
    again = worker.join()
    worker.acquaint(one, other, again)
    one.ring(again.id, 0, 5)
    rings(worker, again, 0, 0 if again.id == 2 else 5)
    assert struck(worker) == {"block": 8 if again.id == 2 else 3}


def test_a_doorbell_that_is_doubled_twice_arrives_four_times(start: Start) -> None:
    worker = start(
        faults="id=1 dst=1 duplicate=1 seed=1; id=2 src=0 dst=1 duplicate=1 seed=1; id=3 dst=1 vector=1 block"
    )
    one, other = worker.join(), worker.join()
    one.ring(1, 0, 3)
    one.ring(1, 1, 3)
    rings(worker, other, 0, 12)
    rings(worker, other, 1, 0)
    assert struck(worker) == {"duplicate": 18, "block": 12}
    assert worker.doorbells() == {(0, 1, 0): 3, (0, 1, 1): 3}


def test_the_same_doorbells_meet_the_same_fates(start: Start) -> None:
    """Each by its number, whatever other rules there are and however many come together."""
    worker = start(faults="id=1 src=2 drop=0.9 seed=3; id=2 src=0 dst=1 drop=0.5 seed=7")
    one, other = worker.join(), worker.join()
    chance = Chance(7)
    fates = [chance.binomial(i, 1, 0.5) for i in range(60)]
    for i in range(30):
        one.ring(1, 0)
        rings(worker, other, 0, 1 - fates[i])
    one.ring(1, 0, 30)
    rings(worker, other, 0, 30 - sum(fates[30:]))
    assert struck(worker) == {"drop": sum(fates)}
    # A rule that stays goes on; one that comes anew begins anew.
    change(worker, "id=2 src=0 dst=1 drop=0.5 seed=7; id=3 src=0 dst=2 drop=0.5 seed=7")
    assert sorted(worker.page.rules().values()) == [(0, 0), (60, sum(fates))]


def test_rules_change_while_doorbells_pass(start: Start) -> None:
    worker = start()
    one, other = worker.join(), worker.join()
    one.ring(1, 0, 2)
    rings(worker, other, 0, 2)
    change(worker, "id=1 block")
    one.ring(1, 0, 3)
    rings(worker, other, 0, 0)
    change(worker, "")
    one.ring(1, 0, 4)
    rings(worker, other, 0, 4)
    assert struck(worker) == {"block": 3}
    assert worker.doorbells() == {(0, 1, 0): 9}


def test_a_number_too_large_to_draw_one_by_one_is_shared_out_at_once(start: Start) -> None:
    worker = start(faults="id=1 dst=1 drop=0.25 seed=1")
    one, other = worker.join(), worker.join()
    one.ring(1, 0, 1 << 32)
    taken = worker.wait(lambda: other.take(0), "some arrive")
    worker.barrier()
    assert taken + struck(worker)["drop"] == 1 << 32
    # Ten standard deviations.
    assert abs(taken - 0.75 * (1 << 32)) < 10 * (0.25 * 0.75 * (1 << 32)) ** 0.5


# Delays


def test_a_delay_holds_up_nobody_else(start: Start) -> None:
    worker = start(faults="id=1 src=0 dst=1 delay=30s; id=2 src=1 dst=0 delay=20ms..40ms seed=1")
    one, other, third = (worker.join() for _ in range(3))
    one.ring(1, 0, 2)
    for n in range(1, 50):
        third.ring(1, 0, n)
        rings(worker, other, 0, n)
    began = time.monotonic()
    other.ring(0, 1, 3)
    rings(worker, one, 1, 3)
    # What is drawn is the least.
    assert time.monotonic() - began >= 0.02
    rings(worker, other, 0, 0)
    assert struck(worker) == {"delay": 5}
    assert worker.page.held() == {1 * 3 + 0: 2}


def test_doorbells_of_a_pair_keep_their_order_whatever_is_drawn(start: Start) -> None:
    # The first draw is more than 0.9 of a second, the second less than 50 ms.
    worker = start(faults="id=1 src=0 delay=0s..1s seed=404")
    one, other, third = (worker.join() for _ in range(3))
    one.ring(1, 0)
    worker.await_total("fault_delay", 1)
    one.ring(1, 1)
    one.ring(2, 1)
    worker.wait(lambda: other.take(1), "the second arrives")
    assert other.take(0) == 1
    rings(worker, third, 1, 1)


def test_what_a_rule_holds_up_is_delivered_when_it_is_cleared(start: Start) -> None:
    worker = start(faults="id=1 src=0 delay=30s; id=2 src=2 delay=30s")
    one, other, third = (worker.join() for _ in range(3))
    one.ring(1, 0, 2)
    third.ring(1, 1, 3)
    worker.await_total("fault_delay", 5)
    change(worker, "id=2 src=2 delay=30s")
    rings(worker, other, 0, 2)
    rings(worker, other, 1, 0)
    assert worker.page.held() == {1 * 3 + 1: 3}


def test_what_is_held_up_for_who_leaves_is_dropped(start: Start) -> None:
    worker = start(faults="id=1 delay=30s")
    one, leaver = worker.join(), worker.join()
    one.ring(1, 0, 2)
    leaver.ring(0, 1, 3)
    worker.await_total("fault_delay", 5)
    leaver.close()
    worker.await_total("left_hangup", 1)
    worker.await_total("dropped", 2)
    again = worker.join()
    assert again.id == 1
    rings(worker, again, 0, 0)
    assert worker.page.held() == {0 * 3 + 1: 3}


# Kills


@pytest.fixture
def lineage(folder: Path, request: pytest.FixtureRequest) -> Iterator[Lineage]:
    """A fabric with the rules that the test asks for."""
    with closing(Lineage(folder, settings(folder, **request.param))) as lineage:
        yield lineage


def with_rules(faults: str, **given: object) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("lineage", [{"faults": faults, **given}], indirect=True, ids=["-"])


@with_rules("id=1 src=0 delay=30s; id=2 src=1 dst=0 drop=0.5 seed=7")
def test_a_kill_loses_nothing_that_is_held_up(lineage: Lineage) -> None:
    with closing(lineage.member()) as one, closing(lineage.member()) as other:
        for n in range(1, 4):
            one.ring(1, 0, n)
            lineage.worker.await_total("fault_delay", n * (n + 1) // 2)
        other.ring(0, 0, 100)
        lineage.worker.wait(lambda: lineage.worker.doorbells().get((1, 0, 0)), "that is counted")
        lineage.worker.barrier()
        before = sorted(lineage.worker.page.rules().values())
        lineage.kill()
        lineage.succeed()
        rings(lineage.worker, other, 0, 6)
        assert lineage.worker.page.held() == {}
        # The rules go on where they were.
        assert sorted(lineage.worker.page.rules().values()) == before
        one.ring(1, 1, 4)
        lineage.worker.await_total("fault_delay", 10)
        rings(lineage.worker, other, 1, 0)


@with_rules("id=1 delay=0us..4ms seed=1; id=2 src=0 vector=2 drop=0.5 seed=2", peers=3)
def test_kills_at_random_moments_lose_nothing_that_no_rule_has_dropped(lineage: Lineage) -> None:
    order = random.Random(1)
    bells = list(product(permutations(range(3), 2), range(3)))
    made: Counter[tuple[int, int, int]] = Counter()
    arrived: Counter[int] = Counter()
    again = 0
    with ExitStack() as stack:
        peers = [stack.enter_context(closing(lineage.member())) for _ in range(3)]
        for _ in range(30):
            for (src, dst), vector in order.choices(bells, k=200):
                peers[src].ring(dst, vector)
                made[src, dst, vector] += 1
            # Nothing tells how far it is: that is what makes the moment random.
            time.sleep(order.uniform(0, 0.006))
            lineage.kill()
            again += (lineage.in_flight() or ((), 0))[1]
            lineage.succeed()
            for peer, vector in product(peers, range(3)):
                arrived[vector] += peer.take(vector)
        worker = lineage.worker
        worker.await_doorbells(made)
        worker.wait(lambda: not worker.page.held(), "nothing is held up any more")
        worker.barrier()
        for peer, vector in product(peers, range(3)):
            arrived[vector] += peer.take(vector)
    dropped = struck(worker)["drop"]
    seen = sorted(worker.page.rules().values())
    # Each was seen once by each rule that concerns it, whatever was killed in between.
    assert seen == sorted([(made.total(), made.total()), (made[0, 1, 2] + made[0, 2, 2], dropped)])
    assert made.total() - dropped <= arrived.total() <= made.total() - dropped + again


@with_rules("id=1 src=0 delay=30s")
def test_a_planned_succession_loses_nothing_that_is_held_up(lineage: Lineage) -> None:
    with closing(lineage.member()) as one, closing(lineage.member()) as other:
        one.ring(1, 0, 3)
        lineage.worker.await_total("fault_delay", 3)
        lineage.hand_over(lineage.settings._replace(faults="id=2 src=0 block"), lambda: one.ring(1, 1, 4))
        rings(lineage.worker, other, 0, 3)
        rings(lineage.worker, other, 1, 4)
        one.ring(1, 1, 5)
        rings(lineage.worker, other, 1, 0)
        assert struck(lineage.worker) == {"delay": 7, "block": 5}


# Messages


class Post:
    """Peers of a genz fabric with their mailboxes."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._stack = ExitStack()
        worker.at_end(self._stack.close)

    def join(self) -> tuple[Peer, Mailbox]:
        peer = self._stack.enter_context(self.worker.peer())
        return peer, self._stack.enter_context(closing(Mailbox(peer)))


def test_a_dropped_message_seems_taken_and_its_receiver_is_not_rung(start: Start) -> None:
    worker = start(personality=GENZ, faults="id=1 src=1 dst=2 message drop=1")
    post = Post(worker)
    (one, box), (other, _) = post.join(), post.join()
    box.send(2, "lost")
    worker.barrier()
    assert other.wait(0) == []
    assert struck(worker) == {"drop": 1}
    # A doorbell that brings no message, or on another vector, is none of its business.
    one.ring(2, 1)
    one.ring(2, 4)
    assert sorted(rung(other, 2)) == [Doorbell(1, 1), Doorbell(4, 1)]
    assert box.ping(SWITCH) < 5
    assert struck(worker) == {"drop": 1}


def rung(peer: Peer, n: int) -> list[Doorbell]:
    """The next doorbells."""
    found: list[Doorbell] = []
    while len(found) < n:
        events = [e for e in peer.wait(DEADLINE) if isinstance(e, Doorbell)]
        assert events
        found += events
    return found


def test_a_lost_interrupt_leaves_the_message(start: Start) -> None:
    worker = start(personality=GENZ, faults="id=1 src=1 dst=2 drop=1")
    post = Post(worker)
    (_, box), (other, other_box) = post.join(), post.join()
    with pytest.raises(NotTakenError):
        box.send(2, "there", timeout=0.05)
    worker.barrier()
    assert other.wait(0) == []
    slots = Slots(FileMemory(other.memory))
    assert slots.take(1) == b"there"
    change(worker, "")
    assert sent_and_received(box, other_box, "again") == Message(1, "again")


def sent_and_received(src: Mailbox, dst: Mailbox, text: str) -> Message | None:
    """What arrives of a message; its sender does not wait."""
    with pytest.raises(NotTakenError):
        src.send(dst._peer.id, text, timeout=0)
    return dst.receive(timeout=DEADLINE)


def test_messages_to_the_switch_and_from_it_are_dropped(start: Start) -> None:
    worker = start(
        personality=GENZ, faults="id=1 src=1 dst=switch message drop=1; id=2 src=switch dst=2 message drop=1"
    )
    post = Post(worker)
    (one, box), (_, other), (_, third) = post.join(), post.join(), post.join()
    box.send(SWITCH, "ping")
    other.send(SWITCH, "ping")
    assert third.ping(SWITCH) < 5
    worker.barrier()
    assert one.wait(0) == []
    assert other.receive(timeout=0) is None
    assert struck(worker) == {"drop": 2}
    assert worker.page.unanswered(5) == []
    change(worker, "")
    assert box.ping(SWITCH) < 5
    assert other.ping(SWITCH) < 5


def test_a_corrupted_message_has_its_length_and_other_bytes_the_same_each_time(start: Start) -> None:
    worker = start(personality=GENZ)
    post = Post(worker)
    (one, box), (other, other_box) = post.join(), post.join()
    slots = Slots(FileMemory(other.memory))
    arrived = []
    for rule in (1, 2):
        change(worker, f"id={rule} src=1 dst=2 corrupt=1 seed=5")
        texts = []
        for sent in (b"a message that is long enough to have some of it changed", b"x", b"\xff" * 383, b"a\0b"):
            slots.put(1, sent, 2)
            one.ring(2, 1)
            assert rung(other, 1) == [Doorbell(1, 1)]
            text = slots.text(1)
            slots.acknowledge(1)
            assert len(text) == len(sent)
            assert 1 <= sum(a != b for a, b in zip(sent, text, strict=True)) <= 4
            assert not 0 < text.find(b"\0") < sent.find(b"\0")
            texts.append(text)
        arrived.append(texts)
    assert arrived[0] == arrived[1]
    assert struck(worker) == {"corrupt": 8}
    assert sent_and_received(other_box, box, "unharmed") == Message(2, "unharmed")


@pytest.mark.parametrize("rule", ["block", "delay=30s", "duplicate=1"])
def test_the_switch_is_rung_as_the_rules_have_it(folder: Path, rule: str) -> None:
    chosen = settings(folder, personality=GENZ, faults=f"id=1 src=1 dst=switch {rule}")
    with closing(Lineage(folder, chosen)) as lineage, closing(lineage.member()) as one:
        slots = Slots(FileMemory(one.memory))
        for _ in range(3):
            slots.put(1, b"ping", SWITCH)
            one.ring(SWITCH, 1)
            if rule == "duplicate=1":
                lineage.worker.wait(lambda: one.take(SWITCH), "it answers")
                assert slots.take(SWITCH) == b"pong"
        lineage.worker.await_doorbells({(0, 5, 1): 3} | ({(5, 0, 6): 3} if rule == "duplicate=1" else {}))
        lineage.worker.barrier()
        unanswered = [(0, 1, 3)] if rule == "delay=30s" else []
        assert lineage.worker.page.unanswered(5) == unanswered
        lineage.kill()
        lineage.succeed()
        lineage.worker.barrier()
        assert lineage.worker.page.unanswered(5) == []
        if rule == "delay=30s":
            lineage.worker.wait(lambda: one.take(SWITCH), "it answers")
            assert slots.take(SWITCH) == b"pong"
        elif rule == "block":
            assert slots.pending(1)


# What is no rule


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"faults": "id=1 drop=2"}, "'2' is no probability"),
        ({"faults": "id=1 block", "doorbells": "direct"}, "fault rules are for relayed doorbells"),
    ],
)
def test_a_worker_does_not_start_with_what_is_no_rule(folder: Path, given: dict[str, str], told: str) -> None:
    worker = Worker(settings(folder, **given), folder)
    assert worker.ended() == START_FAILED
    assert told in worker.log
    worker.close()
