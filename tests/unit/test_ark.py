"""The ark: whatever becomes of its writer or its reader, what was put into it is there."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing

import pytest

from famezd.ark import MAX_DESCRIPTORS, NAME, Ark, Record, _Pair


class Keeper:
    """Keeps descriptors as a manager does: copies, by name."""

    def __init__(self) -> None:
        self.kept: dict[str, list[int]] = {}
        self._arks: list[Ark] = []

    def open(self, *, reverse: bool = False) -> Ark:
        """The ark of a process that is given what is kept now."""
        given = {name: [os.dup(fd) for fd in (fds[::-1] if reverse else fds)] for name, fds in self.kept.items()}
        self._arks.append(Ark(self, given))
        return self._arks[-1]

    def close(self) -> None:
        for ark in self._arks:
            for pair in ark._pairs:
                pair.close()
        for name in list(self.kept):
            self.forget(name)

    def store(self, name: str, descriptors: Iterable[int]) -> None:
        self.kept[name] = [os.dup(fd) for fd in descriptors]

    def forget(self, name: str) -> None:
        for descriptor in self.kept.pop(name, ()):
            os.close(descriptor)

    def settle(self) -> bool:
        return True

    @property
    def generations(self) -> set[int]:
        return {int(found[1]) for name in self.kept if (found := NAME.fullmatch(name))}


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    with closing(Keeper()) as keeper:
        yield keeper


def texts(ark: Ark) -> list[bytes]:
    """The texts of all records; their descriptors are closed."""
    found = []
    for record in ark.records():
        found.append(record.text)
        for descriptor in record.descriptors:
            os.close(descriptor)
    return found


def new(keeper: Keeper) -> Ark:
    ark = keeper.open()
    ark.renew([])
    return ark


def test_records_come_back_in_order_with_their_descriptors_as_often_as_one_looks(
    keeper: Keeper, eventfd: Callable[[], int]
) -> None:
    ark = new(keeper)
    bells = [eventfd() for _ in range(3)]
    ark.append(Record(b"one", tuple(bells)))
    ark.append(Record(b"two"))
    for _ in range(3):
        one, two = ark.records()
        assert (one.text, two) == (b"one", Record(b"two"))
        for bell, copy in zip(bells, one.descriptors, strict=True):
            os.eventfd_write(copy, 7)
            assert os.eventfd_read(bell) == 7
            assert not os.get_inheritable(copy)
            os.close(copy)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_successor_reads_all_and_goes_on(keeper: Keeper, reverse: bool) -> None:
    new(keeper).append(Record(b"before"))
    successor = keeper.open(reverse=reverse)
    assert successor.exists
    successor.append(Record(b"after"))
    assert texts(successor) == [b"before", b"after"]
    assert texts(keeper.open()) == [b"before", b"after"]


def test_what_does_not_fit_into_one_pair_goes_into_the_next(keeper: Keeper) -> None:
    ark = new(keeper)
    expected = [b"%d " % n + bytes(4000) for n in range(3000)]
    for text in expected:
        ark.append(Record(text))
    assert len(keeper.kept) > 1
    assert texts(ark) == texts(keeper.open()) == expected


def test_a_record_carries_as_many_descriptors_as_the_kernel_allows(keeper: Keeper, eventfd: Callable[[], int]) -> None:
    ark = new(keeper)
    bell = eventfd()
    ark.append(Record(b"full", (bell,) * MAX_DESCRIPTORS))
    with pytest.raises(OSError, match="Invalid argument"):
        ark.append(Record(b"overfull", (bell,) * (MAX_DESCRIPTORS + 1)))
    assert texts(ark) == [b"full"]


def test_a_new_generation_takes_the_place_of_the_old_one(keeper: Keeper) -> None:
    ark = new(keeper)
    ark.append(Record(b"old"))
    ark.renew([Record(b"new")])
    assert keeper.generations == {1}
    ark.append(Record(b"newer"))
    assert texts(ark) == texts(keeper.open()) == [b"new", b"newer"]


def test_what_was_let_go_is_nobodys_even_if_the_manager_has_not_heard_of_it(keeper: Keeper) -> None:
    """It died first, or we did: what happened since is not in it."""
    ark = new(keeper)
    ark.append(Record(b"old", (0, 1)))
    kept = {name: [os.dup(fd) for fd in fds] for name, fds in keeper.kept.items()}
    ark.clear()
    ended = Ark(keeper, kept)
    assert not ended.exists
    assert not list(ended.records())
    ark.renew([Record(b"new")])
    assert texts(keeper.open()) == [b"new"]


def test_a_generation_that_was_not_finished_counts_for_nothing(keeper: Keeper) -> None:
    ark = new(keeper)
    ark.append(Record(b"kept"))
    # As a writer leaves it that is killed while it renews.
    pairs: list[_Pair] = []
    ark._open_pair(1, pairs).append(Record(b"half"))
    assert keeper.generations == {0, 1}
    assert texts(keeper.open()) == [b"kept"]
    assert keeper.generations == {0}
    pairs[0].close()


def test_a_renewal_for_which_there_is_no_room_leaves_all_as_it_was(keeper: Keeper) -> None:
    ark = new(keeper)
    ark.append(Record(b"old"))
    with pytest.raises(OSError, match="Invalid argument"):
        ark.renew([Record(b"new"), Record(b"overfull", (0,) * (MAX_DESCRIPTORS + 1))])
    assert keeper.generations == {0}
    assert texts(ark) == [b"old"]


def test_with_a_reserve_nothing_has_to_be_kept_while_it_is_filled(keeper: Keeper) -> None:
    ark, n = new(keeper), 0
    while "ark.0.1" not in keeper.kept:
        ark.reserve()
        ark.append(Record(b"%d" % n))
        n += 1
    told = list(keeper.kept)
    for i in range(n, n + n // 2):
        ark.append(Record(b"%d" % i))
    assert list(keeper.kept) == told
    assert texts(keeper.open()) == [b"%d" % i for i in range(n + n // 2)]


def test_a_generation_that_was_given_up_is_never_gone_on_from(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    ark = new(keeper)
    ark.append(Record(b"one"))
    with monkeypatch.context() as busy:
        # A manager that has taken it, but does not say so in time, and cannot be told either to let go of it.
        busy.setattr(keeper, "settle", lambda: False)
        busy.setattr(keeper, "forget", lambda name: None)
        with pytest.raises(TimeoutError):
            ark.renew([Record(b"nobody")])
    assert len(keeper.generations) == 2
    ark.append(Record(b"two"))
    assert texts(keeper.open()) == [b"one", b"two"]


@pytest.mark.parametrize("dead", ["store", "settle"])
def test_nothing_is_appended_to_what_nobody_is_known_to_keep(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch, dead: str
) -> None:
    def refuse(*_: object) -> None:
        raise ConnectionRefusedError

    ark, n = new(keeper), 0
    with monkeypatch.context() as patch:
        patch.setattr(keeper, dead, refuse if dead == "store" else lambda: False)
        with contextlib.suppress(TimeoutError):
            while True:
                ark.append(Record(b"%d" % n))
                n += 1
        with pytest.raises(TimeoutError):
            ark.reserve()
        with pytest.raises(TimeoutError):
            ark.renew([])
        assert texts(keeper.open()) == [b"%d" % i for i in range(n)]
    ark.append(Record(b"%d" % n))
    assert texts(keeper.open()) == [b"%d" % i for i in range(n + 1)]


def test_a_writer_killed_at_any_moment_leaves_a_whole_ark(keeper: Keeper) -> None:
    """A child appends and tells each record that it has appended; at most one more is there."""
    order = random.Random(3)
    bell = os.eventfd(0)
    ark = new(keeper)
    for attempt in range(30):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            n = 0
            while True:
                ark.append(Record(b"%d %d" % (attempt, n), (bell, bell)))
                os.write(writing, b".")
                n += 1
        os.close(writing)
        os.read(reading, 1)
        time.sleep(order.uniform(0, 0.003))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        told = 1
        while data := os.read(reading, 1 << 16):
            told += len(data)
        os.close(reading)
        # The child's pairs beyond the first were its own; this many records fit into it.
        mine = [text for text in texts(keeper.open()) if text.startswith(b"%d " % attempt)]
        assert mine == [b"%d %d" % (attempt, n) for n in range(len(mine))]
        assert len(mine) in (told, told + 1) or len(mine) > 100
        ark.renew([])
    os.close(bell)
