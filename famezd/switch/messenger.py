"""The messenger: how a switch sends and receives messages through the slots of the mailbox.

A peer writes a message into its own slot and rings the switch on the vector whose number is the peer's id. The switch
has one slot, too, and what it sends stands there until its receiver acknowledges it, so there is a queue. A receiver
that does not acknowledge in time loses its turn: the next message overwrites what it did not take. From then on it is
deaf, and holds up nobody for long, until it takes a message.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Final, NamedTuple

from famezd.mailbox import MAX_TEXT, MailboxError, Memory, Slots
from famezd.statepage import State, Table
from famezd.stats import NOT_SENT, NOT_TAKEN, TAKEN

NEWCOMER: Final = "Driverless QEMU"
"""The component class of a peer that has not written its own yet."""
TAKE_WITHIN: Final = 1.0
"""Seconds in which a message of the switch's has to be acknowledged."""
DEAF_TAKE_WITHIN: Final = 0.01
"""The same, for who has not taken the one before, where messages for others wait."""
QUEUED: Final = 4
"""Messages that wait for one peer, at most: it has no use for more while it takes none."""
LOOK_AGAIN: Final = 0.001
"""Seconds between two looks at a message that is not acknowledged yet: no event tells of it."""


class _Outgoing(NamedTuple):
    peer: int
    text: bytes


class Messenger:
    """The slots of a fabric with ids from 1 to `peers`, and the messages of its switch, whose id comes after them."""

    def __init__(
        self,
        memory: Memory,
        peers: int,
        ring: Callable[[int, int], None],
        log: Callable[..., None],
        count: Callable[[str], None],
        *,
        is_peer: bool,
    ) -> None:
        """`ring` rings a peer on a vector as the switch; where it is no peer (`is_peer`), its slot stays blank.

        `count` is told what became of each message of the switch's: one of `famezd.stats.SAID`.
        """
        self.slots = Slots(memory)
        self.due: float | None = None
        """When `tick` is to be called, in seconds of the monotonic clock, None for never."""
        self._peers = peers
        self._switch = peers + 1
        self._is_peer = is_peer
        self._ring = ring
        self._log = log
        self._count = count
        self._queue: deque[_Outgoing] = deque()
        # The peer that has not acknowledged yet, and since when:
        self._waiting: tuple[int, float] | None = None
        self._deaf: set[int] = set()
        # While a message is dealt with, whom to ring when it is acknowledged.
        self._to_ring: list[int] | None = None

    @property
    def busy(self) -> bool:
        """Whether messages wait for those before them to be acknowledged."""
        return bool(self._queue)

    @property
    def queue(self) -> Table:
        """What waits, for a successor."""
        return {str(i): {"peer": str(m.peer), "text": m.text.decode()} for i, m in enumerate(self._queue)}

    # The slots

    def lay_out(self, nodename: str, cclass: str) -> None:
        """Lays the mailbox out, with these names of the switch."""
        self.slots.lay_out(self._peers)
        self._name_switch(nodename, cclass)

    def restore(self, peers: Collection[int], nodename: str, cclass: str) -> None:
        """Writes anew what is the switch's to write; names that are still there stay."""
        self.slots.restore(self._peers)
        self._name_switch(nodename, cclass)
        for peer in peers:
            self._name_newcomer(peer)

    def joined(self, peer: int) -> None:
        """Gives the newcomer an empty slot."""
        self.slots.clear(peer)
        self._name_newcomer(peer)

    def left(self, peer: int) -> None:
        """Blanks the slot, and takes back what the peer was to be sent."""
        self.slots.clear(peer)
        self._deaf.discard(peer)
        for message in self._queue:
            if message.peer == peer:
                self._count(NOT_SENT)
        self._queue = deque(message for message in self._queue if message.peer != peer)
        if self._waiting is not None and self._waiting[0] == peer:
            self._count(NOT_TAKEN if self.slots.pending(self._switch) else TAKEN)
            self._waiting = None
            self.slots.acknowledge(self._switch)
        self.send_next()

    def resume(self, peers: Collection[int], queue: State, nodename: str, cclass: str) -> None:
        """Goes on with these peers and what a predecessor left in the `queue`.

        The slots of who is no more are blanked. Who has not acknowledged the last message yet is rung once more: nobody
        knows whether it was.
        """
        for peer in range(1, self._peers + 1):
            if peer in peers:
                self._name_newcomer(peer)
            else:
                self.slots.clear(peer)
        self._name_switch(nodename, cclass)
        if not self._is_peer:
            return
        left = (_Outgoing(int(row["peer"]), row["text"].encode()) for row in queue.values())
        self._queue.extend(message for message in left if message.peer in peers)
        if self.slots.pending(self._switch):
            receiver = self.slots.responder(self._switch)
            if self._queue and self._queue[0] == (receiver, self._standing()):
                # It was put there, and then there was no time to write that down.
                self._queue.popleft()
            self._waiting = receiver, time.monotonic()
            self._ring(receiver, self._switch)
        self.send_next()

    def _standing(self) -> bytes | None:
        try:
            return self.slots.peek(self._switch)
        except MailboxError:
            return None

    def _name_switch(self, nodename: str, cclass: str) -> None:
        if self._is_peer:
            self.slots.name(self._switch, nodename, cclass)

    def _name_newcomer(self, peer: int) -> None:
        if not self.slots.cclass(peer):
            self.slots.name(peer, self.slots.nodename(peer), NEWCOMER)

    # Messages

    def receive(self, peer: int) -> str | None:
        """The message in the peer's slot, None if there is none; it is to be acknowledged when it was dealt with.

        Until then nobody is rung: who hears the answer may send again at once, and takes its slot to be free. Raises
        MailboxError if what stands there is no message; that is to be acknowledged, too.
        """
        text = self.slots.peek(peer)
        if text is None:
            return None
        try:
            message = text.decode()
        except UnicodeDecodeError as e:
            raise MailboxError("it is no UTF-8") from e
        self._to_ring = []
        return message

    def acknowledge(self, peer: int) -> None:
        """The message in the peer's slot was dealt with: its owner may send again."""
        self.slots.acknowledge(peer)
        # What these are rung for stands in the switch's slot: a successor finds it there, and rings.
        rung, self._to_ring = self._to_ring or [], None
        for receiver in rung:
            self._ring(receiver, self._switch)

    def send(self, peer: int, text: str) -> None:
        """Sends a message as soon as those before it are acknowledged.

        One for a peer for whom QUEUED wait already is logged, and not sent. Raises MailboxError if it is too long.
        """
        message = _Outgoing(peer, text.encode())
        if len(message.text) > MAX_TEXT:
            raise MailboxError(f"a message of {len(message.text)} bytes to peer {peer}; at most {MAX_TEXT} fit")
        if sum(waiting.peer == peer for waiting in self._queue) >= QUEUED:
            self._count(NOT_SENT)
            self._log("message not sent: the peer takes none", peer=peer)
            return
        self._queue.append(message)
        self.send_next()

    def send_next(self) -> bool:
        """Looks whether the last message was acknowledged, or has had its time, and sends the next; whether it did."""
        now, sent = time.monotonic(), False
        while True:
            if self._waiting is not None:
                peer, since = self._waiting
                if not self.slots.pending(self._switch):
                    self._count(TAKEN)
                    self._deaf.discard(peer)
                elif now < since + self._patience(peer):
                    self.due = now + LOOK_AGAIN
                    return sent
                else:
                    self._deaf.add(peer)
                    self._count(NOT_TAKEN)
                    self._log("message not taken in time", peer=peer)
                self._waiting = None
            if not self._queue:
                self.due = None
                return sent
            sent = True
            message = self._queue.popleft()
            self.slots.put(self._switch, message.text, message.peer)
            self._waiting = message.peer, now
            if self._to_ring is None:
                self._ring(message.peer, self._switch)
            else:
                self._to_ring.append(message.peer)

    def _patience(self, peer: int) -> float:
        """Seconds in which a peer has to take its message."""
        if peer in self._deaf and any(message.peer != peer for message in self._queue):
            return DEAF_TAKE_WITHIN
        return TAKE_WITHIN
