"""The ivshmem client-server protocol, version 0, both ends, without sockets.

A message is one signed 64-bit little-endian integer with at most one descriptor, and only the server sends any. The
server's end says which messages to send, in which order, and keeps what could not be sent yet. The client's end is a
state machine: it is given bytes and descriptors as they arrive, and returns what they mean.

Nothing here opens, closes or duplicates a descriptor. To this module a descriptor is a token.

Source: QEMU, "Device Specification for Inter-VM shared memory device", section "Client-Server protocol".
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, MutableMapping, MutableSequence, Sequence
from typing import NamedTuple, NewType, NoReturn

from famezd.errors import FamezError

PeerId = NewType("PeerId", int)
"""A peer's id on its fabric, 0..65535."""
Vector = NewType("Vector", int)
"""The number of an interrupt vector of a peer, from 0."""
Descriptor = NewType("Descriptor", int)
"""A file descriptor of this process."""

VERSION = 0
"""The only version of the protocol that there is."""
REFUSAL = -1
"""What a refused newcomer gets where the version belongs: the one answer on which QEMU exits with a clear message."""
MEMORY = -1
"""The value of the message that carries the shared memory."""
MAX_PEER_ID = 65535
"""Ids have 16 bits: that is what the device's doorbell register holds."""
MESSAGE_SIZE = 8
"""Bytes of a message."""


Marks = MutableSequence[int] | MutableMapping[int, int] | memoryview
"""Words that an outbox writes its progress to."""


class ProtocolError(FamezError):
    """The other end sent what the protocol does not allow at that point."""


class Message(NamedTuple):
    """One message: a value, and the descriptor that travels with it, if any."""

    value: int
    descriptor: Descriptor | None = None


class Batch(NamedTuple):
    """Messages with one value: one for each descriptor, or one without any."""

    value: int
    descriptors: Sequence[Descriptor] = ()
    mark: int = 0
    """Index of the outbox's mark that says how much of it was sent."""
    goes_on: bool = False
    """Whether the next batch is of the same set-up, so that the messages of both may be sent together."""


def encode(value: int) -> bytes:
    """The eight bytes of a message's value."""
    return value.to_bytes(MESSAGE_SIZE, "little", signed=True)


def decode(word: bytes) -> int:
    """The value in a message's eight bytes."""
    return int.from_bytes(word, "little", signed=True)


def announcement(peer: PeerId, bells: Sequence[Descriptor], mark: int = 0, *, goes_on: bool = False) -> Batch:
    """Tells of `peer`: its id once per vector, each with the eventfd that interrupts it on vector 0, 1, 2, ....

    In the set-up of another one it `goes_on`: that one's own announcement comes last.
    """
    return Batch(peer, bells, mark, goes_on)


def departure(peer: PeerId, mark: int = 0) -> Batch:
    """Tells that `peer` has left."""
    return Batch(peer, mark=mark)


def refusal() -> Batch:
    """Turns a newcomer away; the connection is closed behind it."""
    return Batch(REFUSAL)


def greeting(peer: PeerId, memory: Descriptor, mark: int = 0) -> list[Batch]:
    """Begins the set-up of `peer`: version, id, shared memory, with this mark and the two after it."""
    return [Batch(VERSION, mark=mark), Batch(peer, mark=mark + 1), Batch(MEMORY, (memory,), mark + 2)]


def setup(
    peer: PeerId,
    memory: Descriptor,
    others: Iterable[Batch],
    own: Sequence[Descriptor],
    *,
    greeting_mark: int = 0,
    own_mark: int = 0,
) -> list[Batch]:
    """All that the newcomer `peer` is sent: the greeting, the others' announcements, and last its own.

    Clients take their own announcement for the end of the set-up.
    """
    version, identity, shared = greeting(peer, memory, greeting_mark)
    return [version, identity, shared._replace(goes_on=True), *others, announcement(peer, own, own_mark)]


def mark(value: int, sent: int) -> int:
    """What an outbox marks when messages of `value` were sent, so many with descriptors; never 0."""
    return ((value + 2) << 16) + sent


def marked(word: int) -> tuple[int, int]:
    """The value, and the number of messages with descriptors, that a mark stands for.

    Of a peer that was announced and has left, that number is 0 again.
    """
    return (word >> 16) - 2, word & 0xFFFF


class Outbox:
    """The server's end of one connection: what a peer has still to be sent.

    A peer that reads slowly, or not at all, is owed all of it, so nothing is dropped; and yet the outbox is bounded.
    It holds batches, not messages, and those of peers that are there: the announcement of a peer that leaves before
    any of it was sent is taken back, and neither that nor the departure is ever told. What else is queued are the
    departures of peers whose announcement was sent, and a peer that does not read is sent no more of these.
    """

    def __init__(self, marks: Marks | None = None, doubt: int = 0) -> None:
        """`marks` outlive the process, so that a successor knows what it has still to send.

        There it says how much of each batch was sent. While something is being sent, the index of the mark of the last
        batch that it is of stands at index `doubt`, else 0: who finds it there cannot know whether that was sent.
        """
        self._queue: deque[Batch] = deque()
        self._sent = 0
        self._marks: Marks = {} if marks is None else marks
        self._doubt = doubt

    def __len__(self) -> int:
        """How many batches are queued, a partly sent one included."""
        return len(self._queue)

    def descriptors(self) -> list[Descriptor]:
        """All that are still to be sent."""
        left = [descriptor for batch in self._queue for descriptor in batch.descriptors]
        return left[self._sent :]

    def extend(self, batches: Iterable[Batch]) -> None:
        """Queues batches."""
        self._queue.extend(batches)

    def resume(self, batch: Batch, sent: int) -> None:
        """Puts a batch in front of all others, of which so many messages were sent before."""
        self._queue.appendleft(batch)
        self._sent = sent

    def depart(self, peer: PeerId, mark: int = 0) -> None:
        """Queues the departure of an announced peer, or takes the announcement back if none of it was sent."""
        for i, batch in enumerate(self._queue):
            if batch.value == peer and batch.descriptors:
                del self._queue[i]
                if i or not self._sent:
                    return
                # Some of its vectors are announced: the others never will be.
                self._sent = 0
                break
        self._queue.append(departure(peer, mark))

    def flush(self, send: Callable[[bytes, Sequence[Descriptor]], int], most: int = sys.maxsize) -> bool:
        """Sends messages by `send(words, descriptors)`, until none is left, `most` were sent, or `send` raises.

        Returns whether any is left. `send` is given the encoded values of messages and the descriptor of each, or one
        value and no descriptor. It returns how many messages it sent, or raises OSError if none was; what was not sent
        comes first in the next flush.
        """
        marks, doubt = self._marks, self._doubt
        while self._queue and most:
            words, descriptors, last = self._next(most)
            marks[doubt] = last
            try:
                sent = send(words, descriptors)
            except OSError:
                marks[doubt] = 0
                raise
            self._note(sent)
            marks[doubt] = 0
            most -= sent
        return bool(self._queue)

    def _next(self, most: int) -> tuple[bytes, Sequence[Descriptor], int]:
        """What is sent next: values, descriptors, and the mark of the last batch of which there is any."""
        value, descriptors, last, goes_on = self._queue[0]
        if not descriptors:
            return encode(value), descriptors, last
        together = [*descriptors[self._sent : self._sent + most]]
        words, at = encode(value) * len(together), 0
        while goes_on and (room := most - len(together)):
            at += 1
            value, descriptors, last, goes_on = self._queue[at]
            together += descriptors[:room]
            words += encode(value) * min(room, len(descriptors))
        return words, together, last

    def _note(self, sent: int) -> None:
        """Marks so many messages as sent."""
        while sent:
            value, descriptors, at, _ = self._queue[0]
            n = min(sent, len(descriptors) - self._sent) if descriptors else 1
            sent -= n
            self._sent += n
            self._marks[at] = mark(value, self._sent if descriptors else 0)
            if self._sent >= len(descriptors):
                self._queue.popleft()
                self._sent = 0


class Identified(NamedTuple):
    """The server gave this client its id."""

    peer: PeerId


class MemoryShared(NamedTuple):
    """The shared memory arrived."""

    descriptor: Descriptor


class VectorAdded(NamedTuple):
    """`peer` (this client itself included) can be interrupted on `vector` by `descriptor`."""

    peer: PeerId
    vector: Vector
    descriptor: Descriptor


class PeerLeft(NamedTuple):
    """`peer` is gone, and with it its eventfds, which are handed back here to be closed."""

    peer: PeerId
    descriptors: tuple[Descriptor, ...]


Event = Identified | MemoryShared | VectorAdded | PeerLeft


class Client:
    """The client's end: bytes and descriptors in, events out.

    Bytes may come in pieces of any size. The kernel hands out a message's descriptor with the message's first byte and
    never reads past such a message, so descriptors belong to the message that the last byte of their piece lies in.

    Once the machine has raised ProtocolError it raises the same again. The descriptors given in the call that raised
    are still the caller's, as are all those in `peers` and `memory`.
    """

    def __init__(self) -> None:
        self.peer: PeerId | None = None
        """This client's own id, once it is known."""
        self.memory: Descriptor | None = None
        """The shared memory, once it has arrived."""
        self.peers: dict[PeerId, list[Descriptor]] = {}
        """Every peer that is known, this client included, with the eventfds that interrupt it."""
        self._next: Callable[[Message], Event | None] = self._version
        self._expected = "the protocol version 0, without a descriptor"
        self._piece = b""
        self._carried: Descriptor | None = None
        self._failure: ProtocolError | None = None

    @property
    def complete(self) -> bool:
        """Whether the set-up is over as far as can be told: the client has as many vectors as any other peer.

        The protocol does not say how many vectors there are, so a client that is alone takes its first for all.
        """
        own = len(self.peers.get(self.peer, ())) if self.peer is not None else 0
        return own > 0 and own >= max(map(len, self.peers.values()))

    def receive(self, data: bytes, descriptors: Sequence[Descriptor] = ()) -> list[Event]:
        """Takes what one read returned.

        Raises ProtocolError if that is no message which may come now; its text says what was expected.
        """
        if self._failure is not None:
            raise self._failure
        events = []
        data = self._piece + data
        whole = len(data) // MESSAGE_SIZE * MESSAGE_SIZE
        # The message that the descriptors belong to starts here:
        last = whole - MESSAGE_SIZE if whole == len(data) else whole
        for start in range(0, whole, MESSAGE_SIZE):
            if start == last:
                self._carry(descriptors)
                descriptors = ()
            message = Message(decode(data[start : start + MESSAGE_SIZE]), self._carried)
            self._carried = None
            event = self._next(message)
            if event is not None:
                events.append(event)
        self._piece = data[whole:]
        self._carry(descriptors)
        return events

    def end(self) -> None:
        """Takes the end of the stream; raises ProtocolError if it came in the midst of the set-up or of a message."""
        if self._failure is not None:
            raise self._failure
        if self._piece:
            self._fail(f"the end of the stream after {len(self._piece)} bytes of a message", "the rest of it")
        if not self.complete:
            self._fail("the end of the stream", self._expected)

    def _carry(self, descriptors: Sequence[Descriptor]) -> None:
        if not descriptors:
            return
        if len(descriptors) > 1 or self._carried is not None:
            self._fail("a message with several descriptors", "at most one")
        self._carried = descriptors[0]

    def _fail(self, got: str, expected: str) -> NoReturn:
        self._failure = ProtocolError(f"received {got}; expected {expected}")
        raise self._failure

    def _unexpected(self, message: Message) -> NoReturn:
        self._fail(_describe(message), self._expected)

    def _version(self, message: Message) -> None:
        if message.value == REFUSAL and message.descriptor is None:
            self._fail("version -1: the server refuses (it says why in its log)", "version 0")
        if message != Message(VERSION):
            self._unexpected(message)
        self._expect(self._id, "this client's own id, 0 to 65535, without a descriptor")

    def _id(self, message: Message) -> Identified:
        if message.descriptor is not None or not 0 <= message.value <= MAX_PEER_ID:
            self._unexpected(message)
        self.peer = PeerId(message.value)
        self._expect(self._shared, "-1 with the descriptor of the shared memory")
        return Identified(self.peer)

    def _shared(self, message: Message) -> MemoryShared:
        if message.value != MEMORY or message.descriptor is None:
            self._unexpected(message)
        self.memory = message.descriptor
        self._expect(
            self._membership, "a peer's id, 0 to 65535: with the eventfd of its next vector, or to say it left"
        )
        return MemoryShared(message.descriptor)

    def _membership(self, message: Message) -> VectorAdded | PeerLeft:
        if not 0 <= message.value <= MAX_PEER_ID:
            self._unexpected(message)
        peer = PeerId(message.value)
        if message.descriptor is not None:
            bells = self.peers.setdefault(peer, [])
            bells.append(message.descriptor)
            return VectorAdded(peer, Vector(len(bells) - 1), message.descriptor)
        if peer == self.peer or peer not in self.peers:
            who = "this client itself" if peer == self.peer else f"peer {peer}, which was never announced"
            self._fail(f"the departure of {who}", "departures of announced peers only")
        return PeerLeft(peer, tuple(self.peers.pop(peer)))

    def _expect(self, handler: Callable[[Message], Event | None], expected: str) -> None:
        self._next = handler
        self._expected = expected


def _describe(message: Message) -> str:
    carried = "without a descriptor" if message.descriptor is None else "with a descriptor"
    return f"{message.value} {carried}"
