"""Messages between peers, through the mailbox of a genz fabric."""

from __future__ import annotations

import os
import time
from collections import deque
from typing import NamedTuple

from famezd.client.peer import ClientError, Doorbell, Peer
from famezd.mailbox import MailboxError, Slots, outliving_memory

CCLASS = "Debugger"
"""The component class that a host program gives itself."""
LOOK_AGAIN = 0.0005
"""Seconds between two looks at a message that is not acknowledged yet: no event tells of it."""


class NotTakenError(ClientError):
    """The receiver has not acknowledged a message in time; it is still there."""


class Message(NamedTuple):
    """A message that was received."""

    src: int
    """The id of the slot it stood in: whoever can write there can have sent it."""
    text: str


class Mailbox:
    """The messages of one peer; also its name in the mailbox while it is there.

    It maps no memory: a mailbox that somebody cuts short reads as empty, and kills nobody who uses this.
    """

    def __init__(self, peer: Peer, *, nodename: str = "") -> None:
        self._peer = peer
        self._memory = outliving_memory(peer.memory)
        self._slots = Slots(self._memory)
        self._inbox: deque[Message] = deque()
        self._size = os.fstat(peer.memory).st_size
        self._slots.check(self._size)
        self._slots.name(peer.id, nodename or f"z{peer.id:02}", CCLASS)

    @property
    def switch(self) -> int:
        """The id of the switch."""
        return self._slots.server

    def names(self) -> dict[int, tuple[str, str]]:
        """Node name and component class of everybody who has any, by id."""
        slots = range(1, self._slots.server + 1)
        return {slot: (self._slots.nodename(slot), cclass) for slot in slots if (cclass := self._slots.cclass(slot))}

    def find(self, destination: str) -> int:
        """The id that a person means: a number, a node name, or `switch` (also `server`).

        Raises ClientError if there is no such peer.
        """
        names = self.names()
        if destination in ("switch", "server"):
            return self.switch
        for peer, (nodename, _) in names.items():
            if destination in (str(peer), nodename):
                return peer
        known = ", ".join(f"{peer} ({nodename})" if nodename else str(peer) for peer, (nodename, _) in names.items())
        raise ClientError(f"no peer {destination!r}; there are: {known}")

    def send(self, dst: int, text: str, *, timeout: float = 5.0) -> None:
        """Sends a message, at most 383 bytes of UTF-8, and returns when `dst` has acknowledged it.

        Messages that come meanwhile are kept for `receive`. Raises NotTakenError if there is no acknowledgement within
        `timeout` seconds, MailboxError if the text is too long or somebody has cut the mailbox short.
        """
        deadline = time.monotonic() + timeout
        self._await_taken(deadline, f"an earlier message to peer {self._slots.responder(self._peer.id)}")
        self._slots.put(self._peer.id, text.encode(), dst)
        self._peer.ring(dst, self._peer.id)
        self._await_taken(deadline, f"the message to peer {dst}")
        size = os.fstat(self._peer.memory).st_size
        if size < self._size:
            # What is cut off reads as if it were taken.
            raise MailboxError(f"somebody cut the mailbox from {self._size} to {size} bytes: the message may be lost")

    def receive(self, *, timeout: float | None = None) -> Message | None:
        """The next message, None if there is none after `timeout` seconds (None: waits for ever)."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._inbox:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left < 0:
                return None
            self._collect(left)
        return self._inbox.popleft()

    def ping(self, dst: int, *, timeout: float = 5.0) -> float:
        """Sends `ping` and waits for the `pong`; returns the seconds that it took.

        Raises NotTakenError if the message is not acknowledged, ClientError if it is not answered in time.
        """
        began = time.monotonic()
        self.send(dst, "ping", timeout=timeout)
        others: list[Message] = []
        try:
            while (left := began + timeout - time.monotonic()) > 0:
                message = self.receive(timeout=left)
                if message == Message(dst, "pong"):
                    return time.monotonic() - began
                if message is not None:
                    others.append(message)
        finally:
            self._inbox.extendleft(reversed(others))
        raise ClientError(f"peer {dst} took the ping and has not answered within {timeout:g} s")

    def close(self) -> None:
        """Lets go of the mailbox; the peer stays."""
        self._memory.close()

    def _await_taken(self, deadline: float, what: str) -> None:
        while self._slots.pending(self._peer.id):
            if time.monotonic() >= deadline:
                raise NotTakenError(f"{what} was not acknowledged in time; it still stands in the mailbox")
            self._collect(LOOK_AGAIN)

    def _collect(self, timeout: float | None) -> None:
        for event in self._peer.wait(timeout):
            # The vector is the sender's id.
            if isinstance(event, Doorbell) and 0 < event.vector <= self._slots.server:
                try:
                    text = self._slots.take(event.vector)
                except MailboxError:
                    # Whoever wrote nonsense there gets no answer; its slot is free again.
                    continue
                if text is not None:
                    self._inbox.append(Message(event.vector, text.decode(errors="replace")))
