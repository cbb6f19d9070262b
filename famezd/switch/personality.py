"""What a personality is: the base class of everything that a switch can do on a fabric.

A personality lives in the fabric's worker and imports as little as the worker does. The worker calls its hooks from
the one loop, so a hook must not block; what it has to wait for, it waits for in `tick`.
"""

from __future__ import annotations

from typing import ClassVar, Protocol


class Fabric(Protocol):
    """What the worker offers to the personality that serves in it."""

    peers: int
    """How many peers the fabric takes."""
    vectors: int
    """How many vectors each peer has."""
    memory: memoryview
    """The mailbox, all of it, as bytes; peers write to it at any time."""

    def ring(self, peer: int, vector: int) -> None:
        """Ring `peer` on `vector` as the switch; a bell to nobody is counted as dropped."""

    def log(self, event: str, **fields: object) -> None:
        """Log `event`, one line."""


class Personality:
    """A switch that does nothing: peers ring each other, and the memory is theirs alone."""

    first_id: ClassVar[int] = 0
    """The id of the first port."""
    is_peer: ClassVar[bool] = False
    """Whether the switch is itself a peer: announced to newcomers, with the id after the last port's."""

    @classmethod
    def mistakes(cls, peers: int, vectors: int) -> dict[str, str]:
        """What this personality cannot do: the setting's key, and what is wrong and what is allowed."""
        del peers, vectors
        return {}

    @classmethod
    def mailbox_size(cls, peers: int) -> int:
        """The least size of the mailbox in bytes, a power of two; 0 where any will do."""
        del peers
        return 0

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric

    def joined(self, peer: int) -> None:
        """`peer` has a port; called before it receives anything."""

    def left(self, peer: int) -> None:
        """`peer` has gone."""

    def doorbell(self, peer: int | None, vector: int, count: int) -> None:
        """The switch was rung `count` times on `vector`, by `peer` (None where bells are direct: nobody knows)."""

    def tick(self, now: float) -> float | None:
        """Do what was waiting for `now` (monotonic seconds); returns when to be called again, None for never."""
        del now
        return None
