"""A fault rule as a file or famezctl says it, its checks, and the rule of `famezd.faults` that it is.

The same model checks both, so that what is wrong is told in the same words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from zlib import crc32

from pydantic import BaseModel, ConfigDict, Field

from famezd import kinds
from famezd.checkedfile import CheckedFile, Mistake
from famezd.faults import (
    ANY,
    BLOCK,
    CORRUPT,
    DELAY,
    DROP,
    KINDS,
    MAX_RULES,
    MAX_SEED,
    NO_DELAY,
    FaultError,
    Rule,
    parse_delay,
    parse_peer,
)
from famezd.protocol import MAX_PEER_ID
from famezd.yamlmarks import Document

if TYPE_CHECKING:
    from famezd.config import FabricSettings

_IDS = frozenset({"personality", "peers", "ports", "genz.silent"})
"""What decides which ids there are."""


class FaultSettings(BaseModel):
    """What happens on purpose to doorbells, or messages, of a relayed fabric: one of drop, delay, duplicate, ..."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    src: Annotated[int | str, kinds.PEER] = Field(
        default="*", description="Who rings: a peer's id, switch, or * for all.", examples=[1, "switch", "*"]
    )
    dst: Annotated[int | str, kinds.PEER] = Field(
        default="*", description="Who is rung: a peer's id, switch, or * for all.", examples=[2, "switch", "*"]
    )
    vector: Annotated[int, kinds.VECTOR] | None = Field(
        default=None, description="On which vector; null or * is all.", examples=[3, "*"]
    )
    message: Annotated[bool, kinds.BOOLEAN] = Field(
        default=False,
        description="With drop, where the mailbox has slots: messages are dropped, as if they had been taken.",
    )
    drop: Annotated[float, kinds.PROBABILITY] | None = Field(
        default=None, description="Doorbells are lost, each by this probability.", examples=[0.1, "10%"]
    )
    delay: Annotated[str, kinds.DELAY] | None = Field(
        default=None,
        description="Doorbells are held up: for 5ms, evenly between 1ms..5ms, or 5ms+-1ms, normally distributed with"
        " that mean and standard deviation; the units are us, ms and s.",
        examples=["5ms", "1ms..5ms", "5ms+-1ms"],
    )
    duplicate: Annotated[float, kinds.PROBABILITY] | None = Field(
        default=None, description="Doorbells are doubled, each by this probability.", examples=[0.1, "10%"]
    )
    block: Annotated[bool, kinds.BOOLEAN] = Field(default=False, description="All doorbells are lost.")
    corrupt: Annotated[float, kinds.PROBABILITY] | None = Field(
        default=None,
        description="Where the mailbox has slots: some bytes of messages are changed, of each by this probability.",
        examples=[0.1, "10%"],
    )
    seed: Annotated[int, kinds.whole_number(0, MAX_SEED)] | None = Field(
        default=None,
        description="Of the rule's chance: with the same one, the same doorbells meet the same fates; null is one that"
        " follows from the rule itself.",
        examples=[7],
    )

    @property
    def does(self) -> list[str]:
        """What it does, by the names of `famezd.faults.KINDS`; of a right one, one thing."""
        return [kind for kind in KINDS if getattr(self, kind) not in (None, False)]

    def rule(self, number: int) -> Rule:
        """The rule, which is right, with this number as its id."""
        (kind,) = self.does
        rule = Rule(
            id=number,
            kind=kind,
            src=parse_peer(str(self.src)),
            dst=parse_peer(str(self.dst)),
            vector=ANY if self.vector is None else self.vector,
            message=self.message or kind == CORRUPT,
            probability=1.0 if kind in (BLOCK, DELAY) else getattr(self, kind),
            delay=NO_DELAY if self.delay is None else parse_delay(self.delay),
        )
        seed = crc32(rule.definition.encode()) if self.seed is None else self.seed
        return rule._replace(seed=seed)

    def own_mistakes(self) -> Iterator[Mistake]:
        """Yield what is wrong between its settings."""
        does = self.does
        if len(does) > 1:
            yield Mistake((does[1],), f"is one thing, and {does[0]} another: write a rule for each")
        elif self.message and does and does[0] not in (DROP, CORRUPT):
            yield Mistake(("message",), f"is for {DROP} and {CORRUPT}, not for {does[0]}: leave it out")
        elif self.vector is not None and (self.message or does == [CORRUPT]):
            yield Mistake(
                ("vector",), "is no part of a rule for messages, whose vector is their sender's id: leave it out"
            )
        if self.src == self.dst != "*":
            yield Mistake(("dst",), "must be another than src: nobody rings itself through famezd")
        if not does:
            yield Mistake((), f"must have one of {', '.join(KINDS)}, and has none")

    def mistakes(self, fabric: FabricSettings) -> Iterator[Mistake]:
        """Yield what is wrong with it on `fabric`."""
        if CORRUPT in self.does or self.message:
            key = CORRUPT if CORRUPT in self.does else "message"
            if not kinds.personality_class(fabric.personality).has_slots:
                message = f"needs a mailbox with slots, as personality genz has, and not {fabric.personality}"
                yield Mistake((key,), message, frozenset({"personality"}))
        if self.vector is not None and self.vector >= fabric.vectors:
            message = f"must be 0 to {fabric.vectors - 1}, as there are {fabric.vectors} vectors, not {self.vector}"
            yield Mistake(("vector",), message, frozenset({"vectors"}))
        for key in ("src", "dst"):
            if why := _no_peer(getattr(self, key), fabric):
                yield Mistake((key,), why, _IDS)


def _no_peer(peer: int | str, fabric: FabricSettings) -> str:
    """Say why `peer` is none of the fabric's, "" if it is one."""
    personality = kinds.personality_class(fabric.personality)
    first, switch = personality.first_id, personality.first_id + fabric.peers
    is_peer = personality.is_peer and not fabric.silent
    if peer == "*" or (peer == "switch" and is_peer):
        return ""
    if peer == "switch":
        silent = " and silent" if fabric.silent else ""
        return f"must be a peer, and with personality {fabric.personality}{silent} the switch is none"
    if peer == switch and is_peer:
        return f"must be written switch: {peer} is the id of the switch"
    last = switch - 1 if fabric.ports == "sticky" or personality.fixed_ids else MAX_PEER_ID
    return "" if first <= int(peer) <= last else f"must be one of this fabric's ids, {first} to {last}, not {peer}"


def list_mistakes(fabric: FabricSettings) -> Iterator[Mistake]:
    """Yield what is wrong with a fabric's `faults`."""
    if fabric.faults and fabric.doorbells == "direct":
        why = (
            "are for relayed doorbells, and direct ones do not pass famezd: set doorbells to relayed, or leave this out"
        )
        yield Mistake(("faults",), why, frozenset({"doorbells"}))
    if len(fabric.faults) > MAX_RULES:
        yield Mistake(("faults",), f"must be at most {MAX_RULES} rules, not {len(fabric.faults)}")
    found: list[Mistake] = []
    for n, fault in enumerate(fabric.faults):
        # Where one before it is no rule at all, it is not known which this is.
        known = frozenset(f"faults[{before}]" for before in range(n + 1))
        parts = frozenset(f"faults[{n}].{key}" for key in FaultSettings.model_fields)
        found += [Mistake(("faults", n, *m.loc), m.message, m.because | known) for m in fault.mistakes(fabric)]
        found += [Mistake(("faults", n, *m.loc), m.message, known | parts) for m in fault.own_mistakes()]
    # Those of whole rules last, and from behind: the others would be taken to follow from them.
    found.reverse()
    yield from sorted(found, key=lambda mistake: len(mistake.loc) == len(("faults", 0)))


def read_fault(asked: Mapping[str, object], fabric: FabricSettings) -> FaultSettings:
    """The rule that somebody asks for on a running fabric; raises FaultError with all that is wrong with it."""
    if fabric.doorbells == "direct":
        raise FaultError("fault rules are for relayed doorbells, and this fabric's are direct: they do not pass famezd")
    file = CheckedFile(Document(Path("rule"), json.dumps(asked)), FaultSettings)
    if not file.problems:
        for mistake in (*file.settings.mistakes(fabric), *file.settings.own_mistakes()):
            file.report_mistake(Mistake(mistake.loc, mistake.message))
    if file.problems:
        raise FaultError("; ".join(f"{p.key or 'the rule'} {p.message}" for p in file.problems))
    return file.settings
