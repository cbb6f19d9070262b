"""Which eventfds a fabric has, and who shares them.

Relayed, a peer's bells are its own: one for each vector of each other place, watched by the relay, gone with the peer.
Direct, a peer's bells are the receivers' own eventfds, which all share; only those of the switch are watched.

Places are indexes of the stats page: 0 .. peers - 1, and then the switch's, where it is a peer.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Protocol

from famezd.fabric.relay import SWITCH, Relay
from famezd.protocol import Descriptor
from famezd.stats import ANYBODY

Bells = list[Descriptor]
"""The eventfds by which somebody rings one place, by vector."""


class Wiring(Protocol):
    """The eventfds of a fabric. What raises OSError has left nothing behind that `close` does not clear away."""

    def open(self, place: int) -> Bells:
        """Somebody comes to `place`: returns the eventfds on which it receives."""

    def bells(self, place: int, other: int) -> Bells:
        """What `place` rings `other` by; made if there is none yet."""

    def close(self, place: int) -> None:
        """Who was on `place` has left; doorbells rung before are passed on."""


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


class Relayed:
    """Every doorbell passes the relay."""

    def __init__(self, relay: Relay, vectors: int, *, switch: int | None, sticky: bool) -> None:
        self._relay = relay
        self._vectors = vectors
        self._sticky = sticky
        self._receivers: dict[int, Bells] = {}
        self._bells: dict[int, dict[int, Bells]] = {}
        if switch is not None:
            relay.connect(switch, [SWITCH] * vectors)

    def open(self, place: int) -> Bells:
        """New eventfds for the newcomer, which only it and the relay hold."""
        receivers = self._receivers[place] = _eventfds(self._vectors)
        self._bells[place] = {}
        self._relay.connect(place, receivers)
        return receivers

    def bells(self, place: int, other: int) -> Bells:
        """Bells of `place` alone."""
        made = self._bells[place].get(other)
        if made is None:
            made = _eventfds(self._vectors)
            self._watch(made, place, other)
            self._bells[place][other] = made
        return made

    def close(self, place: int) -> None:
        """The place's bells go, and with fresh ports others' bells to it: no port, nothing to ring."""
        for bells in self._bells.pop(place, {}).values():
            self._relay.remove(bells)
        self._relay.disconnect(place)
        if not self._sticky:
            for others in self._bells.values():
                self._relay.remove(others.pop(place, ()))
        _close(self._receivers.pop(place, ()))

    def _watch(self, bells: Bells, place: int, other: int) -> None:
        for vector, bell in enumerate(bells):
            try:
                self._relay.add(bell, place, other, vector)
            except OSError:
                self._relay.remove(bells[:vector])
                _close(bells[vector:])
                raise


class Direct:
    """Peers write into each other's eventfds; the worker sees but what is for the switch.

    A sticky port keeps its eventfds for good, because peers that were told of them are never told of others.
    """

    def __init__(self, relay: Relay, vectors: int, *, switch: int | None, sticky: bool) -> None:
        self._relay = relay
        self._vectors = vectors
        self._sticky = sticky
        self._receivers: dict[int, Bells] = {}
        if switch is not None:
            relay.connect(switch, [SWITCH] * vectors)
            self._receivers[switch] = _eventfds(vectors)
            for vector, bell in enumerate(self._receivers[switch]):
                relay.add(bell, ANYBODY, switch, vector)

    def open(self, place: int) -> Bells:
        """The place's eventfds, empty of what its last occupant did not read."""
        receivers = self._port(place)
        for eventfd in receivers:
            _drain(eventfd)
        self._relay.connect(place, receivers)
        return receivers

    def bells(self, place: int, other: int) -> Bells:
        """The receiver's own eventfds."""
        del place
        return self._port(other)

    def close(self, place: int) -> None:
        """With fresh ports the place's eventfds go, too."""
        self._relay.disconnect(place)
        if not self._sticky:
            _close(self._receivers.pop(place, ()))

    def _port(self, place: int) -> Bells:
        receivers = self._receivers.get(place)
        if receivers is None:
            receivers = self._receivers[place] = _eventfds(self._vectors)
        return receivers


def _drain(eventfd: Descriptor) -> None:
    try:
        # Not eventfd_read: a peer may have cleared O_NONBLOCK, and it would wait.
        os.preadv(eventfd, [bytearray(8)], -1, os.RWF_NOWAIT)
    except BlockingIOError:
        pass
