"""The genz personality: a Gen-Z fabric switch that takes part in IVSHMSG messaging.

The switch is one more peer, with the id after the last port's. It keeps the mailbox's slots, and answers messages:
a peer writes one into its own slot and rings the switch on the vector whose number is the peer's id.

A reply stands in the switch's own slot until its receiver acknowledges it, so there is a queue. A receiver that does
not acknowledge in time loses its turn: the next message overwrites what it did not take.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from famezd.mailbox import MAX_PEERS, MAX_TEXT, MailboxError, Slots, slots_size
from famezd.switch.personality import Fabric, Personality

NODENAME: Final = "Z-switch"
CCLASS: Final = "FabricSwitch"
NEWCOMER: Final = "Driverless QEMU"
"""The component class of a peer that has not written its own yet."""

TAKE_WITHIN: Final = 1.0
"""Seconds in which a message of the switch's has to be acknowledged."""
QUEUED: Final = 4
"""Messages that wait for one peer, at most: it has no use for more while it takes none."""
_LOOK_AGAIN = 0.001
"""Seconds between two looks at a message that is not acknowledged yet: no event tells of it."""

_TRACKER: Final = "!EZT="


class _Outgoing(NamedTuple):
    peer: int
    text: str


class Genz(Personality):
    """A Gen-Z fabric switch."""

    first_id = 1
    fixed_ids = True
    has_slots = True
    is_peer = True

    @classmethod
    def mistakes(cls, peers: int, vectors: int) -> dict[str, str]:
        """The mailbox holds 62 peers, and a peer is rung on the vector that is the sender's id."""
        found = {}
        if peers > MAX_PEERS:
            found["peers"] = f"personality genz takes at most {MAX_PEERS}, not {peers}"
        if vectors < peers + 2:
            found["vectors"] = (
                f"personality genz with {peers} peers needs at least {peers + 2} (peers + 2), not {vectors}"
            )
        return found

    @classmethod
    def mailbox_size(cls, peers: int) -> int:
        """Bytes of the slots."""
        return slots_size(peers)

    def __init__(self, fabric: Fabric) -> None:
        super().__init__(fabric)
        self._slots = Slots(fabric.memory)
        self._queue: deque[_Outgoing] = deque()
        # The peer that has not acknowledged yet, and until when it may:
        self._waiting: tuple[int, float] | None = None
        self._requests = {"ping": self._ping, "dump": self._dump}

    @property
    def busy(self) -> bool:
        """Whether messages wait for those before them to be acknowledged."""
        return bool(self._queue)

    def started(self) -> None:
        """Lays the mailbox out."""
        self._slots.lay_out(self.fabric.peers)
        self._slots.name(self.fabric.switch, NODENAME, CCLASS)

    def resumed(self, peers: Sequence[int]) -> None:
        """Blanks the slots of who is no more, and waits for the acknowledgement that the last message still lacks.

        Its receiver is rung once more: nobody knows whether it was.
        """
        for peer in set(range(1, self.fabric.peers + 1)) - set(peers):
            self._slots.clear(peer)
        if self._slots.pending(self.fabric.switch):
            receiver = self._slots.responder(self.fabric.switch)
            self._waiting = receiver, time.monotonic() + TAKE_WITHIN
            self.fabric.ring(receiver, self.fabric.switch)
            self._send_next()

    def mailbox_restored(self, peers: Sequence[int]) -> None:
        """Lays out anew what is the switch's to write; names that are still there stay."""
        self._slots.restore(self.fabric.peers)
        self._slots.name(self.fabric.switch, NODENAME, CCLASS)
        for peer in peers:
            if not self._slots.cclass(peer):
                self._slots.name(peer, self._slots.nodename(peer), NEWCOMER)

    def joined(self, peer: int) -> None:
        """Gives the newcomer an empty slot."""
        self._slots.clear(peer)
        self._slots.name(peer, "", NEWCOMER)

    def left(self, peer: int) -> None:
        """Blanks the names in the slot, and takes back what the peer was to be sent."""
        self._slots.clear(peer)
        self._queue = deque(message for message in self._queue if message.peer != peer)
        if self._waiting is not None and self._waiting[0] == peer:
            self._slots.acknowledge(self.fabric.switch)
        self._send_next()

    def doorbell(self, peer: int | None, vector: int, rings: int) -> None:
        """Reads the message in the slot of the peer that the vector names, and answers it."""
        if not 1 <= vector <= self.fabric.peers:
            return
        try:
            text = self._slots.peek(vector)
            if text is None:
                return
            self._answer(vector, text.decode())
        except MailboxError as e:
            self.fabric.log("message malformed", peer=vector, error=e)
        except UnicodeDecodeError:
            self.fabric.log("message malformed", peer=vector, error="it is no UTF-8")
        # Only now: who goes on after a kill finds a message that may not have been answered, and answers it again.
        self._slots.acknowledge(vector)

    def tick(self, now: float) -> None:
        """Looks whether the last message was acknowledged, and sends the next."""
        self._send_next()

    def _answer(self, peer: int, text: str) -> None:
        request, tracker = _track(text)
        answer = self._requests.get(request)
        if answer is not None:
            self._send(peer, answer() + tracker)

    def _ping(self) -> str:
        return "pong"

    def _dump(self) -> str:
        """Shows the ports: here as far as they fit into a message, in the log all of them."""
        ports = []
        for peer in range(1, self.fabric.peers + 1):
            nodename, cclass = self._slots.nodename(peer), self._slots.cclass(peer)
            if cclass:
                ports.append(f"{peer} {nodename or '-'} ({cclass})")
                self.fabric.log("port", peer=peer, nodename=nodename, cclass=cclass)
        shown = f"{len(ports)} of {self.fabric.peers} ports in use"
        room = MAX_TEXT - len(_TRACKER) - 20
        for port in ports:
            if len(f"{shown}; {port}".encode()) > room:
                return f"{shown}; ..."
            shown = f"{shown}; {port}"
        return shown

    def _send(self, peer: int, text: str) -> None:
        if sum(message.peer == peer for message in self._queue) >= QUEUED:
            self.fabric.log("message not sent: the peer takes none", peer=peer)
            return
        self._queue.append(_Outgoing(peer, text))
        self._send_next()

    def _send_next(self) -> None:
        now = time.monotonic()
        while True:
            if self._waiting is not None:
                peer, until = self._waiting
                if self._slots.pending(self.fabric.switch) and now < until:
                    self.due = now + _LOOK_AGAIN
                    return
                if now >= until and self._slots.pending(self.fabric.switch):
                    self.fabric.log("message not taken in time", peer=peer)
                self._waiting = None
            if not self._queue:
                self.due = None
                return
            message = self._queue.popleft()
            self._slots.put(self.fabric.switch, message.text.encode(), message.peer)
            self._waiting = message.peer, now + TAKE_WITHIN
            self.fabric.ring(message.peer, self.fabric.switch)


def _track(text: str) -> tuple[str, str]:
    """Splits a tracker off: the message, and the tracker of its reply, one hop further ("" without one)."""
    message, found, hops = text.rpartition(_TRACKER)
    if not found or not (hops.isascii() and hops.isdigit() and len(hops) <= 9):
        return text, ""
    return message.strip(), f"{_TRACKER}{int(hops) + 1}"
