"""The stats page: a fabric's counters and its table of peers, in shared memory.

The worker writes it, the supervisor reads it whenever it likes, and neither waits for the other. The page is a memfd:
it outlives the worker, so the counts do too.

It is touched as 64-bit words only, through a memoryview cast to 'Q', whose stores and loads are whole; struct's are
not. Everything is indexed by place (0 .. peers - 1, and then the switch, where it is a peer), never by peer id.

Layout, in words:

    header       version, places, rows, vectors
    in flight    the doorbell that is being relayed (see `InFlight`)
    totals       TOTALS_WORDS, one for each of TOTALS, and the last ones for GAUGES and the sign of life
    places       PLACE_WORDS for each place (see `Occupant`)
    doorbells    rows x places x vectors: how often the row's peer rang that place on that vector
    former       places x vectors: of those, what was rung by peers whose rows others have taken over
    answered     rows x vectors: how many of those that the row's peer rang the switch the personality has dealt with
    told         TOLD_WORDS + places for each place: what the peer there has been sent (see `Page.told_at`)
    journal      what is being written all at once: how many pairs, then each an index and its value (see `Page.commit`)
    rules        RULE_WORDS for each of MAX_RULES fault rules: its key, doorbells it has seen, how many it struck
    ruled        places x vectors: doorbells to that place that fault rules have let go on, now or later
    passed       places x vectors: how many of these were delivered

On a relayed fabric there is a row for each place. Where bells are direct nobody can tell who rang, and only doorbells
to and from the switch pass the worker: there the rows are ANYBODY and the switch's, or none where it is no peer.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from zlib import crc32

from famezd.errors import FamezError
from famezd.faults import KINDS, MAX_RULES, Rule
from famezd.messages import KINDS as MESSAGES

LAYOUT_VERSION = 3
WORD = 8
"""Bytes of a word."""

IN_FLIGHT = 4
"""Index of the in-flight record, three words: rings (0: nothing is in flight), index of the counter, its old value.

The counter is a doorbell's, or, where fault rules have decided on it, that of doorbells passed. Or, while a counter is
added to a former one: index of that counter, index of the former one, the sum.
"""
TOTALS_AT = 7

JOINS = "joins"
LEAVES = tuple(f"left_{reason}" for reason in ("hangup", "bytes", "stalled", "broken", "doubt", "kicked"))
_REASONS = ("access", "per_user", "full", "ids", "own_limit", "member_limit", "resources", "stalled", "mailbox")
REFUSALS = tuple(f"refused_{reason}" for reason in _REASONS)
FAULTS = tuple(f"fault_{kind}" for kind in KINDS)
SWITCH = ("personality_errors", "messages_malformed")
HEARD = tuple(f"heard_{kind}" for kind in MESSAGES)
"""Messages to the switch that its personality dealt with, by kind."""
FAILED = tuple(f"failed_{kind}" for kind in MESSAGES)
"""Those at which it raised an error."""
TAKEN, NOT_TAKEN, NOT_SENT = SAID = ("said_taken", "said_not_taken", "said_not_sent")
"""What became of the switch's own messages."""
BATCHES = (1, 4, 16, 64, 256)
"""Upper bounds of the classes into which turns of the loop fall, by the bells that they relayed."""
_CLASSES = [sum(bells > most for most in (0, *BATCHES)) for bells in range(BATCHES[-1] + 1)]
"""The class of each number of bells that is in any but the last; in the first are turns that relayed nothing."""
IDLE = "batch_0"
_TURNS = (IDLE, *(f"batch_{most}" for most in BATCHES), "batch_inf")
BELLS = "batch_bells"
"""Bells of turns that relayed more than one."""
_LATER = (*FAULTS, "refused_pinned", *SWITCH, *HEARD, *FAILED, *SAID, *_TURNS, BELLS)
TOTALS = (JOINS, *LEAVES, *REFUSALS, "dropped", "clipped", "resized", "turns", "busy_ns", *_LATER)
"""The names of the totals, in the order of their words; a new one goes to the end, for the pages that there are."""
TOTALS_WORDS = 64
"""Room for totals to come: an upgraded famezd goes on with the page of the one before it."""
UNSENT, QUEUED = GAUGES = ("unsent", "queued")
"""What is there now, each a word, from the end of the totals' room on downwards.

How many announcements wait to be sent to peers, and how many messages of the switch's for their turn.
"""

_LIVED_AT = TOTALS_AT + TOTALS_WORDS - 1 - len(GAUGES)
"""Index of the word that says when the worker was last seen to live, in nanoseconds of the monotonic clock."""

PLACE_WORDS = 5
RULE_WORDS = 3
_JOURNAL_PAIRS = 2 * MAX_RULES + len(KINDS) + 3
"""All that one doorbell can change: two words of each rule, the totals, what passes, what is answered, the record."""
TOLD_WORDS = 4
"""In a place's row of what it has been told, before the other places: doubt, version, id, memory."""
COUNT_LIMIT = 1 << 32
"""The most that is taken from an eventfd at once. More is abuse, and would in time overflow the counters."""
ANYBODY = 0
"""On a direct fabric, the row of doorbells to the switch, whose ringers are unknown."""
SWITCH_ROW = 1
"""On a direct fabric, the row of doorbells that the switch rings."""


class StatsError(FamezError):
    """The page is not one that this version can read."""


class Shape(NamedTuple):
    """What decides the size of a page."""

    places: int
    """Peers, and the switch where it is one."""
    rows: int
    """Who can be told apart as the ringer: every place, or 2 (anybody, the switch), or 0."""
    vectors: int

    @property
    def doorbells_at(self) -> int:
        """Index of the first doorbell counter."""
        return TOTALS_AT + TOTALS_WORDS + self.places * PLACE_WORDS

    @property
    def words(self) -> int:
        """How many words the page has."""
        return self.passed_at + self.places * self.vectors

    @property
    def former_at(self) -> int:
        """Index of the first counter of doorbells from former peers."""
        return self.doorbells_at + self.rows * self.places * self.vectors

    @property
    def answered_at(self) -> int:
        """Index of the first word of those that say how far the switch is."""
        return self.former_at + self.places * self.vectors

    @property
    def told_at(self) -> int:
        """Index of the first word of those that say what peers have been sent."""
        return self.answered_at + self.rows * self.vectors

    @property
    def journal_at(self) -> int:
        """Index of the word that says how many pairs of the journal are still to be written."""
        return self.told_at + self.places * (TOLD_WORDS + self.places)

    @property
    def rules_at(self) -> int:
        """Index of the first word of the first fault rule."""
        return self.journal_at + 1 + 2 * _JOURNAL_PAIRS

    @property
    def ruled_at(self) -> int:
        """Index of the first counter of doorbells that fault rules have decided on."""
        return self.rules_at + RULE_WORDS * MAX_RULES

    @property
    def passed_at(self) -> int:
        """Index of the first counter of those that were delivered."""
        return self.ruled_at + self.places * self.vectors


class InFlight(NamedTuple):
    """A doorbell that was taken from its eventfd and may not have been delivered."""

    bell: int
    """Index of its counter, from the first doorbell counter; or beyond all of them that of doorbells passed."""
    rings: int
    """How often it was rung."""


class Occupant(NamedTuple):
    """Who is on a place."""

    place: int
    peer: int
    """The peer's id."""
    pid: int
    uid: int
    joined: int
    """When it joined, in nanoseconds of the real-time clock."""


class Page:
    """A stats page, mapped."""

    def __init__(self, descriptor: int, shape: Shape, words: memoryview) -> None:
        self.descriptor = descriptor
        """The page's memfd, which the page owns."""
        self.shape = shape
        self.words = words
        """The whole page; the relay works on it directly."""
        self._identity = os.fstat(descriptor).st_ino
        self._total = {name: TOTALS_AT + i for i, name in enumerate(TOTALS)}
        self._turns, self._bells = self._total[IDLE], self._total[BELLS]
        self._told_at, self._told_words = shape.told_at, TOLD_WORDS + shape.places

    @classmethod
    def create(cls, name: str, shape: Shape) -> Page:
        """A new page, all zero, in a memfd called `name`; raises OSError if there is no memory for it."""
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
        os.ftruncate(descriptor, shape.words * WORD)
        # Allocated now, because a page fault later could not be answered but by a signal.
        os.posix_fallocate(descriptor, 0, shape.words * WORD)
        words = memoryview(mmap.mmap(descriptor, shape.words * WORD)).cast("Q")
        words[0], words[1], words[2], words[3] = LAYOUT_VERSION, *shape
        return cls(descriptor, shape, words)

    @classmethod
    def open(cls, descriptor: int, *, writable: bool = False) -> Page:
        """The page that another process, or an earlier one, made; takes the descriptor over.

        Raises StatsError if it has another layout.
        """
        size = os.fstat(descriptor).st_size
        if size < TOTALS_AT * WORD or size % WORD:
            raise StatsError(f"a stats page of {size} bytes is none of ours")
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        words = memoryview(mmap.mmap(descriptor, size, access=access)).cast("Q")
        shape = Shape(*words[1:4].tolist())
        if words[0] != LAYOUT_VERSION or shape.words * WORD != size:
            raise StatsError(f"a stats page of layout {words[0]} and {size} bytes; this is layout {LAYOUT_VERSION}")
        return cls(descriptor, shape, words)

    @property
    def identity(self) -> int:
        """Tells the page from all others of its time: the number of its memfd's inode."""
        return self._identity

    def close(self) -> None:
        """Unmaps the page and closes its descriptor."""
        # The mapping goes with the last view of it.
        self.words.release()
        os.close(self.descriptor)

    def add(self, total: str, n: int = 1) -> None:
        """Adds to one of the totals."""
        self.words[self._total[total]] += n

    def totals(self) -> dict[str, int]:
        """All totals by name; every turn is in a class of its own, and counted there."""
        return named_totals(self.total_words())

    def total_words(self) -> list[int]:
        """The words of all totals, of which `named_totals` makes what `totals` tells: for who looks often."""
        return self.words[TOTALS_AT : TOTALS_AT + len(TOTALS)].tolist()

    def gauges(self) -> dict[str, int]:
        """What is there now, by name."""
        return {name: self.words[self.gauge_at(name)] for name in GAUGES}

    @staticmethod
    def gauge_at(gauge: str) -> int:
        """The index of a gauge's word."""
        return TOTALS_AT + TOTALS_WORDS - 1 - GAUGES.index(gauge)

    def live(self) -> None:
        """The worker's loop turns: a sign of life for who reads the page."""
        self.words[_LIVED_AT] = time.monotonic_ns()

    @property
    def lived_at(self) -> float:
        """When the worker gave its last sign of life, in seconds of the monotonic clock; 0 for never."""
        return self.words[_LIVED_AT] / 1e9

    def batch(self, bells: int) -> None:
        """Counts a turn of the loop that relayed so many bells, more than one.

        With none or one it is the word at IDLE, or the one after it, which the loop itself adds to: nothing that it
        does for each doorbell may cost more than it must.
        """
        self.words[self._turns + (_CLASSES[bells] if bells < len(_CLASSES) else len(_TURNS) - 1)] += 1
        self.words[self._bells] += bells

    def total_at(self, total: str) -> int:
        """The index of a total's word, for who adds to it often."""
        return self._total[total]

    def recover(self) -> InFlight | None:
        """Settles the doorbell that a killed worker was relaying, if there is one: it is counted now, exactly once.

        It may or may not have been delivered, so the caller rings it again, and then says `delivered`. A counter that
        was being moved is moved, and what the journal holds is written.
        """
        self._complete()
        rings, counter, before = self.words[IN_FLIGHT : IN_FLIGHT + 3].tolist()
        if not rings:
            return None
        if self.shape.former_at <= counter < self.shape.answered_at:
            self._complete_move()
            return None
        rings = min(rings, COUNT_LIMIT)
        # Past 2^64 it begins anew.
        self.words[counter] = before + rings if before + rings < 1 << 64 else rings
        return InFlight(counter - self.shape.doorbells_at, rings)

    def delivered(self) -> None:
        """Nothing is in flight any more."""
        self.words[IN_FLIGHT] = 0

    def commit(self, words: Mapping[int, int]) -> None:
        """Sets all of these words, by index, or none of them, whenever we are killed: `recover` does the rest."""
        at = journal = self.shape.journal_at
        for index, value in words.items():
            self.words[at + 1], self.words[at + 2] = index, value
            at += 2
        self.words[journal] = len(words)
        self._complete()

    def _complete(self) -> None:
        journal = self.shape.journal_at
        for at in range(journal + 1, journal + 1 + 2 * self.words[journal], 2):
            self.words[self.words[at]] = self.words[at + 1]
        self.words[journal] = 0

    def rules(self) -> dict[int, tuple[int, int]]:
        """What fault rules have seen, and how much of it they struck, by their keys."""
        at = self.shape.rules_at
        words = self.words[at : at + RULE_WORDS * MAX_RULES].tolist()
        return {words[i]: (words[i + 1], words[i + 2]) for i in range(0, len(words), RULE_WORDS) if words[i]}

    def held(self) -> dict[int, int]:
        """Doorbells that fault rules hold up, by receiver: its place x vectors + the vector."""
        ruled, passed, span = self.shape.ruled_at, self.shape.passed_at, self.shape.places * self.shape.vectors
        there = zip(self.words[ruled : ruled + span].tolist(), self.words[passed : passed + span].tolist(), strict=True)
        return {receiver: (n - done) % (1 << 64) for receiver, (n, done) in enumerate(there) if n != done}

    def hold_nothing(self) -> None:
        """What fault rules hold up is not to be delivered any more."""
        ruled, passed = self.shape.ruled_at, self.shape.passed_at
        for receiver in range(self.shape.places * self.shape.vectors):
            self.words[passed + receiver] = self.words[ruled + receiver]

    def occupy(self, occupant: Occupant) -> None:
        """Enters a peer; while it is being written the place reads as empty."""
        at = self._place(occupant.place)
        self.words[at] = 0
        fields = (occupant.pid, occupant.uid, occupant.joined, occupant.peer + 1)
        for i, value in enumerate(fields, at + 1):
            self.words[i] = value
        self.words[at] = 1

    def vacate(self, place: int) -> None:
        """The place is empty; whose it was last stays readable, for its counters."""
        self.words[self._place(place)] = 0

    def occupants(self) -> list[Occupant]:
        """Who is there now, by place."""
        return [o for place in range(self.shape.places) if (o := self._occupant(place)) is not None]

    def occupant(self, peer: int) -> Occupant | None:
        """The peer with this id, None if it is not there."""
        first = self._place(0) + 4
        successors = self.words[first : self._place(self.shape.places) : PLACE_WORDS].tolist()
        # More than one place may have had it last.
        found = (self._occupant(place) for place, successor in enumerate(successors) if successor == peer + 1)
        return next((occupant for occupant in found if occupant is not None and occupant.peer == peer), None)

    def uid(self, place: int) -> int:
        """The user id of the place's present or last peer, 0 if it never had one."""
        return self.words[self._place(place) + 2]

    def last_id(self, place: int) -> int | None:
        """The id of the place's present or last peer, None if it never had one."""
        successor = self.words[self._place(place) + 4]
        return successor - 1 if successor else None

    def _occupant(self, place: int) -> Occupant | None:
        at = self._place(place)
        while True:
            before = self.words[at + 3]
            state, pid, uid, joined, peer = self.words[at : at + PLACE_WORDS].tolist()
            if not state:
                return None
            # Read while it was written, unless it was the same join before and after.
            if (state, joined, joined) == (self.words[at], before, self.words[at + 3]):
                return Occupant(place, peer - 1, pid, uid, joined)

    def doorbells(self) -> list[int]:
        """Every doorbell counter: rows x places x vectors, the vector fastest."""
        return self.words[self.shape.doorbells_at : self.shape.former_at].tolist()

    def former(self) -> list[int]:
        """Doorbells by places x vectors whose ringers' rows were taken over: they count for who was rung."""
        return self.words[self.shape.former_at : self.shape.answered_at].tolist()

    def told_at(self, place: int, other: int | None = None) -> int:
        """Index of the word that says what the peer on `place` has been told of who is on `other`.

        0 for nothing, else as `famezd.protocol.mark` has it. Without `other`: where the row begins, with the doubt
        (see `famezd.protocol.Outbox`), then the marks of version, id and memory.
        """
        row = self._told_at + place * self._told_words
        return row if other is None else row + TOLD_WORDS + other

    def tell_nothing(self, place: int) -> None:
        """A newcomer is on `place`, who has been told nothing."""
        start = self.told_at(place)
        _zero(self.words, start, self._told_words)

    def answered(self, row: int, vector: int, rings: int) -> None:
        """The personality has dealt with so many doorbells to the switch."""
        at = self.shape.answered_at + row * self.shape.vectors + vector
        # Where a fault rule has doubled what was not rung but once, it may have begun below 0.
        self.words[at] = (self.words[at] + rings) % (1 << 64)

    def unanswered(self, switch: int) -> list[tuple[int, int, int]]:
        """Doorbells to the switch, on place `switch`, that a killed worker had no time for: row, vector, rings."""
        places, rows, vectors = self.shape
        found = []
        for row in range(rows):
            at = self.shape.doorbells_at + (row * places + switch) * vectors
            for vector in range(vectors):
                answered = self.words[self.shape.answered_at + row * vectors + vector]
                rings = (self.words[at + vector] - answered) % (1 << 64)
                if 0 < rings < 1 << 63 and not (rows != places and row == SWITCH_ROW):
                    found.append((row, vector, rings))
        return found

    def forget(self, place: int) -> None:
        """Another peer id takes a place over: its counters begin anew, and those of who was rung lose nothing.

        Nothing may be in flight. Who was killed meanwhile leaves it to be done again, after `recover`.
        """
        words, (places, rows, vectors) = self.words, self.shape
        start, former, answered, span = (
            self.shape.doorbells_at,
            self.shape.former_at,
            self.shape.answered_at,
            places * vectors,
        )
        for row in range(rows):
            _zero(words, start + row * span + place * vectors, vectors)
        _zero(words, former + place * vectors, vectors)
        if rows == places:
            for i in range(span):
                self._move(start + place * span + i, former + i)
            _zero(words, answered + place * vectors, vectors)

    def _move(self, counter: int, former: int) -> None:
        """Adds a counter to a former one and zeroes it, both or neither."""
        words = self.words
        if n := words[counter]:
            words[IN_FLIGHT + 1] = former
            words[IN_FLIGHT + 2] = (words[former] + n) % (1 << 64)
            words[IN_FLIGHT] = counter
            self._complete_move()

    def _complete_move(self) -> None:
        counter, former, total = self.words[IN_FLIGHT : IN_FLIGHT + 3].tolist()
        self.words[former] = total
        self.words[counter] = 0
        self.words[IN_FLIGHT] = 0

    def _place(self, place: int) -> int:
        return TOTALS_AT + TOTALS_WORDS + place * PLACE_WORDS


def named_totals(words: Sequence[int]) -> dict[str, int]:
    """All totals by name."""
    found = dict(zip(TOTALS, words, strict=True))
    found["turns"] += sum(found[name] for name in _TURNS)
    return found


def _zero(words: memoryview, start: int, n: int) -> None:
    for at in range(start, start + n):
        words[at] = 0


def rule_key(rule: Rule) -> int:
    """Tells a rule from all others that the page may know, also from one of another famezd with the same id."""
    return crc32(rule.text.encode()) << 32 | rule.id
