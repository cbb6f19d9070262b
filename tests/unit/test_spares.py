"""Eventfds that are made before anybody needs them."""

import os
import select
from collections.abc import Iterator

import pytest

from famezd.fabric.spares import AT_ONCE, MOST, Spares
from famezd.protocol import Descriptor
from tests.unit.test_wiring import no_more_descriptors_than, open_descriptors


class Rig:
    """Spares that are watched, and what is open besides."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.before = open_descriptors()
        self.spares = Spares(lambda spare: self.epoll.register(spare, select.EPOLLIN))

    @property
    def made(self) -> int:
        """How many are open."""
        return len(open_descriptors() - self.before)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.spares.clear()
    assert rig.made == 0
    rig.epoll.close()


def close(descriptors: list[Descriptor]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def test_they_are_made_a_few_at_a_time_until_none_is_missing(rig: Rig) -> None:
    wanted = 2 * AT_ONCE + 3
    made = []
    while rig.spares.lack(wanted):
        rig.spares.fill(wanted)
        made.append(len(rig.spares))
    assert made == [AT_ONCE, 2 * AT_ONCE, wanted]
    assert rig.made == wanted
    rig.spares.fill(wanted)
    assert rig.made == wanted


def test_there_is_an_end_to_how_many_are_spare(rig: Rig) -> None:
    for _ in range(MOST // AT_ONCE):
        assert rig.spares.lack(10 * MOST)
        rig.spares.fill(10 * MOST)
    assert len(rig.spares) == MOST
    assert not rig.spares.lack(10 * MOST)


@pytest.mark.parametrize("ready", [0, 2, 3, 5])
def test_who_takes_gets_all_different_empty_and_prepared_ones(rig: Rig, ready: int) -> None:
    rig.spares.fill(ready)
    taken = rig.spares.take(3)
    assert len(set(taken)) == 3
    assert rig.made == max(3, ready)
    assert rig.epoll.poll(0) == []
    for n, eventfd in enumerate(taken, 1):
        os.eventfd_write(eventfd, n)
    assert {fd for fd, _ in rig.epoll.poll(0)} == set(taken)
    assert [os.eventfd_read(fd) for fd in taken] == [1, 2, 3]
    with pytest.raises(BlockingIOError):
        os.eventfd_read(taken[0])
    close(taken)


def test_where_there_is_no_room_for_what_is_needed_none_is_kept(rig: Rig) -> None:
    rig.spares.fill(2)
    with no_more_descriptors_than(3), pytest.raises(OSError, match="Too many open files"):
        rig.spares.take(6)
    assert (len(rig.spares), rig.made) == (0, 0)
    close(rig.spares.take(1))


def test_where_there_is_no_room_for_spares_there_are_none_any_more(rig: Rig) -> None:
    with no_more_descriptors_than(3):
        rig.spares.fill(9)
    assert (len(rig.spares), rig.made) == (0, 0)
    assert not rig.spares.lack(9)
    # Who comes is served all the same.
    close(rig.spares.take(2))


def test_what_cannot_be_prepared_is_closed() -> None:
    def full(_spare: Descriptor) -> None:
        raise OSError(28, "no room for more watches")

    before = open_descriptors()
    spares = Spares(full)
    with pytest.raises(OSError, match="no room for more watches"):
        spares.take(2)
    spares.fill(3)
    assert len(spares) == 0
    assert open_descriptors() == before
