"""Peer ids: which one a newcomer gets.

The law (QEMU dies if it is broken): never announce to a peer an id that it has seen depart. Sticky ports keep it by
never announcing anything after the set-up; fresh ports by giving no id that a connected peer has seen depart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from famezd.fabric.pins import Pins
from famezd.protocol import PeerId

NO_PINS = Pins()


class Coming(NamedTuple):
    """An id that came or went."""

    peer: PeerId
    came: bool


class StickyIds:
    """An id is a port: the lowest free one that is not kept for somebody else, over and over."""

    def __init__(self, ids: range, pins: Pins = NO_PINS) -> None:
        self._ids = ids
        self._pins = pins
        self._taken: set[int] = set()

    def take(self, uid: int, port: int | None = None) -> PeerId | None:
        """An id for a user, None if there is none: `port`, or one that is kept for the user, or the lowest."""
        free = next(self._free(uid), None) if port is None else port
        if free is None or free in self._taken:
            return None
        self._taken.add(free)
        return PeerId(free)

    def misses(self, uid: int) -> bool:
        """Whether ports are kept for a user, and all of these are taken."""
        kept = self._pins.of(uid)
        return bool(kept) and self._taken.issuperset(kept)

    def _free(self, uid: int) -> Iterator[int]:
        yield from (i for i in self._pins.of(uid) if i not in self._taken)
        yield from (i for i in self._ids if i not in self._taken and self._pins.open_to(i, uid))

    def release(self, peer: PeerId) -> None:
        """The peer has left."""
        self._taken.discard(peer)

    def history(self) -> list[Coming]:
        """What a successor has to `relive` to give the same ids."""
        return [Coming(PeerId(peer), came=True) for peer in self._taken]

    def relive(self, comings: Iterable[Coming]) -> None:
        """Takes over from a predecessor."""
        for peer, came in comings:
            (self._taken.add if came else self._taken.discard)(peer)


class FreshIds:
    """Ids in ascending order, round and round, but none that a connected peer has seen depart.

    A peer has seen all departures since it joined. So an id that departed is good again when everybody who was there
    at the time has left, too.
    """

    def __init__(self, ids: range) -> None:
        self._ids = ids
        self._cursor = 0
        self._clock = 0
        self._joined: dict[PeerId, int] = {}
        # When each id departed last, in that order.
        self._departed: dict[PeerId, int] = {}

    def take(self) -> PeerId | None:
        """The next id, None if all are taken or remembered."""
        self._forget()
        if len(self._joined) + len(self._departed) >= len(self._ids):
            return None
        for step in range(len(self._ids)):
            peer = PeerId(self._ids[(self._cursor + step) % len(self._ids)])
            if peer not in self._joined and peer not in self._departed:
                self._cursor = (self._cursor + step + 1) % len(self._ids)
                self._clock += 1
                self._joined[peer] = self._clock
                return peer
        return None

    def release(self, peer: PeerId) -> None:
        """The peer has left; who is connected has seen it, or may have."""
        self._joined.pop(peer, None)
        self._clock += 1
        # What a successor relives may hold an older departure of the same id.
        self._departed.pop(peer, None)
        self._departed[peer] = self._clock

    def history(self) -> list[Coming]:
        """What a successor has to `relive` to obey the law as well, in order."""
        self._forget()
        joins = [(when, Coming(peer, came=True)) for peer, when in self._joined.items()]
        departures = [(when, Coming(peer, came=False)) for peer, when in self._departed.items()]
        return [coming for _, coming in sorted(joins + departures)]

    def relive(self, comings: Iterable[Coming]) -> None:
        """Takes over from a predecessor."""
        for peer, came in comings:
            if not came:
                self.release(peer)
            elif peer not in self._joined:
                self._clock += 1
                self._joined[peer] = self._clock
                self._cursor = (self._ids.index(peer) + 1) % len(self._ids)

    def _forget(self) -> None:
        # Peers are in the order of their joins, so the first is the one with the longest memory.
        oldest = next(iter(self._joined.values()), self._clock + 1)
        while self._departed and next(iter(self._departed.values())) < oldest:
            del self._departed[next(iter(self._departed))]
