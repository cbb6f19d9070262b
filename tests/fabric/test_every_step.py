"""The worker is killed between any two steps: from outside, where it was stopped by ptrace.

What a successor finds of a relay is what stands in the stats page, the mailbox and the eventfds. So the worker is
stepped through a relay, instruction by instruction, and each distinct state of these is one in which it is killed once.
Of whatever else it does, the system calls are the steps, and it is killed after each, and before each where it has
changed the page meanwhile: where it has not, that would be the same again.
"""

from __future__ import annotations

import select
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import count, islice, permutations, product
from pathlib import Path
from typing import NamedTuple

import pytest

from famezd import ark
from famezd.errors import FamezError
from famezd.mailbox import MappedMemory, Slots
from famezd.stats import FAULTS, IN_FLIGHT, TOTALS, TOTALS_AT
from tests.fabric import tracing
from tests.fabric.conftest import settings
from tests.fabric.lineage import Lineage
from tests.fabric.workers import GENZ, PLAIN, Raw, Worker

SOL_SOCKET, SO_PEEK_OFF = 1, 42
VECTORS = 2
PORTS = 3
EMPTY, SWITCH = 2, 3
"""Places: the last port has no peer, and the switch comes after the ports."""


# The relay


class Rung(NamedTuple):
    """Doorbells that were rung while the worker was stopped, and so are relayed in one turn."""

    bells: tuple[tuple[int, int, int, int], ...]
    """Each as place of the ringer, place rung, vector, how often."""
    personality: str = PLAIN
    faults: str = ""
    ruled: tuple[tuple[int, int], ...] = ()
    """What each of the fault rules has seen and struck in the end."""
    passing: int | None = None
    """How often who is rung under fault rules is rung, None where there are none."""

    @property
    def counted(self) -> Counter[tuple[int, int, int]]:
        """What has to be counted, by row, place and vector."""
        return Counter({(src, dst, vector): n for src, dst, vector, n in self.bells})


RUNG = {
    "to an empty port": Rung(((0, EMPTY, 1, 2),)),
    "to two peers": Rung(((0, 1, 1, 2), (1, 0, 0, 5))),
    "to the switch": Rung(((0, SWITCH, 1, 1),), GENZ),
    # Of the three doorbells that there were before it strikes one, and of the four, two.
    "by a rule": Rung(((0, 1, 1, 4),), faults="id=1 src=0 drop=0.5 seed=7", ruled=((7, 3),), passing=2),
}


class Scene:
    """A fabric with two peers, about to relay."""

    def __init__(self, folder: Path, rung: Rung) -> None:
        self.rung = rung
        given = {"vectors": VECTORS} if rung.personality == PLAIN else {}
        chosen = settings(folder, peers=PORTS, personality=rung.personality, faults=rung.faults, **given)
        self.lineage = Lineage(folder, chosen)
        self.peers = [self.lineage.member(), self.lineage.member()]
        self._first = self.peers[0].id
        self.before = Counter({(0, 1, 1): 3, (1, 0, 1): 2})
        counted = {}
        for (src, dst, vector), n in self.before.items():
            # So that none of the words that the relay writes has the value before that it is to have.
            self.peers[src].ring(self._first + dst, vector, n)
            counted[src, dst, vector] = n
            self.worker.await_doorbells(counted)
        self.worker.rest()
        for place, vector in product(range(2), range(VECTORS)):
            self.peers[place].take(vector)
        self.mailbox = MappedMemory(self.peers[0].memory)
        self.slots = Slots(self.mailbox)
        page = self.worker.page
        self._parts = [
            slice(IN_FLIGHT, TOTALS_AT + TOTALS.index("turns")),
            *(slice(page.total_at(name), page.total_at(name) + 1) for name in FAULTS),
            slice(page.shape.doorbells_at, page.shape.told_at),
            slice(page.shape.journal_at, page.shape.words),
        ]
        """Of the page, what `observe` looks at: made once, as it looks after each instruction."""
        self._poll = select.poll()
        for src, dst, vector, _ in rung.bells:
            self._poll.register(self.peers[src].bells(self._first + dst)[vector], select.POLLIN)
        for peer, vector in product(self.peers, range(self.lineage.settings.vectors)):
            self._poll.register(peer.own[vector], select.POLLIN)

    @property
    def worker(self) -> Worker:
        """Who serves."""
        return self.lineage.worker

    def ring(self) -> None:
        """Rings all that is to be rung; the switch is asked for an answer."""
        for src, dst, vector, n in self.rung.bells:
            if dst == SWITCH:
                self.slots.put(self._first + src, b"ping", self._first + dst)
            self.peers[src].ring(self._first + dst, vector, n)

    def observe(self) -> object:
        """All that a successor could find, but for times: in the page, the slots and the eventfds."""
        words = self.worker.page.words
        return (
            *(words[part].tobytes() for part in self._parts),
            *(self.slots.pending(slot) for slot in (self._first, self._first + SWITCH)),
            self._poll.poll(0),
        )

    def relay(self, step: Callable[[int], None]) -> Iterator[object]:
        """Lets the stopped worker relay, step by step; what can be seen after each."""
        words, at = self.worker.page.words, self.worker.page.total_at
        # Each turn of the loop adds one to one of these.
        turns = slice(at("batch_0"), at("batch_inf") + 1)
        before, counted = words[turns].tolist(), self.counted
        while words[turns].tolist() == before or self.worker.doorbells() != counted:
            step(self.worker.pid)
            yield self.observe()

    @property
    def counted(self) -> dict[tuple[int, int, int], int]:
        """What all counters have to be in the end."""
        answers = Counter({(SWITCH, 0, self._first + SWITCH): 1} if self.rung.personality == GENZ else {})
        return dict(self.before + self.rung.counted + answers)

    def succeeded(self) -> None:
        """The worker was killed; nothing is lost under its successor."""
        doubt, n = self.lineage.in_flight() or (None, 0)
        self.lineage.succeed()
        self.worker.barrier()
        if self.rung.personality == GENZ:
            self._answered()
        assert self.worker.page.words[IN_FLIGHT] == 0
        counted = self.worker.doorbells()
        if self.rung.personality == GENZ:
            # In doubt the switch answers once more.
            answers = counted.pop((SWITCH, 0, self._first + SWITCH))
            assert answers in range(1, 4)
            assert self.peers[0].take(self._first + SWITCH) in range(answers, answers + 2)
            assert not self.worker.page.unanswered(SWITCH)
        assert counted == self.before + self.rung.counted
        assert tuple(self.worker.page.rules().values()) == self.rung.ruled
        assert self.worker.page.held() == {}
        for place, vector in product(range(2), range(VECTORS)):
            due = sum(n for _, *rung, n in self.rung.bells if rung == [place, vector])
            if due and self.rung.passing is not None:
                due = self.rung.passing
            again = n if doubt is not None and doubt[1:] == (place, vector) else 0
            assert self.peers[place].take(vector) in (due, due + again)
        dropped = sum(n for _, dst, _, n in self.rung.bells if dst == EMPTY)
        assert self.worker.totals["dropped"] in (dropped, dropped + n if dropped else 0)

    def _answered(self) -> None:
        asked, switch = self._first, self._first + SWITCH
        self.worker.wait(lambda: not self.slots.pending(asked) and self.slots.pending(switch), "the switch answers")
        assert self.slots.responder(switch) == asked
        while self.slots.pending(switch):
            assert self.slots.take(switch) == b"pong"
            # It looks for the acknowledgement, and sends the next.
            self.worker.barrier()

    def close(self) -> None:
        """Ends it all."""
        self.mailbox.close()
        for peer in self.peers:
            peer.close()
        self.lineage.close()


def distinct(states: Iterator[object]) -> list[object]:
    """Each state once, in the order in which they begin."""
    found: list[object] = []
    for state in states:
        if state not in found:
            found.append(state)
    return found


@pytest.fixture(params=RUNG.values(), ids=[name.replace(" ", "-") for name in RUNG])
def rung(request: pytest.FixtureRequest) -> Rung:
    """One kind of doorbells after the other."""
    chosen: Rung = request.param
    return chosen


def states_of(folder: Path, rung: Rung) -> tuple[list[object], list[object]]:
    """All states that the relay of these passes through, and those in which a system call begins or ends."""
    found = []
    for step in (tracing.single_step, tracing.to_system_call):
        with closing(Scene(folder, rung)) as scene, tracing.stopped(scene.worker.pid):
            scene.ring()
            found.append(distinct(scene.relay(step)))
    fine, coarse = found
    assert set(map(repr, coarse)) <= set(map(repr, fine))
    return fine, coarse


def go_to(scene: Scene, state: object, passing: list[object], stops: list[object]) -> None:
    """Lets the worker run to where `state` begins, whatever system calls it makes until then.

    By instruction only from the last state in which there is a system call: that is far faster.
    """
    at = passing.index(state)
    near = [other for other in stops if passing.index(other) < at]
    if near:
        next(seen for seen in scene.relay(tracing.to_system_call) if seen == near[-1])
    next(seen for seen in scene.relay(tracing.single_step) if seen == state)


def test_a_kill_in_any_state_of_a_relay_loses_nothing(folder: Path, rung: Rung) -> None:
    passing, stops = states_of(folder, rung)
    # Index, old value, rings, counter, what was rung, and the end of it:
    assert len(passing) >= 6 * len(rung.bells)
    for state in passing:
        with closing(Scene(folder, rung)) as scene:
            with tracing.stopped(scene.worker.pid):
                scene.ring()
                go_to(scene, state, passing, stops)
                scene.lineage.kill()
            scene.succeeded()


def test_a_kill_before_or_after_any_system_call_of_a_relay_loses_nothing(folder: Path) -> None:
    rung = RUNG["to two peers"]
    for n in count(1):
        with closing(Scene(folder, rung)) as scene:
            with tracing.stopped(scene.worker.pid):
                scene.ring()
                if sum(1 for _ in islice(scene.relay(tracing.to_system_call), n)) < n:
                    break
                scene.lineage.kill()
            scene.succeeded()
    # At least: woken, and each bell taken and rung.
    assert n > 1 + 2 * len(rung.bells)


# Joins, departures, packing, succession


class Town:
    """A fabric with two established peers, whose worker is killed at one step after the other."""

    def __init__(self, folder: Path, doorbells: str, ports: str, vectors: int) -> None:
        chosen = settings(folder, doorbells=doorbells, ports=ports, peers=PORTS, vectors=vectors)
        self.lineage = Lineage(folder, chosen)
        self.established = [self.lineage.member(), self.lineage.member()]
        self.ids = [peer.id for peer in self.established]
        self.forgotten: set[int] = set()
        """Who left while it was in doubt whether that had been told: a departure is not repeated."""
        self.worker.acquaint(*self.established)

    @property
    def worker(self) -> Worker:
        """Who serves."""
        return self.lineage.worker

    def kill_at(
        self, n: int, begin: Callable[[], object], done: Callable[[], bool], since: Callable[[], bool] | None = None
    ) -> bool:
        """Begins something, and kills the worker at its n-th stop before or after a system call; False if it was over.

        It is over with the turn in which it is `done`. Stops count from when `since` says so.
        """
        with tracing.stopped(self.worker.pid):
            begin()
            while since is not None and not since():
                tracing.to_system_call(self.worker.pid)
                self.worker.hear()
            if sum(1 for _ in islice(self._stops(self._with_turn(done)), n)) < n:
                return False
            self.lineage.kill()
        return True

    def _stops(self, over: Callable[[], bool]) -> Iterator[None]:
        page = None
        while not over():
            tracing.to_system_call(self.worker.pid)
            self.worker.hear()
            before, page = page, self.worker.page.words.tolist()
            if page != before or tracing.system_call(self.worker.pid) is None:
                yield

    def _with_turn(self, done: Callable[[], bool]) -> Callable[[], bool]:
        turns: list[int] = []

        def over() -> bool:
            if not turns and done():
                turns.append(self.worker.totals["turns"])
            return bool(turns) and self.worker.totals["turns"] > turns[0]

        return over

    def come(self) -> None:
        """Another one comes."""
        self.newcomer = Raw(self.lineage.settings)

    def unharmed(self) -> None:
        """The established have lost nothing: they are who they were, and ring each other on all vectors."""
        for peer in self.established:
            peer.hear()
            assert not peer.ended()
        assert [peer.id for peer in self.established] == self.ids
        self.ring_each_other(*self.established)

    def ring_each_other(self, *peers: Raw) -> None:
        """All can ring all, on the first and the last vector, and each is rung as often as it was."""
        vectors = (0, self.lineage.settings.vectors - 1)
        for n, (src, dst) in enumerate(permutations(peers, 2), 1):
            for vector in vectors:
                src.ring(dst.id, vector, n)
                self.worker.wait(partial(was_rung, dst, vector, n), f"{src.id} rings {dst.id}")

    def only_established(self) -> None:
        """Waits until nobody else is there, and the established know it."""
        self.worker.wait(lambda: self.worker.present == self.ids, "only the established are there")
        for peer in self.established if not self.lineage.settings.sticky else ():
            self.worker.wait(partial(self._knows, peer), "they know it")
        self.worker.barrier()

    def _knows(self, peer: Raw) -> bool:
        peer.hear()
        return set(peer.peers) - self.forgotten == set(self.ids) - {peer.id}

    def doubt(self) -> bool:
        """Whether nobody can know if the dead worker has sent somebody a message."""
        page = self.worker.page
        return any(page.words[page.told_at(place)] for place in range(PORTS))

    def close(self) -> None:
        """Ends it all."""
        for peer in self.established:
            peer.close()
        self.lineage.close()


def was_rung(peer: Raw, vector: int, n: int) -> bool:
    """Whether it was rung so often."""
    return peer.take(vector) == n


@pytest.fixture
def town(request: pytest.FixtureRequest, folder: Path) -> Iterator[Town]:
    """A fabric of the kind that the test asks for."""
    with closing(Town(folder, *request.param)) as town:
        yield town


def of_kind(*kinds: tuple[str, str], vectors: tuple[int, ...] = (VECTORS,)) -> pytest.MarkDecorator:
    """With a fabric of each of these kinds."""
    towns = [(*kind, n) for kind in kinds for n in vectors]
    ids = ["-".join(map(str, town)) for town in towns]
    return pytest.mark.parametrize("town", towns, indirect=True, ids=ids)


# With 20 vectors a set-up is several bursts, which end in the midst of a port's.
@of_kind(("relayed", "fresh"), ("direct", "sticky"), vectors=(VECTORS, 20))
def test_a_kill_at_any_step_of_a_join_hurts_at_most_the_newcomer(town: Town) -> None:
    """Nor that one, unless its next message, or one about it, is in doubt, or nothing was written about it yet."""
    fates: Counter[bool] = Counter()
    for n in count(1):
        # Else it might have more to do at one time, and less at another, before it comes to that.
        town.worker.rest()
        killed = town.kill_at(n, town.come, risen(lambda: town.worker.totals["joins"]))
        with closing(town.newcomer) as newcomer:
            if not killed:
                newcomer.set_up()
                break
            doubt = town.doubt()
            newcomer.hear()
            told = bool(newcomer.values)
            town.lineage.succeed()
            joined = is_in(newcomer)
            assert joined or doubt or not told
            fates[joined] += 1
            if joined:
                town.worker.acquaint(*town.established, newcomer)
                town.ring_each_other(*town.established, newcomer)
            else:
                town.only_established()
            town.unharmed()
        town.only_established()
    assert min(fates[True], fates[False]) > 5


def risen(number: Callable[[], int]) -> Callable[[], bool]:
    """Says whether a number is greater than now."""
    before = number()
    return lambda: number() > before


def ring_and_leave(leaver: Raw, whom: int) -> None:
    """The last thing that a peer does."""
    leaver.ring(whom, 1, 7)
    leaver.close()


def is_in(newcomer: Raw) -> bool:
    """Whether its set-up is completed, and its membership goes on."""
    try:
        newcomer.set_up().hear()
    except (AssertionError, FamezError):
        return False
    return not newcomer.ended()


@of_kind(("relayed", "fresh"))
def test_a_kill_at_any_step_of_a_departure_hurts_nobody(town: Town) -> None:
    for n in count(1):
        leaver = town.lineage.member()
        leaving = leaver.id
        town.worker.acquaint(*town.established, leaver)
        town.worker.rest()
        if not town.kill_at(n, partial(ring_and_leave, leaver, town.ids[0]), risen(lambda: town.worker.left)):
            break
        if town.doubt():
            town.forgotten.add(leaving)
        town.lineage.succeed()
        town.only_established()
        # The last thing that the leaver did is not lost either.
        assert town.established[0].take(1) in (7, 14)
        town.unharmed()
    assert n > 10
    # Once for each to be told, before and after it was sent.
    assert len(town.forgotten) == 2 * len(town.ids)
    town.established[0].take(1)


@of_kind(("relayed", "sticky"), vectors=(250,))
def test_a_kill_at_any_step_of_packing_leaves_a_whole_ark(town: Town) -> None:
    for n in count(1):
        # With the third, the departed have left more than 2048 descriptors there.
        for _ in range(2):
            town.lineage.member().close()
            town.only_established()
        packed = generations(town.worker)
        leaver = town.lineage.member()
        gone = risen(lambda: town.worker.left)
        if not town.kill_at(n, leaver.close, gone, since=gone):
            break
        town.lineage.succeed()
        town.only_established()
        assert max(generations(town.worker)) > max(packed)
        assert len(generations(town.worker)) == 1
        town.unharmed()
    assert max(generations(town.worker)) > max(packed)
    assert n > 20


def generations(worker: Worker) -> set[int]:
    """Of which generations the manager keeps anything."""
    return {int(found[1]) for name in worker.kept if (found := ark.NAME.fullmatch(name))}


@of_kind(("relayed", "fresh"))
def test_a_successor_killed_at_any_step_is_succeeded_by_one_that_finds_all(town: Town) -> None:
    made: Counter[tuple[int, int, int]] = Counter()
    for n in count(1):
        src, vector = n % 2, n // 2 % 2
        made[src, 1 - src, vector] += 1
        ring = partial(town.established[src].ring, town.ids[1 - src], vector)
        if n == 1:
            assert town.kill_at(1, ring, lambda: False, since=lambda: town.lineage.in_flight() is not None)
        else:
            ring()
        town.lineage.begin_succession()
        if not town.kill_at(n, lambda: None, lambda: town.worker.doorbells() == made, partial(reads_ark, town.worker)):
            break
    assert town.worker.doorbells() == made
    assert n > 50
    town.worker.ready()
    for dst, at in product(range(2), range(VECTORS)):
        assert town.established[dst].take(at) >= made[1 - dst, dst, at]
    town.unharmed()


def reads_ark(worker: Worker) -> bool:
    """Whether it is about to read its ark: to peek, from the first record on."""
    call = tracing.system_call(worker.pid)
    return call is not None and call.arguments[1:3] == (SOL_SOCKET, SO_PEEK_OFF)
