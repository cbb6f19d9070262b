"""Which eventfds a fabric has, and who shares them.

Relayed, a peer's bells are its own: one for each vector of each other place, watched by the relay, gone with the peer.
Direct, a peer's bells are the receivers' own eventfds, which all share; only those of the switch are watched.

Places are indexes of the stats page: 0 .. peers - 1, and then the switch's, where it is a peer.

While the worker has nothing else to do, eventfds are made ready for who may come, so that nobody has to wait for that.
Nobody has any of them yet, and the ark knows nothing of them: they go with the worker.
"""

from __future__ import annotations

import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator

from famezd.fabric.ledger import Key, Sets
from famezd.fabric.relay import SHARE, SWITCH, Relay
from famezd.protocol import Descriptor
from famezd.stats import ANYBODY

Bells = list[Descriptor]
"""The eventfds by which somebody rings one place, by vector."""

MOST_READY = 4096
"""So many eventfds are ready at once, about 3 MiB of the kernel's memory: more than those of 14 ports of 16 vectors."""
_MADE_AT_ONCE = 16
"""Eventfds that are made before it is seen who rings meanwhile: about 50 us."""
_REMOVED_AT_ONCE = 32
"""Bells that are removed before it is seen who rings meanwhile: about 60 us."""


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
        """All that somebody has, or may have had."""
        self.lacks = True
        """Whether there is something for `make_ready` to do, as far as it is known."""
        self._made: list[Key] = []
        self._relay = relay
        self._vectors = vectors
        self._switch = switch
        self._sticky = sticky
        self._breathe = breathe
        self._peers = relay.places - (switch is not None)
        self._ready: Sets = {}
        self._most = MOST_READY
        self._unready = self._keys()
        self._vacated: dict[Key, None] = {}
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
        """Those that somebody has had since this was last asked, and that are still there."""
        made, self._made = self._made, []
        return [(key, self.sets[key]) for key in made if key in self.sets]

    def count(self, place: int) -> int:
        """How many eventfds go when whoever is on `place` leaves."""
        return sum(len(self.sets[key]) for key in self._going(place))

    @abstractmethod
    def sweep(self, place: int) -> None:
        """Passes on all that `place` has rung."""

    def make_ready(self) -> None:
        """Makes some of the eventfds that those who come may need.

        Where there is no room, none is ready from then on: somebody else may need it more than who may come one day.
        """
        key = self._next() if (len(self._ready) + 1) * self._vectors <= self._most else None
        self.lacks = key is not None
        if key is None:
            return
        try:
            self._ready[key] = self._make(key)
        except OSError:
            self.let_go()

    def _next(self) -> Key | None:
        """Which are to be made ready next, None if all are."""
        while (key := self._vacated.popitem()[0] if self._vacated else next(self._unready, None)) is not None:
            if key not in self.sets and key not in self._ready:
                break
        return key

    def let_go(self) -> None:
        """Closes what is ready, and makes nothing ready any more: somebody needs the room."""
        self._most, self.lacks = 0, False
        ready, self._ready = self._ready, {}
        for key, bells in ready.items():
            if self._row(key) is None:
                _close(bells)
            else:
                self._remove([bells])

    def _vacate(self, keys: Iterable[Key]) -> None:
        """Has these made ready again, when there is time."""
        self._vacated |= dict.fromkeys(keys)
        if len(self._vacated) > MOST_READY:
            # Who comes and goes without a pause must not make this grow: all are looked through again.
            self._vacated.clear()
            self._unready = self._keys()

    def _take(self, key: Key) -> Bells:
        """Those that nobody has: somebody has them from now on."""
        bells = self._ready.pop(key, None) or self._redirected(key)
        if bells is None:
            try:
                bells = self._make(key)
            except OSError:
                self.let_go()
                raise
        self.lacks = self._most > 0
        self.sets[key] = bells
        self._made.append(key)
        return bells

    def _redirected(self, key: Key) -> Bells | None:
        """What was ready for somebody else, if anything: that one may never come, and this one is there."""
        watched = self._row(key) is not None
        like = next((other for other in reversed(self._ready) if (self._row(other) is not None) == watched), None)
        if like is None:
            return None
        self._vacate([like])
        bells = self._ready.pop(like)
        self._lead(key, bells)
        return bells

    def _make(self, key: Key) -> Bells:
        """New ones."""
        made: Bells = []
        watched = self._row(key) is not None
        try:
            while len(made) < self._vectors:
                self._breathe()
                for _ in range(min(_MADE_AT_ONCE, self._vectors - len(made))):
                    made.append(Descriptor(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)))
                    if watched:
                        self._relay.watch(made[-1])
        except OSError:
            # Nobody else has them, so nothing watches them any more, either.
            _close(made)
            raise
        self._lead(key, made)
        return made

    def _lead(self, key: Key, bells: Bells) -> None:
        """Has the relay know where these lead."""
        if (row := self._row(key)) is not None:
            self._relay.lead(bells, row, key[1])

    def _remove(self, sets: Iterable[Bells]) -> None:
        """Closes what the relay watches."""
        bells = list(itertools.chain.from_iterable(sets))
        for start in range(0, len(bells), _REMOVED_AT_ONCE):
            self._relay.remove(bells[start : start + _REMOVED_AT_ONCE])
            self._breathe()

    @abstractmethod
    def _keys(self) -> Iterator[Key]:
        """Of all sets that can be made ready, those of the lowest places first."""

    @abstractmethod
    def _row(self, key: Key) -> int | None:
        """Who rings by these, as the relay counts it; None for what the relay does not watch."""

    @abstractmethod
    def _going(self, place: int) -> list[Key]:
        """Those of all that go when whoever is on `place` leaves."""


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


class Relayed(Wiring):
    """Every doorbell passes the relay."""

    def open(self, place: int) -> Bells:
        """Eventfds which only the newcomer and the relay hold."""
        receivers = self._take((place, place))
        self._relay.connect(place, receivers)
        return receivers

    def bells(self, place: int, other: int) -> Bells:
        """Bells of `place` alone."""
        key = place, other
        if (known := self.sets.get(key)) is not None:
            return known
        bells = self._take(key)
        if self._relay.faults.any:
            # With fresh ports nobody knew who would be there, and so what rules there would be.
            self._lead(key, bells)
        return bells

    def sweep(self, place: int) -> None:
        """Passes on what was rung before this call, and no more: a flood has no end."""
        rung = self._relay.rung_by(place)
        for start in range(0, len(rung), SHARE):
            self._relay.relay(rung[start : start + SHARE])
            self._breathe()

    def close(self, place: int) -> None:
        """The place's bells go, and with fresh ports others' bells to it: no port, nothing to ring."""
        gone = {key: self.sets.pop(key) for key in self._going(place)}
        self._vacate(gone)
        receivers = gone.pop((place, place), ())
        self._remove(bells for key, bells in gone.items() if key[0] == place)
        self._relay.disconnect(place)
        self._remove(bells for key, bells in gone.items() if key[0] != place)
        _close(receivers)
        self.lacks = self._most > 0

    def goes(self, key: Key, place: int) -> bool:
        """Whether these eventfds go when whoever is on `place` leaves."""
        return place != self._switch and (key[0] == place or (key[1] == place and not self._sticky))

    def _going(self, place: int) -> list[Key]:
        places = range(self._relay.places)
        keys = [(place, other) for other in places]
        if not self._sticky:
            keys += [(other, place) for other in places if other != place]
        return [key for key in keys if key in self.sets]

    def _keys(self) -> Iterator[Key]:
        return itertools.product(range(self._peers), range(self._relay.places))

    def _row(self, key: Key) -> int | None:
        return None if key[0] == key[1] else key[0]

    def restore(self, sets: Sets, places: Iterable[int]) -> None:
        """Watches and connects all."""
        self.sets = sets
        for (place, other), bells in sets.items():
            if place == other:
                self._relay.connect(place, bells)
            else:
                for vector, bell in enumerate(bells):
                    self._relay.add(bell, place, other, vector)


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
        return self._set(other)

    def sweep(self, place: int) -> None:
        """Does nothing: nobody can tell who rang."""

    def close(self, place: int) -> None:
        """With fresh ports the place's eventfds go, too."""
        self._relay.disconnect(place)
        key = place, place
        if self.goes(key, place) and key in self.sets:
            _close(self.sets.pop(key))
            self._vacate([key])
            self.lacks = self._most > 0

    def goes(self, key: Key, place: int) -> bool:
        """Whether these eventfds go when whoever is on `place` leaves."""
        return key[0] == place != self._switch and not self._sticky

    def restore(self, sets: Sets, places: Iterable[int]) -> None:
        """Connects who is there, and watches the switch's."""
        self.sets = sets
        for place in places:
            self._relay.connect(place, sets[place, place])
        if self._switch is not None:
            for vector, bell in enumerate(sets.get((self._switch, self._switch), ())):
                self._relay.add(bell, ANYBODY, self._switch, vector)

    def _set(self, place: int) -> Bells:
        made = self.sets.get((place, place))
        return self._take((place, place)) if made is None else made

    def _going(self, place: int) -> list[Key]:
        return [] if self._sticky or (place, place) not in self.sets else [(place, place)]

    def _keys(self) -> Iterator[Key]:
        return ((place, place) for place in range(self._peers))

    def _row(self, key: Key) -> int | None:
        return ANYBODY if key[0] == self._switch else None


def _drain(eventfd: Descriptor) -> None:
    try:
        # Not eventfd_read: a peer may have cleared O_NONBLOCK, and it would wait.
        os.preadv(eventfd, [bytearray(8)], -1, os.RWF_NOWAIT)
    except BlockingIOError:
        pass
