"""This client as a Gen-Z component: what it answers, and what a fabric manager makes of it."""

from __future__ import annotations

from famezd.client.mailbox import CCLASS, Message
from famezd.messages import (
    PING,
    PONG,
    Attributes,
    CtlWrite,
    LinkRfc,
    MessageError,
    Nak,
    PeerAttribute,
    StandaloneAcknowledgment,
    Text,
    parse,
    track,
    untrack,
)
from famezd.messages import Message as Said

NO_MANAGER = "this component is no fabric manager"


class Component:
    """A component of class `Debugger`; its link is configured once a manager has written its ids."""

    def __init__(self) -> None:
        self.configuration: CtlWrite | None = None
        """What the manager wrote last."""
        self.attributes: dict[int, Attributes] = {}
        """What peers said of themselves, by id."""

    @property
    def cid(self) -> int:
        """Our component id, 0 before we have any."""
        return 0 if self.configuration is None else self.configuration.cid

    @property
    def sid(self) -> int:
        """Our subnet's id, 0 before we have any."""
        return 0 if self.configuration is None else self.configuration.sid

    def answer(self, message: Message) -> str | None:
        """The text that answers a message, None where it needs no answer; keeps what it tells us."""
        text, hops = untrack(message.text)
        try:
            said = parse(text)
        except MessageError:
            # Who sent it may be a guest's driver in the making: it is shown, and that is all.
            return None
        answer = self._answer(message.src, said)
        return None if answer is None else track(answer, None if hops is None else hops + 1)

    def _answer(self, src: int, said: Said) -> Said | None:
        match said:
            case Text(text=str(text)) if text == PING:
                return Text(PONG)
            case PeerAttribute():
                return Attributes(CCLASS, self.cid, self.sid)
            case CtlWrite():
                self.configuration = said
                return StandaloneAcknowledgment(said.tag)
            case LinkRfc():
                return Nak(NO_MANAGER)
            case Attributes():
                self.attributes[src] = said
        return None
