"""A worker that is killed is succeeded by another, and nobody on the fabric is the worse for it."""

from __future__ import annotations

import os
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from itertools import permutations
from pathlib import Path

import pytest

from famezd import ark
from famezd.client import Doorbell, Event, Joined, Left, Mailbox, Message, Peer
from famezd.errors import FamezError
from famezd.fabric.handed import STATS
from famezd.fabric.settings import Settings
from famezd.mailbox import Slots
from famezd.protocol import marked
from famezd.stats import Page
from tests.fabric.conftest import settings
from tests.fabric.lineage import Lineage
from tests.fabric.workers import DEADLINE, GENZ, Raw, Worker

KINDS = [(d, p, s) for d in ("relayed", "direct") for p in ("sticky", "fresh") for s in ("plain", "genz")]


@pytest.fixture
def lineage(request: pytest.FixtureRequest, folder: Path) -> Iterator[Lineage]:
    """A fabric of the kind that the test asks for."""
    doorbells, ports, personality = request.param
    given = {"personality": GENZ} if personality == "genz" else {}
    with closing(Lineage(folder, settings(folder, doorbells=doorbells, ports=ports, peers=6, **given))) as lineage:
        yield lineage


def heard(peer: Peer, until: int) -> tuple[Counter[int], list[Event]]:
    """The doorbells by vector, `until` so many were heard, and the other events meanwhile."""
    bells: Counter[int] = Counter()
    others: list[Event] = []
    while bells.total() < until:
        events = peer.wait(DEADLINE)
        assert events, f"heard only {bells} of {until}"
        for event in events:
            if isinstance(event, Doorbell):
                bells[event.vector] += event.rings
            else:
                others.append(event)
    return bells, others


def ring_all(peers: list[Peer]) -> Counter[tuple[int, int]]:
    """Everybody rings everybody on every vector, a different number of times; returns what is due by (id, vector)."""
    due: Counter[tuple[int, int]] = Counter()
    for n, (src, dst) in enumerate(permutations(peers, 2), 1):
        for vector in range(src.vectors):
            for _ in range(n % 3 + 1):
                src.ring(dst.id, vector)
            due[dst.id, vector] += n % 3 + 1
    return due


def collect(peers: list[Peer], due: Counter[tuple[int, int]]) -> list[Event]:
    """Everybody hears exactly what is due; returns what else they heard."""
    others: list[Event] = []
    for peer in peers:
        mine = {vector: n for (dst, vector), n in due.items() if dst == peer.id}
        bells, more = heard(peer, sum(mine.values()))
        assert bells == mine
        others += more
    return others


@pytest.mark.parametrize("lineage", KINDS, indirect=True, ids="-".join)
def test_peers_keep_ids_bells_and_memory_and_what_was_rung_meanwhile_arrives(lineage: Lineage) -> None:
    with ExitStack() as stack:
        peers = [stack.enter_context(lineage.join()) for _ in range(3)]
        ids = [peer.id for peer in peers]
        for peer in peers:
            while len(set(peer.peers) & set(ids)) < 2:
                peer.wait(DEADLINE)
        collect(peers, ring_all(peers))
        os.pwrite(peers[0].memory, b"kept", 4092)
        counted = sum(lineage.worker.doorbells().values())
        # What was heard may still be in flight, and then would be heard once more.
        lineage.worker.barrier()
        lineage.kill()
        due = ring_all(peers)
        lineage.succeed()
        collect(peers, due)
        collect(peers, ring_all(peers))
        if lineage.settings.relayed:
            assert sum(lineage.worker.doorbells().values()) == counted + 2 * due.total()
        assert os.pread(peers[2].memory, 4, 4092) == b"kept"
        assert [occupant.peer for occupant in lineage.worker.page.occupants()] == ids
        newcomer = stack.enter_context(lineage.join())
        assert newcomer.id == max(ids) + 1
        others = collect([*peers, newcomer], ring_all([newcomer, *peers][:1]))
        assert others == []
        for peer in peers:
            if not lineage.settings.sticky:
                assert peer.wait(DEADLINE) == [Joined(newcomer.id)]
        collect([*peers, newcomer], ring_all([*peers, newcomer]))


@pytest.mark.parametrize("lineage", KINDS, indirect=True, ids="-".join)
def test_who_left_while_nobody_served_is_missed_at_once(lineage: Lineage) -> None:
    with lineage.join() as witness:
        leaver = lineage.join()
        if not lineage.settings.sticky:
            assert witness.wait(DEADLINE) == [Joined(leaver.id)]
        gone = leaver.id
        lineage.kill()
        leaver.leave()
        lineage.succeed()
        lineage.worker.wait(lambda: len(lineage.worker.page.occupants()) == 1, "the leaver is missed")
        if lineage.settings.sticky:
            with lineage.join() as newcomer:
                assert newcomer.id == gone
        else:
            assert witness.wait(DEADLINE) == [Left(gone)]
            with lineage.join() as newcomer:
                # The witness has seen that id depart.
                assert newcomer.id != gone


@pytest.mark.parametrize("lineage", KINDS, indirect=True, ids="-".join)
def test_kills_in_the_midst_of_set_ups_hurt_at_most_the_newcomer(lineage: Lineage) -> None:
    """Every message that a peer is ever sent is checked by the protocol's state machine."""
    order = random.Random(2)
    doubted = 0
    with ExitStack() as stack:
        settled: list[Raw] = []
        for _ in range(30):
            if len(settled) == 4:
                settled.pop(order.randrange(4)).close()
            newcomer = stack.enter_context(closing(Raw(lineage.settings)))
            # A set-up takes about a millisecond.
            time.sleep(order.uniform(0, 0.005))
            lineage.kill()
            lineage.succeed()
            try:
                newcomer.set_up().hear()
            except (AssertionError, FamezError, ConnectionError):
                doubted += 1
            else:
                # Its last message may have come, and the worker could not know.
                settled += [newcomer] * (not newcomer.ended())
            for peer in settled:
                peer.hear()
                assert not peer.ended()
        assert doubted < 30
        ids = {peer.id for peer in settled}
        assert len(ids) == len(settled)
        for peer in settled:
            lineage.worker.wait(partial(knows, peer, ids, lineage.settings), "its view is true")
        for src, dst in permutations(settled, 2):
            src.ring(dst.id, 1)
            lineage.worker.wait(partial(dst.take, 1), f"{src.id} rings {dst.id}")


def generations(worker: Worker) -> set[int]:
    """The generations of the ark that its manager keeps."""
    return {int(found[1]) for name in worker.kept if (found := ark.NAME.fullmatch(name))}


def knows(peer: Raw, ids: set[int], of: Settings) -> bool:
    """Whether what a peer has been told is true."""
    peer.hear()
    others = {other for other in peer.peers if not (of.personality == GENZ and other == of.peers + 1)}
    return others >= ids - {peer.id} if of.sticky else others == ids - {peer.id}


@pytest.mark.parametrize("lineage", [(d, "fresh", "plain") for d in ("relayed", "direct")], indirect=True)
def test_who_did_not_read_is_told_the_rest_by_the_successor(lineage: Lineage) -> None:
    sleeper = Raw(lineage.settings).set_up()
    with ExitStack() as stack:
        for _ in range(40):
            # Far more messages than the socket holds; most of these peers will never be told of.
            passing = [lineage.join() for _ in range(4)]
            for peer in passing:
                peer.leave()
        stay = [stack.enter_context(lineage.join()) for _ in range(3)]
        lineage.kill()
        lineage.succeed()
        stay.append(stack.enter_context(lineage.join()))
        ids = {peer.id for peer in stay}
        lineage.worker.wait(lambda: sleeper.hear() is not None and set(sleeper.peers) == ids, "it knows who is there")
        for peer in stay:
            sleeper.ring(peer.id, 2)
            assert heard(peer, 1)[0] == {2: 1}
    sleeper.close()


@pytest.mark.parametrize("lineage", [("relayed", "sticky", "plain"), ("relayed", "fresh", "plain")], indirect=True)
def test_the_ark_is_packed_before_the_departed_fill_it(lineage: Lineage) -> None:
    with lineage.join() as witness, lineage.join() as other:
        for _ in range(300):
            lineage.join().leave()
            lineage.worker.wait(lambda: len(lineage.worker.page.occupants()) == 2, "it has left")
            witness.wait(0)
        # Its manager listens only while it waits, and so was too busy for every attempt before.
        lineage.worker.wait(lambda: generations(lineage.worker) == {max(generations(lineage.worker))} != {0}, "packed")
        lineage.kill()
        lineage.succeed()
        other.ring(witness.id, 2)
        assert heard(witness, 1)[0] == {2: 1}


@pytest.mark.parametrize("lineage", [(d, "sticky", "genz") for d in ("relayed", "direct")], indirect=True)
def test_the_switch_answers_what_it_was_asked_while_nobody_served(lineage: Lineage) -> None:
    with lineage.join() as peer:
        mailbox = Mailbox(peer)
        assert mailbox.ping(mailbox.switch) > 0
        lineage.kill()
        slots = Slots(mailbox._memory)
        slots.put(peer.id, b"ping!EZT=2", mailbox.switch)
        peer.ring(mailbox.switch, peer.id)
        lineage.succeed()
        assert mailbox.receive(timeout=DEADLINE) == Message(mailbox.switch, "pong!EZT=3")
        assert re.match("z0.", mailbox.names()[peer.id][0])
        mailbox.close()


@pytest.mark.parametrize("lineage", KINDS[:1], indirect=True, ids="-".join)
def test_a_departure_that_was_written_down_and_not_counted_is_counted(lineage: Lineage) -> None:
    with closing(lineage.member()), ExitStack() as stack:
        lineage.member().close()
        lineage.worker.await_total("left_hangup", 1)
        lineage.kill()
        page = stack.enter_context(closing(Page.open(os.dup(lineage.worker.kept[STATS][0]), writable=True)))
        # As it is when the worker is killed between the two.
        page.words[page.total_at("left_hangup")] = 0
        lineage.succeed()
        totals = lineage.worker.totals
        assert (totals["joins"], totals["left_hangup"]) == (2, 1)


def test_a_departure_in_doubt_is_not_told_again_where_somebody_else_has_the_place_by_now(folder: Path) -> None:
    """A machine dies of a second one. The first may have been sent to one that read nothing for long."""
    with ExitStack() as stack:
        lineage = stack.enter_context(closing(Lineage(folder, settings(folder, ports="fresh", peers=3, vectors=30))))
        sleeper, leaver = lineage.member(), lineage.member()
        stack.callback(sleeper.close)
        worker = lineage.worker
        worker.wait(lambda: sleeper.can_ring(leaver.id), "it knows who will leave")
        for n in range(1, 20):
            # Until its socket holds no more.
            Raw(lineage.settings).set_up().close()
            worker.wait(lambda: worker.left == n, "it has left")  # noqa: B023
        gone = leaver.id
        leaver.close()
        worker.wait(lambda: worker.left == 20, "the leaver has left")
        newcomers = [stack.enter_context(closing(Raw(lineage.settings).set_up())) for _ in range(2)]
        lineage.kill()
        page = stack.enter_context(closing(Page.open(os.dup(worker.kept[STATS][0]), writable=True)))
        (heir,) = [occupant for occupant in page.occupants() if occupant.place == 1]
        at = page.told_at(0, heir.place)
        assert marked(page.words[at]) == (gone, 30)
        # As it is when the worker is killed at that message.
        page.words[page.told_at(0)] = at
        lineage.succeed()
        worker = lineage.worker
        worker.wait(lambda: sleeper.can_ring(heir.peer), "the newcomer is announced")
        worker.barrier()
        sleeper.hear()
        assert gone in sleeper.peers, "told that it left, perhaps again"
        assert worker.present == sorted([sleeper.id, *(newcomer.id for newcomer in newcomers)])
