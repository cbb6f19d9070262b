"""What a personality is: the base class of everything that a switch can do on a fabric.

A personality lives in the fabric's worker and imports as little as the worker does. The worker calls its hooks from
the one loop, so a hook must not block; what it has to wait for, it waits for in `tick`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from famezd.mailbox import Memory


class Fabric(Protocol):
    """What the worker offers to the personality that serves in it."""

    peers: int
    """How many peers the fabric takes."""
    vectors: int
    """How many vectors each peer has."""
    switch: int
    """The id of the switch, whether or not it is a peer: the one after the last port's."""
    memory: Memory
    """The mailbox; peers write to it at any time."""

    def ring(self, peer: int, vector: int) -> None:
        """Ring `peer` on `vector` as the switch; a bell to nobody is counted as dropped."""

    def log(self, event: str, **fields: object) -> None:
        """Log `event`, one line."""


class Personality:
    """A switch that does nothing: peers ring each other, and the memory is theirs alone."""

    first_id: ClassVar[int] = 0
    """The id of the first port."""
    fixed_ids: ClassVar[bool] = False
    """Whether ids are good for `peers` ids from the first on only, because each has its place in the mailbox."""
    has_slots: ClassVar[bool] = False
    """Whether the mailbox is laid out in slots (see `famezd.mailbox`), through which peers send each other messages."""
    is_peer: ClassVar[bool] = False
    """Whether the switch is itself a peer: announced to newcomers, with the id after the last port's."""

    @classmethod
    def mistakes(cls, peers: int, vectors: int) -> dict[str, str]:
        """What this personality cannot do: the setting's key, and what is wrong and what is allowed."""
        return {}

    @classmethod
    def mailbox_size(cls, peers: int) -> int:
        """The least size of the mailbox in bytes, a power of two; 0 where any will do."""
        return 0

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.due: float | None = None
        """When `tick` is to be called, in seconds of the monotonic clock, None for never; each tick resets it."""

    @property
    def busy(self) -> bool:
        """Whether something would be lost if another process went on with the fabric now; asked before one does."""
        return False

    def started(self) -> None:
        """The fabric is new: prepare its mailbox."""

    def resumed(self, peers: Sequence[int]) -> None:
        """The fabric goes on with these peers after its worker died or was replaced; the mailbox is as it was left.

        Doorbells to the switch that nobody has dealt with come again as `doorbell`.
        """

    def mailbox_restored(self, peers: Sequence[int]) -> None:
        """Somebody had changed the mailbox's size; it has its own again, but what stood there may be zeroes now.

        `peers` are on the fabric, and may have written again since.
        """

    def joined(self, peer: int) -> None:
        """`peer` has a port; called before it receives anything."""

    def left(self, peer: int) -> None:
        """`peer` has gone."""

    def doorbell(self, peer: int | None, vector: int, rings: int) -> None:
        """The switch was rung `rings` times on `vector`, by `peer` (None where bells are direct: nobody knows)."""

    def tick(self, now: float) -> None:
        """Do what was due by `now`, in seconds of the monotonic clock."""
