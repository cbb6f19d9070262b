"""A fabric: who is on it, who comes, who goes, and what each has to be told."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import select
import socket
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping

from famezd.ark import Ark
from famezd.fabric import log
from famezd.fabric.faults import Faults
from famezd.fabric.guard import Guard
from famezd.fabric.ids import FreshIds, StickyIds
from famezd.fabric.ledger import Ledger, Manifest, Membership, end, hang_up
from famezd.fabric.listener import Credentials, credentials
from famezd.fabric.peer import Peer
from famezd.fabric.processes import program
from famezd.fabric.refusals import Refusals
from famezd.fabric.relay import Relay
from famezd.fabric.rooms import Rooms
from famezd.fabric.settings import Settings
from famezd.fabric.switch import Switch
from famezd.fabric.wiring import Direct, Relayed, Wiring
from famezd.faults import Rule
from famezd.mailbox import Slots, outliving_memory
from famezd.protocol import (
    MAX_PEER_ID,
    Batch,
    Descriptor,
    Outbox,
    PeerId,
    announcement,
    departure,
    greeting,
    mark,
    marked,
    refusal,
    setup,
)
from famezd.statepage import StatePage
from famezd.stats import JOINS, LEAVES, SWITCH_ROW, TOLD_WORDS, UNSENT, Occupant, Page
from famezd.switch.personality import Personality

BAN = 10.0
"""Seconds in which a process that made its eventfds block may not join again."""
PATIENCE = 0.1
"""Seconds for which messages wait for the kernel's room, before the ark gives way to them."""
PACK_AGAIN = 1.0
"""Seconds until the ark is made again for which there was no room; ten times as long from the second time on."""
SETTLE = 5.0
"""Seconds until the ark lets go of what departed peers had, if it is not packed earlier: they may keep it open, too."""
RETRY = 0.01
"""Seconds until something is sent again for which the kernel had no room."""

BURSTS = 16
"""Bursts that are sent to one peer before the loop sees to all else: more than a socket takes of who does not read."""

FROZEN = 0.05
"""Seconds until somebody may come or go again, after that could not be written down."""

OTHERS = 8
"""At least as many descriptors as the worker waits for besides bells, members and ports' own sockets."""

_LISTENING = select.EPOLLIN | select.EPOLLRDHUP
_NO_ROOM = (errno.ETOOMANYREFS, errno.ENOMEM, errno.ENOBUFS)


class Refused(Exception):  # noqa: N818 (what happens to the newcomer, not an error of ours)
    """A newcomer is turned away."""

    def __init__(self, reason: str, why: str) -> None:
        super().__init__(why)
        self.reason = reason
        """One of the stats page's reasons."""


class Fabric:
    """The members of one fabric, its switch, and the doorbells between them."""

    def __init__(
        self,
        settings: Settings,
        personality: type[Personality],
        page: Page,
        mailbox: Descriptor,
        *,
        state: StatePage | None,
        ark: Ark | None,
        charter: Mapping[str, str],
        logger: log.Log,
    ) -> None:
        """`state` is for what the switch knows, `charter` what a successor is to find of the fabric in the `ark`.

        Raises SwitchError if the personality cannot be made.
        """
        self.peers = settings.peers
        self.vectors = settings.vectors
        self.epoll = select.epoll()
        """Bells, by edge, and members' sockets; the worker adds what else it waits for."""
        self.members: dict[int, Peer] = {}
        """By their socket's descriptor, in the order of their joins."""
        self.relayed = 0
        """How many bells the last turn saw to."""
        self.calm = False
        """Whether the last turn did nothing but relay, so that `deadline` and all that is due are what they were."""
        memory = outliving_memory(mailbox)
        self._switch = Switch(personality, settings, memory, page, state, ring=self._ring, logger=logger)
        self._switch_place = settings.peers if self._switch.is_peer else None
        slots = Slots(memory) if personality.has_slots else None
        faults = Faults(page, settings.fault_rules, slots=slots, switch=self._switch_place)
        self.relay = Relay(self.epoll, page, self._stalled, faults)

        self._page = page
        self._mailbox = mailbox
        self._guard = self._new_guard(settings, logger)
        self._access = settings.access
        self._waits_for = OTHERS + len(settings.pinned.sockets)
        self._log = logger
        self._sticky = settings.sticky
        self._first_id = personality.first_id
        self._switch_row = settings.peers if settings.relayed else SWITCH_ROW
        self._known_ringers = settings.relayed
        self._ids = self._new_ids(settings, personality)
        # With fresh ports a place is lent out; the one that was free longest comes first, so that its last occupant's
        # counters can be read for as long as possible.
        self._free = deque(range(settings.peers))
        self._wiring = self._new_wiring(settings)
        self._leaving: deque[Peer] = deque()
        self._unsaid: list[tuple[PeerId, Credentials]] = []
        self._held = False
        self._quiet = False
        self._unsent = page.gauge_at(UNSENT)
        self._refusals = Refusals()
        self._rooms = Rooms()
        self._starved: set[Peer] = set()
        self._starved_since: float | None = None
        self._banned: dict[int, float] = {}
        self._retry_at: float | None = None
        self._thaw_at: float | None = None
        self._pack_at: float | None = None
        self._pack_after = 0.0
        self._ledger = Ledger(ark, self._wiring.goes, charter)

    def _new_guard(self, settings: Settings, logger: log.Log) -> Guard | None:
        """What looks at the mailbox's size, where anybody can change that."""
        if settings.backing == "memfd":
            return None
        return Guard(self._mailbox, settings.memory, settings.size, logger, self._mailbox_restored)

    def _new_wiring(self, settings: Settings) -> Wiring:
        wiring = Relayed if settings.relayed else Direct
        switch, sticky = self._switch_place, settings.sticky
        return wiring(self.relay, settings.vectors, switch=switch, sticky=sticky, breathe=self._breathe)

    def _new_ids(self, settings: Settings, personality: type[Personality]) -> StickyIds | FreshIds:
        """The ids that newcomers get; fault rules are told of those that stay at their places for good."""
        ports, seat = range(self._first_id, self._first_id + settings.peers), self.relay.faults.seat
        if self._switch_place is not None:
            seat(self._switch_place, self._switch.switch)
        if settings.sticky:
            for place, peer in enumerate(ports):
                seat(place, peer)
            return StickyIds(ports, settings.pinned)
        if personality.fixed_ids:
            return FreshIds(ports)
        # A switch that is a peer has the id after the ports', and fresh ids must not come to it.
        return FreshIds(range(self._switch.switch + 1 if self._switch.is_peer else ports.start, MAX_PEER_ID + 1))

    def start(self) -> None:
        """Begins with nobody there; raises OSError if the ark cannot be read.

        Whoever was there before, in an ark that does not fit any more, is hung up on.
        """
        abandoned = self._ledger.read()
        for membership in abandoned.members:
            hang_up(membership.connection)
        for bells in abandoned.sets.values():
            for bell in bells:
                os.close(bell)
        for place in range(self._page.shape.places):
            self._page.vacate(place)
        self._page.words[self._unsent] = 0
        self._count_missed()
        # It is counted, and whoever was rung is gone.
        self._page.recover()
        self._page.delivered()
        self._page.hold_nothing()
        self.relay.faults.begin()
        for row, vector, rings in self._unanswered():
            self._page.answered(row, vector, rings)
        self._switch.forget()
        self._pack()
        self._switch.started()

    def prepare(self) -> None:
        """Takes over what is in the ark, and touches nothing of it.

        A predecessor may serve still, as long as it holds. Raises OSError as `start`.
        """
        manifest = self._ledger.read()
        self._ids.relive(manifest.ids)
        for membership in manifest.members:
            self.relay.faults.seat(membership.place, membership.peer)
        self._wiring.restore(manifest.sets, [membership.place for membership in manifest.members])
        for membership in manifest.members:
            self._readmit(membership)
        if not self._sticky:
            taken = {membership.place for membership in manifest.members}
            self._free = deque(place for place in range(self.peers) if place not in taken)

    def resume(self) -> None:
        """Goes on, once prepared, where a predecessor stopped, whatever it was doing."""
        self._page.words[self._unsent] = 0
        for place in set(range(self._page.shape.places)) - {member.place for member in self.members.values()}:
            self._page.vacate(place)
        self._count_missed()
        complete = self._complete_marks()
        for member in self.members.values():
            # Nearly all were told all, and to find that out one by one would take a second for a thousand.
            if self._marks(member) != complete:
                self._resume_outbox(member)
        # Before the personality is asked anything: what it rings is in flight, too.
        self.relay.redeliver()
        self._switch.resumed([member.id for member in self.members.values()])
        self.relay.for_switch |= {(row, vector): rings for row, vector, rings in self._unanswered()}
        self._tell_switch()
        # Before anybody is sent anything, or leaves: an untidy ledger takes nothing down.
        self._tidy()
        for member in list(self.members.values()):
            self._flush(member)
        self._part()

    # What the worker calls

    def turn(self, events: Collection[tuple[int, int]]) -> list[tuple[int, int]]:
        """Relays, and hears the members; returns the events that belong to neither.

        Doorbells first: one that was rung before its ringer hung up is passed on.
        """
        return self._turn(self.relay.share(events))

    def _turn(self, events: Collection[tuple[int, int]]) -> list[tuple[int, int]]:
        self._quiet = not events
        others = []
        rest = self.relay.relay(events)
        self.relayed = len(events) - len(rest)
        self.calm = not (rest or self._leaving) and self.relay.calm
        for event in rest:
            descriptor, mask = event
            member = self.members.get(descriptor)
            if member is None:
                others.append(event)
            elif mask & ~select.EPOLLOUT:
                self._leave(member, _hangup_or_bytes(member.connection))
            else:
                self._flush(member)
        if self.relay.for_switch:
            self._tell_switch()
        if self._leaving:
            self._part()
        return others

    def hold(self) -> None:
        """From now on who is on the fabric does not change, and the switch hears nothing new: a successor prepares."""
        self._held = True

    @property
    def busy(self) -> bool:
        """Whether the switch has something to finish before a successor goes on."""
        return self._switch.busy

    def carry_on(self) -> None:
        """No successor comes: does what was put off."""
        self._held = False
        self._tell_switch()
        self._part()
        self._tidy()

    def give_way(self) -> None:
        """Somebody needs the room that is taken for those who may come one day."""
        self._wiring.let_go()

    def kick(self, peer: int) -> bool:
        """Ends the membership of `peer`; whether there was one."""
        member = next((member for member in self.members.values() if member.id == peer), None)
        if member is not None:
            self._leave(member, "kicked")
            self._part()
        return member is not None

    def change_rules(self, rules: tuple[Rule, ...]) -> None:
        """From now on these fault rules are in force."""
        self.relay.change_rules(rules)

    @property
    def deadline(self) -> float | None:
        """When `tick` has something to do, in seconds of the monotonic clock."""
        if self.relay.waiting:
            return 0.0
        if not self._held and (self.relay.for_switch or self._wiring.lacks or (self._leaving and not self._thaw_at)):
            return 0.0
        first = self._switch.due
        later = (self._thaw_at, self._pack_at) if not self._held else ()
        for due in (self._retry_at, self.relay.faults.due, self._refusals.due, *later):
            if due is not None and (first is None or due < first):
                first = due
        return first

    def tick(self, now: float) -> None:
        """Does what was due by `now`."""
        if self._quiet and self._wiring.lacks and not self._held:
            self._wiring.make_ready()
        self.relay.release(now)
        self._refusals.tick(now)
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            starved, self._starved = self._starved, set()
            for member in starved:
                self._flush(member)
            if not self._starved:
                self._starved_since = None
            elif self._starved_since is not None and now >= self._starved_since + PATIENCE and not self._held:
                self._make_room()
            self._part()
        if self._thaw_at is not None and now >= self._thaw_at:
            self._part()
        if self._pack_at is not None and now >= self._pack_at and not self._held:
            self._pack_at = None
            self._pack()
        due = self._switch.due
        if due is not None and now >= due:
            self._switch.tick(now)
            self._part()

    def can_change(self) -> bool:
        """Whether somebody may come or go: not while a successor prepares, nor while it could not be written down.

        A manager that takes nothing may be dead, and we about to be: then it is our successor who sees to them.
        """
        now = time.monotonic()
        if self._held or (self._thaw_at is not None and now < self._thaw_at):
            return False
        self._tidy()
        if self._ledger.ready():
            self._thaw_at = None
            return True
        if self._thaw_at is None:
            self._log.say(
                log.WARNING, "newcomers and departures have to wait: the manager takes nothing, and they cannot be kept"
            )
        self._thaw_at = now + FROZEN
        return False

    def join(self, connection: socket.socket, port: int | None = None) -> None:
        """Takes a newcomer in, at `port` if it came to that port's own socket, or turns it away.

        The connection is the fabric's from now on. Its join is logged when the caller says so.
        """
        who = credentials(connection)
        connection.setblocking(False)
        self._breathe()
        try:
            member = self._admit(connection, who, port)
        except Refused as e:
            self._refuse(connection, who, e)
            return
        self._breathe()
        self._flush(member)
        if not self._sticky:
            for other in list(self.members.values()):
                if other is not member:
                    self._flush(other)
        self._unsaid.append((member.id, who))
        self._part()

    def say_who_joined(self) -> None:
        """Logs the joins that were not logged yet: newcomers wait for their messages, and nobody for this."""
        for peer, who in self._unsaid:
            self._log.say(log.INFO, "peer joined", peer=peer, pid=who.pid, uid=who.uid)
        self._unsaid.clear()

    def look_after_mailbox(self) -> str:
        """Gives the mailbox its size back if somebody changed it; returns what is wrong if that cannot be done."""
        return "" if self._guard is None else self._guard.look()

    def close(self) -> None:
        """Passes on what was rung, and touches nothing from then on: who goes on from the ark finds all as it is."""
        self._held = True
        self._catch_up()
        self.relay.close()

    def _catch_up(self) -> None:
        """Takes all doorbells and hang-ups that are there; who else has something to say is heard in the loop."""
        there = self.epoll.poll(0, len(self.relay) + len(self.members) + self._waits_for)
        # All at once, and once only: who rings without end must not keep us here.
        self._turn([*self.relay.rest(), *there])

    def _breathe(self) -> None:
        """Passes on what was rung meanwhile: nobody's doorbells wait for the whole of somebody's join or departure."""
        events = self.epoll.poll(0)
        if events or self.relay.waiting:
            self.relay.relay(self.relay.share(events))

    # Going on

    def _unanswered(self) -> list[tuple[int, int, int]]:
        return [] if self._switch_place is None else self._page.unanswered(self._switch_place)

    def _count_missed(self) -> None:
        """Counts the departures that a predecessor had no time to count: whoever came is there, or has left."""
        totals = self._page.totals()
        missed = totals[JOINS] - sum(totals[name] for name in LEAVES) - len(self.members)
        if missed > 0:
            self._page.add("left_hangup", missed)

    def _readmit(self, membership: Membership) -> None:
        """Makes somebody a member who is one in the ark."""
        connection = socket.socket(fileno=membership.connection)
        connection.setblocking(False)
        who = credentials(connection)
        place = membership.place
        outbox = Outbox(self._page.words, self._page.told_at(place))
        member = Peer(connection, membership.peer, place, outbox, pid=who.pid, joined=membership.joined)
        self.members[connection.fileno()] = member
        self.epoll.register(connection, _LISTENING)

    def _complete_marks(self) -> list[int]:
        """The marks of a member to whom nothing is to be sent any more."""
        known = self._known()
        told = [mark(known[place], self.vectors) if place in known else 0 for place in range(self._page.shape.places)]
        return [0, 1, 1, 1, *told]

    def _marks(self, member: Peer) -> list[int]:
        """What a member has been sent: of the greeting whether it was, of others nothing where they have left."""
        start = self._page.told_at(member.place)
        doubt, *marks = self._page.words[start : start + TOLD_WORDS + self._page.shape.places].tolist()
        greeted, told = marks[: TOLD_WORDS - 1], marks[TOLD_WORDS - 1 :]
        return [doubt, *(int(word != 0) for word in greeted), *(word if word & 0xFFFF else 0 for word in told)]

    def _resume_outbox(self, member: Peer) -> None:
        """Queues what a member has still to be sent: what there is, less what it has been told."""
        words, told_at = self._page.words, self._page.told_at
        if doubt := words[told_at(member.place)]:
            words[told_at(member.place)] = 0
            self._resolve(member, doubt)
        greeted = greeting(member.id, self._mailbox, told_at(member.place) + 1)
        member.owe(batch for batch in greeted if not words[batch.mark])
        for place, peer in self._others(member):
            at = told_at(member.place, place)
            told, sent = marked(words[at]) if words[at] else (-1, 0)
            if sent and told != peer:
                member.owe([departure(PeerId(told), at)])
                sent = 0
            if peer is None:
                continue
            batch = announcement(peer, self._wiring.bells(member.place, place), at)
            if not sent:
                member.owe([batch])
            elif sent < self.vectors:
                member.outbox.resume(batch, sent)

    def _resolve(self, member: Peer, doubt: int) -> None:
        """Nobody knows whether the message at this mark was sent to `member`.

        To send it again or to leave it out would both be wrong, so the newcomer whom it concerns has to join again:
        the member itself in its set-up, later the one that was being announced to it. A departure is not repeated.
        """
        words, told_at = self._page.words, self._page.told_at
        own = words[told_at(member.place, member.place)]
        newcomer: Peer | None = member
        if own and marked(own)[1] == self.vectors:
            newcomer = next((m for m in self.members.values() if told_at(member.place, m.place) == doubt), None)
            told, sent = marked(words[doubt]) if words[doubt] else (-1, 0)
            if newcomer is not None and sent and told != newcomer.id:
                # It was the departure of who had the place before.
                newcomer = None
        if newcomer is None:
            words[doubt] = 0
        else:
            self._leave(newcomer, "doubt")

    def _known(self) -> dict[int, PeerId]:
        """The ids that are there for members to know, by place."""
        known = {other.place: other.id for other in self.members.values()}
        if self._sticky:
            known |= {place: PeerId(self._first_id + place) for place in range(self.peers)}
        if self._switch_place is not None:
            known[self._switch_place] = PeerId(self._switch.switch)
        return known

    def _others(self, member: Peer) -> list[tuple[int, PeerId | None]]:
        """All places in the order of a set-up, and the id that is there for a member to know: its own comes last."""
        present = self._known()
        places = [place for place in range(self._page.shape.places) if place != member.place]
        return [*((place, present.get(place)) for place in places), (member.place, member.id)]

    def _make_room(self) -> None:
        """Peers cannot be sent their messages: what the ark holds counts against the same limit, so it gives way."""
        if self._ledger.dead:
            self._pack()
        elif not self._ledger.lost:
            self._ledger.abandon()
            self._tell_of_loss()

    def _tidy(self) -> None:
        """Packs the ledger if that is due."""
        if self._ledger.untidy and time.monotonic() >= self._pack_after and not self._held:
            self._pack()

    def _pack(self) -> None:
        """Writes the ledger anew with what is there."""
        lost = self._ledger.lost
        memberships = [Membership(member.place, member.id, member.joined, fd) for fd, member in self.members.items()]
        if self._ledger.pack(Manifest(memberships, self._wiring.sets, self._ids.history())):
            self._wiring.take_made()
        if self._ledger.lost != lost:
            self._tell_of_loss()
        elif lost:
            self._pack_at = time.monotonic() + 10 * PACK_AGAIN
        elif self._ledger.untidy:
            # The manager is too busy; to wait for it again and again would cost everybody.
            self._pack_at = self._pack_after = time.monotonic() + PACK_AGAIN

    def _tell_of_loss(self) -> None:
        if self._ledger.lost:
            # The manager lets go of what the ark held in its own time; then there may be room again.
            self._pack_at = time.monotonic() + PACK_AGAIN
            self._log.say(
                log.ERROR,
                "no room to keep the fabric's descriptors: it would not outlive its worker; raise the limit of open "
                "files (LimitNOFILE=), which bounds what all of a user's processes have in flight",
            )
        else:
            self._log.say(log.INFO, "there is room again: the fabric would outlive its worker")

    # Joining

    def _admit(self, connection: socket.socket, who: Credentials, port: int | None) -> Peer:
        try:
            welcome = self._access.admit(connection, who)
        except OSError as e:
            raise Refused("resources", f"its groups cannot be looked up: {e.strerror}") from e
        if not welcome:
            raise Refused("access", "neither its user nor any of its groups is in access.users or access.groups")
        if isinstance(self._ids, StickyIds) and port is None and self._ids.misses(who.uid):
            # It would be given another port, while it may be a machine that was restarted.
            self._catch_up()
        try:
            return self._seat(connection, who, port)
        except Refused:
            # Whoever hung up before this one came has made room already; the news may be waiting in line.
            self._catch_up()
            return self._seat(connection, who, port)

    def _seat(self, connection: socket.socket, who: Credentials, port: int | None) -> Peer:
        self._check_user(who.uid)
        if port is not None and any(member.id == port for member in self.members.values()):
            raise Refused("pinned", f"port {port}, whose own socket this is, is taken")
        if len(self.members) >= self.peers:
            raise Refused("full", f"all {self.peers} ports are taken")
        if time.monotonic() < self._banned.get(who.pid, 0.0):
            raise Refused("stalled", f"its process has lately made its eventfds block; it may come back in {BAN:g} s")
        if wrong := self.look_after_mailbox():
            raise Refused("mailbox", wrong)
        handed = self._handed()
        self._check_room(who.pid, handed)
        peer = self._take_id(who.uid, port)
        place = peer - self._first_id if self._sticky else self._free.popleft()
        self.relay.faults.seat(place, peer)
        self._page.tell_nothing(place)
        outbox = Outbox(self._page.words, self._page.told_at(place))
        member = Peer(connection, peer, place, outbox, pid=who.pid, joined=time.time_ns())
        try:
            news = self._wire(member)
            self.epoll.register(connection, _LISTENING)
        except OSError as e:
            self._release(member)
            raise Refused("resources", f"its eventfds cannot be made: {e.strerror}") from e
        # A join is made in parts of about a tenth of a millisecond.
        self._breathe()
        self._take_over(place, peer)
        self._page.occupy(Occupant(place, peer, who.pid, who.uid, member.joined))
        self._page.add("joins")
        for other, batch in news:
            other.owe([batch])
        self.members[connection.fileno()] = member
        # Before the newcomer, or anybody because of it, is sent anything.
        self._ledger.joined(Membership(place, peer, member.joined, connection.fileno()), self._wiring.take_made())
        self._tidy()
        self._breathe()
        self._switch.joined(peer)
        return member

    def _take_id(self, uid: int, port: int | None) -> PeerId:
        if isinstance(self._ids, StickyIds):
            if (peer := self._ids.take(uid, port)) is None:
                raise Refused("pinned", "the ports that are free are pinned, to other users or to sockets of their own")
        elif (peer := self._ids.take()) is None:
            raise Refused("ids", "every id has been seen to depart by a connected peer; one of them must leave first")
        return peer

    def _check_user(self, uid: int) -> None:
        most = self._access.per_user
        if most and sum(self._page.uid(member.place) == uid for member in self.members.values()) >= most:
            raise Refused(
                "per_user", f"its user has {most} peers on the fabric, as many as access.peers_per_user allows"
            )

    def _take_over(self, place: int, peer: PeerId) -> None:
        if self._page.last_id(place) not in (None, peer):
            self._page.forget(place)

    def _handed(self) -> int:
        """How many descriptors a newcomer's set-up hands it: the memory, and everybody's bells."""
        present = self.peers - 1 if self._sticky else len(self.members)
        return 1 + self.vectors * (present + 1 + (self._switch_place is not None))

    def _check_room(self, pid: int, handed: int) -> None:
        """Refuses a newcomer whom, or because of whom a member, QEMU's limit of descriptors would kill."""
        own, others = [], dict[int, list[Peer]]()
        for member in self.members.values():
            if member.pid == pid:
                own.append(member)
            elif not self._sticky:
                others.setdefault(member.pid, []).append(member)
        # Its former memberships are told of it, too.
        needed = handed + (0 if self._sticky else self.vectors * len(own))
        if (left := self._rooms.take(pid, own, needed, anew=True)) < 0:
            raise Refused(
                "own_limit",
                f"it would be handed {needed} descriptors, and its soft limit has room for {max(0, left + needed)}; "
                f"start it with a higher limit of open files",
            )
        for other, memberships in others.items():
            needed = self.vectors * len(memberships)
            if (left := self._rooms.take(other, memberships, needed)) < 0:
                peer = memberships[0].id
                raise Refused(
                    "member_limit",
                    f"it would hand peer {peer} {needed} more descriptors, and that one's soft limit has room for "
                    f"{max(0, left + needed)}; start peer {peer} with a higher limit of open files",
                )

    def _wire(self, member: Peer) -> list[tuple[Peer, Batch]]:
        """Makes the newcomer's eventfds and queues its set-up; returns what others are to be told."""
        place, wiring, told_at = member.place, self._wiring, self._page.told_at
        receivers = wiring.open(place)
        ports: Iterable[tuple[PeerId, int]]
        if self._sticky:
            ports = ((PeerId(self._first_id + p), p) for p in range(self.peers) if p != place)
            news = []
        else:
            present = list(self.members.values())
            ports = ((other.id, other.place) for other in present)
            news = [
                (other, announcement(member.id, wiring.bells(other.place, place), told_at(other.place, place)))
                for other in present
            ]
        if (switch := self._switch_place) is not None:
            ports = itertools.chain(ports, [(PeerId(self._switch.switch), switch)])
        others = [announcement(peer, wiring.bells(place, p), told_at(place, p), goes_on=True) for peer, p in ports]
        marks = {"greeting_mark": told_at(place) + 1, "own_mark": told_at(place, place)}
        member.owe(setup(member.id, self._mailbox, others, receivers, **marks))
        return news

    def _refuse(self, connection: socket.socket, who: Credentials, refused: Refused) -> None:
        self._page.add(f"refused_{refused.reason}")
        self._log.say(
            log.WARNING,
            f"peer refused: {refused}",
            reason=refused.reason,
            pid=who.pid,
            uid=who.uid,
            program=program(who.pid),
        )
        nobody = Peer(connection, PeerId(0), 0, Outbox(), pid=who.pid, joined=0)
        nobody.owe((refusal(),))
        with contextlib.suppress(OSError):
            # It may have gone already.
            nobody.flush()
        self._refusals.keep(connection, time.monotonic())

    # Leaving

    def _stalled(self, place: int) -> None:
        now = time.monotonic()
        self._banned = {pid: until for pid, until in self._banned.items() if until > now}
        for member in self.members.values():
            if member.place == place:
                self._banned[member.pid] = now + BAN
                self._leave(member, "stalled")

    def _leave(self, member: Peer, reason: str) -> None:
        """The membership is to end: nothing that comes from this peer is heard any more."""
        if not member.leaving:
            member.leaving = reason
            self.epoll.unregister(member.connection)
            self._leaving.append(member)

    def _part(self) -> None:
        """Ends the memberships that are to end; telling others may end more of them."""
        while self._leaving and self.can_change():
            member = self._leaving.popleft()
            del self.members[member.connection.fileno()]
            self._starved.discard(member)
            self._owes(member, 0)
            self._wiring.sweep(member.place)
            # While it is still known whose these were.
            self.relay.hurry(member.place)
            self._tell_switch()
            # Before anybody is told: whoever goes on from the ark must not take the peer for one that is there.
            self._ledger.left(member.place, member.id, self._wiring.count(member.place) + 1)
            end(member.connection)
            # Who is to leave as well is told nothing more: of a thousand that go at once none hears of the others.
            others = [] if self._sticky else [other for other in self.members.values() if not other.leaving]
            for other in others:
                # Before the bells are closed: an outbox may hold them still.
                other.outbox.depart(member.id, self._page.told_at(other.place, member.place))
            self._breathe()
            self._release(member)
            self.relay.hurry(member.place)
            self._page.vacate(member.place)
            self._page.add(f"left_{member.leaving}")
            self._switch.left(member.id)
            self.say_who_joined()
            self._log.say(log.INFO, "peer left", peer=member.id, reason=member.leaving)
            for other in others:
                self._flush(other)
            self._tidy()
            if self._ledger.dead and self._pack_at is None:
                self._pack_at = time.monotonic() + SETTLE

    def _release(self, member: Peer) -> None:
        self._wiring.close(member.place)
        self._ids.release(member.id)
        if not self._sticky:
            self._free.append(member.place)

    # Sending

    def _flush(self, member: Peer) -> None:
        if member.leaving:
            return
        try:
            waiting = self._send(member)
        except BlockingIOError:
            self._await_room(member, waiting=True)
        except OSError as e:
            if e.errno in _NO_ROOM:
                # Not the peer's fault, and no event says when it is over.
                if self._starved_since is None:
                    self._starved_since = time.monotonic()
                    self._log.say(log.WARNING, f"messages have to wait: {e.strerror}", peer=member.id)
                self._starved.add(member)
                self._retry_at = time.monotonic() + RETRY
            else:
                reason = "hangup" if e.errno in (errno.EPIPE, errno.ECONNRESET) else "broken"
                self._leave(member, reason)
        else:
            self._await_room(member, waiting=waiting)
        self._owes(member, len(member.outbox))

    def _send(self, member: Peer) -> bool:
        """Sends what a member is owed, with others' doorbells between bursts; returns whether some of it is left."""
        for _ in range(BURSTS):
            if not member.flush():
                return False
            self._breathe()
            if member.leaving:
                return False
        return True

    def _owes(self, member: Peer, unsent: int) -> None:
        """So many announcements wait to be sent to a member now."""
        if unsent != member.unsent:
            self._page.words[self._unsent] += unsent - member.unsent
            member.unsent = unsent

    def _await_room(self, member: Peer, *, waiting: bool) -> None:
        if member.writing != waiting and not member.leaving:
            member.writing = waiting
            self.epoll.modify(member.connection, _LISTENING | (select.EPOLLOUT if waiting else 0))

    # The switch

    def _ring(self, peer: int, vector: int) -> None:
        """Rings `peer` on `vector` as the switch; a bell to nobody is counted as dropped."""
        place = self._place_of(peer)
        if place is None or not 0 <= vector < self.vectors:
            self._page.add("dropped")
        else:
            self.relay.ring(self._switch_row, place, vector)

    def _mailbox_restored(self) -> None:
        self._page.add("resized")
        self._switch.mailbox_restored()

    def _place_of(self, peer: int) -> int | None:
        if self._sticky:
            place = peer - self._first_id
            return place if 0 <= place < self.peers else None
        return next((member.place for member in self.members.values() if member.id == peer), None)

    def _tell_switch(self) -> None:
        if self._held:
            # They stay unanswered on the page, where a successor finds them.
            return
        doorbells, self.relay.for_switch = self.relay.for_switch, {}
        for (row, vector), rings in doorbells.items():
            peer = self._page.last_id(row) if self._known_ringers else None
            self._switch.doorbell(peer, vector, rings)
            self._page.answered(row, vector, rings)
            if len(doorbells) > 1:
                self._breathe()


def _hangup_or_bytes(connection: socket.socket) -> str:
    try:
        return "bytes" if connection.recv(1, socket.MSG_DONTWAIT) else "hangup"
    except OSError:
        return "hangup"
