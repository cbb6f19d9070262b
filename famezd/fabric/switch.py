"""The switch in a worker: its personality, what that works with, and what keeps its mistakes from hurting anybody."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from famezd.errors import FamezError
from famezd.fabric import log
from famezd.fabric.settings import Settings
from famezd.mailbox import MailboxError, Memory
from famezd.messages import MessageError, kind
from famezd.statepage import StateError, StatePage, Table
from famezd.stats import QUEUED, Page
from famezd.switch.messenger import Messenger
from famezd.switch.personality import FAILURES, Personality

T = TypeVar("T")


class SwitchError(FamezError):
    """The switch cannot do what its personality wants, or there is none."""


class Switch:
    """A fabric's switch.

    Also what its personality works with (`famezd.switch.personality.Fabric`).
    """

    def __init__(
        self,
        personality: type[Personality],
        settings: Settings,
        memory: Memory,
        page: Page,
        state: StatePage | None,
        *,
        ring: Callable[[int, int], None],
        logger: log.Log,
    ) -> None:
        """`ring` rings a peer on a vector as the switch; `state` is where to keep what the switch knows.

        Touches nothing. Raises SwitchError if the personality cannot be made.
        """
        self.peers = settings.peers
        self.vectors = settings.vectors
        self.switch = personality.first_id + settings.peers
        self.is_peer = has_switch(personality, settings)
        self.options: Mapping[str, str] = settings.personality_options
        self._asking: int | None = None
        """Whose message or doorbell the switch sees to now."""
        self.memory = memory
        self._members: set[int] = set()
        self._page = page
        self._queued = page.gauge_at(QUEUED)
        self._state = state
        self._kept: tuple[Table, Table] = {}, {}
        self._relay = ring
        self._log = logger
        self._messenger: Messenger | None = None
        if personality.has_slots:
            self._messenger = Messenger(memory, settings.peers, ring, self.log, page.add, is_peer=self.is_peer)
        try:
            self._personality = personality(self)
        except FAILURES as e:  # a plug-in may raise anything
            raise SwitchError(f"the personality {settings.personality} cannot be made: {_shown(e)}") from e

    # What a personality works with

    @property
    def members(self) -> Sequence[int]:
        """The ids of those who are there, in ascending order."""
        return sorted(self._members)

    def ring(self, peer: int, vector: int) -> None:
        """Rings `peer` on `vector`; raises SwitchError where the switch is no peer."""
        if not self.is_peer:
            raise SwitchError("the switch is no peer, so it can ring nobody")
        self._relay(peer, vector)

    def send(self, peer: int, text: str) -> None:
        """Sends `peer` a message; raises SwitchError where that is impossible, MailboxError if it is too long."""
        if self._messenger is None or not self.is_peer:
            raise SwitchError("the switch can send nothing: it is no peer, or the mailbox has no slots")
        if peer in self._members:
            self._messenger.send(peer, text)

    def log(self, event: str, **fields: object) -> None:
        """Logs `event`, one line; a guest that causes many loses all but a few a second, and no other guest's."""
        self._log.say_as(self._kind("personality"), log.INFO, event, **fields)

    def _kind(self, event: str) -> str:
        """The kind of a line: a separate one for each peer that can cause it."""
        return event if self._asking is None else f"{event}, caused by peer {self._asking}"

    # What the fabric calls

    @property
    def due(self) -> float | None:
        """When `tick` has something to do, in seconds of the monotonic clock."""
        times = [self._ask(self._due, None, "due"), None if self._messenger is None else self._messenger.due]
        return min((at for at in times if at is not None), default=None)

    @property
    def busy(self) -> bool:
        """Whether something is to be finished before a successor goes on."""
        waiting = self._messenger is not None and self._messenger.busy
        return waiting or self._ask(lambda: bool(self._personality.busy), False, "busy")

    def forget(self) -> None:
        """The fabric begins anew: nothing is known that a predecessor knew."""
        if self._state is not None:
            self._state.write()

    def started(self) -> None:
        """The fabric is new."""
        if self._messenger is not None:
            self._messenger.lay_out(*self._names())
        self._call("started")
        self._save()

    def resumed(self, peers: Sequence[int]) -> None:
        """The fabric goes on with these peers."""
        self._members = set(peers)
        known, queue = self._kept = self._recall()
        if self._messenger is not None:
            self._messenger.resume(peers, queue, *self._names())
        self._call("resumed", peers, known)
        self._save()

    def mailbox_restored(self) -> None:
        """The mailbox had another size for a while."""
        if self._messenger is not None:
            self._messenger.restore(self._members, *self._names())
        self._call("mailbox_restored", self.members)
        self._save()

    def joined(self, peer: int) -> None:
        """`peer` is there."""
        self._members.add(peer)
        if self._messenger is not None:
            # Anybody may have written there, and a newcomer goes by what it finds.
            self._messenger.restore((), *self._names())
            self._messenger.joined(peer)
        self._call("joined", peer)
        self._save()

    def left(self, peer: int) -> None:
        """`peer` is there no more."""
        self._members.discard(peer)
        if self._messenger is not None:
            self._messenger.left(peer)
        self._call("left", peer)
        self._save()

    def doorbell(self, peer: int | None, vector: int, rings: int) -> None:
        """The switch was rung; with slots, on the vector of the peer that has sent a message, if anybody has."""
        self._asking = vector if self._messenger is not None and vector in self._members else peer
        if self._messenger is None or vector not in self._members or not self._hear(self._messenger, vector):
            self._call("doorbell", peer, vector, rings)
            self._save()
        self._asking = None

    def tick(self, now: float) -> None:
        """Does what was due by `now`."""
        changed = self._messenger is not None and self._messenger.send_next()
        due = self._ask(self._due, None, "due")
        if due is not None and now >= due:
            self._personality.due = None
            self._call("tick", now)
            changed = True
        if changed:
            # Not at each look at a slot: there are a thousand in a second.
            self._save()

    # How

    def _hear(self, messenger: Messenger, src: int) -> bool:
        """Takes the message in the slot of `src`; returns whether there was one."""
        try:
            text = messenger.receive(src)
            if text is None:
                return False
            handled = self._call("message", src, text)
            self._page.add(f"{'heard' if handled else 'failed'}_{kind(text)}")
        except (MailboxError, MessageError) as e:
            self._page.add("messages_malformed")
            self.log("message malformed", peer=src, error=e)
        # Before the message is gone, so that whoever goes on after a kill knows what it has changed, or finds it still.
        self._save()
        messenger.acknowledge(src)
        return True

    def _names(self) -> tuple[str, str]:
        made = self._personality
        return self._ask(lambda: (str(made.nodename), str(made.cclass)), ("", ""), "nodename, cclass")

    def _due(self) -> float | None:
        due = self._personality.due
        if due is not None and not (isinstance(due, int | float) and math.isfinite(due)):
            self._personality.due = None
            raise TypeError(f"due must be seconds or None, not {due!r}")
        return due

    def _call(self, hook: str, *arguments: object) -> bool:
        """Calls one of the personality's hooks; whether that went well.

        MessageError is for who called it to deal with.
        """
        try:
            getattr(self._personality, hook)(*arguments)
        except FAILURES as e:  # whatever is wrong with a plug-in, the fabric goes on
            if hook == "message" and isinstance(e, MessageError):
                raise
            self._failed(f"{hook}{arguments}", e)
            return False
        return True

    def _ask(self, question: Callable[[], T], default: T, what: str) -> T:
        try:
            return question()
        except FAILURES as e:
            self._failed(what, e)
            return default

    def _failed(self, call: str, error: BaseException) -> None:
        self._page.add("personality_errors")
        event = "personality failed"
        self._log.say_as(self._kind(event), log.ERROR, event, call=call, error=_shown(error))

    def _save(self) -> None:
        """Writes down what has changed of what the switch knows, and has still to send."""
        queue = {} if self._messenger is None else self._messenger.queue
        self._page.words[self._queued] = len(queue)
        if self._state is None:
            return
        former, _ = self._kept
        # Where the personality's state is none, what waits is kept with the one before.
        for known in (self._ask(self._known, former, "state()"), former):
            if (known, queue) == self._kept:
                return
            try:
                self._state.write(known, queue)
            except (StateError, OSError) as e:
                self._failed("state()", e)
            else:
                self._kept = known, queue
                return

    def _known(self) -> Table:
        return {name: dict(fields) for name, fields in self._personality.state().items()}

    def _recall(self) -> tuple[Table, Table]:
        """What a predecessor knew, and what it had still to send."""
        if self._state is not None:
            try:
                known, queue = self._state.read(2)
            except StateError as e:
                self._log.say(log.ERROR, f"the switch goes on knowing nothing: {e}")
            else:
                return known, queue
        return {}, {}


def has_switch(personality: type[Personality], settings: Settings) -> bool:
    """Whether the switch is a peer on a fabric with these settings."""
    return personality.is_peer and not settings.silent


def keeps_state(personality: type[Personality]) -> bool:
    """Whether a fabric's switch knows anything that has to outlive its worker."""
    return personality.has_slots or personality.state is not Personality.state


def _shown(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
