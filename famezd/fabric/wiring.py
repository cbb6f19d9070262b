"""Which eventfds a fabric has, and who shares them.

Relayed, a peer's bells are its own: one for each vector of each other place, watched by the relay, gone with the peer.
Direct, a peer's bells are the receivers' own eventfds, which all share; only those of the switch are watched.

Places are indexes of the stats page: 0 .. peers - 1, and then the switch's, where it is a peer.
"""

from __future__ import annotations

import os
import select
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

from famezd.fabric.ledger import Key, Sets
from famezd.fabric.relay import SWITCH, Relay
from famezd.protocol import Descriptor
from famezd.stats import ANYBODY

Bells = list[Descriptor]
"""The eventfds by which somebody rings one place, by vector."""


class Wiring(ABC):
    """The eventfds of a fabric. What raises OSError has left nothing behind that `close` does not clear away."""

    def __init__(
        self,
        relay: Relay,
        vectors: int,
        *,
        switch: int | None,
        sticky: bool,
        breathe: Callable[[], None] = lambda: None,
    ) -> None:
        """`breathe` is called between the parts of what takes long."""
        self.sets: Sets = {}
        """All of them."""
        self._made: list[Key] = []
        self._relay = relay
        self._vectors = vectors
        self._switch = switch
        self._sticky = sticky
        self._breathe = breathe
        if switch is not None:
            relay.connect(switch, [SWITCH] * vectors)

    @abstractmethod
    def open(self, place: int) -> Bells:
        """Somebody comes to `place`: returns the eventfds on which it receives."""

    @abstractmethod
    def bells(self, place: int, other: int) -> Bells:
        """What `place` rings `other` by; made if there is none yet."""

    @abstractmethod
    def close(self, place: int) -> None:
        """Who was on `place` has left; doorbells rung before are passed on."""

    @abstractmethod
    def goes(self, key: Key, place: int) -> bool:
        """Whether these eventfds go when whoever is on `place` leaves."""

    @abstractmethod
    def restore(self, sets: Sets, places: Iterable[int]) -> None:
        """Takes over the eventfds of a fabric with peers on these places; raises OSError as the others."""

    def take_made(self) -> list[tuple[Key, Bells]]:
        """Those that were made since this was last asked, and are still there."""
        made, self._made = self._made, []
        return [(key, self.sets[key]) for key in made if key in self.sets]

    def count(self, place: int) -> int:
        """How many eventfds go when whoever is on `place` leaves."""
        return sum(len(bells) for key, bells in self.sets.items() if self.goes(key, place))

    def sweep(self, place: int) -> None:
        """Passes on all that `place` has rung."""
        for bells in [bells for key, bells in self.sets.items() if key[0] == place != key[1]]:
            self._relay.relay([(bell, select.EPOLLIN) for bell in bells])
            self._breathe()

    def _set(self, place: int, other: int) -> Bells:
        bells = self.sets.get((place, other))
        if bells is None:
            bells = self.sets[place, other] = _eventfds(self._vectors)
            self._made.append((place, other))
        return bells


def _eventfds(vectors: int) -> Bells:
    made: Bells = []
    try:
        for _ in range(vectors):
            made.append(Descriptor(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)))
    except OSError:
        _close(made)
        raise
    return made


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


class Relayed(Wiring):
    """Every doorbell passes the relay."""

    def open(self, place: int) -> Bells:
        """New eventfds for the newcomer, which only it and the relay hold."""
        receivers = self._set(place, place)
        self._relay.connect(place, receivers)
        return receivers

    def bells(self, place: int, other: int) -> Bells:
        """Bells of `place` alone."""
        if (place, other) in self.sets:
            return self.sets[place, other]
        self._breathe()
        made = self._set(place, other)
        self._watch(made, place, other)
        return made

    def close(self, place: int) -> None:
        """The place's bells go, and with fresh ports others' bells to it: no port, nothing to ring."""
        gone = [(key, self.sets.pop(key)) for key in [key for key in self.sets if self.goes(key, place)]]
        own = [bells for key, bells in gone if key == (place, place)]
        for key, bells in gone:
            if key[0] == place != key[1]:
                self._relay.remove(bells)
                self._breathe()
        self._relay.disconnect(place)
        for key, bells in gone:
            if key[0] != place:
                self._relay.remove(bells)
                self._breathe()
        for receivers in own:
            _close(receivers)

    def goes(self, key: Key, place: int) -> bool:
        """Whether these eventfds go when whoever is on `place` leaves."""
        return place != self._switch and (key[0] == place or (key[1] == place and not self._sticky))

    def restore(self, sets: Sets, places: Iterable[int]) -> None:
        """Watches and connects all."""
        self.sets = sets
        for (place, other), bells in sets.items():
            if place == other:
                self._relay.connect(place, bells)
            else:
                self._watch(bells, place, other)

    def _watch(self, bells: Bells, place: int, other: int) -> None:
        for vector, bell in enumerate(bells):
            try:
                self._relay.add(bell, place, other, vector)
            except OSError:
                self._relay.remove(bells[:vector])
                _close(bells[vector:])
                self.sets.pop((place, other), None)
                raise


class Direct(Wiring):
    """Peers write into each other's eventfds; the worker sees but what is for the switch.

    A sticky port keeps its eventfds for good, because peers that were told of them are never told of others.
    """

    def open(self, place: int) -> Bells:
        """The place's eventfds, empty of what its last occupant did not read."""
        receivers = self._set(place, place)
        for eventfd in receivers:
            _drain(eventfd)
        self._relay.connect(place, receivers)
        return receivers

    def bells(self, place: int, other: int) -> Bells:
        """The receiver's own eventfds; for the switch, those that the relay watches."""
        del place
        if other == self._switch and (other, other) not in self.sets:
            self._watch(self._set(other, other), other)
        return self._set(other, other)

    def close(self, place: int) -> None:
        """With fresh ports the place's eventfds go, too."""
        self._relay.disconnect(place)
        if self.goes((place, place), place):
            _close(self.sets.pop((place, place), ()))

    def goes(self, key: Key, place: int) -> bool:
        """Whether these eventfds go when whoever is on `place` leaves."""
        return key[0] == place != self._switch and not self._sticky

    def restore(self, sets: Sets, places: Iterable[int]) -> None:
        """Connects who is there, and watches the switch's."""
        self.sets = sets
        for place in places:
            self._relay.connect(place, sets[place, place])
        if self._switch is not None and (self._switch, self._switch) in sets:
            self._watch(sets[self._switch, self._switch], self._switch)

    def _watch(self, bells: Bells, switch: int) -> None:
        for vector, bell in enumerate(bells):
            self._relay.add(bell, ANYBODY, switch, vector)


def _drain(eventfd: Descriptor) -> None:
    try:
        # Not eventfd_read: a peer may have cleared O_NONBLOCK, and it would wait.
        os.preadv(eventfd, [bytearray(8)], -1, os.RWF_NOWAIT)
    except BlockingIOError:
        pass
