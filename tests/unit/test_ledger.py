"""The ledger: what a fabric wrote down is what its successor reads."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing

import pytest

from famezd.ark import Ark, Record
from famezd.fabric.ids import Coming
from famezd.fabric.ledger import LAYOUT, Goes, Key, Ledger, Manifest, Membership, charter
from famezd.protocol import Descriptor, PeerId
from tests.unit.test_ark import Keeper

CHARTER = {"page": "42", "memory": "/dev/shm/with a space", "vectors": "3"}


def goes(key: Key, place: int) -> bool:
    """As on a relayed fabric with sticky ports."""
    return key[0] == place


class Rig:
    """A ledger, and the descriptors that go into it."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.keeper = self.stack.enter_context(closing(Keeper()))
        self.ledger = Ledger(self.keeper.open(), goes, CHARTER)
        self.ledger.pack(Manifest([], {}, []))

    def bells(self, n: int) -> list[Descriptor]:
        made = [Descriptor(os.eventfd(0)) for _ in range(n)]
        for bell in made:
            self.stack.callback(os.close, bell)
        return made

    def member(self, place: int, peer: int) -> tuple[Membership, socket.socket]:
        ours, theirs = (self.stack.enter_context(end) for end in socket.socketpair())
        return Membership(place, PeerId(peer), 1000 + peer, ours.fileno()), theirs

    def read(self) -> Manifest:
        """What a successor reads; its descriptors are closed at the end."""
        return self.read_with(goes)

    def read_with(self, goes: Goes) -> Manifest:
        """The same, where other eventfds go."""
        return self.take(Ledger(self.keeper.open(), goes, CHARTER).read())

    def take(self, manifest: Manifest) -> Manifest:
        """Closes a manifest's descriptors at the end."""
        for bells in manifest.sets.values():
            for bell in bells:
                self.stack.callback(os.close, bell)
        for member in manifest.members:
            self.stack.callback(os.close, member.connection)
        return manifest


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    with rig.stack:
        yield rig


def same(one: list[Descriptor], other: list[Descriptor]) -> bool:
    """Whether these are the same eventfds, in the same order."""
    for n, bell in enumerate(one, 1):
        os.eventfd_write(bell, n)
    return [os.eventfd_read(bell) for bell in other] == list(range(1, len(one) + 1))


def facts(manifest: Manifest) -> list[tuple[int, int, int]]:
    return [(member.place, member.peer, member.joined) for member in manifest.members]


def test_members_and_their_eventfds_are_read_as_they_were_written(rig: Rig) -> None:
    sets = {(0, 0): rig.bells(3), (0, 1): rig.bells(3), (0, 2): rig.bells(3)}
    member, theirs = rig.member(0, 7)
    rig.ledger.joined(member, sets.items())
    found = rig.read()
    assert facts(found) == [(0, 7, 1007)]
    assert found.ids == [Coming(PeerId(7), came=True)]
    assert found.sets.keys() == sets.keys()
    assert all(same(sets[key], found.sets[key]) for key in sets)
    with socket.socket(fileno=os.dup(found.members[0].connection)) as copy:
        copy.sendall(b"it is the same connection")
        assert theirs.recv(64) == b"it is the same connection"


def test_more_eventfds_than_a_record_holds_keep_their_order(rig: Rig) -> None:
    sets = {(1, 1): rig.bells(400), (1, 0): rig.bells(300)}
    rig.ledger.joined(rig.member(1, 1)[0], sets.items())
    found = rig.read()
    assert all(same(sets[key], found.sets[key]) for key in sets)


def test_who_left_is_gone_with_what_goes_and_its_connection_ends(rig: Rig) -> None:
    for place in (0, 1):
        member, theirs = rig.member(place, place)
        rig.ledger.joined(member, {(place, place): rig.bells(2), (place, 1 - place): rig.bells(2)}.items())
        if place == 0:
            leaver = theirs
    rig.ledger.left(0, PeerId(0), 5)
    found = rig.read()
    assert facts(found) == [(1, 1, 1001)]
    assert found.sets.keys() == {(1, 1), (1, 0)}
    assert found.ids[-1] == Coming(PeerId(0), came=False)
    leaver.settimeout(60)
    assert leaver.recv(1) == b""


def test_a_join_that_was_not_completed_leaves_nothing_behind(rig: Rig) -> None:
    # No such descriptor can be sent: the eventfds are written, the join is not.
    impossible = rig.member(0, 0)[0]._replace(connection=1 << 20)
    rig.ledger.joined(impossible, {(0, 0): rig.bells(2)}.items())
    assert rig.ledger.untidy
    assert rig.read() == Manifest([], {}, [])
    # The same place, taken by the next.
    rig.ledger.pack(Manifest([], {}, []))
    assert not rig.ledger.untidy
    sets = {(0, 0): rig.bells(2)}
    rig.ledger.joined(rig.member(0, 3)[0], sets.items())
    found = rig.read()
    assert same(sets[0, 0], found.sets[0, 0])


def test_a_successor_that_finds_a_join_that_was_not_completed_packs_before_it_takes_anything_down(rig: Rig) -> None:
    rig.ledger.joined(rig.member(1, 1)[0], {(1, 1): rig.bells(2), (1, 0): rig.bells(2)}.items())
    assert not rig.ledger.untidy
    impossible = rig.member(0, 0)[0]._replace(connection=1 << 20)
    rig.ledger.joined(impossible, {(0, 0): rig.bells(2), (0, 1): rig.bells(2)}.items())
    rig.ledger = Ledger(rig.keeper.open(), goes, CHARTER)
    manifest = rig.take(rig.ledger.read())
    assert rig.ledger.untidy
    rig.ledger.pack(manifest)
    assert not rig.ledger.untidy
    # Else the next on that place would have the eventfds of both.
    sets = {(0, 0): rig.bells(2), (0, 1): rig.bells(2)}
    rig.ledger.joined(rig.member(0, 3)[0], sets.items())
    found = rig.read()
    assert facts(found) == [(0, 3, 1003), (1, 1, 1001)]
    assert all(same(sets[key], found.sets[key]) for key in sets)


def test_without_room_it_is_lost_and_found_again_when_it_is_packed(rig: Rig) -> None:
    sets = {(0, 0): rig.bells(2)}
    member = rig.member(0, 0)[0]
    rig.ledger.joined(member, sets.items())
    rig.ledger.pack(Manifest([member._replace(connection=1 << 20)], sets, []))
    assert rig.ledger.lost
    assert not rig.keeper.kept
    rig.ledger.pack(Manifest([member], sets, []))
    assert not rig.ledger.lost
    assert facts(rig.read()) == [(0, 0, 1000)]


def test_packing_keeps_what_there_is_and_the_order_of_ids(rig: Rig) -> None:
    ids = [Coming(PeerId(n % 700), came=n % 3 > 0) for n in range(1200)]
    sets = {(2, 2): rig.bells(2)}
    rig.ledger.pack(Manifest([rig.member(2, 5)[0]], sets, ids))
    found = rig.read()
    assert facts(found) == [(2, 5, 1005)]
    assert same(sets[2, 2], found.sets[2, 2])
    assert found.ids[: len(ids)] == ids


def test_it_is_untidy_when_most_of_it_is_of_who_has_left(rig: Rig) -> None:
    bells = rig.bells(250)
    member, _ = rig.member(0, 0)
    for n in range(1, 20):
        rig.ledger.joined(member, {(0, 0): bells}.items())
        rig.ledger.left(0, PeerId(0), 251)
        assert rig.ledger.untidy == (n * 251 > 2048)


def test_without_a_manager_there_is_nothing_to_write_to() -> None:
    ledger = Ledger(None, goes, CHARTER)
    ledger.joined(Membership(0, PeerId(0), 0, -1), [])
    ledger.left(0, PeerId(0), 1)
    ledger.pack(Manifest([], {}, []))
    assert ledger.read() == Manifest([], {}, [])
    assert not ledger.untidy


def test_a_departure_that_cannot_be_written_down_makes_it_untidy_until_it_is_packed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    member, _ = rig.member(0, 0)
    rig.ledger.joined(member, {(0, 0): rig.bells(2)}.items())
    with monkeypatch.context() as full:
        full.setattr(Ark, "append", no_room)
        rig.ledger.left(0, PeerId(0), 3)
        assert rig.ledger.untidy
        full.setattr(Ark, "renew", no_room)
        # It cannot stay as it is, because it says that somebody is there who has left.
        rig.ledger.pack(Manifest([], {}, []))
        assert rig.ledger.lost
    rig.ledger.pack(Manifest([], {}, []))
    assert not rig.ledger.untidy
    assert not rig.ledger.lost
    assert rig.read() == Manifest([], {}, [])


def no_room(*_: object) -> None:
    raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))


def test_where_there_is_no_room_for_old_and_new_the_old_goes_first(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    member, _ = rig.member(0, 0)
    sets = {(0, 0): rig.bells(2)}
    rig.ledger.joined(member, sets.items())
    renew = Ark.renew

    def renew_alone(ark: Ark, records: Iterable[Record]) -> None:
        if ark.exists:
            no_room()
        renew(ark, records)

    monkeypatch.setattr(Ark, "renew", renew_alone)
    rig.ledger.pack(Manifest([member], sets, []))
    assert not rig.ledger.lost
    found = rig.read()
    assert facts(found) == [(0, 0, 1000)]
    assert same(sets[0, 0], found.sets[0, 0])


@pytest.mark.parametrize("torn", [False, True])
def test_reading_opens_only_what_it_returns(rig: Rig, torn: bool) -> None:
    for place in range(3):
        member, _ = rig.member(place, place)
        rig.ledger.joined(member, {(place, place): rig.bells(300), (place, 3): rig.bells(2)}.items())
    rig.ledger.left(1, PeerId(1), 303)
    if torn:
        impossible = rig.member(4, 4)[0]._replace(connection=1 << 20)
        rig.ledger.joined(impossible, {(4, 4): rig.bells(300)}.items())
    successor = Ledger(rig.keeper.open(), goes, CHARTER)
    before = set(os.listdir("/proc/self/fd"))
    manifest = successor.read()
    opened = {fd for bells in manifest.sets.values() for fd in bells} | {m.connection for m in manifest.members}
    assert len(opened) == 2 * 303
    for fd in opened:
        os.close(fd)
    assert set(os.listdir("/proc/self/fd")) == before


def test_eventfds_that_do_not_go_with_their_place_stay(rig: Rig) -> None:
    """As on a direct fabric with sticky ports, where peers hold them for good."""

    def never(_key: Key, _place: int) -> bool:
        return False

    ledger = Ledger(rig.keeper.open(), never, CHARTER)
    ledger.pack(Manifest([], {}, []))
    sets = {(0, 0): rig.bells(2), (1, 1): rig.bells(2)}
    ledger.joined(rig.member(0, 0)[0], sets.items())
    ledger.left(0, PeerId(0), 1)
    # The place's next occupant has the same ones, so they are not written down again.
    ledger.joined(rig.member(0, 0)[0], [])
    found = rig.read_with(never)
    assert facts(found) == [(0, 0, 1000)]
    assert found.sets.keys() == sets.keys()
    assert all(same(sets[key], found.sets[key]) for key in sets)


def test_whose_it_is_is_read_before_anything_else(rig: Rig) -> None:
    rig.ledger.joined(rig.member(0, 0)[0], {(0, 0): rig.bells(3)}.items())
    assert charter(rig.keeper.open()) == {"layout": LAYOUT, **CHARTER}


def test_where_there_is_no_ark_it_is_nobodys() -> None:
    with closing(Keeper()) as keeper:
        assert charter(keeper.open()) is None
        ark = keeper.open()
        ark.renew([Record(b"ids +1")])
        assert charter(keeper.open()) == {}


def test_a_manager_that_is_too_busy_leaves_all_as_it_was(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.ledger.joined(rig.member(0, 7)[0], {(0, 0): rig.bells(3)}.items())
    before = dict(rig.keeper.kept)
    monkeypatch.setattr(rig.keeper, "settle", lambda: False)
    rig.ledger.pack(Manifest([], {}, []))
    assert rig.keeper.kept == before
    assert facts(rig.read()) == [(0, 7, 1007)]


def test_a_first_ark_that_nobody_takes_is_made_later(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Keeper()) as keeper:
        ledger = Ledger(keeper.open(), goes, CHARTER)
        with monkeypatch.context() as patch:
            patch.setattr(keeper, "settle", lambda: False)
            ledger.pack(Manifest([], {}, []))
        ledger.left(0, PeerId(0), 0)
        assert ledger.untidy
        ledger.pack(Manifest([], {}, []))
        assert not ledger.untidy
        assert charter(keeper.open()) is not None
