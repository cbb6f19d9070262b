"""A question and its answers, between whatever else comes."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from famezd.client.mailbox import Message
from famezd.client.peer import ClientError
from famezd.client.session import Session
from famezd.messages import Message as Meaning
from famezd.messages import MessageError, parse, untrack


class NoAnswerError(ClientError):
    """A message was taken, and not answered in time."""


class Conversation:
    """Messages to and from one peer; what came before, and what comes from others meanwhile, is kept for later."""

    def __init__(self, session: Session, peer: int, timeout: float) -> None:
        self._mailbox = session.mailbox
        self._peer = peer
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._aside = session.messages()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self._mailbox.put_back(self._aside)

    def say(self, text: str) -> None:
        """Sends a message; raises NotTakenError if it is not taken in time."""
        self._mailbox.send(self._peer, text, timeout=self._timeout)

    def hear(self, missing: str) -> Message:
        """The peer's next message; raises NoAnswerError, which says what is missing, if none comes in time."""
        while (left := self._deadline - time.monotonic()) > 0:
            message = self._mailbox.receive(timeout=left)
            if message is not None and message.src == self._peer:
                return message
            if message is not None:
                self._aside.append(message)
        raise NoAnswerError(f"peer {self._peer} took the message, and {missing} in time")

    def ask(self, text: str, is_reply: Callable[[Meaning], bool]) -> Message:
        """Sends a message and returns its reply."""
        self.say(text)
        while True:
            message = self.hear("no answer came")
            said = meaning(message)
            if said is not None and is_reply(said):
                return message
            self._aside.append(message)


def meaning(message: Message) -> Meaning | None:
    """What a message says, its tracker taken off; None if it begins like a control packet and is none."""
    try:
        return parse(untrack(message.text)[0])
    except MessageError:
        return None
