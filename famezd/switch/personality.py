"""What a personality is: the base class of everything that a switch can do on a fabric.

A personality lives in the fabric's worker and imports as little as the worker does. The worker calls its hooks from
the one loop, so a hook must not block; what it has to wait for, it waits for in `tick`. A hook that raises is logged
and counted, and hurts only what it was called for.

docs/personalities.md says how to write one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, Protocol

from famezd.mailbox import MAX_PEERS, Memory, slots_size

State = Mapping[str, Mapping[str, str]]
"""What a switch knows: things by name, and what is known of each, all of it text."""


FAILURES = (Exception, SystemExit)
"""What a plug-in may raise, to be caught by whoever calls it: to give up is not for it to decide."""


class Fabric(Protocol):
    """What the worker offers to the personality that serves in it."""

    @property
    def peers(self) -> int:
        """How many peers the fabric takes."""

    @property
    def vectors(self) -> int:
        """How many vectors each peer has."""

    @property
    def switch(self) -> int:
        """The id of the switch, whether or not it is a peer: the one after the last port's."""

    @property
    def is_peer(self) -> bool:
        """Whether the switch is a peer: one that is configured to be silent is none, whatever its class says."""

    @property
    def members(self) -> Collection[int]:
        """The ids of the peers that are there, in ascending order; in `joined` with the newcomer."""

    @property
    def options(self) -> Mapping[str, str]:
        """The personality's own settings, as text: those that the fabric's file gives under `options`."""

    @property
    def memory(self) -> Memory:
        """The mailbox; peers write to it at any time."""

    def ring(self, peer: int, vector: int) -> None:
        """Ring `peer` on `vector` as the switch; a bell to nobody is counted as dropped.

        Raises SwitchError where the switch is no peer.
        """

    def send(self, peer: int, text: str) -> None:
        """Send `peer` a message, when it and those before have acknowledged theirs; one to nobody goes nowhere.

        Raises SwitchError where the switch is no peer or the mailbox has no slots, MailboxError where the text has more
        than 383 bytes.
        """

    def log(self, event: str, **fields: object) -> None:
        """Log `event`, one line."""


class Personality:
    """A switch that does nothing: peers ring each other, and the memory is theirs alone."""

    first_id: ClassVar[int] = 0
    """The id of the first port."""
    fixed_ids: ClassVar[bool] = False
    """Whether ids are good for `peers` ids from the first on only, because each has its place in the mailbox."""
    has_slots: ClassVar[bool] = False
    """Whether the mailbox is laid out in slots (see `famezd.mailbox`), through which peers send each other messages.

    The worker sees to the slots. `first_id` must then be 1, and `fixed_ids` true: see `Messaging`.
    """
    is_peer: ClassVar[bool] = False
    """Whether the switch is itself a peer: announced to newcomers, with the id after the last port's."""

    nodename: str = "switch"
    """With slots, the name of the switch in its slot: at most 31 bytes."""
    cclass: str = "Switch"
    """With slots, its component class."""

    @classmethod
    def mistakes(cls, peers: int, vectors: int) -> dict[str, str]:
        """What this personality cannot do: the setting's key, and what is wrong and what is allowed."""
        return {}

    @classmethod
    def option_mistakes(cls, options: Mapping[str, str]) -> dict[str, str]:
        """What is wrong with `options`, its own settings in the fabric's file: the option, and what is allowed."""
        return dict.fromkeys(options, "this personality has no such option: leave it out")

    @classmethod
    def mailbox_size(cls, peers: int) -> int:
        """The least size of the mailbox in bytes, a power of two; 0 where any will do."""
        return 0

    def __init__(self, fabric: Fabric) -> None:
        """Must touch nothing of the fabric: a predecessor may still serve."""
        self.fabric = fabric
        self.due: float | None = None
        """When `tick` is to be called, in seconds of the monotonic clock, None for never; each tick resets it."""

    @property
    def busy(self) -> bool:
        """Whether something would be lost if another process went on with the fabric now; asked before one does."""
        return False

    def state(self) -> State:
        """What is to outlive the worker, and is shown by `famezctl switch`; asked after each hook.

        It is written down before the message that changed it is acknowledged. At most a megabyte is kept.
        """
        return {}

    def started(self) -> None:
        """The fabric is new: prepare what there is of the mailbox beside slots."""

    def resumed(self, peers: Sequence[int], state: State) -> None:
        """The fabric goes on with these peers after its worker died or was replaced; the mailbox is as it was left.

        `state` is what `state` returned last, empty where nothing was kept. Doorbells and messages to the switch that
        were not dealt with come again.
        """

    def mailbox_restored(self, peers: Sequence[int]) -> None:
        """Somebody had changed the mailbox's size; it has its own again, but what stood there may be zeroes now.

        `peers` are on the fabric, and may have written again since. The slots' globals, ids and names are there again.
        """

    def joined(self, peer: int) -> None:
        """`peer` has a port; called before it receives anything."""

    def left(self, peer: int) -> None:
        """`peer` has gone."""

    def message(self, src: int, text: str) -> None:
        """With slots: the switch was sent a message, which stands in the slot of `src` until this returns.

        May raise MessageError, for a text that is malformed: it is logged with the peer, and counted.
        """

    def doorbell(self, peer: int | None, vector: int, rings: int) -> None:
        """The switch was rung `rings` times on `vector`, by `peer` (None where bells are direct: nobody knows).

        With slots: and that announces no message.
        """

    def tick(self, now: float) -> None:
        """Do what was due by `now`, in seconds of the monotonic clock."""


class Messaging(Personality):
    """A switch that sends and receives messages through the mailbox's slots."""

    first_id = 1
    fixed_ids = True
    has_slots = True
    is_peer = True

    @classmethod
    def mistakes(cls, peers: int, vectors: int) -> dict[str, str]:
        """The mailbox holds 62 peers, and a peer is rung on the vector that is the sender's id."""
        found, own = {}, f"personality {cls.__name__.lower()}"
        if peers > MAX_PEERS:
            found["peers"] = f"{own} takes at most {MAX_PEERS}, not {peers}"
        if vectors < peers + 2:
            found["vectors"] = f"{own} with {peers} peers needs at least {peers + 2} (peers + 2), not {vectors}"
        return found

    @classmethod
    def mailbox_size(cls, peers: int) -> int:
        """Bytes of the slots."""
        return slots_size(peers)


def wrong(found: object) -> str:
    """What is wrong with what should be a personality's class; "" if nothing is."""
    if not (isinstance(found, type) and issubclass(found, Personality)):
        return f"is no personality: no subclass of {Personality.__module__}.{Personality.__name__}"
    for name in ("fixed_ids", "has_slots", "is_peer"):
        if not isinstance(getattr(found, name), bool):
            return f"is no personality: {name} must be True or False, not {getattr(found, name)!r}"
    if isinstance(found.first_id, bool) or not isinstance(found.first_id, int) or found.first_id < 0:
        return f"is no personality: first_id must be an integer from 0, not {found.first_id!r}"
    if found.has_slots and not (found.first_id == 1 and found.fixed_ids):
        return "is no personality: with has_slots, first_id must be 1 and fixed_ids True"
    for name in ("nodename", "cclass"):
        if not isinstance(getattr(found, name), str):
            return f"is no personality: {name} must be text, not {getattr(found, name)!r}"
    return ""
