"""The ledger: what a fabric writes into its ark, and what its successor reads there.

Five kinds of records, as text:

    fabric NUL KEY=VALUE ...  whose ark it is: what a successor must be like to go on from it; always the first
    bells SRC:DST:N ...       eventfds by which place SRC rings place DST, N of them, in order of their vectors;
                              SRC = DST: those on which that place receives
    join PLACE PEER TIME      a peer's connection; all that it needs was written before, so this makes it a member
    left PLACE PEER           it is one no more
    ids +PEER -PEER ...       in what order ids came and went, as far as it matters

Each is appended before anybody can notice what it tells: a join before the newcomer is sent anything, a departure
before anybody is told of it. How much each peer has been sent stands in the stats page (see `famezd.stats`).
"""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from famezd.ark import MAX_DESCRIPTORS, Ark, Record
from famezd.fabric.ids import Coming
from famezd.protocol import Descriptor, PeerId

Key = tuple[int, int]
"""Whose bells, and whom they ring: two places; of a place and itself: what it receives on."""
Sets = dict[Key, list[Descriptor]]
"""All eventfds of a fabric."""

Goes = Callable[[Key, int], bool]
"""Whether eventfds go when the peer on a place leaves."""

LAYOUT = "1"
"""Of the records; a successor that knows another one cannot go on from them."""

_TIDY_AT = 2048
"""Descriptors of departed peers from which on the ark is packed anew, if they are more than those of the others."""
_IDS_A_RECORD = 500


class Membership(NamedTuple):
    """A member, as the ark has it."""

    place: int
    peer: PeerId
    joined: int
    """Nanoseconds of the real-time clock."""
    connection: int
    """Its socket's descriptor."""


class Manifest(NamedTuple):
    """All that an ark holds of a fabric."""

    members: list[Membership]
    sets: Sets
    ids: list[Coming]


def charter(ark: Ark) -> dict[str, str] | None:
    """Whose ark it is, as `Ledger` was told, and the `layout` of its records; None where there is no ark."""
    if not ark.exists:
        return None
    kind, *words = next(ark.records(), Record(b"")).text.decode().split("\0")
    return dict(word.split("=", 1) for word in words) if kind == "fabric" else {}


class Ledger:
    """A fabric's ark. Where there is no manager to keep one, every call does nothing."""

    def __init__(self, ark: Ark | None, goes: Goes, charter: Mapping[str, str]) -> None:
        """`charter` is what a successor is to find in it of the fabric that it is of."""
        self._ark = ark
        self._goes = goes
        self._charter = {"layout": LAYOUT, **charter}
        self._kept = 0
        self._dead = 0
        self._torn = False
        self.lost = False
        """Whether there is no room for the ark: the fabric would not outlive its worker."""

    @property
    def untidy(self) -> bool:
        """Whether it should be packed: it holds more of peers that have left than of others, or an entry is missing."""
        return self._torn or self._dead > max(_TIDY_AT, self._kept)

    @property
    def dead(self) -> int:
        """How many descriptors of peers that have left are still in it."""
        return self._dead

    def ready(self) -> bool:
        """Makes sure that the next who comes or goes can be written down; False if the manager takes nothing now."""
        if self._ark is None or self.lost:
            return True
        if self._torn:
            return False
        try:
            self._ark.reserve()
        except TimeoutError:
            return False
        except OSError:
            # There is no room: to be packed anew may help.
            self._torn = True
        return True

    def joined(self, member: Membership, sets: Iterable[tuple[Key, list[Descriptor]]]) -> None:
        """Writes down a new member and the eventfds that were made for it; where that fails it is untidy."""
        self._append([*_bells(sets), _join(member)])

    def left(self, place: int, peer: PeerId, descriptors: int) -> None:
        """Writes down that a member has left, and with it so many descriptors; where that fails it is untidy."""
        self._append([Record(f"left {place} {peer}".encode())])
        self._kept -= descriptors
        self._dead += descriptors

    def _append(self, records: Iterable[Record]) -> None:
        if self._ark is None or self.lost or self._torn:
            return
        try:
            for record in records:
                self._ark.append(record)
                self._kept += len(record.descriptors)
        except OSError:
            self._torn = True

    def pack(self, manifest: Manifest) -> bool:
        """Begins anew with what is there; returns whether there is nothing left to be written down of that.

        Where there is no room for the old and the new at once, the old goes first: only a death in between is then the
        fabric's. Where there is none for the new alone, the ledger is lost, until it is packed again. A manager that is
        too busy changes nothing: then it is as untidy as before.
        """
        if self._ark is None:
            return True
        head = "\0".join(["fabric", *(f"{key}={value}" for key, value in self._charter.items())])
        records = [
            Record(head.encode()),
            *_ids(manifest.ids),
            *_bells(manifest.sets.items()),
            *map(_join, manifest.members),
        ]
        try:
            self._ark.renew(records)
        except TimeoutError:
            self._torn = self._torn or not self._ark.exists
            return False
        except OSError:
            self._ark.clear()
            try:
                self._ark.renew(records)
            except OSError:
                # It is packed anew when there is room again.
                self.abandon()
                return True
        self._kept = sum(len(record.descriptors) for record in records)
        self._dead = 0
        self._torn = self.lost = False
        return True

    def abandon(self) -> None:
        """Goes on without an ark: what it holds is needed for the fabric to work at all."""
        if self._ark is not None:
            self._ark.clear()
            self._kept = self._dead = 0
            self._torn, self.lost = False, True

    def read(self) -> Manifest:
        """What the ark holds; its descriptors are the caller's from now on. Nothing in the ark changes.

        It is untidy where it holds eventfds of a join that was never completed: the next who comes to that place would
        be taken to have these, too.
        """
        reader, total = _Reader(self._goes), 0
        for record in self._ark.records() if self._ark is not None else ():
            total += len(record.descriptors)
            reader.take(record)
        manifest = reader.finish()
        self._torn = reader.torn
        self._kept = len(manifest.members) + sum(map(len, manifest.sets.values()))
        self._dead = total - self._kept
        return manifest


def _bells(sets: Iterable[tuple[Key, list[Descriptor]]]) -> Iterator[Record]:
    words: list[str] = []
    descriptors: list[int] = []
    for (src, dst), bells in sets:
        rest = bells
        while rest:
            n = min(len(rest), MAX_DESCRIPTORS - len(descriptors))
            words.append(f"{src}:{dst}:{n}")
            descriptors += rest[:n]
            rest = rest[n:]
            if len(descriptors) == MAX_DESCRIPTORS:
                yield Record(" ".join(["bells", *words]).encode(), tuple(descriptors))
                words, descriptors = [], []
    if words:
        yield Record(" ".join(["bells", *words]).encode(), tuple(descriptors))


def _join(member: Membership) -> Record:
    return Record(f"join {member.place} {member.peer} {member.joined}".encode(), (member.connection,))


def _ids(comings: list[Coming]) -> Iterator[Record]:
    for start in range(0, len(comings), _IDS_A_RECORD):
        words = (f"{'+' if coming.came else '-'}{coming.peer}" for coming in comings[start : start + _IDS_A_RECORD])
        yield Record(" ".join(["ids", *words]).encode())


class _Reader:
    """Reads records in order, and closes what has no owner any more."""

    def __init__(self, goes: Goes) -> None:
        self._goes = goes
        self._members: dict[int, Membership] = {}
        self._sets: Sets = {}
        self._ids: list[Coming] = []
        self.torn = False
        """Whether a join was never completed."""

    def take(self, record: Record) -> None:
        kind, *words = record.text.decode().split()
        if kind == "bells":
            at = 0
            for word in words:
                src, dst, n = map(int, word.split(":"))
                self._sets.setdefault((src, dst), []).extend(map(Descriptor, record.descriptors[at : at + n]))
                at += n
        elif kind == "join":
            place, peer, joined = map(int, words)
            self._members[place] = Membership(place, PeerId(peer), joined, record.descriptors[0])
            self._ids.append(Coming(PeerId(peer), came=True))
        elif kind == "left":
            place, peer = map(int, words)
            self._ids.append(Coming(PeerId(peer), came=False))
            member = self._members.pop(place, None)
            if member is not None:
                hang_up(member.connection)
            self._vacate(place)
        elif kind == "ids":
            self._ids += [Coming(PeerId(int(word[1:])), came=word[0] == "+") for word in words]

    def finish(self) -> Manifest:
        """Closes what a join that was never completed left behind."""
        for place in {place for key in self._sets for place in key} - self._members.keys():
            self.torn |= self._vacate(place)
        return Manifest(sorted(self._members.values()), self._sets, self._ids)

    def _vacate(self, place: int) -> bool:
        """Closes the eventfds that go with who is on `place`; returns whether there were any."""
        gone = [self._sets.pop(key) for key in [key for key in self._sets if self._goes(key, place)]]
        for descriptor in itertools.chain.from_iterable(gone):
            os.close(descriptor)
        return bool(gone)


def hang_up(connection: int) -> None:
    """Closes a connection so that its other end notices, even if the ark still has it."""
    end(socket.socket(fileno=connection))


def end(connection: socket.socket) -> None:
    """As `hang_up`."""
    with connection:
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            # Its other end is gone already.
            pass
