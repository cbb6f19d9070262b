"""Joins, measured: `python -m bench.join`.

How long a newcomer waits, what its join costs the server, how that grows, a storm of newcomers, and how many can come
and go in a second: famezd with all that it is (supervisor, ark, log at its default level) against the stock server
(which prints nothing), in turns. Their limit is the bare server (`bench.join.bare`).
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from bench.join.bells import private
from bench.join.crowd import Crowd
from bench.join.growth import measure_growth
from bench.join.profile import measure_profile
from bench.join.server import Joins, Server, join, timed
from bench.join.servers import (
    ALONE,
    CLAIMED,
    FULL,
    KINDS,
    PEERS,
    VECTORS,
    Effort,
    Kind,
    Servers,
    crowded,
    servers,
)
from bench.mmsg import Messages
from bench.report import Comparison, Part, Ratio, Row, Section, add_rounds, parser

BELLS = (PEERS - 1) * VECTORS
"""That are a peer's own on a full fabric that relays."""
Turns = tuple[list[float], list[float], list[float]]
"""Of famezd, the stock server, and the bare one; measured in turns."""


class Pairs(NamedTuple):
    """What was measured in turns."""

    ours: list[Joins]
    theirs: list[Joins]
    limit: list[Joins]


def measure_joins(effort: Effort) -> list[Part]:
    """Joins of the last peer that a fabric has room for."""
    with crowded() as (those, crowd):
        measured = _joins(those, crowd, effort)
    return [
        _table(measured, "latency", f"A join as the {PEERS}th peer, from connect() to the last descriptor"),
        _table(measured, "processor", "Processor time of the server for it"),
        _table(measured, "both", "Processor time of the server for it, for the leave, and for whatever follows"),
        _least(measured["sticky relayed"], measured["fresh direct"]),
        _rest(measured[ALONE + "sticky relayed"]),
    ]


def _least(sticky: Pairs, fresh: Pairs) -> str:
    """What the kernel alone takes."""
    latency, processor = (
        [
            statistics.median(
                getattr(bare, figure) / getattr(stock, figure) for _, stock, bare in zip(*pairs, strict=True)
            )
            for pairs in (sticky, fresh)
        ]
        for figure in ("latency", "processor")
    )
    return f"""
    What the kernel alone takes for the same messages, the bare server, is {latency[0]:.2f} of what a newcomer of the
    stock server waits for and {processor[0]:.2f} of its processor time where ports are sticky; where newcomers are
    announced, {latency[1]:.2f} and {processor[1]:.2f}.
    """


def _rest(alone: Pairs) -> str:
    """What of a join is neither the kernel's nor the supervisor's."""
    rest = statistics.median(ours.processor - bare.processor for ours, _, bare in zip(*alone, strict=True))
    return f"""
    Beyond that a worker that relays, alone, takes {rest * 1e3:.2f} ms of a processor's time for a join: it accepts the
    newcomer, looks who it is and what its process can take, gives it bells that lead to their places already, writes
    down for a successor that it has them, and lays them out to be sent. Most of that is the interpreter's time.
    """


def _joins(those: Servers, crowd: Crowd, effort: Effort) -> dict[str, Pairs]:
    """What was measured, by the name of the server."""
    messages = Messages(FULL)
    measured = {}
    for kind in KINDS:
        for name in (kind.name, ALONE + kind.name) if kind in CLAIMED else (kind.name,):
            measured[name] = pairs = Pairs([], [], [])
            for _ in range(effort.rounds):
                for server, into in zip((those[name], those["stock"], those.limit(kind)), pairs, strict=True):
                    into.append(timed(server, messages, effort.joins))
                    crowd.catch_up()
    return measured


def _table(measured: Mapping[str, Pairs], figure: str, caption: str) -> Comparison:
    """The table of one figure of joins."""
    rows = []
    for name, pairs in measured.items():
        kind = next((kind for kind in KINDS if kind.name == name), None)
        ours, theirs, limit = ([getattr(joins, figure) * 1e3 for joins in figures] for figures in pairs)
        rows.append(Row(name, ours, theirs, limit, most=getattr(kind, figure, None)))
    return Comparison(caption, "ms", "stock server", rows, limit="bare server")


def measure_storms(effort: Effort) -> list[Part]:
    """All peers come at once, to a fabric on which nobody is."""
    with Crowd(PEERS, max(os.sched_getaffinity(0)), measured=True) as crowd, servers() as those:
        rows = [Row(k.name, *_in_turns(those, k, effort, lambda s: _storm(s, crowd)), most=k.storm) for k in KINDS]
    caption = f"{PEERS} peers connect at once: until everyone sees everyone"
    stock, bare = Ratio.of(rows[0].theirs, rows[0].limit), Ratio.of(rows[0].limit, rows[0].theirs)
    return [
        Comparison(caption, "ms", "stock server", rows, limit="bare server"),
        f"""
        Be it in set-ups alone or in announcements, too, all peers together are sent {PEERS * FULL:,} messages. The
        stock server takes {stock.median:.2f} of the bare one's time for them, so a server can hardly have a ratio to it
        of less than {bare.median:.2f}. In a storm the server is busy all the time: what a join takes of a processor, as
        above, is taken {PEERS} times, one after the other.
        """,
    ]


def _storm(server: Server, crowd: Crowd) -> float:
    took = crowd.storm(server) * 1e3
    server.settle()
    crowd.leave(server)
    server.settle()
    return took


def measure_rates(effort: Effort) -> list[Part]:
    """One peer comes and goes, on a fabric on which nobody else is."""
    with servers() as those:
        rows = [Row(k.name, *_in_turns(those, k, effort, lambda s: _rate(s, effort)), least=k.rate) for k in KINDS]
        bells = private(BELLS)
    caption = "One peer alone joins and leaves, over and over"
    least = Ratio.of(rows[0].limit, rows[0].theirs)
    setup, theirs = 1 / statistics.median(rows[0].limit), statistics.median(rows[0].theirs)
    both, target = 1 / (bells + setup) / theirs, KINDS[0].rate or 0
    beyond = f": the target of {target:g} is out of reach for private bells" if both < target else ""
    return [
        Comparison(caption, "joins a second", "stock server", rows, limit="bare server"),
        f"""
        Nobody else is there, so the stock server sends {those["stock"].setup(0)} messages, as with fresh ports. With
        sticky ones a set-up names all ports, {FULL} messages: the bare server, which has them ready and knows no
        leave, reaches {least.median:.2f} of the stock server's rate with these. Relayed, a peer has {BELLS} bells of
        its own, so that what it rings is counted: to make, watch and let go of so many takes {bells * 1e3:.2f} ms in a
        bare loop. Who did this and what the bare server does, and nothing else, would reach {both:.2f} of the stock
        server's rate{beyond}. Who joins right after another has left finds nothing ready.
        """,
    ]


def _rate(server: Server, effort: Effort) -> float:
    messages = Messages(server.setup(0))
    server.settle()
    began = time.perf_counter()
    for _ in range(effort.alone):
        join(server, messages)[0].close()
    took = time.perf_counter() - began
    # Or what it does behind that would be done while another one is measured.
    server.settle()
    return effort.alone / took


def _in_turns(those: Servers, kind: Kind, effort: Effort, measure: Callable[[Server], float]) -> Turns:
    found: Turns = ([], [], [])
    for _ in range(effort.rounds):
        for server, into in zip((those[kind.name], those["stock"], those.limit(kind)), found, strict=True):
            into.append(measure(server))
    return found


def section(rounds: int) -> Section:
    """Measures all."""
    return measured(Effort(rounds), FIGURES)


def measured(effort: Effort, figures: Iterable[str]) -> Section:
    """Measures some figures with so much effort."""
    parts = [part for figure in figures for part in FIGURES[figure](effort)]
    return Section("Joins", [_INTRODUCTION, *parts])


FIGURES: dict[str, Callable[[Effort], list[Part]]] = {
    "join": measure_joins,
    "growth": measure_growth,
    "storm": measure_storms,
    "rate": measure_rates,
    "profile": measure_profile,
}

_INTRODUCTION = f"""
Peers of {VECTORS} vectors join fabrics for {PEERS}. famezd is the whole service, with its ark and its log, which is at
its default level and goes nowhere; a *worker alone* has neither supervisor nor ark. The stock server prints nothing.
The *bare server* has all messages ready, and sends a set-up by one system call: what it takes is the kernel's, and a
server can hardly do with less. Whoever joins takes its whole set-up by one system call, too, so that servers are
measured and not clients.

The {PEERS - 1} other peers are processes of their own, asleep until they are told something: by the stock server and on
fresh ports of each newcomer, on sticky ones of nothing. Server and newcomer have a processor each, and as root they go
before all else on the machine. All joins but those of a storm and of a peer alone begin when the server has nothing
else to do.
"""


def main() -> None:
    """Measures, and prints."""
    options = parser("bench.join", __doc__)
    options.add_argument("figures", nargs="*", metavar="FIGURE", help=f"only these: {', '.join(FIGURES)}")
    add_rounds(options)
    arguments = options.parse_args()
    if unknown := set(arguments.figures) - set(FIGURES):
        options.error(f"there is no figure {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}")
    print(measured(Effort(arguments.rounds), arguments.figures or FIGURES).markdown())
