"""The relay: every doorbell is counted and passed on, whatever a peer does to its eventfds, and whoever kills us."""

import errno
import fcntl
import itertools
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from famezd.fabric import relay
from famezd.fabric.faults import Faults
from famezd.fabric.relay import EMPTY, SHARE, STALL, SWITCH, Relay
from famezd.faults import Rule
from famezd.stats import ANYBODY, COUNT_LIMIT, IN_FLIGHT, SWITCH_ROW, InFlight, Page, Shape
from tests.unit.conftest import wait_until
from tests.unit.relay_process import connect, resume

# The relay has SIGALRM to itself.
pytestmark = pytest.mark.timeout(120, method="thread")

FULL = 2**64 - 2
"""The most that an eventfd holds."""
Eventfd = Callable[[], int]


class Rig:
    """A relay with its epoll and page, and who was given up."""

    def __init__(self, shape: Shape, rules: tuple[Rule, ...] = (), *, switch: int | None = None) -> None:
        self.page = Page.create("test", shape)
        self.epoll = select.epoll()
        self.stalled: list[int] = []
        faults = Faults(self.page, rules, switch=switch)
        faults.begin()
        self.relay = Relay(self.epoll, self.page, self.stalled.append, faults)

    def turn(self) -> list[tuple[int, int]]:
        return self.relay.relay(self.epoll.poll(0))

    def count(self, row: int, place: int, vector: int) -> int:
        return self.page.doorbells()[(row * self.page.shape.places + place) * self.page.shape.vectors + vector]

    def settled(self) -> bool:
        """Nothing is in flight, and nobody was given up."""
        return not self.page.words[IN_FLIGHT] and not self.stalled

    def close(self) -> None:
        self.relay.close()
        self.epoll.close()
        self.page.close()


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGALRM)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, handler)


@pytest.fixture
def rig() -> Iterator[Rig]:
    """Three peers of two vectors and the switch, relayed."""
    rig = Rig(Shape(places=4, rows=4, vectors=2))
    rig.relay.connect(3, [SWITCH, SWITCH])
    yield rig
    rig.close()


def rings(eventfd: int) -> int:
    """Takes what it holds."""
    try:
        return os.eventfd_read(eventfd)
    except BlockingIOError:
        return 0


def set_blocking(eventfd: int) -> None:
    """What a peer can do to an eventfd that it shares with us."""
    fcntl.fcntl(eventfd, fcntl.F_SETFL, fcntl.fcntl(eventfd, fcntl.F_GETFL) & ~os.O_NONBLOCK)


def is_ready(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


# Passing on


def test_a_doorbell_passes_with_its_exact_count(rig: Rig, eventfd: Eventfd) -> None:
    bell, receivers = eventfd(), [eventfd(), eventfd()]
    rig.relay.connect(2, receivers)
    rig.relay.add(bell, 1, 2, 1)
    os.eventfd_write(bell, 5)
    assert rig.turn() == []
    assert [rings(fd) for fd in receivers] == [0, 5]
    assert not is_ready(bell)
    assert rig.count(1, 2, 1) == sum(rig.page.doorbells()) == 5
    assert not any(rig.page.totals().values())
    assert rig.settled()


def test_a_burst_is_passed_on_as_one_and_counted_in_full(rig: Rig, eventfd: Eventfd) -> None:
    bell, receiver = eventfd(), eventfd()
    rig.relay.connect(2, [receiver, EMPTY])
    rig.relay.add(bell, 0, 2, 0)
    for turns in range(1, 4):
        for _ in range(100):
            os.eventfd_write(bell, 1)
        rig.turn()
        assert rig.count(0, 2, 0) == 100 * turns
    assert rings(receiver) == 300


def test_every_bell_leads_to_its_own_receiver_and_counter(rig: Rig, eventfd: Eventfd) -> None:
    receivers = {(place, vector): eventfd() for place in range(3) for vector in range(2)}
    for place in range(3):
        rig.relay.connect(place, [receivers[place, 0], receivers[place, 1]])
    rung: dict[tuple[int, int, int], int] = {}
    for row in range(4):
        for place, vector in receivers:
            bell = eventfd()
            rig.relay.add(bell, row, place, vector)
            rung[row, place, vector] = len(rung) + 1
            os.eventfd_write(bell, rung[row, place, vector])
    rig.turn()
    assert {key: rig.count(*key) for key in rung} == rung
    for (place, vector), receiver in receivers.items():
        assert rings(receiver) == sum(rung[row, place, vector] for row in range(4))


def test_doorbells_to_an_empty_place_are_counted_and_dropped(rig: Rig, eventfd: Eventfd) -> None:
    bell, receiver = eventfd(), eventfd()
    rig.relay.add(bell, 0, 1, 0)
    os.eventfd_write(bell, 3)
    rig.turn()
    assert (rig.count(0, 1, 0), rig.page.totals()["dropped"]) == (3, 3)
    rig.relay.connect(1, [receiver, EMPTY])
    os.eventfd_write(bell, 4)
    rig.turn()
    rig.relay.disconnect(1)
    os.eventfd_write(bell, 5)
    rig.turn()
    assert (rig.count(0, 1, 0), rig.page.totals()["dropped"], rings(receiver)) == (12, 8, 4)
    assert rig.settled()


def test_doorbells_to_the_switch_wait_for_it_with_ringer_vector_and_count(rig: Rig, eventfd: Eventfd) -> None:
    bells = [eventfd(), eventfd()]
    rig.relay.add(bells[0], 2, 3, 1)
    rig.relay.add(bells[1], 0, 3, 0)
    for n, bell in enumerate(bells, 6):
        os.eventfd_write(bell, n)
    rig.turn()
    assert rig.relay.for_switch == {(0, 0): 7, (2, 1): 6}
    assert not rig.relay.calm
    assert (rig.count(2, 3, 1), rig.count(0, 3, 0)) == (6, 7)
    assert rig.page.totals()["dropped"] == 0


def test_events_that_are_no_doorbells_are_returned(rig: Rig, eventfd: Eventfd) -> None:
    bell, other = eventfd(), eventfd()
    rig.relay.add(bell, 0, 1, 0)
    assert rig.relay.relay([(other, select.EPOLLHUP), (bell, select.EPOLLIN), (77, 1)]) == [
        (other, select.EPOLLHUP),
        (77, 1),
    ]


def test_a_bell_that_the_kernel_cannot_watch_is_an_error_and_not_added(rig: Rig, tmp_path: Path) -> None:
    with open(tmp_path / "file", "w") as file:
        with pytest.raises(PermissionError):
            rig.relay.add(file.fileno(), 0, 1, 0)
        assert rig.relay.relay([(file.fileno(), 1)]) == [(file.fileno(), 1)]


@pytest.mark.parametrize(("rung", "taken"), [(COUNT_LIMIT, COUNT_LIMIT), (COUNT_LIMIT + 1, COUNT_LIMIT), (FULL,) * 2])
def test_more_than_anybody_rings_is_clipped(rig: Rig, eventfd: Eventfd, rung: int, taken: int) -> None:
    taken = min(taken, COUNT_LIMIT)
    bell, receiver = eventfd(), eventfd()
    rig.relay.connect(2, [receiver, EMPTY])
    rig.relay.add(bell, 0, 2, 0)
    os.eventfd_write(bell, rung)
    rig.turn()
    assert rig.count(0, 2, 0) == rings(receiver) == taken == COUNT_LIMIT
    assert rig.page.totals()["clipped"] == (rung > COUNT_LIMIT)


def test_the_switch_rings_as_a_row_of_its_own(rig: Rig, eventfd: Eventfd) -> None:
    receiver = eventfd()
    rig.relay.connect(1, [EMPTY, receiver])
    rig.relay.ring(3, 1, 1)
    rig.relay.ring(3, 1, 1)
    rig.relay.ring(3, 0, 0)
    assert (rig.count(3, 1, 1), rings(receiver)) == (2, 2)
    assert (rig.count(3, 0, 0), rig.page.totals()["dropped"]) == (1, 1)
    assert rig.settled()


def test_on_a_direct_fabric_only_doorbells_to_and_from_the_switch_are_counted(eventfd: Eventfd) -> None:
    rig = Rig(Shape(places=4, rows=2, vectors=2))
    bell, receiver = eventfd(), eventfd()
    rig.relay.connect(3, [SWITCH, SWITCH])
    rig.relay.connect(0, [receiver, EMPTY])
    rig.relay.add(bell, ANYBODY, 3, 1)
    os.eventfd_write(bell, 2)
    rig.turn()
    rig.relay.ring(SWITCH_ROW, 0, 0)
    assert rig.relay.for_switch == {(ANYBODY, 1): 2}
    assert (rig.count(ANYBODY, 3, 1), rig.count(SWITCH_ROW, 0, 0), rings(receiver)) == (2, 1, 1)
    assert sum(rig.page.doorbells()) == 3
    rig.close()


# Removal


def test_removing_a_bell_passes_on_what_it_still_holds(rig: Rig, eventfd: Eventfd) -> None:
    bells, receiver = [os.eventfd(3, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)], eventfd()
    rig.relay.connect(2, [receiver, EMPTY])
    for vector, bell in enumerate(bells):
        rig.relay.add(bell, 0, 2, vector)
    rig.relay.remove(bells)
    assert (rings(receiver), rig.count(0, 2, 0)) == (3, 3)
    for bell in bells:
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            os.fstat(bell)


def test_a_removed_bell_that_its_peer_still_holds_is_heard_no_more(rig: Rig, eventfd: Eventfd) -> None:
    theirs = eventfd()
    ours = os.dup(theirs)
    rig.relay.add(ours, 0, 2, 0)
    rig.relay.remove([ours])
    os.eventfd_write(theirs, 1)
    assert rig.epoll.poll(0) == []


# What peers do to their eventfds


def test_an_empty_bell_that_blocks_does_not_stop_the_relay(rig: Rig, eventfd: Eventfd) -> None:
    bells, receiver = [eventfd(), eventfd()], eventfd()
    rig.relay.connect(2, [receiver, EMPTY])
    for row, bell in enumerate(bells):
        rig.relay.add(bell, row, 2, 0)
    set_blocking(bells[0])
    os.eventfd_write(bells[1], 1)
    # As it comes about when the peer itself reads the bell between our poll and our read.
    rig.relay.relay([(bell, select.EPOLLIN) for bell in bells])
    assert rings(receiver) == 1
    os.eventfd_write(bells[0], 2)
    rig.turn()
    assert (rings(receiver), rig.count(0, 2, 0)) == (2, 2)
    assert rig.settled()


def test_a_full_receiver_is_pending_already(rig: Rig, eventfd: Eventfd) -> None:
    bell, receiver = eventfd(), eventfd()
    rig.relay.connect(2, [receiver, EMPTY])
    rig.relay.add(bell, 0, 2, 0)
    os.eventfd_write(receiver, FULL)
    os.eventfd_write(bell, 1)
    rig.turn()
    rig.relay.ring(3, 2, 0)
    assert (rig.count(0, 2, 0), rig.count(3, 2, 0)) == (1, 1)
    assert rig.settled()
    assert rings(receiver) == FULL
    os.eventfd_write(bell, 1)
    rig.turn()
    assert rings(receiver) == 1


def test_a_receiver_that_blocks_is_given_up_and_costs_nobody_else_a_doorbell(rig: Rig, eventfd: Eventfd) -> None:
    blocked, receiver = [eventfd(), eventfd()], eventfd()
    rig.relay.connect(1, blocked)
    rig.relay.connect(2, [receiver, receiver])
    bells = [eventfd() for _ in range(5)]
    for bell, place, vector in zip(bells, (2, 1, 1, 2, 1), (0, 0, 1, 1, 0), strict=True):
        rig.relay.add(bell, 0, place, vector)
        os.eventfd_write(bell, 1)
    for eventfd_ in blocked:
        os.eventfd_write(eventfd_, FULL)
        set_blocking(eventfd_)
    began = time.monotonic()
    rig.turn()
    stood_still = time.monotonic() - began
    assert stood_still >= STALL
    assert rig.stalled == [1]
    # All were counted, two reached the other peer, and the three to the place that was given up are gone.
    assert (sum(rig.page.doorbells()), rings(receiver), rig.page.totals()["dropped"]) == (5, 2, 3)
    assert not rig.page.words[IN_FLIGHT]

    for bell in bells:
        os.eventfd_write(bell, 1)
    rig.turn()
    assert rig.stalled == [1], "nothing stood still again"
    assert (sum(rig.page.doorbells()), rings(receiver), rig.page.totals()["dropped"]) == (10, 2, 6)


def test_receivers_that_block_are_given_up_one_by_one_where_nobody_is_wary(
    rig: Rig, eventfd: Eventfd, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if so long had gone by between them.
    monkeypatch.setattr(relay, "WARY", -1.0)
    for place in range(3):
        bell, receiver = eventfd(), eventfd()
        rig.relay.connect(place, [receiver, EMPTY])
        rig.relay.add(bell, 0, place, 0)
        os.eventfd_write(receiver, FULL)
        set_blocking(receiver)
        os.eventfd_write(bell, 1)
    rig.turn()
    assert sorted(rig.stalled) == [0, 1, 2]
    assert rig.page.totals()["dropped"] == 3


def test_after_one_stall_no_other_receiver_can_cause_another(rig: Rig, eventfd: Eventfd) -> None:
    for place in range(3):
        bell, receiver = eventfd(), eventfd()
        rig.relay.connect(place, [receiver, EMPTY])
        rig.relay.add(bell, 0, place, 0)
        os.eventfd_write(receiver, FULL)
        set_blocking(receiver)
        os.eventfd_write(bell, 1)
        rig.relay.relay([(bell, select.EPOLLIN)])
    # The others' eventfds were made non-blocking again before they were written, and are full: nothing stood still.
    assert rig.stalled == [0]


def test_the_switch_gives_up_a_receiver_that_blocks_too(rig: Rig, eventfd: Eventfd) -> None:
    receiver = eventfd()
    rig.relay.connect(1, [EMPTY, receiver])
    os.eventfd_write(receiver, FULL)
    set_blocking(receiver)
    rig.relay.ring(3, 1, 1)
    assert rig.stalled == [1]
    assert not rig.page.words[IN_FLIGHT]
    assert (rig.count(3, 1, 1), rig.page.totals()["dropped"]) == (1, 1)


def test_a_receiver_that_blocks_but_has_room_is_rung(rig: Rig, eventfd: Eventfd) -> None:
    bell, receiver = eventfd(), eventfd()
    set_blocking(receiver)
    rig.relay.connect(1, [receiver, EMPTY])
    rig.relay.add(bell, 0, 1, 0)
    os.eventfd_write(bell, 1)
    rig.turn()
    assert rings(receiver) == 1
    assert rig.settled()


def test_the_watchmans_timer_stops_when_nothing_is_relayed_and_starts_again(rig: Rig, eventfd: Eventfd) -> None:
    bell = eventfd()
    rig.relay.add(bell, 0, 1, 0)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    for _ in range(2):
        os.eventfd_write(bell, 1)
        rig.turn()
        assert signal.getitimer(signal.ITIMER_REAL)[1] == STALL
        wait_until(lambda: signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0))


def test_the_watchman_sleeps_through_turns_without_doorbells(rig: Rig) -> None:
    rig.turn()
    rig.relay.relay([(77, select.EPOLLIN)])
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


# Killed


KILLS = 50
AT_WORK = 25
"""How many of the kills have to strike a doorbell in flight before there are enough."""


@contextmanager
def on_another_processor(pid: int) -> Iterator[None]:
    """Keeps a process and this one from waiting for each other's processor, where there are two."""
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(pid, {max(processors)})
    os.sched_setaffinity(0, {min(processors)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, processors)


def test_no_kill_loses_a_doorbell_or_counts_one_twice(eventfd: Eventfd) -> None:
    rig = Rig(Shape(places=4, rows=4, vectors=128))
    vectors = rig.page.shape.vectors
    receivers, bells = [eventfd() for _ in range(vectors)], [eventfd() for _ in range(4 * vectors)]
    descriptors = [rig.page.descriptor, *receivers, *bells]
    command = [sys.executable, "-S", "-m", "tests.unit.relay_process", *map(str, descriptors)]
    chance = random.Random(1)
    rung = [0] * len(bells)
    kills = at_work = 0

    def ring(how_many: int) -> None:
        for i in range(how_many):
            os.eventfd_write(bells[i], 1)
            rung[i] += 1

    while kills < KILLS or (at_work < AT_WORK and kills < 5 * KILLS):
        # So many that they keep a process busy for a while. It dies in the midst of them, at any instruction.
        ring(len(bells))
        row, vector = divmod(chance.randrange(len(bells) * 3 // 4), vectors)
        counter = rig.page.shape.doorbells_at + row * rig.page.shape.places * vectors + vector
        before = rig.page.words[counter]
        with (
            subprocess.Popen(command, pass_fds=descriptors, stdout=subprocess.PIPE) as process,
            on_another_processor(process.pid),
        ):
            assert process.stdout is not None
            assert process.stdout.readline() == b"relays\n"
            ring(chance.randrange(10))
            while rig.page.words[counter] == before:
                assert process.poll() is None
            process.kill()
        kills += 1
        at_work += rig.page.words[IN_FLIGHT] != 0
    assert at_work
    # What the last of them left, and what was rung since.
    resume(rig.page, receivers)
    connect(rig.relay, receivers, bells)
    rig.turn()
    assert [rig.count(row, 0, vector) for row in range(4) for vector in range(vectors)] == rung
    assert sum(rig.page.doorbells()) == sum(rung)
    assert rig.page.totals()["dropped"] == 0
    for vector, receiver in enumerate(receivers):
        assert rings(receiver) >= sum(rung[vector::vectors])
    rig.close()


def test_a_doorbell_of_the_switchs_is_recovered_as_any_other(rig: Rig, eventfd: Eventfd) -> None:
    receiver = eventfd()
    os.eventfd_write(receiver, FULL)
    set_blocking(receiver)
    code = (
        "import select, signal; from famezd.fabric.relay import Relay; from famezd.stats import Page\n"
        # Nobody interrupts its write.
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])\n"
        f"relay = Relay(select.epoll(), Page.open({rig.page.descriptor}, writable=True), print)\n"
        f"relay.ring(3, 0, 0); relay.ring(3, 0, 0); relay.connect(1, [-1, {receiver}]); relay.ring(3, 1, 1)"
    )
    command = [sys.executable, "-c", code]
    at = rig.page.shape.doorbells_at + (3 * 4 + 1) * 2 + 1
    rig.page.words[at] = 10
    with subprocess.Popen(command, pass_fds=[rig.page.descriptor, receiver]) as process:
        wait_until(lambda: rig.page.words[IN_FLIGHT + 1] == at and rig.page.words[at] == 11)
        process.kill()
    for _ in range(2):
        assert rig.page.recover() == InFlight(at - rig.page.shape.doorbells_at, 1)
        assert (rig.count(3, 0, 0), rig.count(3, 1, 1)) == (2, 11)
    assert rig.page.totals()["dropped"] == 2


def test_a_few_events_are_shared_out_as_they_are(rig: Rig) -> None:
    events = [(7, select.EPOLLIN), (8, select.EPOLLHUP)]
    assert rig.relay.share(events) is events
    assert not rig.relay.waiting


def test_of_a_flood_of_one_ringers_only_a_share_comes_before_the_others(eventfd: Eventfd) -> None:
    rig = Rig(Shape(places=3, rows=3, vectors=40))
    flood, other = [eventfd() for _ in range(40)], eventfd()
    for vector, bell in enumerate(flood):
        rig.relay.add(bell, 0, 2, vector)
        os.eventfd_write(bell, 1)
    stranger = (99999, select.EPOLLHUP)
    first = rig.relay.share([*rig.epoll.poll(0), stranger])
    assert [bell for bell, _ in first if bell in flood] == flood[:SHARE]
    assert stranger in first
    rig.relay.relay(first)
    # Rung after all of those.
    rig.relay.add(other, 1, 2, 0)
    os.eventfd_write(other, 1)
    os.eventfd_write(flood[20], 1)
    second = rig.relay.share(rig.epoll.poll(0))
    assert [bell for bell, _ in second] == [*flood[SHARE : 2 * SHARE], other]
    rig.relay.relay(second)
    assert rig.relay.waiting
    assert not rig.relay.calm
    rig.relay.relay(rig.relay.share(()))
    assert not rig.relay.waiting
    assert rig.relay.calm
    assert [rig.count(0, 2, vector) for vector in range(40)] == [2 if vector == 20 else 1 for vector in range(40)]
    assert rig.count(1, 2, 0) == 1
    rig.close()


def test_what_waits_can_be_had_at_once(eventfd: Eventfd) -> None:
    rig = Rig(Shape(places=2, rows=2, vectors=40))
    for vector in range(40):
        bell = eventfd()
        rig.relay.add(bell, 0, 1, vector)
        os.eventfd_write(bell, 1)
    rig.relay.relay(rig.relay.share(rig.epoll.poll(0)))
    assert sum(rig.page.doorbells()) == SHARE
    rig.relay.relay(rig.relay.rest())
    assert sum(rig.page.doorbells()) == 40
    assert not rig.relay.waiting
    rig.close()


def test_a_bell_that_waits_and_is_removed_is_passed_on_and_forgotten(eventfd: Eventfd) -> None:
    """Its number may be another descriptor's by the time of its turn."""
    rig = Rig(Shape(places=2, rows=2, vectors=40))
    bells = [os.dup(eventfd()) for _ in range(40)]
    for vector, bell in enumerate(bells):
        rig.relay.add(bell, 0, 1, vector)
        os.eventfd_write(bell, 1)
    rig.relay.relay(rig.relay.share(rig.epoll.poll(0)))
    assert rig.relay.waiting
    rig.relay.remove(bells)
    assert rig.relay.share(()) == []
    while rig.relay.waiting:
        assert rig.relay.share(()) == []
    assert sum(rig.page.doorbells()) == 40
    rig.close()


# Stalls that are none


def seen_to_stall_at(step: int, code: str, run: Callable[[], object]) -> bool:
    """Runs it, with two looks of the watchman's between two of its instructions; whether it has so many."""
    steps = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal steps
        if frame.f_code.co_filename != code:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and (steps := steps + 1) == step:
            signal.raise_signal(signal.SIGALRM)
            signal.raise_signal(signal.SIGALRM)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return steps >= step


@pytest.mark.parametrize("to", ["peer", "nobody", "switch"])
@pytest.mark.parametrize("ruled", [False, True])
def test_who_was_kept_from_running_for_long_loses_nothing(eventfd: Eventfd, to: str, *, ruled: bool) -> None:
    """Wherever that was: the watchman takes it for a write that stands still."""
    bell, receiver = eventfd(), eventfd()
    rules = (Rule(1, "duplicate", probability=1.0),) if ruled else ()
    for step in itertools.count(1):
        rig = Rig(Shape(places=4, rows=4, vectors=2), rules, switch=3)
        rig.relay.connect(3, [SWITCH, SWITCH])
        rig.relay.connect(1, [receiver, EMPTY])
        place = {"peer": 1, "nobody": 2, "switch": 3}[to]
        rig.relay.add(bell, 0, place, 0)
        os.eventfd_write(bell, 3)
        reached = seen_to_stall_at(step, relay.__file__, rig.turn)
        passed = 6 if ruled else 3
        assert (rig.count(0, place, 0), sum(rig.page.doorbells())) == (3, 3)
        assert rig.relay.for_switch == ({(0, 0): passed} if to == "switch" else {})
        assert rig.page.totals()["dropped"] == (passed if to == "nobody" else 0)
        # Perhaps twice, which is harmless.
        assert rings(receiver) in ((passed, 2 * passed) if to == "peer" else (0,))
        assert rig.settled()
        assert not rig.page.held()
        rig.epoll.unregister(bell)
        rig.close()
        if not reached:
            return


def test_a_receiver_that_blocks_again_at_once_is_given_up(
    rig: Rig, eventfd: Eventfd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its peer clears O_NONBLOCK without end, also between our setting it and our writing."""
    bell, receiver = eventfd(), eventfd()
    rig.relay.connect(1, [receiver, EMPTY])
    rig.relay.add(bell, 0, 1, 0)
    os.eventfd_write(receiver, FULL)
    monkeypatch.setattr(os, "set_blocking", lambda descriptor, _: set_blocking(descriptor))
    set_blocking(receiver)
    os.eventfd_write(bell, 1)
    rig.turn()
    assert rig.stalled == [1]
    assert rig.page.totals()["dropped"] == 1
    assert not rig.page.words[IN_FLIGHT]
