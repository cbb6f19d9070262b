"""Messages between peers, through the mailbox of a genz fabric."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from famezd.client.directory import Directory
from famezd.client.member import Member
from famezd.client.peer import ClientError, Doorbell, Event
from famezd.mailbox import MAX_TEXT, MailboxError, Slots

CCLASS: Final = "Debugger"
"""The component class that a host program gives itself."""
SPIN: Final = 200e-6
"""Seconds in which an acknowledgement is looked for without a pause: whoever is awake and waits for messages gives it
within them. What is longer is worth a sleep."""
EAGER: Final = 100e-6
"""Seconds in which the next message is looked for without a pause: to be woken costs more than a message takes."""
FIRST_PAUSE: Final = 50e-6
"""Seconds between the first two looks after that; each pause is twice the one before."""
LOOK_AGAIN: Final = 0.001
"""Seconds between two looks in the end; no event tells of an acknowledgement."""
ANSWER_WITHIN: Final = 1.0
"""Seconds in which whoever asked has to take the answer: later it is withdrawn, or the deaf would silence us."""
ANSWERS: Final = 64
"""Answers that wait for their turn, at most; further questions get none."""


class NotTakenError(ClientError):
    """The receiver has not acknowledged a message in time; it is still there."""


class NotSentError(NotTakenError):
    """It is an earlier message that is still there, and so this one was not sent."""


class Message(NamedTuple):
    """A message that was received."""

    src: int
    """The id of the slot it stood in: whoever can write there can have sent it."""
    text: str
    answer: str | None = None
    """What it is answered, by who made the mailbox."""


class _Answer(NamedTuple):
    dst: int
    text: str


Answer = Callable[[Message], str | None]
"""What is said in reply to a message, None for nothing."""


class Mailbox:
    """The messages of one peer; also its name in the mailbox while it is there.

    With `answer` every message that comes is answered, during whichever call it comes; it is asked before the message
    is acknowledged. On the host it maps no memory: what somebody cuts short reads as empty, and kills nobody.
    """

    def __init__(self, peer: Member, *, nodename: str = "", answer: Answer | None = None) -> None:
        self._peer = peer
        self._memory = peer.open_memory()
        self.slots = Slots(self._memory)
        self._inbox: deque[Message] = deque()
        self._answer = answer
        self._answers: deque[_Answer] = deque()
        self._sending = False
        # Until when the answer that stands in the slot may be taken:
        self._answered: float | None = None
        self._size = peer.memory_size
        try:
            self.slots.check(self._size)
        except MailboxError:
            self._memory.close()
            raise
        # A peer can write the globals, too; what was read once stays.
        self.switch = self.slots.server
        """The id of the switch, also of one that is silent, and so no peer."""
        self.slots.name(peer.id, nodename or f"z{peer.id:02}", CCLASS)

    def names(self) -> dict[int, tuple[str, str]]:
        """Node name and component class of everybody who has any, by id."""
        slots = range(1, self.switch + 1)
        return {slot: (self.slots.nodename(slot), cclass) for slot in slots if (cclass := self.slots.cclass(slot))}

    def directory(self) -> Directory:
        """Who is there now."""
        switch = self.switch if self.switch in (self._peer.peers or ()) else None
        return Directory(self.names(), self._peer.id, switch)

    def find(self, destination: str) -> int:
        """The id that a person means: a number, a node name, or `switch` (also `server`).

        Raises ClientError if there is no such peer, or several have that name.
        """
        return self.directory().find(destination)

    def send(self, dst: int, text: str, *, timeout: float = 5.0) -> None:
        """Sends a message, at most 383 bytes of UTF-8, and returns when `dst` has acknowledged it.

        Messages that come meanwhile are kept for `receive`. Raises NotTakenError if there is no acknowledgement within
        `timeout` seconds, NotSentError if there is none of an earlier message, and MailboxError if the text cannot be
        sent or somebody has cut the mailbox short.
        """
        self._send(self._peer.id, dst, text, timeout)

    def spoof(self, src: int, dst: int, text: str, *, timeout: float = 5.0) -> None:
        """Sends a message as if it came from `src`: from its slot, and on its vector.

        Nothing keeps `src` itself from writing there at the same time. Raises what `send` raises.
        """
        self._send(src, dst, text, timeout)

    def withdraw(self) -> bool:
        """Takes this peer's last message back; returns whether it still stood there.

        A receiver that is about to read it can find it gone, or the next one in its place.
        """
        stood = self.slots.pending(self._peer.id)
        self.slots.acknowledge(self._peer.id)
        return stood

    def receive(self, *, timeout: float | None = None) -> Message | None:
        """The next message, None if there is none after `timeout` seconds (None: waits for ever, 0: does not wait)."""
        deadline = None if timeout is None else time.monotonic() + timeout
        until = time.monotonic() + (EAGER if timeout is None else min(EAGER, timeout))
        while not self._inbox and time.monotonic() < until:
            os.sched_yield()
            self.collect(0.0)
        while not self._inbox:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            self.collect(left)
            if left == 0.0:
                break
        return self.next_message()

    def next_message(self) -> Message | None:
        """The next message of those that have come already."""
        return self._inbox.popleft() if self._inbox else None

    def put_back(self, messages: Sequence[Message]) -> None:
        """Has `receive` return these next, in their order."""
        self._inbox.extendleft(reversed(messages))

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
                if message is not None and (message.src, message.text) == (dst, "pong"):
                    return time.monotonic() - began
                if message is not None:
                    others.append(message)
        finally:
            self.put_back(others)
        raise ClientError(f"peer {dst} took the ping and has not answered within {timeout:g} s")

    def collect(self, timeout: float | None) -> list[Event]:
        """Waits as `Peer.wait` does, and returns what it returns; messages are kept for `receive`, and answered.

        It may return nothing earlier than `timeout`: when answers wait for their turn.
        """
        if self.busy:
            self._send_answers()
            timeout = LOOK_AGAIN if timeout is None else min(timeout, LOOK_AGAIN)
        events = self._peer.wait(timeout)
        for event in events:
            # The vector is the sender's id.
            if isinstance(event, Doorbell) and 0 < event.vector <= self.switch:
                self._take(event.vector)
        if self.busy:
            self._send_answers()
        return events

    @property
    def busy(self) -> bool:
        """Whether `collect` has to be called soon, though nothing comes: for answers, or because nothing would."""
        return self._owing or self._peer.polls

    @property
    def _owing(self) -> bool:
        """Whether answers wait for their turn or to be taken."""
        return bool(self._answers) or self._answered is not None

    def settle(self) -> None:
        """Returns when all answers are taken, or `ANSWER_WITHIN` is over."""
        deadline = time.monotonic() + ANSWER_WITHIN
        while self._owing and time.monotonic() < deadline:
            self.collect(LOOK_AGAIN)

    def close(self) -> None:
        """Lets go of the mailbox; the peer stays."""
        self._memory.close()

    def _send(self, slot: int, dst: int, text: str, timeout: float) -> None:
        data = _checked(text)
        deadline = time.monotonic() + timeout
        # No answer may take the turn of what is sent here, or be waited for in its stead.
        self._sending = True
        try:
            self._await_taken(slot, deadline, NotSentError, "an earlier message")
            self._put(slot, dst, data)
            self._await_taken(slot, deadline, NotTakenError, "the message")
        finally:
            self._sending = False
        self._send_answers()
        size = self._peer.memory_size
        if size < self._size:
            # What is cut off reads as if it were taken.
            raise MailboxError(f"somebody cut the mailbox from {self._size} to {size} bytes: the message may be lost")

    def _put(self, slot: int, dst: int, data: bytes) -> None:
        self.slots.put(slot, data, dst)
        try:
            self._peer.ring(dst, slot)
        except ClientError:
            # Nobody was told of it, so nobody would ever take it.
            self.slots.acknowledge(slot)
            raise

    def _await_taken(self, slot: int, deadline: float, failure: type[NotTakenError], what: str) -> None:
        """Returns when the message in a slot is taken; raises `failure` if it is not in time."""
        began = time.monotonic()
        pause = FIRST_PAUSE
        while self.slots.pending(slot):
            now = time.monotonic()
            if now < began + SPIN:
                # Whoever is to take it may need this processor, or wait for us to take what it has sent.
                os.sched_yield()
                self.collect(0.0)
                continue
            if now >= deadline:
                raise failure(
                    f"{what} to peer {self.slots.responder(slot)} was not acknowledged in time; "
                    f"it still stands in the mailbox"
                )
            if pause < LOOK_AGAIN:
                # The peer's own wait knows whole milliseconds only.
                time.sleep(pause)
                pause *= 2
            self.collect(0.0 if pause < LOOK_AGAIN else min(LOOK_AGAIN, deadline - now))

    def _take(self, slot: int) -> None:
        try:
            text = self.slots.peek(slot)
        except MailboxError:
            # Whoever wrote nonsense there gets no answer; its slot is free again.
            self.slots.acknowledge(slot)
            return
        if text is None:
            return
        message = Message(slot, text.decode(errors="replace"))
        answer = None if self._answer is None or len(self._answers) >= ANSWERS else self._answer(message)
        # Last: whoever only came to say this goes now, and takes its name with it.
        self.slots.acknowledge(slot)
        if answer is not None:
            self._answers.append(_Answer(slot, answer))
            message = message._replace(answer=answer)
        self._inbox.append(message)

    def _send_answers(self) -> None:
        """Sends the next answer, if our slot is free for it."""
        if self._answered is not None:
            if not self.slots.pending(self._peer.id):
                self._answered = None
            elif time.monotonic() >= self._answered:
                self.withdraw()
                self._answered = None
        if self._answers and not self._sending and not self.slots.pending(self._peer.id):
            answer = self._answers.popleft()
            try:
                self._put(self._peer.id, answer.dst, answer.text.encode()[:MAX_TEXT])
            except ClientError:
                # Whoever asked has gone.
                return
            self._answered = time.monotonic() + ANSWER_WITHIN


def _checked(text: str) -> bytes:
    data = text.encode(errors="surrogateescape")
    if not data:
        raise MailboxError("a message must have at least one byte: an empty one cannot be told from none")
    if b"\0" in data:
        raise MailboxError("a message cannot contain a NUL: it would end there")
    if len(data) > MAX_TEXT:
        raise MailboxError(f"a message of {len(data)} bytes; at most {MAX_TEXT} fit into a slot")
    return data
