"""A switch as a worker has it, over a real mailbox, stats page and state page; keeps who is rung and what is logged."""

from __future__ import annotations

import os
import time

from famezd.fabric import log
from famezd.fabric.settings import Settings
from famezd.fabric.switch import Switch, has_switch
from famezd.mailbox import Backing, FileMemory, MappedMemory, Slots, open_backing, slots_size
from famezd.messages import Message, track
from famezd.statepage import StatePage, Table
from famezd.stats import Page
from famezd.switch.genz import Genz
from famezd.switch.personality import Personality

PEERS = 14
SWITCH = PEERS + 1


class Recorder(log.Log):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[str, dict[str, object]]] = []
        self.kinds: list[str] = []

    def say_as(self, kind: str, priority: int, event: str, /, **fields: object) -> None:
        self.kinds.append(kind)
        self.said.append((event, {key: str(value) if key == "error" else value for key, value in fields.items()}))


class Rig:
    """A switch, and its peers, who map the mailbox."""

    def __init__(
        self, personality: type[Personality] = Genz, *, peers: int = PEERS, members: int = PEERS, **given: object
    ) -> None:
        """Of the ports, the first `members` are taken. `given` are further settings."""
        values = {"peers": peers, "vectors": peers + 2, "personality": f"{personality.__module__}:Tested", **given}
        self.settings = Settings("test", "/s", "test", slots_size(peers), **values)  # type: ignore[arg-type]
        self.personality = personality
        self.rung: list[tuple[int, int]] = []
        self.pending_when_rung: list[bool] = []
        """For each of these, whether the peer's own message was still to be acknowledged."""
        self.logger = Recorder()
        self._memory = open_backing(Backing("memfd", "test", self.settings.size)).descriptor
        self.mapped = MappedMemory(self._memory)
        self.mapped.write(0, b"\xff" * self.settings.size)
        self.slots = Slots(self.mapped)
        self.page = Page.create("test", self.settings.shape(switch=has_switch(personality, self.settings)))
        self.state_page = StatePage.create("test")
        try:
            self.switch = self._new()
        except BaseException:
            self.close()
            raise
        self.switch.started()
        for peer in range(1, members + 1):
            self.switch.joined(peer)

    def _new(self) -> Switch:
        return Switch(
            self.personality,
            self.settings,
            FileMemory(self._memory),
            self.page,
            self.state_page,
            ring=self._ring,
            logger=self.logger,
        )

    def _ring(self, peer: int, vector: int) -> None:
        self.rung.append((peer, vector))
        self.pending_when_rung.append(self.slots.pending(peer))

    def succeed(self, peers: list[int] | None = None, **changed: object) -> None:
        """Another worker takes over, with these peers if not with the same, and perhaps with other settings."""
        self.settings = self.settings._replace(**changed)  # type: ignore[arg-type]
        there = list(self.switch.members) if peers is None else peers
        self.switch = self._new()
        self.switch.resumed(there)

    @property
    def logged(self) -> list[tuple[str, dict[str, object]]]:
        """What was logged."""
        return self.logger.said

    @property
    def events(self) -> list[str]:
        """What was logged, without the fields."""
        return [event for event, _ in self.logger.said]

    @property
    def state(self) -> Table:
        """What a successor, or famezctl, finds."""
        return self.state_page.read()[0]

    def total(self, name: str) -> int:
        """One of the totals."""
        return self.page.totals()[name]

    def send(self, peer: int, text: bytes | str, rings: int = 1) -> None:
        """A peer sends the switch a message."""
        self.slots.put(peer, text if isinstance(text, bytes) else text.encode(), self.settings.peers + 1)
        self.switch.doorbell(peer, peer, rings)

    def say(self, peer: int, message: Message, hops: int | None = None) -> None:
        """The same for a message of Gen-Z's."""
        self.send(peer, track(message, hops))

    def take(self) -> bytes | None:
        """Whoever the switch's message is for takes it."""
        return self.slots.take(self.settings.peers + 1)

    def tick(self, later: float = 0.0) -> None:
        """The switch looks again, so many seconds later than it is."""
        self.switch.tick(time.monotonic() + later)

    def answers(self) -> list[bytes]:
        """What the switch says until it has nothing more to say."""
        said = []
        while (text := self.take()) is not None:
            said.append(text)
            self.tick()
        return said

    def told(self) -> list[tuple[int, str]]:
        """The same, with whom it was said to."""
        said = []
        while self.slots.pending(self.settings.peers + 1):
            peer = self.slots.responder(self.settings.peers + 1)
            said.append((peer, (self.take() or b"").decode()))
            self.tick()
        return said

    def close(self) -> None:
        """Closes all descriptors."""
        self.mapped.close()
        os.close(self._memory)
        self.page.close()
        self.state_page.close()
        self.logger.close()
