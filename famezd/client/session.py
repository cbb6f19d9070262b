"""What commands act on: a membership, its messages where the fabric has a mailbox, and itself as a component."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import Self

from famezd.client.component import Component
from famezd.client.directory import Directory, called
from famezd.client.guest import GuestPeer
from famezd.client.mailbox import Mailbox, Message
from famezd.client.member import Member
from famezd.client.peer import ClientError, Event, Peer
from famezd.mailbox import MailboxError


class Session:
    """A client on a fabric, until the end of its `with` block; whatever waits in it answers messages meanwhile."""

    def __init__(self, peer: Member) -> None:
        self.peer = peer
        self.component = Component()
        self._called: dict[int, str] = {}
        try:
            self._mailbox: Mailbox | None = Mailbox(peer, answer=self._answer)
        except MailboxError:
            self._mailbox = None

    @classmethod
    def join(cls, socket: str | os.PathLike[str]) -> Self:
        """Joins the fabric at `socket`; raises ClientError if that fails."""
        return cls(Peer.join(socket))

    @classmethod
    def open(cls, address: str, notice: Callable[[str], object]) -> Self:
        """Takes this machine's ivshmem device, as `GuestPeer.open` does."""
        return cls(GuestPeer.open(address, notice=notice))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None and self._mailbox is not None:
                # What we have taken is owed an answer.
                self._mailbox.settle()
        finally:
            if self._mailbox is not None:
                self._mailbox.close()
            self.peer.leave()

    @property
    def mailbox(self) -> Mailbox:
        """Our messages; raises ClientError where the fabric has no mailbox."""
        if self._mailbox is None:
            raise ClientError(
                "this fabric has no mailbox for messages (its personality is not genz); "
                "`ring`, `watch`, `who` and `dump` work, with ids"
            )
        return self._mailbox

    @property
    def has_mailbox(self) -> bool:
        """Whether there are messages, and names."""
        return self._mailbox is not None

    def directory(self) -> Directory:
        """Who is there, as far as can be known: without a mailbox, everybody whom we can ring."""
        if self._mailbox is not None:
            return self._mailbox.directory()
        peers = self.peer.peers
        members = dict.fromkeys([*(peers or ()), self.peer.id], ("", ""))
        return Directory(members, self.peer.id, None, anybody=peers is None)

    def name(self, peer: int) -> str:
        """What a peer is called in print; one that has gone, what it was called when it last said something."""
        directory = self.directory()
        return directory.name(peer) if peer in directory.members else self._called.get(peer, directory.name(peer))

    def wait(self, timeout: float | None) -> list[Event]:
        """Waits as `Peer.wait` does, and deals with what comes; it may return nothing, and early."""
        return self.peer.wait(timeout) if self._mailbox is None else self._mailbox.collect(timeout)

    def messages(self) -> list[Message]:
        """The messages that have come and nobody has seen."""
        found: list[Message] = []
        if self._mailbox is not None:
            while (message := self._mailbox.next_message()) is not None:
                found.append(message)
        return found

    @property
    def busy(self) -> bool:
        """Whether `wait` has to be called again soon, though nothing comes."""
        return self._mailbox is not None and self._mailbox.busy

    def _answer(self, message: Message) -> str | None:
        self._called[message.src] = called(message.src, self.mailbox.slots.nodename(message.src))
        before = self.component.configuration
        answer = self.component.answer(message)
        if self.component.configuration is not before:
            self.mailbox.slots.identify(self.peer.id, self.component.cid, self.component.sid)
        return answer
