"""What everything above a membership needs of it, whether it is by a socket or, inside a machine, by its device."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from famezd.client.peer import Event
from famezd.mailbox import Memory


class OpenMemory(Memory, Protocol):
    """Access to shared memory, until it is closed."""

    def close(self) -> None:
        """Lets go of it."""


class Member(Protocol):
    """One peer of a fabric, and what it can do there: `Peer` on the host, `GuestPeer` in a machine."""

    where: str
    """By what it is on the fabric: a socket's path, or a device's address."""
    ended: bool
    """Whether the membership has ended, and nothing will come any more."""
    rung: Counter[int]
    """How often it was rung on each vector, as far as `wait` has seen."""

    @property
    def id(self) -> int:
        """Its id."""

    @property
    def vectors(self) -> int:
        """How many vectors it can be rung on."""

    @property
    def peers(self) -> list[int] | None:
        """The ids that it can ring, without its own; None if nothing tells, so that it may be any."""

    @property
    def memory_size(self) -> int:
        """Bytes of shared memory, now."""

    @property
    def polls(self) -> bool:
        """Whether nothing makes `fileno` readable, so that `wait` has to be called again and again."""

    def open_memory(self) -> OpenMemory:
        """Access to the shared memory."""

    def bells(self, peer: int) -> list[int]:
        """The eventfds that stand for a peer's vectors; none where it is rung in another way."""

    def vectors_of(self, peer: int) -> int:
        """How many vectors a peer has; raises ClientError if there is no such peer."""

    def ring(self, peer: int, vector: int = 0) -> None:
        """Rings a peer; raises ClientError if it is not known or has no such vector."""

    def wait(self, timeout: float | None = None) -> list[Event]:
        """What has happened: at least one event, or none after `timeout` seconds (None: for ever)."""

    def fileno(self) -> int:
        """A descriptor that is readable when there is something for `wait` to return, unless it `polls`."""

    def leave(self) -> None:
        """Ends it."""
