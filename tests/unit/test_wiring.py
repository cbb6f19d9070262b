"""Who shares which eventfds, and that all of them are gone when nobody needs them."""

import errno
import fcntl
import itertools
import os
import resource
import select
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from famezd.fabric import wiring as wirings
from famezd.fabric.relay import Relay
from famezd.fabric.wiring import Direct, Relayed, Wiring
from famezd.faults import Rule
from famezd.protocol import Descriptor
from famezd.stats import ANYBODY, Page, Shape

# The relay has SIGALRM to itself.
pytestmark = pytest.mark.timeout(120, method="thread")

PEERS, VECTORS, THE_SWITCH = 3, 2, 3


class Rig:
    """A relay with three places and a switch, and how many descriptors there were before."""

    def __init__(self, shape: Shape) -> None:
        self.page = Page.create("test", shape)
        self.epoll = select.epoll()
        self.relay = Relay(self.epoll, self.page, lambda place: pytest.fail(f"place {place} stalled"))
        self.before = open_descriptors()

    def turn(self) -> None:
        assert self.relay.relay(self.epoll.poll(0)) == []

    def count(self, row: int, place: int, vector: int) -> int:
        return self.page.doorbells()[(row * self.page.shape.places + place) * VECTORS + vector]

    @property
    def dropped(self) -> int:
        return self.page.totals()["dropped"]


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@contextmanager
def rigged(rows: int) -> Iterator[Rig]:
    handler = signal.getsignal(signal.SIGALRM)
    before = open_descriptors()
    rig = Rig(Shape(PEERS + 1, rows, VECTORS))
    yield rig
    rig.relay.close()
    signal.signal(signal.SIGALRM, handler)
    rig.epoll.close()
    rig.page.close()
    for descriptor in open_descriptors() - before:
        # Who is on a fabric when it ends keeps its eventfds to the end of the process.
        try:
            os.close(int(descriptor))
        except OSError:
            # The listing's own.
            pass


@pytest.fixture
def relayed() -> Iterator[Rig]:
    with rigged(rows=PEERS + 1) as rig:
        yield rig


@pytest.fixture
def direct() -> Iterator[Rig]:
    with rigged(rows=2) as rig:
        yield rig


def rings(eventfd: int) -> int:
    try:
        return os.eventfd_read(eventfd)
    except BlockingIOError:
        return 0


def ring(bells: Sequence[int], *counts: int) -> None:
    for bell, n in zip(bells, counts, strict=True):
        os.eventfd_write(bell, n)


def same_files(some: Sequence[int], others: Sequence[int]) -> bool:
    """Whether they are the same eventfds: by the kernel's number for each."""
    return [eventfd_id(fd) for fd in some] == [eventfd_id(fd) for fd in others]


def eventfd_id(descriptor: int) -> str:
    with open(f"/proc/self/fdinfo/{descriptor}") as info:
        return next(line for line in info if line.startswith("eventfd-id"))


@contextmanager
def no_more_descriptors_than(more: int) -> Iterator[None]:
    """Lets the process open only so many more descriptors."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = (n for n in itertools.count() if not os.path.lexists(f"/proc/self/fd/{n}"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(itertools.islice(free, more, None)), limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


# Relayed


@pytest.mark.parametrize("sticky", [True, False])
def test_relayed_bells_are_their_peers_own_and_lead_to_the_place(relayed: Rig, sticky: bool) -> None:
    wiring = Relayed(relayed.relay, VECTORS, switch=None, sticky=sticky)
    receivers = [wiring.open(place) for place in range(PEERS)]
    bells = {(a, b): wiring.bells(a, b) for a in range(PEERS) for b in range(PEERS) if a != b}
    everything = [fd for fds in [*receivers, *bells.values()] for fd in fds]
    assert len({eventfd_id(fd) for fd in everything}) == len(everything) == VECTORS * (PEERS + 6)
    assert not any(os.get_inheritable(fd) for fd in everything)
    assert all(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK for fd in everything)
    ring(bells[0, 1], 3, 4)
    ring(bells[2, 1], 5, 6)
    relayed.turn()
    assert [[rings(fd) for fd in fds] for fds in receivers] == [[0, 0], [8, 10], [0, 0]]
    assert (relayed.count(0, 1, 0), relayed.count(2, 1, 1)) == (3, 6)


def test_relayed_bells_are_made_once(relayed: Rig) -> None:
    wiring = Relayed(relayed.relay, VECTORS, switch=None, sticky=True)
    wiring.open(0)
    assert wiring.bells(0, 1) is wiring.bells(0, 1)


def test_relayed_bells_to_an_empty_port_reach_whoever_comes(relayed: Rig) -> None:
    wiring = Relayed(relayed.relay, VECTORS, switch=None, sticky=True)
    wiring.open(0)
    bells = wiring.bells(0, 1)
    ring(bells, 1, 1)
    relayed.turn()
    assert relayed.dropped == 2
    receivers = wiring.open(1)
    ring(bells, 1, 2)
    relayed.turn()
    assert [rings(fd) for fd in receivers] == [1, 2]
    assert relayed.dropped == 2


def test_relayed_doorbells_to_the_switch_come_with_their_ringers_row(relayed: Rig) -> None:
    wiring = Relayed(relayed.relay, VECTORS, switch=THE_SWITCH, sticky=True)
    wiring.open(1)
    ring(wiring.bells(1, THE_SWITCH), 2, 3)
    relayed.turn()
    assert relayed.relay.for_switch == {(1, 0): 2, (1, 1): 3}


def test_what_a_leaver_rang_is_passed_on_and_its_eventfds_are_closed(relayed: Rig) -> None:
    wiring = Relayed(relayed.relay, VECTORS, switch=THE_SWITCH, sticky=True)
    receivers = wiring.open(1)
    before = open_descriptors()
    wiring.open(0)
    ring(wiring.bells(0, 1), 3, 0)
    ring(wiring.bells(0, THE_SWITCH), 0, 1)
    wiring.close(0)
    assert [rings(fd) for fd in receivers] == [3, 0]
    assert relayed.relay.for_switch == {(0, 1): 1}
    assert open_descriptors() == before


def test_sticky_bells_to_a_port_outlive_its_occupant(relayed: Rig) -> None:
    wiring = Relayed(relayed.relay, VECTORS, switch=None, sticky=True)
    wiring.open(0)
    bells = wiring.bells(0, 1)
    first = wiring.open(1)
    ring(first, 7, 0)
    wiring.close(1)
    ring(bells, 1, 1)
    relayed.turn()
    assert (relayed.dropped, relayed.count(0, 1, 0)) == (2, 1)
    second = wiring.open(1)
    assert [rings(fd) for fd in second] == [0, 0]
    ring(bells, 4, 0)
    relayed.turn()
    assert [rings(fd) for fd in second] == [4, 0]
    assert wiring.bells(0, 1) == bells


def test_fresh_bells_to_a_place_go_with_its_occupant_and_count_to_the_last(relayed: Rig) -> None:
    wiring = Relayed(relayed.relay, VECTORS, switch=None, sticky=False)
    wiring.open(0)
    before = open_descriptors()
    wiring.open(1)
    ring(wiring.bells(0, 1), 1, 2)
    wiring.bells(1, 0)
    wiring.close(1)
    assert open_descriptors() == before
    assert (relayed.dropped, relayed.count(0, 1, 0), relayed.count(0, 1, 1)) == (3, 1, 2)
    wiring.open(1)
    assert len(wiring.bells(0, 1)) == VECTORS


@pytest.mark.parametrize("room", range(2 * VECTORS))
@pytest.mark.parametrize("sticky", [True, False])
def test_relayed_eventfds_that_cannot_be_made_leave_nothing_behind(relayed: Rig, room: int, sticky: bool) -> None:
    wiring = Relayed(relayed.relay, VECTORS, switch=None, sticky=sticky)
    wiring.open(1)
    before = open_descriptors()
    with no_more_descriptors_than(room), pytest.raises(OSError, match="Too many open files"):
        (wiring.open(0), wiring.bells(0, 1))
    wiring.close(0)
    assert open_descriptors() == before
    wiring.open(0)
    ring(wiring.bells(0, 1), 1, 1)
    relayed.turn()
    assert relayed.dropped == 0


def test_a_sweep_ends_though_its_bells_are_rung_again_all_the_time(relayed: Rig) -> None:
    bells: list[Descriptor] = []
    wiring = Relayed(relayed.relay, VECTORS, switch=None, sticky=True, breathe=lambda: ring(bells, *[1] * len(bells)))
    bells += wiring.bells(0, 1)
    ring(bells, 1, 1)
    wiring.sweep(0)
    assert [relayed.count(0, 1, vector) for vector in range(VECTORS)] == [1, 1]
    # They are closed now, and their numbers may be other descriptors'.
    bells.clear()
    wiring.close(0)
    # What was rung before they were closed is not lost either.
    assert [relayed.count(0, 1, vector) for vector in range(VECTORS)] == [2, 2]


def test_closing_a_place_that_nobody_opened_does_nothing(relayed: Rig) -> None:
    for sticky in (True, False):
        wiring = Relayed(relayed.relay, VECTORS, switch=None, sticky=sticky)
        wiring.close(2)


# Ready beforehand


def make_ready(wiring: Wiring) -> int:
    """Makes all ready that are wanted; returns in how many steps."""
    steps = 0
    while wiring.lacks:
        wiring.make_ready()
        steps += 1
    return steps


def eventfds_made(before: set[str]) -> int:
    return len(open_descriptors() - before)


@pytest.mark.parametrize("switch", [None, THE_SWITCH])
@pytest.mark.parametrize("sticky", [True, False])
def test_all_that_a_full_fabric_needs_is_made_ready_and_then_taken(
    relayed: Rig, sticky: bool, switch: int | None
) -> None:
    wiring = Relayed(relayed.relay, VECTORS, switch=switch, sticky=sticky)
    peers = relayed.relay.places - (switch is not None)
    full = peers * relayed.relay.places * VECTORS
    assert make_ready(wiring) == peers * relayed.relay.places + 1
    assert eventfds_made(relayed.before) == full
    # Nobody has them: the ark is told of those that somebody has.
    assert (wiring.sets, wiring.take_made()) == ({}, [])
    receivers = [wiring.open(place) for place in range(peers)]
    bells = {(a, b): wiring.bells(a, b) for a in range(peers) for b in range(relayed.relay.places) if a != b}
    assert eventfds_made(relayed.before) == full
    assert {key for key, _ in wiring.take_made()} == wiring.sets.keys()
    ring(bells[0, 1], 3, 4)
    ring(bells[2, 1], 5, 6)
    relayed.turn()
    assert [[rings(fd) for fd in fds] for fds in receivers[:3]] == [[0, 0], [8, 10], [0, 0]]
    assert (relayed.count(0, 1, 0), relayed.count(2, 1, 1)) == (3, 6)


@pytest.mark.parametrize("sticky", [True, False])
def test_who_has_left_is_followed_by_others_with_new_eventfds(relayed: Rig, sticky: bool) -> None:
    wiring = Relayed(relayed.relay, VECTORS, switch=None, sticky=sticky)
    make_ready(wiring)
    full = eventfds_made(relayed.before)
    for _ in range(3):
        # Whoever left may have them still.
        had = [os.dup(fd) for fd in [*wiring.open(0), *wiring.bells(0, 1)]]
        wiring.close(0)
        make_ready(wiring)
        assert eventfds_made(relayed.before) == full + len(had)
        assert not {eventfd_id(fd) for fd in had} & {eventfd_id(fd) for fd in [*wiring.open(0), *wiring.bells(0, 1)]}
        ring(had, *[1] * len(had))
        relayed.turn()
        assert not any(relayed.page.doorbells())
        wiring.close(0)
        for fd in had:
            os.close(fd)
        make_ready(wiring)


def test_there_is_an_end_to_how_many_are_ready(relayed: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wirings, "MOST_READY", 5 * VECTORS)
    wiring = Relayed(relayed.relay, VECTORS, switch=None, sticky=True)
    make_ready(wiring)
    assert eventfds_made(relayed.before) == 5 * VECTORS
    wiring.open(0)
    # What was taken is not ready any more.
    make_ready(wiring)
    assert eventfds_made(relayed.before) == 6 * VECTORS


@pytest.mark.parametrize("room", [0, 1, 2 * VECTORS, 2 * VECTORS + 1])
def test_where_there_is_no_room_none_is_ready_any_more(relayed: Rig, direct: Rig, room: int) -> None:
    for rig in (relayed, direct):
        kind = Relayed if rig is relayed else Direct
        wiring = kind(rig.relay, VECTORS, switch=None, sticky=True)
        before = open_descriptors()
        with no_more_descriptors_than(room):
            make_ready(wiring)
        assert open_descriptors() == before
        assert make_ready(wiring) == 0
        # Who comes is served all the same.
        assert len(wiring.open(0)) == len(wiring.bells(0, 1)) == VECTORS


def test_what_is_ready_gives_way_to_what_somebody_needs(relayed: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wirings, "MOST_READY", 2 * VECTORS)
    wiring = Relayed(relayed.relay, VECTORS, switch=None, sticky=True)
    make_ready(wiring)
    with no_more_descriptors_than(1):
        assert len(wiring.open(1)) == VECTORS
        wiring.bells(1, 0)
        with pytest.raises(OSError, match="Too many open files"):
            (wiring.bells(1, 2), wiring.bells(1, 3))
    wiring.close(1)
    assert open_descriptors() == relayed.before
    assert len(wiring.open(1)) == VECTORS


@pytest.mark.parametrize("sticky", [True, False])
def test_what_was_ready_for_somebody_else_is_taken_before_any_is_made(
    relayed: Rig, sticky: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wirings, "MOST_READY", 6 * VECTORS)
    wiring = Relayed(relayed.relay, VECTORS, switch=None, sticky=sticky)
    make_ready(wiring)
    made = eventfds_made(relayed.before)
    receivers = [wiring.open(place) for place in (2, 0)]
    bells = wiring.bells(2, 0)
    assert eventfds_made(relayed.before) == made
    ring(bells, 1, 2)
    relayed.turn()
    assert [rings(fd) for fd in receivers[1]] == [1, 2]
    assert [relayed.count(2, 0, vector) for vector in range(VECTORS)] == [1, 2]


def test_what_is_vacated_is_not_remembered_without_end(relayed: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    wiring = Relayed(relayed.relay, VECTORS, switch=None, sticky=False)
    monkeypatch.setattr(wirings, "MOST_READY", 2)
    for _ in range(3):
        for place in range(PEERS):
            wiring.open(place)
        for src, dst in itertools.permutations(range(PEERS), 2):
            wiring.bells(src, dst)
        for place in range(PEERS):
            wiring.close(place)
            assert len(wiring._vacated) <= 2
    monkeypatch.undo()
    make_ready(wiring)
    assert eventfds_made(relayed.before) == relayed.relay.places**2 * VECTORS


def test_rules_concern_bells_that_were_ready_before(relayed: Rig) -> None:
    """With fresh ports nobody knows, when bells are made ready, whose they will be."""
    wiring = Relayed(relayed.relay, VECTORS, switch=None, sticky=False)
    relayed.relay.faults.begin()
    relayed.relay.change_rules((Rule(1, "drop", 7, 8),))
    make_ready(wiring)
    for place, peer in ((0, 7), (1, 8)):
        relayed.relay.faults.seat(place, peer)
    receivers = [wiring.open(place) for place in (0, 1)]
    ring(wiring.bells(0, 1), 2, 0)
    ring(wiring.bells(1, 0), 3, 0)
    relayed.turn()
    assert [rings(fds[0]) for fds in receivers] == [3, 0]


def test_doorbells_are_passed_on_while_many_are_made(relayed: Rig) -> None:
    breaths: list[int] = []
    wiring = Relayed(relayed.relay, 100, switch=None, sticky=True, breathe=lambda: breaths.append(0))
    made = wiring._make((0, 0))
    assert (len(made), len(breaths)) == (100, 7)


# Direct


def both(direct: Rig) -> list[Wiring]:
    return [Direct(direct.relay, VECTORS, switch=None, sticky=sticky) for sticky in (True, False)]


def test_direct_bells_are_the_receivers_own_eventfds(direct: Rig) -> None:
    for wiring in both(direct):
        receivers = wiring.open(1)
        assert same_files(wiring.bells(0, 1), receivers)
        assert same_files(wiring.bells(2, 1), receivers)
        ring(wiring.bells(0, 1), 2, 1)
        ring(wiring.bells(2, 1), 3, 0)
        direct.turn()
        assert [rings(fd) for fd in receivers] == [5, 1]
        assert not any(direct.page.doorbells())


def test_a_direct_sticky_port_keeps_its_eventfds_for_good_and_is_drained_between_occupants(direct: Rig) -> None:
    wiring = Direct(direct.relay, VECTORS, switch=None, sticky=True)
    wiring.open(0)
    bells = list(wiring.bells(0, 1))
    ring(bells, 9, 9)
    first = list(wiring.open(1))
    assert first == bells
    assert [rings(fd) for fd in first] == [0, 0], "rung before it came"
    ring(bells, 5, 0)
    # What a leaver may have done to the eventfd that stays.
    fcntl.fcntl(first[1], fcntl.F_SETFL, 0)
    wiring.close(1)
    ring(bells, 1, 0)
    second = wiring.open(1)
    assert second == first
    assert [rings(second[0]), select.select(second[1:], [], [], 0)[0]] == [0, []]
    ring(bells, 4, 0)
    assert rings(second[0]) == 4


def test_a_direct_fresh_place_closes_its_eventfds(direct: Rig) -> None:
    wiring = Direct(direct.relay, VECTORS, switch=None, sticky=False)
    wiring.open(0)
    before = open_descriptors()
    wiring.open(1)
    wiring.bells(0, 1)
    wiring.close(1)
    assert open_descriptors() == before
    wiring.close(1)


def test_direct_eventfds_are_ready_for_every_place_and_again_for_who_leaves(direct: Rig) -> None:
    for wiring in both(direct):
        before = open_descriptors()
        make_ready(wiring)
        made = open_descriptors() - before
        assert len(made) == (PEERS + 1) * VECTORS
        for _ in range(2):
            wiring.open(1)
            assert open_descriptors() - before == made
            wiring.close(1)
            make_ready(wiring)
            assert len(open_descriptors() - before) == len(made)


def test_where_the_switch_cannot_be_watched_the_next_one_tries_again(
    direct: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    wiring = Direct(direct.relay, VECTORS, switch=THE_SWITCH, sticky=True)
    before = open_descriptors()

    def full(_bell: int) -> None:
        raise OSError(errno.ENOSPC, "no room for more watches")

    watch = direct.relay.watch
    monkeypatch.setattr(
        direct.relay, "watch", lambda bell: full(bell) if len(open_descriptors() - before) > 1 else watch(bell)
    )
    with pytest.raises(OSError, match="no room for more watches"):
        wiring.bells(0, THE_SWITCH)
    assert (wiring.sets, open_descriptors()) == ({}, before)
    monkeypatch.undo()
    ring(wiring.bells(0, THE_SWITCH), 1, 3)
    direct.turn()
    assert direct.relay.for_switch == {(ANYBODY, 0): 1, (ANYBODY, 1): 3}


def test_direct_doorbells_to_the_switch_are_counted_as_anybodys(direct: Rig) -> None:
    wiring = Direct(direct.relay, VECTORS, switch=THE_SWITCH, sticky=True)
    wiring.open(0)
    wiring.open(1)
    bells = wiring.bells(0, THE_SWITCH)
    assert same_files(bells, wiring.bells(1, THE_SWITCH))
    ring(bells, 0, 3)
    direct.turn()
    assert direct.relay.for_switch == {(ANYBODY, 1): 3}
    assert direct.count(ANYBODY, THE_SWITCH, 1) == sum(direct.page.doorbells()) == 3


@pytest.mark.parametrize("sticky", [True, False])
def test_the_switch_rings_a_direct_place_until_its_occupant_leaves(direct: Rig, sticky: bool) -> None:
    wiring = Direct(direct.relay, VECTORS, switch=THE_SWITCH, sticky=sticky)
    receivers = wiring.open(1)
    direct.relay.ring(1, 1, 0)
    assert rings(receivers[0]) == 1
    wiring.close(1)
    direct.relay.ring(1, 1, 0)
    assert direct.dropped == 1
    assert direct.count(1, 1, 0) == 2


@pytest.mark.parametrize("room", range(VECTORS))
def test_direct_eventfds_that_cannot_be_made_leave_nothing_behind(direct: Rig, room: int) -> None:
    for wiring in both(direct):
        before = open_descriptors()
        with no_more_descriptors_than(room), pytest.raises(OSError, match="Too many open files"):
            wiring.open(0)
        wiring.close(0)
        assert open_descriptors() == before
