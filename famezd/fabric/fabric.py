"""A fabric: who is on it, who comes, who goes, and what each has to be told."""

from __future__ import annotations

import errno
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import NamedTuple

from famezd.fabric import log
from famezd.fabric.ids import FreshIds, StickyIds
from famezd.fabric.listener import Credentials, credentials
from famezd.fabric.peer import Peer, room
from famezd.fabric.relay import Relay
from famezd.fabric.settings import Settings
from famezd.fabric.wiring import Direct, Relayed, Wiring
from famezd.mailbox import Memory, server_memory
from famezd.protocol import MAX_PEER_ID, Batch, Descriptor, PeerId, announcement, refusal, setup
from famezd.stats import SWITCH_ROW, Occupant, Page
from famezd.switch.personality import Personality

RETRY = 0.01
"""Seconds until something is sent again for which the kernel had no room."""

_LISTENING = select.EPOLLIN | select.EPOLLRDHUP
_NO_ROOM = (errno.ETOOMANYREFS, errno.ENOMEM, errno.ENOBUFS)


class Refused(Exception):  # noqa: N818 (what happens to the newcomer, not an error of ours)
    """A newcomer is turned away."""

    def __init__(self, reason: str, why: str) -> None:
        super().__init__(why)
        self.reason = reason
        """One of the stats page's reasons."""


class _Leaver(NamedTuple):
    peer: Peer
    reason: str


class Fabric:
    """The members of one fabric, its switch, and the doorbells between them.

    Also what the switch's personality works with (`famezd.switch.personality.Fabric`).
    """

    def __init__(
        self, settings: Settings, personality: type[Personality], page: Page, mailbox: Descriptor, logger: log.Log
    ) -> None:
        self.peers = settings.peers
        self.vectors = settings.vectors
        self.switch = personality.first_id + settings.peers
        self.memory: Memory = server_memory(mailbox)
        self.epoll = select.epoll()
        """Bells, by edge, and members' sockets; the worker adds what else it waits for."""
        self.members: dict[int, Peer] = {}
        """By their socket's descriptor, in the order of their joins."""
        self.relay = Relay(self.epoll, page, self._stalled)

        self._page = page
        self._mailbox = mailbox
        self._log = logger
        self._sticky = settings.sticky
        self._first_id = personality.first_id
        self._switch_place = settings.peers if personality.is_peer else None
        self._switch_row = settings.peers if settings.relayed else SWITCH_ROW
        self._known_ringers = settings.relayed
        ports = range(self._first_id, self._first_id + settings.peers)
        fresh = ports if personality.fixed_ids else range(self._first_id, MAX_PEER_ID + 1)
        self._ids = StickyIds(ports) if self._sticky else FreshIds(fresh)
        # With fresh ports a place is lent out; the one that was free longest comes first, so that its last occupant's
        # counters can be read for as long as possible.
        self._free = deque(range(settings.peers))
        wiring = Relayed if settings.relayed else Direct
        self._wiring: Wiring = wiring(self.relay, settings.vectors, switch=self._switch_place, sticky=self._sticky)
        self._leaving: deque[_Leaver] = deque()
        self._starved: set[Peer] = set()
        self._retry_at: float | None = None
        self._personality = personality(self)

    # What a personality works with

    def ring(self, peer: int, vector: int) -> None:
        """Rings `peer` on `vector` as the switch; a bell to nobody is counted as dropped."""
        place = self._place_of(peer)
        if place is None or not 0 <= vector < self.vectors:
            self._page.add("dropped")
        else:
            self.relay.ring(self._switch_row, place, vector)

    def log(self, event: str, **fields: object) -> None:
        """Logs `event`, one line."""
        self._log.say(log.INFO, event, **fields)

    # What the worker calls

    def turn(self, events: Collection[tuple[int, int]]) -> list[tuple[int, int]]:
        """Relays, and hears the members; returns the events that belong to neither.

        Doorbells first: one that was rung before its ringer hung up is passed on.
        """
        others = []
        for event in self.relay.relay(events):
            descriptor, mask = event
            member = self.members.get(descriptor)
            if member is None:
                others.append(event)
            elif mask & ~select.EPOLLOUT:
                self._leaving.append(_Leaver(member, _hangup_or_bytes(member.connection)))
            else:
                self._flush(member)
        if self.relay.for_switch:
            self._tell_switch()
        if self._leaving:
            self._part()
        return others

    @property
    def deadline(self) -> float | None:
        """When `tick` has something to do, in seconds of the monotonic clock."""
        retry, due = self._retry_at, self._personality.due
        return due if retry is None else retry if due is None else min(retry, due)

    def tick(self, now: float) -> None:
        """Does what was due by `now`."""
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            starved, self._starved = self._starved, set()
            for member in starved:
                self._flush(member)
            self._part()
        if self._personality.due is not None and now >= self._personality.due:
            self._personality.due = None
            self._call_switch(self._personality.tick, now)

    def join(self, connection: socket.socket) -> None:
        """Takes a newcomer in, or turns it away. The connection is the fabric's from now on."""
        who = credentials(connection)
        connection.setblocking(False)
        try:
            member = self._admit(connection, who)
        except Refused as e:
            self._refuse(connection, who, e)
            return
        self._flush(member)
        if not self._sticky:
            for other in list(self.members.values()):
                if other is not member:
                    self._flush(other)
        self._part()

    def close(self) -> None:
        """Passes on what was rung, and ends all memberships; nobody is told anything but the end of its connection."""
        self._catch_up()
        for member in self.members.values():
            self._page.vacate(member.place)
            member.connection.close()
        self.relay.close()

    def _catch_up(self) -> None:
        """Takes all doorbells and hang-ups that are there; who else has something to say is heard in the loop."""
        self.turn(self.epoll.poll(0, self._page.shape.words))

    # Joining

    def _admit(self, connection: socket.socket, who: Credentials) -> Peer:
        try:
            return self._seat(connection, who)
        except Refused:
            # Whoever hung up before this one came has made room already; the news may be waiting in line.
            self._catch_up()
            return self._seat(connection, who)

    def _seat(self, connection: socket.socket, who: Credentials) -> Peer:
        if len(self.members) >= self.peers:
            raise Refused("full", f"all {self.peers} ports are taken")
        handed = self._handed()
        left = self._check_room(who, handed)
        peer = self._ids.take()
        if peer is None:
            raise Refused("ids", "every id has been seen to depart by a connected peer; one of them must leave first")
        place = peer - self._first_id if self._sticky else self._free.popleft()
        member = Peer(connection, peer, place, left)
        try:
            news = self._wire(member)
            self.epoll.register(connection, _LISTENING)
        except OSError as e:
            self._release(member)
            raise Refused("resources", f"its eventfds cannot be made: {e.strerror}") from e
        if self._page.last_id(place) not in (None, peer):
            self._page.forget(place)
        self._page.occupy(Occupant(place, peer, who.pid, who.uid, time.time_ns()))
        self._page.add("joins")
        for other, batch in news:
            other.owe((batch,))
            other.room -= self.vectors
        self.members[connection.fileno()] = member
        self._call_switch(self._personality.joined, peer)
        self._log.say(log.INFO, "peer joined", peer=peer, pid=who.pid, uid=who.uid)
        return member

    def _handed(self) -> int:
        """How many descriptors a newcomer's set-up hands it: the memory, and everybody's bells."""
        present = self.peers - 1 if self._sticky else len(self.members)
        return 1 + self.vectors * (present + 1 + (self._switch_place is not None))

    def _check_room(self, who: Credentials, handed: int) -> int:
        left = room(who) - handed
        if left < 0:
            raise Refused(
                "own_limit",
                f"the set-up hands it {handed} descriptors, and its soft limit has room for {left + handed}; "
                f"start it with a higher limit of open files",
            )
        if not self._sticky:
            for other in self.members.values():
                if other.room < self.vectors:
                    raise Refused(
                        "member_limit",
                        f"it would hand peer {other.id} {self.vectors} more descriptors, and that one's soft limit has "
                        f"room for {other.room}; start peer {other.id} with a higher limit of open files",
                    )
        return left

    def _wire(self, member: Peer) -> list[tuple[Peer, Batch]]:
        """Makes the newcomer's eventfds and queues its set-up; returns what others are to be told."""
        place, wiring = member.place, self._wiring
        receivers = wiring.open(place)
        if self._sticky:
            ports = ((PeerId(self._first_id + p), p) for p in range(self.peers) if p != place)
            news = []
        else:
            present = list(self.members.values())
            ports = ((other.id, other.place) for other in present)
            news = [(other, announcement(member.id, wiring.bells(other.place, place))) for other in present]
        others = [announcement(peer, wiring.bells(place, p)) for peer, p in ports]
        if self._switch_place is not None:
            others.append(announcement(PeerId(self.switch), wiring.bells(place, self._switch_place)))
        member.owe(setup(member.id, self._mailbox, others, receivers))
        return news

    def _refuse(self, connection: socket.socket, who: Credentials, refused: Refused) -> None:
        self._page.add(f"refused_{refused.reason}")
        self._log.say(log.WARNING, f"peer refused: {refused}", reason=refused.reason, pid=who.pid, uid=who.uid)
        nobody = Peer(connection, PeerId(0), 0, 0)
        nobody.owe((refusal(),))
        try:
            nobody.flush()
        except OSError:
            # It has gone already.
            pass
        connection.close()

    # Leaving

    def _stalled(self, place: int) -> None:
        for member in self.members.values():
            if member.place == place:
                self._leaving.append(_Leaver(member, "stalled"))

    def _part(self) -> None:
        """Ends the memberships that are to end; telling others may end more of them."""
        while self._leaving:
            member, reason = self._leaving.popleft()
            if self.members.pop(member.connection.fileno(), None) is not member:
                continue
            self._starved.discard(member)
            self.epoll.unregister(member.connection)
            member.connection.close()
            others = [] if self._sticky else list(self.members.values())
            for other in others:
                # Before the bells are closed: an outbox may hold them still.
                other.outbox.depart(member.id)
                other.room += self.vectors
            self._release(member)
            self._page.vacate(member.place)
            self._page.add(f"left_{reason}")
            self._call_switch(self._personality.left, member.id)
            self._log.say(log.INFO, "peer left", peer=member.id, reason=reason)
            for other in others:
                self._flush(other)

    def _release(self, member: Peer) -> None:
        self._wiring.close(member.place)
        self._ids.release(member.id)
        if not self._sticky:
            self._free.append(member.place)

    # Sending

    def _flush(self, member: Peer) -> None:
        try:
            member.flush()
        except BlockingIOError:
            self._await_room(member, waiting=True)
        except OSError as e:
            if e.errno in _NO_ROOM:
                # Not the peer's fault, and no event says when it is over.
                self._starved.add(member)
                self._retry_at = time.monotonic() + RETRY
            else:
                reason = "hangup" if e.errno in (errno.EPIPE, errno.ECONNRESET) else "broken"
                self._leaving.append(_Leaver(member, reason))
        else:
            self._await_room(member, waiting=False)

    def _await_room(self, member: Peer, *, waiting: bool) -> None:
        if member.writing != waiting:
            member.writing = waiting
            self.epoll.modify(member.connection, _LISTENING | (select.EPOLLOUT if waiting else 0))

    # The switch

    def _place_of(self, peer: int) -> int | None:
        if self._sticky:
            place = peer - self._first_id
            return place if 0 <= place < self.peers else None
        return next((member.place for member in self.members.values() if member.id == peer), None)

    def _tell_switch(self) -> None:
        doorbells, self.relay.for_switch = self.relay.for_switch, []
        for row, vector, rings in doorbells:
            peer = self._page.last_id(row) if self._known_ringers else None
            self._call_switch(self._personality.doorbell, peer, vector, rings)

    def _call_switch(self, hook: Callable[..., None], *arguments: object) -> None:
        """Calls one of the personality's hooks; whatever is wrong with a plug-in, the fabric goes on."""
        try:
            hook(*arguments)
        except Exception as e:  # noqa: BLE001 (see above)
            call = f"{hook.__name__}{arguments}"
            self._log.say(log.ERROR, "personality failed", call=call, error=f"{type(e).__name__}: {e}")


def _hangup_or_bytes(connection: socket.socket) -> str:
    try:
        return "bytes" if connection.recv(1, socket.MSG_DONTWAIT) else "hangup"
    except OSError:
        return "hangup"
