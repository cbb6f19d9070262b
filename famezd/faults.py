"""Fault rules: what happens on purpose to the doorbells and messages of a relayed fabric, and by what chance.

A rule has a line of text, which `Rule.text` writes and `parse_rule` reads:

    id=3 src=1 dst=* vector=2 drop=0.1 seed=7
    id=4 src=* dst=switch message drop=0.5 seed=8
    id=5 src=2 dst=3 delay=1ms..5ms seed=9

Chance is a function of a rule's seed and of how many doorbells the rule has seen, and of nothing else: so the same
doorbells meet the same fates whatever other rules there are, and also where a worker was killed between them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from famezd.errors import FamezError

ANY: Final = -1
"""In place of a peer's id or a vector: all of them."""
SWITCH: Final = -2
"""In place of a peer's id: the switch."""

DROP, DELAY, DUPLICATE, BLOCK, CORRUPT = "drop", "delay", "duplicate", "block", "corrupt"
KINDS: Final = (DROP, DELAY, DUPLICATE, BLOCK, CORRUPT)
MAX_RULES: Final = 64
"""The most rules that a fabric has at once: the stats page has room for what they have struck."""
MAX_SEED: Final = (1 << 63) - 1
MAX_DELAY: Final = 60_000_000_000
"""The longest delay that a rule may name, nanoseconds."""

EACH: Final = 256
"""Doorbells that came together up to which each of them has a draw of its own."""
_RARE: Final = 32
"""Strikes that are expected up to which they are still drawn one by one."""

_WORD: Final = 1 << 64
_MASK: Final = _WORD - 1
_UNITS: Final = {"us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_TIME: Final = r"(\d{1,9}(?:\.\d{1,9})?)(us|ms|s)"
_PROBABILITY: Final = re.compile(r"((?:\d+\.?\d*|\.\d+)(?:[eE]-\d{1,3})?)(%?)")
_DELAY: Final = re.compile(rf"{_TIME}(?:(\.\.|\+-){_TIME})?")


class FaultError(FamezError):
    """What should be a rule, or a part of one, is none."""


def parse_probability(text: str) -> float:
    """A probability, 0 to 1, from a number or a percentage; raises FaultError for what is none."""
    found = _PROBABILITY.fullmatch(text)
    probability = float(found[1]) / (100 if found[2] else 1) if found else -1.0
    if not 0 <= probability <= 1:
        raise FaultError(f"{text!r} is no probability, such as 0.1 or 10%")
    return probability


class Delay(NamedTuple):
    """How long doorbells are delayed; times in nanoseconds."""

    kind: str
    """"" is always `first`; ".." is evenly between `first` and `second`; "+-" is the normal distribution of mean
    `first` and standard deviation `second`, where less than nothing is nothing."""
    first: int
    second: int = 0

    @property
    def text(self) -> str:
        """As `parse_delay` reads it."""
        return _time(self.first) + (self.kind + _time(self.second) if self.kind else "")

    def draw(self, chance: Chance, index: int) -> float:
        """The seconds that the doorbell of this index is delayed."""
        if self.kind == "..":
            return (self.first + (self.second - self.first) * chance.fraction(index)) / 1e9
        if self.kind == "+-":
            return max(0.0, self.first + self.second * chance.normal(index)) / 1e9
        return self.first / 1e9


NO_DELAY: Final = Delay("", 0)


def parse_delay(text: str) -> Delay:
    """`5ms`, `1ms..5ms` or `5ms+-1ms`, with units us, ms and s; raises FaultError for what is none."""
    found = _DELAY.fullmatch(text)
    if found is None:
        raise FaultError(f"{text!r} is no delay, such as 5ms, 1ms..5ms or 5ms+-1ms; the units are us, ms and s")
    first, kind = _nanoseconds(found[1], found[2]), found[3] or ""
    second = _nanoseconds(found[4], found[5]) if kind else 0
    if max(first, second) > MAX_DELAY:
        raise FaultError(f"{text!r} is too long: a delay is at most {_time(MAX_DELAY)}")
    if kind == ".." and second < first:
        raise FaultError(f"{text!r} ends before it begins; write {_time(second)}..{_time(first)}")
    return Delay(kind, first, second)


def _nanoseconds(number: str, unit: str) -> int:
    return round(float(number) * _UNITS[unit])


def _time(nanoseconds: int) -> str:
    unit = next((u for u in ("s", "ms", "us") if nanoseconds and nanoseconds % _UNITS[u] == 0), "us")
    return f"{nanoseconds / _UNITS[unit]:.9f}".rstrip("0").rstrip(".") + unit


class Rule(NamedTuple):
    """One rule."""

    id: int
    kind: str
    """One of KINDS."""
    src: int = ANY
    """Whose doorbells: a peer's id, SWITCH or ANY."""
    dst: int = ANY
    """To whom, in the same way."""
    vector: int = ANY
    message: bool = False
    """Whether the rule is for messages, and the doorbells that bring them."""
    probability: float = 1.0
    """By which it strikes; of a block and a delay, 1."""
    delay: Delay = NO_DELAY
    seed: int = 0

    @property
    def text(self) -> str:
        """The rule's line."""
        return f"id={self.id} {self.definition} seed={self.seed}"

    @property
    def definition(self) -> str:
        """The line without id and seed."""
        words = [f"src={_peer_text(self.src)}", f"dst={_peer_text(self.dst)}"]
        words += [f"vector={self.vector}"] if self.vector != ANY else []
        words += ["message"] if self.message else []
        value = {BLOCK: "", DELAY: f"={self.delay.text}"}.get(self.kind, f"={self.probability!r}")
        return " ".join([*words, self.kind + value])


def parse_peer(text: str) -> int:
    """A peer's id, SWITCH for `switch`, or ANY for `*`; raises FaultError for what is none."""
    if text in ("*", "switch"):
        return ANY if text == "*" else SWITCH
    if not re.fullmatch(r"\d{1,5}", text, re.ASCII) or int(text) > 65535:
        raise FaultError(f"{text!r} is no peer: write its id, switch or *")
    return int(text)


def _peer_text(peer: int) -> str:
    return {ANY: "*", SWITCH: "switch"}.get(peer, str(peer))


def parse_rule(text: str) -> Rule:
    """The rule of a line; raises FaultError for what is none."""
    words = {key: value for key, _, value in (word.partition("=") for word in text.split())}
    kinds = [kind for kind in KINDS if kind in words]
    unknown = words.keys() - {"id", "src", "dst", "vector", "message", "seed", *KINDS}
    if unknown or len(kinds) != 1:
        raise FaultError(f"{text!r} is no fault rule: it names one of {', '.join(KINDS)}, and nothing unknown")
    (kind,) = kinds
    try:
        return Rule(
            id=int(words.get("id", "0")),
            kind=kind,
            src=parse_peer(words.get("src", "*")),
            dst=parse_peer(words.get("dst", "*")),
            vector=int(words.get("vector", str(ANY))),
            message="message" in words,
            probability=1.0 if kind in (BLOCK, DELAY) else parse_probability(words[kind]),
            delay=parse_delay(words[kind]) if kind == DELAY else NO_DELAY,
            seed=int(words.get("seed", "0")),
        )
    except ValueError as e:
        raise FaultError(f"{text!r} is no fault rule: {e}") from e


def parse_rules(text: str) -> tuple[Rule, ...]:
    """All rules of a fabric, in order, with semicolons between; raises FaultError for what is none."""
    rules = tuple(parse_rule(line) for line in text.split(";") if line.strip())
    if len(rules) > MAX_RULES:
        raise FaultError(f"{len(rules)} fault rules; a fabric has at most {MAX_RULES}")
    return rules


def rules_text(rules: Iterable[Rule]) -> str:
    """What `parse_rules` reads."""
    return "; ".join(rule.text for rule in rules)


class Chance:
    """A sequence of random numbers in which each is found by its index.

    The mixing is that of splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
    """

    __slots__ = ("_key",)

    def __init__(self, seed: int) -> None:
        self._key = _mixed(seed + 0x9E3779B97F4A7C15)

    def word(self, index: int, nth: int = 0) -> int:
        """64 random bits: the `nth` number of this index."""
        return _mixed(self._key + index * 0x9E3779B97F4A7C15 + nth * 0xD1342543DE82EF95)

    def fraction(self, index: int, nth: int = 0) -> float:
        """Evenly from 0 to 1, less than 1."""
        return (self.word(index, nth) >> 11) / (1 << 53)

    def normal(self, index: int) -> float:
        """Normally distributed, mean 0, standard deviation 1 (Box and Muller)."""
        radius = math.sqrt(-2 * math.log(1 - self.fraction(index, 0)))
        return radius * math.cos(2 * math.pi * self.fraction(index, 1))

    def binomial(self, index: int, n: int, probability: float) -> int:
        """How many of `n` things, whose indexes begin at `index`, are struck, each by this probability.

        Takes bounded time. Up to EACH, each has a draw of its own, so that it does not matter how many come at once.
        Of more, strikes (or misses) that are rare are drawn one by one, and else the number is normally distributed.
        """
        if n <= EACH:
            limit = int(probability * _WORD)
            return sum(self.word(i) < limit for i in range(index, index + n))
        if probability > 0.5:
            return n - self._of_many(index, n, 1 - probability)
        return self._of_many(index, n, probability)

    def _of_many(self, index: int, n: int, probability: float) -> int:
        mean = n * probability
        if mean > _RARE:
            struck = round(mean + math.sqrt(mean * (1 - probability)) * self.normal(index))
            return min(max(struck, 0), n)
        if not probability:
            return 0
        struck, left = 0, n
        while True:
            # How many are missed until one is struck.
            missed = math.log(1 - self.fraction(index, struck)) / math.log1p(-probability)
            if missed >= left:
                return struck
            left -= int(missed) + 1
            struck += 1


def _mixed(value: int) -> int:
    value &= _MASK
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)
