"""What must be true of a fabric, whatever was done to it: who is there, what is counted, and what has to arrive.

The model is told of each action before its consequences can be seen. At quiet points it is shown what was observed,
and answers with what is wrong, a line each. It opens nothing and reads no clock, and it knows nothing of famezd but
what the documentation promises:

- of a relayed fabric each doorbell is counted once, by who rang, who was rung, and the vector;
- it is delivered to whoever is there, once; more often only if a worker was killed meanwhile, which doubles what was in
  flight, one bell at most for each kill;
- doorbells to ports on which nobody is are counted as dropped, as is what whoever leaves has not been given yet;
- fault rules strike as they say;
- nobody is told of anything that was not for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

Pair = tuple[int, int]
Bell = tuple[int, int, int]
"""Who rings, who is rung, the vector."""


class Kind(NamedTuple):
    """What a fabric is."""

    doorbells: str
    ports: str
    personality: str
    peers: int
    vectors: int
    backing: str = "shm"

    @property
    def ids(self) -> range:
        """The ids that peers can have; with fresh ports of `plain`, as many as the protocol has."""
        first = 1 if self.genz else 0
        return range(first, first + self.peers if self.sticky or self.genz else 1 << 16)

    @property
    def relayed(self) -> bool:
        """Whether doorbells pass famezd."""
        return self.doorbells == "relayed"

    @property
    def sticky(self) -> bool:
        """Whether ids are ports."""
        return self.ports == "sticky"

    @property
    def genz(self) -> bool:
        """Whether there are a switch and a mailbox with slots."""
        return self.personality == "genz"

    @property
    def switch(self) -> int | None:
        """The id of the switch, if it is a peer."""
        return self.peers + 1 if self.genz else None


class Rule(NamedTuple):
    """A fault rule that strikes each doorbell, or message, between two peers."""

    src: int
    dst: int
    effect: str
    """drop, block, duplicate, delay, or message: the message is lost, and its doorbell."""

    def yaml(self) -> dict[str, object]:
        """As in a fabric's file."""
        effects: dict[str, dict[str, object]] = {
            "drop": {"drop": 1},
            "block": {"block": True},
            "duplicate": {"duplicate": 1},
            "delay": {"delay": "20ms"},
            "message": {"message": True, "drop": 1},
        }
        return {"src": self.src, "dst": self.dst, **effects[self.effect]}

    @property
    def counted_as(self) -> str:
        """The kind of fault that it is counted as."""
        return "drop" if self.effect == "message" else self.effect


class Counters(NamedTuple):
    """What famezd tells of a fabric, as it was observed."""

    peers: frozenset[int]
    pairs: Mapping[Pair, int]
    """Doorbells by (src, dst)."""
    vectors: Mapping[Pair, int]
    """Doorbells by (dst, vector)."""
    joins: int
    leaves: Mapping[str, int]
    refusals: Mapping[str, int]
    dropped: int
    faults: Mapping[str, int]
    rules: list[tuple[int, int]]
    """Of each fault rule, how many it has seen and struck."""
    deaths: int
    """Workers that died, since famezd started."""


class Member:
    """A peer that is there."""

    def __init__(self, peer: int, *, exact: bool) -> None:
        self.id = peer
        self.exact = exact
        """Whether it tells how often it was rung, or, as a machine, only that it was."""
        self.due: Counter[int] = Counter()
        """How often it was rung since all was last agreed on, by vector."""
        self.got: Counter[int] = Counter()
        """How often it says so."""
        self.departed: set[int] = set()
        """Ids that it has seen depart; with sticky ports nobody sees anybody."""
        self.perhaps_departed: set[int] = set()
        """Ids of which that depends on what was noticed first, its coming or their departure."""

    def missing(self) -> Counter[int]:
        """What has not arrived yet, by vector."""
        if self.exact:
            return self.due - self.got
        return Counter({vector: 1 for vector in self.due if self.due[vector] and not self.got[vector]})


class Model:
    """One fabric."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.members: dict[int, Member] = {}
        self.rules: tuple[Rule, ...] = ()
        self.joins = 0
        self.leaves: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.lost_messages = 0
        """How many messages rules for messages have struck: none where another rule drops the doorbell first."""
        self.deaths = 0
        self._pairs: Counter[Pair] = Counter()
        self._vectors: Counter[Pair] = Counter()
        self._former: Counter[Pair] = Counter()
        """What was counted of pairs of which an id was given anew since; famezd shows it until it needs the room."""
        self._former_vectors: Counter[Pair] = Counter()
        self._departed: set[int] = set()
        """Ids that somebody had and has no more."""
        self._leaving: set[int] = set()
        """Ids of those whose departure may not have been noticed yet."""
        self._rules: dict[Rule, tuple[int, int]] = {}
        self._dropped = 0
        self._perhaps_dropped = 0
        self._dropped_lately = 0
        self._disturbed = 0

    # Who is there

    def room(self) -> bool | None:
        """Whether a newcomer is taken in: None where that depends on how much others were told of departures."""
        if len(self.members) >= self.kind.peers:
            return False
        seen = {peer for member in self.members.values() for peer in member.departed | member.perhaps_departed}
        spare = set(self.kind.ids) - self.members.keys() - seen if self.kind.genz else True
        return True if self.kind.sticky or spare else None

    def join(self, peer: int, *, exact: bool = True) -> list[str]:
        """A newcomer was taken in, with this id."""
        wrong = []
        if len(self.members) >= self.kind.peers:
            wrong.append(f"peer {peer} joined a fabric that has {self.kind.peers} peers already")
        if peer in self.members or peer not in self.kind.ids:
            wrong.append(f"a newcomer has id {peer}, which is not free")
        if watchers := sorted(m.id for m in self.members.values() if peer in m.departed):
            wrong.append(f"a newcomer has id {peer}, which peers {watchers} have seen depart")
        self.joins += 1
        if not self.kind.sticky and peer in self._departed:
            self._begin_anew(peer)
        self.members[peer] = Member(peer, exact=exact)
        self.members[peer].perhaps_departed = self._leaving - {peer}
        return wrong

    def refuse(self, reason: str = "full") -> list[str]:
        """A newcomer was turned away."""
        self.refusals[reason] += 1
        return [] if self.room() is not True else ["a newcomer was turned away, and there was room"]

    def turned_away(self) -> str:
        """Why a newcomer is, who was."""
        return "full" if len(self.members) >= self.kind.peers else "ids"

    def leave(self, peer: int, reason: str = "hangup") -> None:
        """A member has left, or will have as soon as somebody looks."""
        member = self.members.pop(peer)
        self.leaves[reason] += 1
        self._departed.add(peer)
        self._leaving.add(peer)
        if self.kind.relayed:
            self._perhaps_dropped += 2 * sum(member.due.values())
        for other in self.members.values() if not self.kind.sticky else ():
            other.departed.add(peer)

    def settle(self) -> None:
        """All departures have been noticed."""
        self._leaving.clear()

    def _begin_anew(self, peer: int) -> None:
        for counted, former in ((self._pairs, self._former), (self._vectors, self._former_vectors)):
            whole = counted is self._pairs
            for key in [key for key in counted if peer == key[0] or (whole and peer == key[1])]:
                former[key] += counted.pop(key)

    # Doorbells

    def ring(self, src: int, dst: int, vector: int, rings: int = 1, *, message: bool = False) -> int:
        """`src`, which may be the switch, rings `dst`; returns how often that is to arrive.

        `message`: there is one in the slot of `src`, and the vector is its.
        """
        if self.kind.relayed or src == self.kind.switch or dst == self.kind.switch:
            self._pairs[src, dst] += rings if self.kind.relayed or src == self.kind.switch else 0
            self._vectors[dst, vector] += rings
        through = self._strike(src, dst, rings, message=message)
        if dst in self.members:
            self.members[dst].due[vector] += through
        elif self.kind.relayed and self.is_empty(dst):
            self._dropped += through
            self._dropped_lately += through
        return through

    def is_empty(self, dst: int) -> bool:
        """Whether nobody is there to be rung."""
        return dst not in self.members and dst != self.kind.switch

    def _strike(self, src: int, dst: int, rings: int, *, message: bool) -> int:
        """Has the rules decide; returns how many doorbells they let through."""
        for rule in self.rules:
            if (rule.src, rule.dst) != (src, dst) or not rings or (rule.effect == "message" and not message):
                continue
            # There is one message, however often its doorbell has been doubled before.
            of = 1 if rule.effect == "message" else rings
            seen, struck = self._rules.get(rule, (0, 0))
            self._rules[rule] = seen + of, struck + of
            self.faults[rule.counted_as] += of
            self.lost_messages += rule.effect == "message"
            rings = {"delay": rings, "duplicate": 2 * rings}.get(rule.effect, 0)
        return rings

    def change_rules(self, rules: Iterable[Rule]) -> None:
        """From now on these are in force; those that stay go on where they are."""
        self.rules = tuple(rules)
        self._rules = {rule: counted for rule, counted in self._rules.items() if rule in self.rules}

    def delays(self) -> bool:
        """Whether any rule holds doorbells up."""
        return any(rule.effect == "delay" for rule in self.rules)

    def disturb(self) -> None:
        """The worker is killed, or stopped: what is in flight may be delivered twice, and be dropped twice."""
        self._disturbed += 1

    def hear(self, peer: int, got: Mapping[int, int]) -> None:
        """A member says how often it was rung since it was last asked."""
        self.members[peer].got.update(got)

    def known_by(self, peer: int) -> set[int]:
        """Whom a member can ring, which has read all that it was sent."""
        others = set(self.kind.ids) if self.kind.sticky else set(self.members)
        return others - {peer} | ({self.kind.switch} if self.kind.switch is not None else set())

    # What is wrong

    def missing(self) -> dict[int, Counter[int]]:
        """What has to arrive and has not yet, by member."""
        return {peer: missing for peer, m in self.members.items() if (missing := m.missing())}

    def agree(self) -> list[str]:
        """All that was rung has had its time: says what did not arrive, or should not have, and begins anew."""
        wrong, doubled = [], 0
        for member in self.members.values():
            for vector in sorted(member.due.keys() | member.got.keys()):
                due, got = member.due[vector], member.got[vector]
                passes = self.kind.relayed or vector == self.kind.switch
                again = due * self._disturbed if passes else 0
                least, most = (due, due + again) if member.exact else (min(due, 1), due + again)
                doubled += member.exact and got > due
                if not least <= got <= most:
                    expected = f"{least}" if least == most else f"{least} to {most}"
                    wrong.append(f"peer {member.id} was rung {got} times on vector {vector}, not {expected}")
            member.due.clear()
            member.got.clear()
        if not wrong and doubled > self._disturbed:
            wrong.append(f"{doubled} bells were delivered more than once, after {self._disturbed} kills")
        return wrong

    def check(self, seen: Counters) -> list[str]:
        """Compares with what famezd tells, where nothing is under way; says what differs."""
        wrong = []
        if seen.peers != self.members.keys():
            wrong.append(f"the peers are {sorted(seen.peers)}, not {sorted(self.members)}")
        for what, now, expected in (
            ("joins", seen.joins, self.joins),
            ("departures", dict(+Counter(seen.leaves)), dict(+self.leaves)),
            ("refusals", dict(+Counter(seen.refusals)), dict(+self.refusals)),
            ("faults", dict(+Counter(seen.faults)), dict(+self.faults)),
            ("workers' deaths", seen.deaths, self.deaths),
            ("rules' counts", seen.rules, [self._rules.get(rule, (0, 0)) for rule in self.rules]),
        ):
            if now != expected:
                wrong.append(f"{what}: {now}, not {expected}")
        wrong += self._compare("doorbells by src, dst", seen.pairs, self._pairs, self._former)
        wrong += self._compare("doorbells by dst, vector", seen.vectors, self._vectors, self._former_vectors)
        wrong += self._check_dropped(seen.dropped)
        self._disturbed = 0
        return wrong

    def _compare(
        self, what: str, seen: Mapping[Pair, int], counted: Mapping[Pair, int], former: Mapping[Pair, int]
    ) -> list[str]:
        wrong = []
        for key in sorted(seen.keys() | counted.keys()):
            now, least = seen.get(key, 0), counted.get(key, 0)
            most = least + former.get(key, 0)
            if self._may_be_gone(key, what):
                if not now:
                    continue
                # Of several who had that id, one after the other, the last may be the one that is gone.
                least = 0 if former.get(key) else least
            if not least <= now <= most:
                wrong.append(f"{what} {key}: {now}, not {least}" + (f" to {most}" if most > least else ""))
        return wrong

    def _may_be_gone(self, key: Pair, what: str) -> bool:
        """With fresh ports what concerns somebody who has left goes when another one has its place."""
        concerned = set(key if "src" in what else key[:1]) - {self.kind.switch}
        return not self.kind.sticky and not concerned <= self.members.keys()

    def _check_dropped(self, dropped: int) -> list[str]:
        least, most = self._dropped, self._dropped + self._perhaps_dropped + self._dropped_lately * self._disturbed
        self._dropped, self._perhaps_dropped, self._dropped_lately = dropped, 0, 0
        if least <= dropped <= most:
            return []
        return [f"doorbells dropped: {dropped}, not {least}" + (f" to {most}" if most > least else "")]
