"""What commands find out: values, whose `str` is what a person reads, and `as_json` what a program reads."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import NamedTuple


class Place(NamedTuple):
    """A peer, as far as can be known."""

    id: int
    nodename: str
    cclass: str
    own: bool
    """Whether it is this client."""


class Who(NamedTuple):
    """Who is on the fabric."""

    peers: list[Place]

    def __str__(self) -> str:
        rows = [f"{'ID':>5}  {'NODENAME':<31}  CCLASS"]
        for peer in self.peers:
            here = "  (this client)" if peer.own else ""
            rows.append(f"{peer.id:>5}  {peer.nodename or '-':<31}  {peer.cclass or '-'}{here}")
        return "\n".join(rows)


class Wires(NamedTuple):
    """How a peer is rung."""

    id: int
    name: str
    descriptors: list[int]
    """Its eventfds, by vector; none where a machine's device rings."""

    def __str__(self) -> str:
        if not self.descriptors:
            return f"{self.name}: by the device's register"
        return f"{self.name}: {len(self.descriptors)} vectors, descriptors {' '.join(map(str, self.descriptors))}"


class Dump(NamedTuple):
    """What this client knows of itself and its peers."""

    id: int
    nodename: str
    vectors: int
    memory: int
    """Bytes."""
    switch: int | None
    """None where it is no peer."""
    link: str
    """`configured` or `unconfigured`; empty without a mailbox."""
    cid: int
    sid: int
    rung: dict[int, int]
    """How often we were rung, by vector."""
    peers: list[Wires]
    attributes: dict[int, str]
    """What peers have said of themselves, by id."""

    def __str__(self) -> str:
        lines = [f"peer {self.id}, {self.vectors} vectors, {self.memory} bytes of shared memory"]
        if self.link:
            ids = f" CID={self.cid} SID={self.sid}" if self.link == "configured" else ""
            switch = "no switch" if self.switch is None else f"switch {self.switch}"
            lines += [f"nodename {self.nodename}, {switch}, link {self.link}{ids}"]
        rung = ", ".join(f"{rings} on vector {vector}" for vector, rings in sorted(self.rung.items()))
        lines += [f"doorbells received: {rung or 'none'}"]
        lines += map(str, self.peers)
        lines += [f"peer {peer} says: {printable(said)}" for peer, said in self.attributes.items()]
        return "\n".join(lines)


class Pong(NamedTuple):
    """A ping was answered."""

    peer: int
    name: str
    seq: int
    seconds: float

    def __str__(self) -> str:
        return f"pong from {self.name}: seq={self.seq} time={self.seconds * 1e3:.3f} ms"


class NoPong(NamedTuple):
    """A ping was not answered."""

    peer: int
    name: str
    seq: int
    why: str

    def __str__(self) -> str:
        return f"no pong from {self.name}: seq={self.seq}: {self.why}"


class PingStatistics(NamedTuple):
    """The sum of a `ping`; times in seconds, None if no answer came."""

    destination: str
    sent: int
    received: int
    min: float | None
    avg: float | None
    max: float | None
    mdev: float | None
    """Standard deviation, as ping(8) has it."""

    def __str__(self) -> str:
        loss = 100 * (self.sent - self.received) / self.sent if self.sent else 0.0
        lines = [
            f"--- {self.destination} ping statistics ---",
            f"{self.sent} sent, {self.received} received, {loss:.3g}% loss",
        ]
        times = [self.min, self.avg, self.max, self.mdev]
        if self.received:
            lines.append("min/avg/max/mdev = " + "/".join(f"{1e3 * (t or 0.0):.3f}" for t in times) + " ms")
        return "\n".join(lines)


class Taken(NamedTuple):
    """A message was sent, and its receiver has taken it."""

    peer: int
    name: str

    def __str__(self) -> str:
        return f"taken by {self.name}"


class Withdrawn(NamedTuple):
    """Whether a message of ours still stood in the mailbox, and was taken back."""

    stood: bool

    def __str__(self) -> str:
        return "taken back" if self.stood else "nothing to take back: no message of ours stands in the mailbox"


class Rang(NamedTuple):
    """A peer was rung."""

    peer: int
    name: str
    vectors: list[int]

    def __str__(self) -> str:
        several = "vectors" if len(self.vectors) > 1 else "vector"
        return f"rang {self.name} on {several} {', '.join(map(str, self.vectors))}"


class Received(NamedTuple):
    """A message came."""

    src: int
    name: str
    text: str
    answer: str | None

    def __str__(self) -> str:
        answered = "" if self.answer is None else f"\n  answered: {printable(self.answer)}"
        return f"{self.name}: {printable(self.text)}{answered}"


class Said(NamedTuple):
    """We said something in a conversation."""

    dst: int
    name: str
    text: str

    def __str__(self) -> str:
        return f"to {self.name}: {printable(self.text)}"


class Heard(NamedTuple):
    """We were told something in a conversation."""

    src: int
    name: str
    text: str

    def __str__(self) -> str:
        return f"from {self.name}: {printable(self.text)}"


class Rung(NamedTuple):
    """We were rung."""

    time: float
    """Seconds since the epoch."""
    vector: int
    rings: int
    """How often since we last looked."""
    sender: str | None
    """With a mailbox: whose vector it is."""

    def __str__(self) -> str:
        who = "" if self.sender is None else f"  {self.sender}"
        times = "once" if self.rings == 1 else f"{self.rings} times"
        return f"{_clock(self.time)}  vector {self.vector}  {times}{who}"


class Membership(NamedTuple):
    """Another peer has joined or left (with fresh ports)."""

    peer: int
    joined: bool

    def __str__(self) -> str:
        return f"peer {self.peer} has {'joined' if self.joined else 'left'}"


class Traced(NamedTuple):
    """Something has happened to a message in the mailbox."""

    time: float
    """Seconds since the epoch."""
    what: str
    """`taken`; `gone`, when its slot was cleared; `stands`, when nobody takes it."""
    src: str
    dst: str
    """What the sender noted, which it need not have done; `?` where that is nobody's id."""
    text: str
    stood: float | None
    """Seconds that it was seen to stand there, None if it came and went between two looks."""

    def __str__(self) -> str:
        stood = "at once" if self.stood is None else f"after {self.stood * 1e3:.0f} ms"
        what = {"taken": f"taken {stood}", "gone": f"gone {stood}", "stands": "not taken yet"}[self.what]
        return f"{_clock(self.time)}  {self.src} -> {self.dst}: {printable(self.text)}  [{what}]"


class Note(NamedTuple):
    """Something to know."""

    text: str

    def __str__(self) -> str:
        return self.text


Result = (
    Who
    | Dump
    | Pong
    | NoPong
    | PingStatistics
    | Taken
    | Withdrawn
    | Rang
    | Received
    | Said
    | Heard
    | Rung
    | Membership
    | Traced
    | Note
)
Emit = Callable[[Result], None]
"""Takes a result as soon as it is there."""


def as_json(result: Result) -> str:
    """A result as one line of JSON: its kind under `result`, and its fields."""
    fields = {name: _plain(value) for name, value in result._asdict().items()}
    return json.dumps({"result": type(result).__name__.lower(), **fields})


def printable(text: str) -> str:
    """Text of a peer's, so that it can do nothing to a terminal: control characters come as U+FFFD."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _plain(value: object) -> object:
    return (
        [row._asdict() for row in value]
        if isinstance(value, list) and value and hasattr(value[0], "_asdict")
        else value
    )


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds)) + f".{int(seconds % 1 * 1e3):03}"
