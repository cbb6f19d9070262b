"""A peer's connection: its socket, and its outbox."""

from __future__ import annotations

import fcntl
import socket
import sys
import termios
from collections.abc import Iterable, Sequence

from famezd.fabric.burst import Burst
from famezd.protocol import Batch, Descriptor, Outbox, PeerId

BURST = 32
"""Messages that are sent to one peer before others' doorbells are seen to: about 50 us."""

_MESSAGE_MEMORY = 768
"""Bytes of kernel memory that a message takes in a socket's queue: 278 of them fill the customary 212,992."""
_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_burst = Burst(BURST)


class Peer:
    """Somebody on a fabric."""

    __slots__ = (
        "connection",
        "id",
        "joined",
        "leaving",
        "outbox",
        "pid",
        "place",
        "unsent",
        "writing",
    )

    def __init__(
        self, connection: socket.socket, peer: PeerId, place: int, outbox: Outbox, *, pid: int, joined: int
    ) -> None:
        self.connection = connection
        self.id = peer
        self.place = place
        """The peer's index in the stats page."""
        self.pid = pid
        """Of its process, 0 where that cannot be seen."""
        self.outbox = outbox
        self.joined = joined
        """When, in nanoseconds of the real-time clock."""
        self.writing = False
        """Whether the loop waits for the socket to take more."""
        self.unsent = 0
        """How many announcements waited to be sent to it when that was last looked at."""
        self.leaving = ""
        """Why its membership is about to end."""

    def owe(self, batches: Iterable[Batch]) -> None:
        """Queues what the peer has to be told."""
        self.outbox.extend(batches)

    def undelivered(self) -> int:
        """How many descriptors, about, were sent to the peer or will be, and are not among its own yet."""
        unread = fcntl.ioctl(self.connection, termios.TIOCOUTQ, bytes(4))
        waiting = len(self.outbox.descriptors()) if self.outbox else 0
        return waiting + int.from_bytes(unread, sys.byteorder) // _MESSAGE_MEMORY

    def flush(self) -> bool:
        """Sends a burst; returns whether more is left. Raises OSError, BlockingIOError if the socket takes no more."""
        return self.outbox.flush(self._send, BURST)

    def _send(self, words: bytes, descriptors: Sequence[Descriptor]) -> int:
        if descriptors:
            return _burst.send(self.connection.fileno(), words, descriptors)
        self.connection.send(words, _FLAGS)
        return 1
