"""The ark under hardships: killed writers, slow managers, other readers, and no room."""

import contextlib
import errno
import mmap
import os
import random
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from famezd import ark
from famezd.ark import Ark, Record
from famezd.notify import Manager, NotifySocket
from tests.unit.conftest import NOBODY


class Keeper:
    """Keeps descriptors as a supervisor does: copies, by name, for whoever comes next."""

    def __init__(self) -> None:
        self.kept: dict[str, list[int]] = {}
        self.told: list[str] = []
        """What it was asked, in order."""

    def store(self, name: str, descriptors: Iterable[int]) -> None:
        self.keep(name, [os.dup(fd) for fd in descriptors])

    def keep(self, name: str, descriptors: list[int]) -> None:
        """Takes descriptors over."""
        assert name not in self.kept
        self.told.append(f"store {name}")
        self.kept[name] = descriptors

    def forget(self, name: str) -> None:
        self.told.append(f"forget {name}")
        for fd in self.kept.pop(name, ()):
            os.close(fd)

    def settle(self) -> bool:
        return True

    def given(self, prefix: str = "") -> dict[str, list[int]]:
        """What a successor is handed."""
        return {name: [os.dup(fd) for fd in fds] for name, fds in self.kept.items() if name.startswith(prefix)}

    def close(self) -> None:
        for fds in self.kept.values():
            for fd in fds:
                os.close(fd)


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    """A keeper; no test leaves descriptors behind."""
    before = os.listdir("/proc/self/fd")
    keeper = Keeper()
    yield keeper
    keeper.close()
    assert os.listdir("/proc/self/fd") == before


@pytest.fixture
def opened(keeper: Keeper) -> Iterator[Callable[[], Ark]]:
    """Opens what the keeper keeps, as one process after the other does."""
    arks: list[Ark] = []

    def succeed(given: Mapping[str, list[int]] | None = None) -> Ark:
        for predecessor in arks:
            let_go(predecessor)
        arks.append(Ark(keeper, keeper.given() if given is None else given))
        return arks[-1]

    yield succeed
    for predecessor in arks:
        let_go(predecessor)


Opened = Callable[..., Ark]


def let_go(ended: Ark) -> None:
    """What the end of its process does to an ark."""
    for pair in ended._pairs:
        pair.close()
    ended._pairs = []


def file_of(number: int) -> int:
    """An open file that says which one it is."""
    fd = os.memfd_create("test", os.MFD_CLOEXEC)
    os.write(fd, b"%d" % number)
    return fd


def record(number: int, descriptors: int = 1) -> Record:
    """A record that carries so many files with its number."""
    return Record(b"record %d" % number, tuple(file_of(number) for _ in range(descriptors)))


def put(into: Callable[[Record], None], *records: Record) -> None:
    """Hands records over; their descriptors are closed here."""
    for each in records:
        try:
            into(each)
        finally:
            for fd in each.descriptors:
                os.close(fd)


def renew(what: Ark, *records: Record) -> None:
    try:
        what.renew(records)
    finally:
        for each in records:
            for fd in each.descriptors:
                os.close(fd)


def content(of: Ark) -> list[int]:
    """The numbers of its records, each with files of its own that say the same."""
    numbers = []
    for text, descriptors in of.records():
        number = int(text.removeprefix(b"record "))
        for fd in descriptors:
            assert os.pread(fd, 20, 0) == b"%d" % number
            assert not os.get_inheritable(fd)
            os.close(fd)
        numbers.append(number)
    return numbers


def in_child(do: Callable[[], object]) -> int:
    """Does it in a forked process; returns its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        do()
        status = 0
    except Exception:  # noqa: BLE001 (it ends here, whatever it is)
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(status)


def done(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# Records


def test_reading_changes_nothing_however_often_and_by_whomever(keeper: Keeper, opened: Opened) -> None:
    first = opened()
    renew(first, record(0))
    put(first.append, record(1))
    for n in range(2, 5):
        for _ in range(3):
            assert content(first) == list(range(n))
        # One that stops in the middle, and one in another process.
        some = next(first.records())
        os.close(some.descriptors[0])

        def look(numbers: list[int]) -> None:
            assert content(Ark(Keeper(), keeper.given())) == numbers

        numbers = list(range(n))
        assert done(in_child(lambda numbers=numbers: look(numbers))) == 0  # type: ignore[misc]
        put(first.append, record(n))
    assert content(opened()) == [0, 1, 2, 3, 4]


def test_what_does_not_fit_into_a_pair_goes_into_the_next(
    keeper: Keeper, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ark, "_BUFFER", 1)
    first = opened()
    renew(first, *(record(n) for n in range(30)))
    pairs = len(keeper.kept)
    assert pairs > 2
    put(first.append, *(record(n) for n in range(30, 60)))
    assert len(keeper.kept) > pairs
    assert list(keeper.kept) == [f"ark.0.{n}" for n in range(len(keeper.kept))]
    # Names are handed on in any order; by text, 10 comes before 2.
    successor = opened(dict(sorted(keeper.given().items())))
    assert content(successor) == list(range(60))
    put(successor.append, record(60))
    assert content(opened()) == list(range(61))


def test_more_descriptors_than_the_reader_may_open_are_an_error_and_none_leaks(opened: Opened) -> None:
    first = opened()
    renew(first, record(0, 200))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = os.listdir("/proc/self/fd")
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, limit[1]))
    try:
        with pytest.raises(OSError, match="descriptors are missing"):
            list(first.records())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert os.listdir("/proc/self/fd") == before
    assert content(first) == [0]


# Generations


def test_a_new_generation_is_whole_before_the_one_before_it_is_let_go(
    keeper: Keeper, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ark, "_BUFFER", 1)
    first = opened()
    renew(first, record(0))
    keeper.told.clear()
    contents: list[list[int]] = []
    forget = keeper.forget

    def look_and_forget(name: str) -> None:
        successor = Ark(Keeper(), keeper.given("ark.1."))
        contents.append(content(successor))
        let_go(successor)
        forget(name)

    monkeypatch.setattr(keeper, "forget", look_and_forget)
    renew(first, *(record(n) for n in range(7, 30)))
    assert contents == [list(range(7, 30))]
    pairs = len(keeper.kept)
    assert keeper.told == [*(f"store ark.1.{n}" for n in range(pairs)), "forget ark.0.0"]
    assert content(first) == list(range(7, 30))
    assert content(opened()) == list(range(7, 30))


def test_a_generation_without_its_mark_is_ignored_and_dropped(
    keeper: Keeper, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened()
    renew(first, record(0), record(1))
    monkeypatch.setattr(ark, "_WHOLE", b"record 9")
    with monkeypatch.context() as killed:
        # As if it had been killed before it let the old one go.
        killed.setattr(keeper, "forget", lambda _name: None)
        renew(first, record(5))
    monkeypatch.undo()
    assert set(keeper.kept) == {"ark.0.0", "ark.1.0"}
    successor = opened()
    assert content(successor) == [0, 1]
    assert set(keeper.kept) == {"ark.0.0"}
    put(successor.append, record(2))
    assert content(opened()) == [0, 1, 2]


def test_of_two_whole_generations_the_newer_counts_and_the_older_is_dropped(
    keeper: Keeper, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened()
    renew(first, record(0))
    with monkeypatch.context() as killed:
        killed.setattr(keeper, "forget", lambda _name: None)
        renew(first, record(5))
    assert content(opened()) == [5]
    assert set(keeper.kept) == {"ark.1.0"}


class Slow(Keeper):
    """Keeps at once, but is slow to let go: it hears of that with the next request, as from `Manager.forget`."""

    def __init__(self) -> None:
        super().__init__()
        self.obsolete: list[str] = []
        self.busy = True

    def forget(self, name: str) -> None:
        self.obsolete.append(name)
        if not self.busy:
            for each in self.obsolete:
                super().forget(each)
            self.obsolete.clear()


def test_a_manager_that_is_slow_to_let_go_of_what_failed_keeps_what_came_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = os.listdir("/proc/self/fd")
    slow = Slow()
    first = Ark(slow, {})
    renew(first, record(0))
    with monkeypatch.context() as failing:
        failing.setattr(ark, "_WHOLE", b"x" * (1 << 24))
        with pytest.raises(OSError, match=os.strerror(errno.EMSGSIZE)):
            renew(first, record(1))
    assert content(first) == [0]
    renew(first, record(2))
    # Only now it hears that the generation that failed is to be let go.
    slow.busy = False
    renew(first, record(3))
    let_go(first)
    successor = Ark(slow, slow.given())
    assert content(successor) == [3]
    let_go(successor)
    slow.close()
    assert os.listdir("/proc/self/fd") == before


def test_a_manager_that_is_slow_to_let_go_of_what_was_unfinished_keeps_what_came_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = os.listdir("/proc/self/fd")
    slow = Slow()
    killed = Ark(slow, {})
    renew(killed, record(0))
    with monkeypatch.context() as unfinished:
        unfinished.setattr(ark, "_WHOLE", b"record 9")
        renew(killed, record(1))
    let_go(killed)
    slow.obsolete.clear()
    second = Ark(slow, slow.given())
    assert content(second) == [0]
    renew(second, record(2))
    slow.busy = False
    renew(second, record(3))
    let_go(second)
    third = Ark(slow, slow.given())
    assert content(third) == [3]
    let_go(third)
    slow.close()
    assert os.listdir("/proc/self/fd") == before


# No room


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_where_a_user_has_too_many_descriptors_in_flight_the_old_content_stays() -> None:
    limit = 40

    def fill() -> None:
        keeper = Keeper()
        first = Ark(keeper, {})
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        renew(first, record(0, 10))
        kept = 1
        with contextlib.suppress(OSError):
            while kept < limit:
                put(first.append, record(kept, 10))
                kept += 1
        assert limit < kept * 10 < 10 * limit
        with pytest.raises(OSError, match=os.strerror(errno.ETOOMANYREFS)):
            put(first.append, record(kept))
        assert content(first) == list(range(kept))
        told = list(keeper.kept)
        with pytest.raises(OSError, match=os.strerror(errno.ETOOMANYREFS)):
            renew(first, record(100))
        assert list(keeper.kept) == told
        assert content(first) == list(range(kept))
        let_go(first)
        successor = Ark(keeper, keeper.given())
        assert content(successor) == list(range(kept))
        # What carries nothing finds room.
        put(successor.append, Record(b"record %d" % kept))
        assert content(successor) == list(range(kept + 1))

    assert done(in_child(fill)) == 0


# Killed


KILLS = 30
ACKNOWLEDGED, OLDEST, NEXT_OLDEST = range(3)
"""Words that a process under test shares: the last record that is in, the first one, and what will be the first."""
KEPT = 12
"""Records of a new generation."""


def work(given: dict[str, list[int]], words: memoryview) -> None:
    """Appends and renews until it is killed, and says how far it is."""
    of, chance = Ark(Manager(), given), random.Random()
    if not of.exists:
        renew(of, record(0))
    n = words[ACKNOWLEDGED] = content(of)[-1]
    words[OLDEST] = words[NEXT_OLDEST] = content(of)[0]
    while True:
        if chance.random() < 0.1:
            oldest = max(words[OLDEST], n - KEPT + 1)
            words[NEXT_OLDEST] = oldest
            renew(of, *of_open(of, oldest))
            words[OLDEST] = oldest
        else:
            put(of.append, record(n + 1, chance.choice([0, 1, 5])))
            n += 1
            words[ACKNOWLEDGED] = n


def of_open(of: Ark, oldest: int) -> list[Record]:
    """The records from `oldest` on; the others' descriptors are closed."""
    found = []
    for each in of.records():
        if int(each.text.removeprefix(b"record ")) >= oldest:
            found.append(each)
        else:
            for fd in each.descriptors:
                os.close(fd)
    return found


def hear(manager: NotifySocket, keeper: Keeper) -> None:
    """Does what a worker has asked so far."""
    while True:
        try:
            told = manager.receive()
        except BlockingIOError:
            return
        if "BARRIER" in told.assignments:
            os.close(told.descriptors[0])
        elif "FDSTORE" in told.assignments:
            keeper.keep(told.assignments["FDNAME"], told.descriptors)
        else:
            keeper.forget(told.assignments["FDNAME"])


def test_no_kill_loses_a_record_or_leaves_half_an_ark(
    keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ark, "_BUFFER", 1)
    manager = NotifySocket(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", manager.path)
    words = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
    poll, chance = select.poll(), random.Random(1)
    poll.register(manager, select.POLLIN)
    renewals = 0
    for kill in range(KILLS):
        began = words[ACKNOWLEDGED]
        pid = in_child(lambda: work(keeper.kept, words))
        until = 0.0
        # Once it is at work it has a random while to live.
        deadline = time.monotonic() + 20
        while not until or time.monotonic() < until:
            assert time.monotonic() < deadline
            if not until and words[ACKNOWLEDGED] > began:
                until = time.monotonic() + chance.random() * 0.02
            if poll.poll(0 if until else 1):
                hear(manager, keeper)
        os.kill(pid, signal.SIGKILL)
        assert done(pid) == -signal.SIGKILL
        hear(manager, keeper)
        before = dict(keeper.kept)
        heir = Keeper()
        found = Ark(heir, keeper.given())
        numbers = content(found)
        assert numbers == list(range(numbers[0], numbers[-1] + 1)), kill
        assert numbers[-1] - words[ACKNOWLEDGED] in (0, 1), kill
        assert numbers[0] in (words[OLDEST], words[NEXT_OLDEST]), kill
        renewals += words[OLDEST] > 0
        assert content(found) == numbers
        let_go(found)
        assert keeper.kept == before
    assert renewals
    words.release()
    manager.close()
