"""What fault rules do to doorbells: which concern whom, what becomes of each, and what is held up until when.

A doorbell's fate is decided from what stands in the stats page alone, and written there all at once, with the in-flight
record: so whoever was killed before decides the same again, and whoever was killed after has decided. What rules have
let go on is a number in the page until it is delivered, held up or not. When it is due is known to this process only:
its successor delivers at once.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator
from typing import Final

from famezd.faults import ANY, BLOCK, CORRUPT, DELAY, DUPLICATE, SWITCH, Chance, Rule
from famezd.mailbox import Slots
from famezd.stats import COUNT_LIMIT, FAULTS, IN_FLIGHT, RULE_WORDS, Page, rule_key

HELD: Final = 1 << 14
"""Doorbells, with different times, that are held up at once. Of a bell that has some among them, more join its last."""
CORRUPTED: Final = 4
"""The most bytes of a message that are changed."""

Matching = tuple[tuple[Rule, Chance, int], ...]
"""Rules that concern a bell, in order: each with its chance, and the index of its words in the stats page."""


class Held:
    """Doorbells of one bell that wait for the same moment."""

    __slots__ = ("due", "receiver", "rings", "row", "rules", "serial")

    def __init__(self, due: float, serial: int, bell: tuple[int, int], *, rings: int, rules: frozenset[int]) -> None:
        """`bell` is who rang and its receiver, `rules` the ids of those that delay it."""
        self.due = due
        self.serial = serial
        self.row, self.receiver = bell
        self.rings = rings
        self.rules = rules

    def __lt__(self, other: Held) -> bool:
        return (self.due, self.serial) < (other.due, other.serial)


class Faults:
    """The fault rules of a fabric, and what they hold up."""

    def __init__(
        self,
        page: Page,
        rules: tuple[Rule, ...] = (),
        *,
        slots: Slots | None = None,
        switch: int | None = None,
    ) -> None:
        """Touches nothing of the `page` before it is told to `begin`: another worker may serve still.

        `slots` are the mailbox's, where messages pass through it.
        """
        self.switch = switch
        """The place of the switch, where it is a peer."""
        self._slots = slots
        self._ids: list[int | None] = [None] * page.shape.places
        self._page = page
        self._rules = rules
        self._begun = False
        self._places: dict[int, int] = {}
        # What is concerned, by who rings and the place that is rung, and then by the receiver: found once.
        self._vectors: dict[tuple[int, int], frozenset[int | None]] = {}
        self._matching: dict[tuple[int, int], Matching] = {}
        self._totals = {name.removeprefix("fault_"): page.total_at(name) for name in FAULTS}
        self._heap: list[Held] = []
        self._last: dict[tuple[int, int], Held] = {}
        self._last_due: dict[tuple[int, int, frozenset[int]], float] = {}
        self._serial = 0

    @property
    def due(self) -> float | None:
        """When the next doorbell that is held up is due, in seconds of the monotonic clock."""
        return self._heap[0].due if self._heap else None

    @property
    def holds(self) -> bool:
        """Whether any doorbell is held up."""
        return bool(self._heap)

    @property
    def any(self) -> bool:
        """Whether there is any rule."""
        return bool(self._rules)

    # Rules

    def begin(self) -> None:
        """From now on the page is ours."""
        self._begun = True
        self._enter()

    def change(self, rules: tuple[Rule, ...]) -> None:
        """Goes on with these rules; those that stay go on where they are, and what others hold up is due now."""
        gone = {rule.id for rule in self._rules} - {rule.id for rule in rules}
        self._rules = rules
        self._forget_matching()
        if self._begun:
            self._enter()
        self._hurry(lambda held: bool(held.rules & gone))

    def _enter(self) -> None:
        """Gives each rule its words in the page: those that it has already, or free ones, which begin with 0."""
        words, at = self._page.words, self._page.shape.rules_at
        keys = {rule_key(rule): rule.id for rule in self._rules}
        self._places = {}
        free = []
        for index in range(at, self._page.shape.ruled_at, RULE_WORDS):
            if words[index] in keys:
                self._places[keys.pop(words[index])] = index
            else:
                free.append(index)
        for (key, rule), index in zip(keys.items(), free, strict=False):
            words[index] = words[index + 1] = words[index + 2] = 0
            words[index] = key
            self._places[rule] = index
        for index in free[len(keys) :]:
            words[index] = 0

    def seat(self, place: int, peer: int) -> None:
        """From now on `peer` is on `place`; called before its bells are there."""
        if self._ids[place] != peer:
            self._ids[place] = peer
            self._forget_matching()

    def _forget_matching(self) -> None:
        self._vectors.clear()
        self._matching.clear()

    def concern(self, row: int, place: int, vector: int) -> bool:
        """Whether there is any rule for doorbells of `row` to `place` on `vector`."""
        if not self._rules:
            return False
        vectors = self._vectors.get((row, place))
        if vectors is None:
            vectors = frozenset(self._vector(rule, row) for rule in self._between(row, place))
            self._vectors[row, place] = vectors
        return vector in vectors or ANY in vectors

    def _between(self, row: int, place: int) -> Iterator[Rule]:
        return (rule for rule in self._rules if self._is(rule.src, row) and self._is(rule.dst, place))

    def _vector(self, rule: Rule, row: int) -> int | None:
        """On which vector a rule concerns what `row` rings: on that of messages, it is its id."""
        return self._ids[row] if rule.message else rule.vector

    def _is(self, peer: int, place: int) -> bool:
        if peer == ANY:
            return True
        return place == self.switch if peer == SWITCH else place != self.switch and self._ids[place] == peer

    def _for(self, row: int, receiver: int) -> Matching:
        found = self._matching.get((row, receiver))
        if found is None:
            place, vector = divmod(receiver, self._page.shape.vectors)
            found = self._matching[row, receiver] = tuple(
                (rule, Chance(rule.seed), self._places[rule.id])
                for rule in self._between(row, place)
                if self._vector(rule, row) in (ANY, vector)
            )
        return found

    # Fates

    def decide(self, row: int, receiver: int) -> int:
        """Decides on the doorbell in flight, which is counted already; then it is in flight no more.

        Returns how often its receiver is to be rung now.
        """
        words, shape = self._page.words, self._page.shape
        n, vector = words[IN_FLIGHT], receiver % shape.vectors
        message = self._message(row, vector)
        change: dict[int, int] = {IN_FLIGHT: 0}
        passing, delay = n, 0.0
        delayed: list[int] = []
        corrupted: list[tuple[Chance, int]] = []
        for rule, chance, at in self._for(row, receiver):
            if not passing or (rule.message and message is None):
                continue
            of = 1 if rule.message else passing
            seen = words[at + 1]
            struck = of if rule.kind in (BLOCK, DELAY) else chance.binomial(seen, of, rule.probability)
            if rule.kind == DUPLICATE:
                struck = min(struck, COUNT_LIMIT - passing)
                passing += struck
            elif rule.kind == DELAY:
                delay += rule.delay.draw(chance, seen)
                delayed.append(rule.id)
            elif rule.kind == CORRUPT:
                corrupted += [(chance, seen)] * struck
            elif message is not None and rule.message and struck:
                # Before it is decided: were we killed in between, its sender would wait for ever.
                self._acknowledge(message)
                passing, message = 0, None
            elif not rule.message:
                passing -= struck
            change[at + 1] = (seen + of) % (1 << 64)
            change[at + 2] = (words[at + 2] + struck) % (1 << 64)
            total = self._totals[rule.kind]
            change[total] = (change.get(total, words[total]) + struck) % (1 << 64)
        if receiver // shape.vectors == self.switch:
            # What is dropped needs no answer any more, and what is doubled one more.
            at, by = shape.answered_at + row * shape.vectors + vector, n - passing
        else:
            at, by = shape.ruled_at + receiver, passing
        change[at] = (words[at] + by) % (1 << 64)
        self._page.commit(change)
        for chance, seen in corrupted if message is not None else ():
            self._corrupt(message, chance, seen)
        if delayed and passing:
            self._hold(row, receiver, passing, delay, delayed)
            return 0
        return passing

    # Messages

    def _message(self, row: int, vector: int) -> int | None:
        """The slot of the message that a doorbell brings: its sender's; None if it brings none."""
        slot = self._ids[row]
        if self._slots is None or slot is None or slot != vector or not self._slots.pending(slot):
            return None
        return slot

    def _acknowledge(self, slot: int) -> None:
        if self._slots is not None:
            self._slots.acknowledge(slot)

    def _corrupt(self, slot: int | None, chance: Chance, index: int) -> None:
        """Changes some bytes of the message in `slot`; none becomes NUL, which would end it."""
        if self._slots is None or slot is None:
            return
        text = bytearray(self._slots.text(slot))
        changed = set[int]()
        for nth in range(1, CORRUPTED + 1 if text else 1):
            draw = chance.word(index, nth)
            at, by = draw % len(text), 1 + (draw >> 32) % 254
            if at not in changed:
                text[at] = 1 + (text[at] - 1 + by) % 255
                changed.add(at)
        self._slots.rewrite(slot, bytes(text))

    # What is held up

    def _hold(self, row: int, receiver: int, rings: int, delay: float, rules: list[int]) -> None:
        by = frozenset(rules)
        pair = row, receiver // self._page.shape.vectors, by
        # Never before an earlier one of the pair that the same rules delay.
        due = max(time.monotonic() + delay, self._last_due.get(pair, 0.0))
        self._last_due[pair] = due
        last = self._last.get((row, receiver))
        if last is not None and (last.due == due or len(self._heap) >= HELD):
            last.rings += rings
            return
        self._serial += 1
        held = Held(due, self._serial, (row, receiver), rings=rings, rules=by)
        self._last[row, receiver] = held
        heapq.heappush(self._heap, held)

    def take_due(self, now: float) -> Held | None:
        """What is due by `now`, one after the other; the caller delivers it."""
        if not self._heap or self._heap[0].due > now:
            return None
        held = heapq.heappop(self._heap)
        self._let_go(held)
        if not self._heap:
            self._last_due.clear()
        return held

    def take(self, which: Callable[[Held], bool]) -> list[Held]:
        """Those of what is held up, in order; the caller sees to them."""
        if not self._heap:
            return []
        taken = sorted(held for held in self._heap if which(held))
        for held in taken:
            self._let_go(held)
        self._heap = [held for held in self._heap if not which(held)]
        heapq.heapify(self._heap)
        return taken

    def _let_go(self, held: Held) -> None:
        if self._last.get((held.row, held.receiver)) is held:
            del self._last[held.row, held.receiver]

    def _hurry(self, which: Callable[[Held], bool]) -> None:
        for held in self._heap:
            if which(held):
                held.due = 0.0
        heapq.heapify(self._heap)
