"""A model of a fabric, and a real one: whatever happens to both, in whatever order, they agree.

The model knows who is there, who must know whom, what the counters must say, and what each peer must have heard. What a
worker is put through is one rule each, which says what becomes of the model; all that must be true then is checked
after every rule. A rule that lets another worker take over calls one method of the lineage, and `_somebody_serves`.
"""

from __future__ import annotations

import socket
import tempfile
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from famezd.errors import FamezError
from famezd.mailbox import MappedMemory, Slots
from famezd.protocol import REFUSAL, PeerId
from famezd.stats import ANYBODY, SWITCH_ROW
from tests.fabric.conftest import settings
from tests.fabric.lineage import Lineage
from tests.fabric.workers import GENZ, Raw

KINDS = [(d, p, s) for d in ("relayed", "direct") for p in ("sticky", "fresh") for s in ("plain", "genz")]
PEERS = 4
VECTORS = 16
"""On plain fabrics: so many that a few peers who come and go fill the socket of one who does not read."""

ANYONE = st.integers(0, PEERS - 1)
"""Chooses among those who are there. Never depends on them: how many there are is for the worker to say."""
A_VECTOR = st.integers(0, PEERS + 1)


class Member:
    """A peer that is there."""

    def __init__(self, raw: Raw, place: int) -> None:
        self.raw = raw
        self.id = raw.id
        self.place = place
        self.reads = True
        """Whether it reads what it is sent."""
        self.due: Counter[int] = Counter()
        """How often it was rung since that was last checked, by vector."""
        self.again: Counter[int] = Counter()
        """How often it may have been rung once more."""
        self.departed: set[int] = set()
        """Ids that it has seen depart, or will; with sticky ports nobody sees anybody."""


class Fabrics(RuleBasedStateMachine):
    """The rules, and what is true after each."""

    kind: ClassVar[tuple[str, str, str]]
    """Doorbells, ports, personality."""

    def __init__(self) -> None:
        super().__init__()
        doorbells, ports, personality = self.kind
        given: dict[str, Any] = {"personality": GENZ} if personality == "genz" else {"vectors": VECTORS}
        self._folder = tempfile.TemporaryDirectory(prefix="fz")
        folder = Path(self._folder.name)
        self.lineage = Lineage(folder, settings(folder, doorbells=doorbells, ports=ports, peers=PEERS, **given))
        self.relayed, self.sticky, self.genz = doorbells == "relayed", ports == "sticky", personality == "genz"
        self.ports = range(self.genz, PEERS + self.genz)
        self.switch = PEERS + 1
        self.serving = True
        self.members: list[Member] = []
        self.waiting: list[Raw] = []
        """Who came while nobody served."""
        self.asked: list[Member] = []
        """Who asked the switch while nobody served."""
        self.counted: Counter[tuple[int, int, int]] = Counter()
        """What the counters must say, by row, place and vector."""
        self.whose: dict[int, int] = {}
        """The ids that counters are kept for, by place."""
        self.dropped, self.perhaps_dropped = 0, 0
        self.perhaps_departed: set[int] = set()
        """Ids of newcomers of whom nobody knows how far they came."""

    # Who is there

    @rule()
    def join(self) -> None:
        if self.serving:
            self._admit(Raw(self.lineage.settings))
        elif len(self.members) + len(self.waiting) < PEERS:
            self.waiting.append(Raw(self.lineage.settings))

    @rule(who=ANYONE)
    def leave(self, who: int) -> None:
        member = self._choose(who)
        if member is not None and member not in self.asked:
            self._leave(member)

    @precondition(lambda self: self.serving)
    @rule(n=st.integers(1, 6))
    def come_and_go(self, n: int) -> None:
        for _ in range(n):
            if len(self.members) < PEERS and self._admit(Raw(self.lineage.settings)):
                self._leave(self.members[-1])
                self._await_present()

    @rule(who=ANYONE)
    def stop_reading(self, who: int) -> None:
        if (member := self._choose(who)) is not None:
            member.reads = False

    @rule(who=ANYONE)
    def read_again(self, who: int) -> None:
        if (member := self._choose(who)) is not None:
            member.reads = True

    # Doorbells

    @rule(who=ANYONE, whom=ANYONE, vector=A_VECTOR, n=st.integers(1, 3))
    def ring(self, who: int, whom: int, vector: int, n: int) -> None:
        src = self._choose(who)
        if src is None:
            return
        dst = self.ports[whom] if self.sticky else self.members[whom % len(self.members)].id
        if dst == src.id or len(src.raw.client.peers.get(PeerId(dst), ())) <= vector:
            return
        src.raw.ring(dst, vector, n)
        rung = next((member for member in self.members if member.id == dst), None)
        place = rung.place if rung is not None else dst - self.ports[0]
        if self.relayed:
            self.counted[src.place, place, vector] += n
        if rung is not None:
            rung.due[vector] += n
        elif self.relayed:
            # Its last occupant may be there still, as far as the worker will know.
            self.dropped += n if self.serving else 0
            self.perhaps_dropped += 0 if self.serving else n

    @precondition(lambda self: self.genz)
    @rule(who=ANYONE)
    def ask_the_switch(self, who: int) -> None:
        member = self._choose(who)
        if member is None or member in self.asked:
            return
        with closing(MappedMemory(member.raw.memory)) as memory:
            Slots(memory).put(member.id, b"ping", self.switch)
        member.raw.ring(self.switch, member.id)
        self.counted[member.place if self.relayed else ANYBODY, PEERS, member.id] += 1
        self.asked.append(member)
        if self.serving:
            self._take_answers()

    # Workers

    @precondition(lambda self: self.serving)
    @rule(rings=st.lists(st.tuples(ANYONE, ANYONE, A_VECTOR), max_size=8))
    def kill(self, rings: list[tuple[int, int, int]]) -> None:
        for who, whom, vector in rings:
            self.ring(who, whom, vector, 1)
        self._kill()

    @precondition(lambda self: not self.serving)
    @rule()
    def resume(self) -> None:
        self.lineage.succeed()
        self._somebody_serves()

    @precondition(lambda self: self.serving)
    @rule(rings=st.lists(st.tuples(ANYONE, ANYONE, A_VECTOR), max_size=8), mode=st.sampled_from((0o600, 0o660)))
    def hand_over(self, rings: list[tuple[int, int, int]], mode: int) -> None:
        """A planned restart, and what a reload does, too: the successor's settings may be others."""

        def meanwhile() -> None:
            for who, whom, vector in rings:
                self.ring(who, whom, vector, 1)

        self.lineage.hand_over(self.lineage.settings._replace(socket_mode=mode), meanwhile)
        self._somebody_serves()

    @precondition(lambda self: self.serving)
    @rule(moment=st.sampled_from(("at once", "when it is a member", "when it was sent something")))
    def join_amid_a_kill(self, moment: str) -> None:
        if len(self.members) == PEERS:
            return
        worker = self.lineage.worker
        before = worker.totals["joins"] + worker.refused
        newcomer = Raw(self.lineage.settings)
        if moment == "when it is a member":
            worker.wait(lambda: worker.totals["joins"] + worker.refused > before, "it joins")
        elif moment == "when it was sent something":
            assert newcomer.connection.recv(1, socket.MSG_PEEK)
        self._kill()
        self.lineage.succeed()
        self._somebody_serves()
        try:
            newcomer.set_up().hear()
            joined = not newcomer.ended()
        except (AssertionError, FamezError):
            joined = False
        if joined:
            self._enter(newcomer)
        else:
            self.perhaps_departed |= set(self.ports) if newcomer.client.peer is None else {newcomer.id}
            newcomer.close()
            self._adopt_counters()

    # What is true after each

    @invariant()
    def agrees(self) -> None:
        if not self.serving:
            return
        self._await_present()
        for member in self.members:
            if member.reads:
                self.lineage.worker.wait(partial(self._knows_all, member), f"peer {member.id} knows who is there")
                assert not member.raw.ended()
        self.lineage.worker.await_doorbells(+self.counted)
        self.lineage.worker.barrier()
        assert self.lineage.in_flight() is None
        for member in self.members:
            for vector in range(self.lineage.settings.vectors):
                due, again = member.due[vector], member.again[vector]
                assert due <= member.raw.take(vector) <= due + again, f"peer {member.id} on vector {vector}"
            member.due.clear()
            member.again.clear()
        dropped = self.lineage.worker.totals["dropped"]
        assert self.dropped <= dropped <= self.dropped + self.perhaps_dropped
        self.dropped, self.perhaps_dropped = dropped, 0

    def teardown(self) -> None:
        for newcomer in self.waiting:
            newcomer.close()
        for member in self.members:
            member.raw.close()
        if not self.serving:
            self.lineage.succeed()
        self.lineage.close()
        self._folder.cleanup()

    # How

    def _choose(self, who: int) -> Member | None:
        return self.members[who % len(self.members)] if self.members else None

    def _admit(self, newcomer: Raw) -> bool:
        """A newcomer is taken in, or turned away if that is right; whether it was taken in."""
        taken = {member.id for member in self.members}
        seen = {peer for member in self.members for peer in member.departed}
        message = newcomer.read()
        assert message is not None
        if message.value == REFUSAL:
            newcomer.close()
            no_id = self.genz and not self.sticky and set(self.ports) <= taken | seen | self.perhaps_departed
            assert len(self.members) == PEERS or no_id
            return False
        assert len(self.members) < PEERS
        newcomer.understand(message)
        newcomer.set_up()
        assert newcomer.id not in taken | seen
        if self.sticky:
            assert newcomer.id == min(set(self.ports) - taken)
        self._enter(newcomer)
        return True

    def _enter(self, newcomer: Raw) -> None:
        """It is a member."""
        occupants = {occupant.peer: occupant.place for occupant in self.lineage.worker.page.occupants()}
        member = Member(newcomer, occupants[newcomer.id])
        self.members.append(member)
        if self.whose.get(member.place, member.id) != member.id:
            # Another had that place; its counters go.
            for key in [key for key in self.counted if key[1] == member.place]:
                del self.counted[key]
            for key in [key for key in self.counted if key[0] == member.place and self.relayed]:
                del self.counted[key]
        self.whose[member.place] = member.id

    def _leave(self, member: Member) -> None:
        self.members.remove(member)
        member.raw.close()
        for other in self.members if not self.sticky else ():
            other.departed.add(member.id)

    def _kill(self) -> None:
        assert "Traceback" not in self.lineage.worker.log
        self.lineage.kill()
        self.serving = False
        if (doubt := self.lineage.in_flight()) is not None:
            (_, place, vector), n = doubt
            for member in self.members:
                member.again[vector] += n if member.place == place else 0
            self.perhaps_dropped += n

    def _somebody_serves(self) -> None:
        """Another worker has taken over: whoever waited is dealt with."""
        self.serving = True
        waiting, self.waiting = self.waiting, []
        for newcomer in waiting:
            self._admit(newcomer)
        self._take_answers()

    def _take_answers(self) -> None:
        """The switch answers all who have asked, one after the other, as each takes its answer."""
        vector = self.switch
        while self.asked:
            with closing(MappedMemory(self.asked[0].raw.memory)) as memory:
                slots = Slots(memory)
                self.lineage.worker.wait(partial(slots.pending, self.switch), "the switch answers")
                member = next(member for member in self.asked if member.id == slots.responder(self.switch))
                self.asked.remove(member)
                self.counted[PEERS if self.relayed else SWITCH_ROW, member.place, vector] += 1
                member.due[vector] += 1
                assert slots.take(self.switch) == b"pong"
                self.lineage.worker.wait(lambda: not slots.pending(member.id), "it acknowledges")  # noqa: B023

    def _await_present(self) -> None:
        ids = sorted(member.id for member in self.members)
        self.lineage.worker.wait(lambda: self.lineage.worker.present == ids, f"{ids} are there")

    def _knows_all(self, member: Member) -> bool:
        member.raw.hear()
        others = set(self.ports) if self.sticky else {other.id for other in self.members}
        return set(member.raw.peers) == (others | ({self.switch} if self.genz else set())) - {member.id}

    def _adopt_counters(self) -> None:
        """A newcomer that came to nothing may have begun to take over the counters of whoever was on its place."""
        occupied, now = {member.place for member in self.members}, self.lineage.worker.doorbells()
        for place in set(range(PEERS)) - occupied:
            if (last := self.lineage.worker.page.last_id(place)) is not None:
                self.whose[place] = last
            for key in set(self.counted) | set(now):
                if place in key[: 1 + self.relayed] or key[1] == place:
                    self.counted[key] = now.get(key, 0)


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_a_fabric_does_what_its_model_does(kind: tuple[str, str, str]) -> None:
    run_state_machine_as_test(
        type("FabricsOfAKind", (Fabrics,), {"kind": kind}),
        settings=hypothesis_settings(
            max_examples=10,
            stateful_step_count=25,
            derandomize=True,
            deadline=None,
            print_blob=True,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )
