"""What peers are called: labels for people, made of what the peers themselves claim.

A name is what stands in the peer's slot of the mailbox, where there are slots; else the name that its QEMU was given,
which under libvirt is the domain's; else the peer's id. Any guest can write any slot, so nothing depends on a name: it
is made printable and short, no two peers of a fabric have the same, none can be taken for an id, and it does not change
all the time. The exact rules are at `sanitised`, `Names` and `RENAME`.
"""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Callable, Iterable
from typing import NamedTuple

from famezd.mailbox import NAME_SIZE
from famezd.stats import Occupant
from famezd.supervisor.status.commandline import Program, Reader, Reading

SWITCH = "switch"
"""The kind of the switch, and its name while there is none in its slot."""
RENAME = 10.0
"""Seconds between two changes of a peer's name; what it claims in between is taken up later.

Each name is a series of its own in Prometheus. The first change is at once: that is when a guest's driver is loaded.
"""
LONGEST = 64
"""Bytes of a machine's name that are shown; a UUID has 36."""

_RESERVED = {SWITCH, "server", "all", "others"}
"""What means somebody else, here or to `famez-client`."""
_MADE = re.compile(r"~\d+$")

Nodename = Callable[[int], str]
"""Reads what stands in a peer's slot; "" where there are none."""


class Named(NamedTuple):
    """What a peer is called."""

    name: str
    kind: str
    """`switch`, or one of those of `famezd.supervisor.status.commandline`."""


class _Record:
    """What is known of one peer."""

    __slots__ = ("_reading", "changed", "joined", "name", "peer")

    def __init__(self, peer: int, joined: int, reading: Reading) -> None:
        self.peer = peer
        self.joined = joined
        self._reading = reading
        self.name = ""
        self.changed: float | None = None

    @property
    def program(self) -> Program:
        """What its process is, as far as that is known yet."""
        return self._reading.program

    def is_of(self, occupant: Occupant | None) -> bool:
        """Whether it is of this one, and not of an earlier peer with its id."""
        return occupant is not None and self.joined == occupant.joined


class Names:
    """The names of one fabric's peers.

    Who had a name first keeps it; another who claims it is called `<name>~<id>`. So is who claims a word that is
    reserved, a name without a letter, which could be an id, or one that ends as if it had been made here. Small and
    capital letters make no difference.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reader = Reader()
        self._records: dict[int, _Record] = {}
        self._holders: dict[str, int] = {}
        """Whose each name is, by what `_folded` makes of it."""
        self._gone: dict[int, str] = {}
        """What those were called who have left lately: their last lines may still have to be logged."""

    def look(self, occupants: Iterable[Occupant], nodename: Nodename, switch: int | None) -> None:
        """Brings all up to date: these are the peers, and `switch` is the id of the switch, where it is one."""
        present = {occupant.peer: occupant for occupant in occupants}
        self._gone.clear()
        for record in list(self._records.values()):
            is_switch = record.program.kind == SWITCH
            if not (record.peer == switch if is_switch else record.is_of(present.get(record.peer))):
                self._forget(record)
        if switch is not None:
            self._call_switch(switch, nodename)
        for occupant in sorted(present.values(), key=lambda occupant: occupant.joined):
            self.meet(occupant, nodename)

    def meet(self, occupant: Occupant, nodename: Nodename) -> str:
        """What a peer that is there is called; its program is looked at when it is met first."""
        record = self._records.get(occupant.peer)
        if record is not None and not record.is_of(occupant):
            self._forget(record)
            record = None
        if record is None:
            reading = self._reader.read(occupant.pid, occupant.uid, occupant.joined / 1e9)
            record = self._records[occupant.peer] = _Record(occupant.peer, occupant.joined, reading)
        claim = sanitised(nodename(occupant.peer), NAME_SIZE - 1) or sanitised(record.program.name, LONGEST)
        self._call(record, self._unique(claim, occupant.peer) if claim else str(occupant.peer))
        return record.name

    def miss(self, peer: int) -> str | None:
        """What a peer was called that is not there any more, None if that is forgotten; its name is free."""
        record = self._records.get(peer)
        if record is not None and record.program.kind != SWITCH:
            self._forget(record)
        return self._gone.get(peer)

    def of(self, peer: int) -> Named:
        """What a peer that was there at the last look is called."""
        record = self._records[peer]
        return Named(record.name, record.program.kind)

    def _call_switch(self, switch: int, nodename: Nodename) -> None:
        record = self._records.get(switch)
        if record is None:
            record = self._records[switch] = _Record(switch, 0, Reading(Program(SWITCH)))
        claim = sanitised(nodename(switch), NAME_SIZE - 1)
        self._call(record, self._unique(claim, switch) if claim else SWITCH)

    def _unique(self, claim: str, peer: int) -> str:
        folded = _folded(claim)
        if _is_reserved(folded) or self._holders.get(folded, peer) != peer:
            return f"{claim}~{peer}"
        return claim

    def _call(self, record: _Record, name: str) -> None:
        if name == record.name:
            return
        if record.name:
            now = self._clock()
            if record.changed is not None and now < record.changed + RENAME:
                return
            record.changed = now
            del self._holders[_folded(record.name)]
        record.name = name
        self._holders[_folded(name)] = record.peer

    def _forget(self, record: _Record) -> None:
        del self._records[record.peer]
        del self._holders[_folded(record.name)]
        self._gone[record.peer] = record.name


def sanitised(text: str, longest: int) -> str:
    """What is left of `text` for people to read, at most `longest` bytes of UTF-8; may be nothing.

    Characters that control anything (also the direction of writing), separate lines, show nothing or stand for bytes
    that are none become spaces, and of spaces there is one at a time, and none at the ends.
    """
    # All that Unicode does not call printable is of these kinds.
    shown = "".join(c if c.isprintable() and c != "\N{REPLACEMENT CHARACTER}" else " " for c in text)
    whole = " ".join(unicodedata.normalize("NFC", shown).split())
    return whole.encode()[:longest].decode(errors="ignore").strip()


def _folded(name: str) -> str:
    """The same for names that are too much alike."""
    return unicodedata.normalize("NFKC", name).casefold()


def _is_reserved(folded: str) -> bool:
    return folded in _RESERVED or _MADE.search(folded) is not None or not any(c.isalpha() for c in folded)
