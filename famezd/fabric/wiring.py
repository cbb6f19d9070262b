"""Which eventfds a fabric has, and who shares them.

Relayed, a peer's bells are its own: one for each vector of each other place, watched by the relay, gone with the peer.
Direct, a peer's bells are the receivers' own eventfds, which all share; only those of the switch are watched.

Places are indexes of the stats page: 0 .. peers - 1, and then the switch's, where it is a peer.
"""

from __future__ import annotations

import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

from famezd.fabric.ledger import Key, Sets
from famezd.fabric.relay import SHARE, SWITCH, Relay
from famezd.fabric.spares import Spares
from famezd.protocol import Descriptor
from famezd.stats import ANYBODY

Bells = list[Descriptor]
"""The eventfds by which somebody rings one place, by vector."""

_AT_ONCE = 32
"""Bells that are removed before it is seen who else rings: about 60 us."""


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
        self._spares = self._spares_of(relay)
        self.lacks_spares = True
        """Whether there is something for `make_spares` to do, as far as it is known."""
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
        return sum(len(self.sets[key]) for key in self._going(place))

    @abstractmethod
    def sweep(self, place: int) -> None:
        """Passes on all that `place` has rung."""

    def make_spares(self) -> None:
        """Makes some of the eventfds that those who come may need."""
        self._spares.fill(self._missing)
        self.lacks_spares = self._spares.lack(self._missing)

    @property
    @abstractmethod
    def _missing(self) -> int:
        """How many eventfds a full fabric has more than there are, of the kind that is kept to spare."""

    @staticmethod
    @abstractmethod
    def _spares_of(relay: Relay) -> Spares:
        """Of the kind that is kept to spare."""

    @abstractmethod
    def _going(self, place: int) -> list[Key]:
        """Those of all that go when whoever is on `place` leaves."""

    def _enter(self, place: int, other: int, bells: Bells) -> Bells:
        self.sets[place, other] = bells
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
        receivers = self._enter(place, place, _eventfds(self._vectors))
        self._relay.connect(place, receivers)
        return receivers

    def bells(self, place: int, other: int) -> Bells:
        """Bells of `place` alone."""
        if (place, other) in self.sets:
            return self.sets[place, other]
        if len(self._spares) < self._vectors:
            self._breathe()
        made = self._enter(place, other, self._spares.take(self._vectors))
        self._relay.lead(made, place, other)
        return made

    def sweep(self, place: int) -> None:
        """Passes on what was rung before this call, and no more: a flood has no end."""
        rung = self._relay.rung_by(place)
        for start in range(0, len(rung), SHARE):
            self._relay.relay(rung[start : start + SHARE])
            self._breathe()

    def close(self, place: int) -> None:
        """The place's bells go, and with fresh ports others' bells to it: no port, nothing to ring."""
        gone = {key: self.sets.pop(key) for key in self._going(place)}
        receivers = gone.pop((place, place), ())
        self._remove(bells for key, bells in gone.items() if key[0] == place)
        self._relay.disconnect(place)
        self._remove(bells for key, bells in gone.items() if key[0] != place)
        _close(receivers)
        self.lacks_spares = True

    def goes(self, key: Key, place: int) -> bool:
        """Whether these eventfds go when whoever is on `place` leaves."""
        return place != self._switch and (key[0] == place or (key[1] == place and not self._sticky))

    def _going(self, place: int) -> list[Key]:
        places = range(self._relay.places)
        keys = [(place, other) for other in places]
        if not self._sticky:
            keys += [(other, place) for other in places if other != place]
        return [key for key in keys if key in self.sets]

    @property
    def _missing(self) -> int:
        places = self._relay.places
        peers = places - (self._switch is not None)
        return peers * (places - 1) * self._vectors - len(self._relay)

    @staticmethod
    def _spares_of(relay: Relay) -> Spares:
        return Spares(relay.watch)

    def restore(self, sets: Sets, places: Iterable[int]) -> None:
        """Watches and connects all."""
        self.sets = sets
        for (place, other), bells in sets.items():
            if place == other:
                self._relay.connect(place, bells)
            else:
                for vector, bell in enumerate(bells):
                    self._relay.add(bell, place, other, vector)

    def _remove(self, sets: Iterable[Bells]) -> None:
        bells = list(itertools.chain.from_iterable(sets))
        for start in range(0, len(bells), _AT_ONCE):
            self._relay.remove(bells[start : start + _AT_ONCE])
            self._breathe()


class Direct(Wiring):
    """Peers write into each other's eventfds; the worker sees but what is for the switch.

    A sticky port keeps its eventfds for good, because peers that were told of them are never told of others.
    """

    def open(self, place: int) -> Bells:
        """The place's eventfds, empty of what its last occupant did not read."""
        receivers = self.sets.get((place, place))
        if receivers is None:
            receivers = self._set(place)
        else:
            for eventfd in receivers:
                _drain(eventfd)
        self._relay.connect(place, receivers)
        return receivers

    def bells(self, place: int, other: int) -> Bells:
        """The receiver's own eventfds; for the switch, those that the relay watches."""
        del place
        if other == self._switch and (other, other) not in self.sets:
            self._watch(self._set(other), other)
        return self._set(other)

    def sweep(self, place: int) -> None:
        """Does nothing: nobody can tell who rang."""

    def close(self, place: int) -> None:
        """With fresh ports the place's eventfds go, too."""
        self._relay.disconnect(place)
        if self.goes((place, place), place):
            _close(self.sets.pop((place, place), ()))
            self.lacks_spares = True

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

    def _set(self, place: int) -> Bells:
        made = self.sets.get((place, place))
        return self._enter(place, place, self._spares.take(self._vectors)) if made is None else made

    def _going(self, place: int) -> list[Key]:
        return [] if self._sticky or (place, place) not in self.sets else [(place, place)]

    @property
    def _missing(self) -> int:
        return (self._relay.places - len(self.sets)) * self._vectors

    @staticmethod
    def _spares_of(relay: Relay) -> Spares:
        del relay
        # Nobody watches them.
        return Spares(lambda _spare: None)

    def _watch(self, bells: Bells, switch: int) -> None:
        for vector, bell in enumerate(bells):
            self._relay.add(bell, ANYBODY, switch, vector)


def _drain(eventfd: Descriptor) -> None:
    try:
        # Not eventfd_read: a peer may have cleared O_NONBLOCK, and it would wait.
        os.preadv(eventfd, [bytearray(8)], -1, os.RWF_NOWAIT)
    except BlockingIOError:
        pass
