"""Joins, measured: `python -m bench.join`.

How long a newcomer waits, what its join costs the server, how that grows, a storm of newcomers, and how many can come
and go in a second: famezd with all that it is (supervisor, ark, log at its default level) against the stock server
(which prints nothing), in turns. Where a limit is told, it is that of `bench.joining.bare`.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from bench import programs
from bench.hostile import first_of_all
from bench.joining import GREETING, Crowd, Server, bare, join, parent, processor_time
from bench.mmsg import Messages
from bench.profile import OWN, Function, ProfileError, functions, system_calls, times
from bench.report import ROUNDS, Comparison, Grid, Part, Plot, Ratio, Row, Section, Series
from famezd.fabric.settings import Settings
from tests.stock.server import StockServer

PEERS, VECTORS = 14, 16
_FULL = GREETING + PEERS * VECTORS
"""Messages of the set-up of the last peer, and with sticky ports of every peer."""
ALONE = "worker alone, "
"""Before the name of a kind of fabric: without a supervisor, and so without an ark."""
NO_GROWTH = 1.1
"""The most that the last joins may be of the first ones, where nothing shall grow."""


class Effort(NamedTuple):
    """How much is measured."""

    rounds: int
    joins: int = 10
    """Joins that a figure of a round is the median of; more than 16 fill the others' sockets."""
    cycles: int = 5000
    """Joins and leaves by which growth is judged."""
    chunk: int = 250
    """Of these, between two looks; the last of them, as many as `joins`, are timed."""
    alone: int = 100
    """Joins and leaves in a row, of one peer alone."""
    seconds: int = 4
    """For which each tool looks where the time goes."""


class Kind(NamedTuple):
    """A kind of fabric, and what of the stock server's figure it shall take."""

    ports: str
    doorbells: str
    latency: float | None = None
    processor: float | None = None
    storm: float | None = None
    rate: float | None = None

    @property
    def name(self) -> str:
        return f"{self.ports} {self.doorbells}"

    @property
    def sticky(self) -> bool:
        return self.ports == "sticky"


KINDS = (
    Kind("sticky", "relayed", latency=0.8, processor=5, storm=1.0, rate=0.15),
    Kind("fresh", "direct", latency=1.2, processor=4, storm=1.1, rate=0.5),
    Kind("sticky", "direct"),
    Kind("fresh", "relayed"),
)
CLAIMED = KINDS[:2]


class Servers:
    """All that is measured, by name; each serves one fabric on which nobody is."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self._stack = stack
        self.all: dict[str, Server] = {}
        for kind in CLAIMED:
            self._add(self._worker(kind, directory))
        for sticky in (True, False):
            name = f"bare, {'sticky' if sticky else 'fresh'}"
            self._add(stack.enter_context(bare(directory, name, PEERS, VECTORS, sticky=sticky)))
        self._famezd(directory)
        self._add(self._stock(directory))

    def __getitem__(self, name: str) -> Server:
        return self.all[name]

    def limit(self, kind: Kind) -> Server:
        """What no server of its kind can pass."""
        return self[f"bare, {kind.ports}"]

    def _add(self, server: Server) -> None:
        self.all[server.name] = server

    def _stock(self, directory: Path) -> Server:
        server = self._stack.enter_context(StockServer(directory, vectors=VECTORS, verbose=False))
        return Server("stock", str(server.socket), (server.pid,), PEERS, VECTORS)

    def _worker(self, kind: Kind, directory: Path) -> Server:
        path = str(directory / f"{kind.ports}.sock")
        settings = Settings(
            "bench", path, "famez-bench", 1 << 20, doorbells=kind.doorbells, ports=kind.ports, backing="memfd"
        )
        process = self._stack.enter_context(programs.worker(settings))
        return Server(ALONE + kind.name, path, (process.pid,), PEERS, VECTORS, kind.sticky)

    def _famezd(self, directory: Path) -> None:
        names = {kind: kind.name.replace(" ", "-") for kind in KINDS}
        url = self._stack.enter_context(
            programs.famezd(directory, {name: _fabric(kind) for kind, name in names.items()}, log="info")
        )
        for kind, name in names.items():
            worker = programs.worker_of(url, name)
            path = str(directory / "run" / f"{name}.sock")
            self._add(Server(kind.name, path, (worker, parent(worker)), PEERS, VECTORS, kind.sticky))


def _fabric(kind: Kind) -> str:
    return f"""\
peers: {PEERS}
vectors: {VECTORS}
ports: {kind.ports}
doorbells: {kind.doorbells}
mailbox: {{backing: memfd}}
"""


@contextmanager
def servers() -> Iterator[Servers]:
    """All servers, while this lasts, and this process, each with a processor for itself, if there are two."""
    processors = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        started = Servers(stack, Path(directory))
        stack.callback(os.sched_setaffinity, 0, processors)
        stack.callback(os.sched_setscheduler, 0, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(0, {max(processors)})
        first_of_all(0)
        for server in started.all.values():
            os.sched_setaffinity(server.processes[0], {min(processors)})
            first_of_all(server.processes[0])
        yield started


Turns = tuple[list[float], list[float], list[float]]
"""Of famezd, the stock server, and the bare one; measured in turns."""


class Joins(NamedTuple):
    """Of several joins; seconds."""

    latency: float
    processor: float
    """Of the server, from connect() until it has nothing more to do."""
    both: float
    """The same for a join and a leave, with what is done when they are over."""


def timed(server: Server, messages: Messages, joins: int) -> Joins:
    """So many join and leave, one after the other, each when the server has nothing else to do."""
    latencies, times = [], []
    began = before = server.settle()
    for _ in range(joins):
        connection, latency = join(server, messages)
        times.append(server.settle() - before)
        connection.close()
        before = server.settle()
        latencies.append(latency)
    return Joins(statistics.median(latencies), statistics.median(times), (before - began) / joins)


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
    ]


def _least(sticky: Pairs, fresh: Pairs) -> str:
    """What no server can do without."""
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


@contextmanager
def crowded() -> Iterator[tuple[Servers, Crowd]]:
    """All servers, each with as many peers that the next one has the last place."""
    with Crowd(PEERS - 1, max(os.sched_getaffinity(0))) as crowd, servers() as those:
        for server in those.all.values():
            crowd.join(server)
        yield those, crowd


def _joins(those: Servers, crowd: Crowd, effort: Effort) -> dict[str, Pairs]:
    """What was measured, by the name of the server."""
    messages = Messages(_FULL)
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


# Growth


class Look(NamedTuple):
    """At a server, after so many joins."""

    joins: int
    latency: float
    """Seconds of a join."""
    processor: float
    """Seconds of a join and a leave, with whatever had to be done because of them."""
    memory: float
    """MiB."""
    descriptors: float


def measure_growth(effort: Effort) -> list[Part]:
    """How joins change while more and more have come and gone."""
    with crowded() as (those, crowd):
        looks = _looks(those, crowd, effort)
    return [_growth(looks), _time_plot(looks), _memory_plot(looks)]


def _looks(those: Servers, crowd: Crowd, effort: Effort) -> dict[str, list[Look]]:
    """At all servers in turns."""
    names = ["stock", *(kind.name for kind in CLAIMED)]
    messages = Messages(_FULL)
    looks: dict[str, list[Look]] = {name: [] for name in names}
    for name in names:
        # The first joins of a process are slower than all others.
        timed(those[name], messages, effort.joins)
        crowd.catch_up()
    for done in range(0, effort.cycles, effort.chunk):
        for name in names:
            looks[name].append(_grown(those[name], crowd, messages, done, effort))
    return looks


def _grown(server: Server, crowd: Crowd, messages: Messages, done: int, effort: Effort) -> Look:
    before = server.settle()
    for n in range(effort.chunk - effort.joins):
        join(server, messages)[0].close()
        if n % effort.joins == 0:
            crowd.catch_up()
    crowd.catch_up()
    latency = timed(server, messages, effort.joins).latency
    crowd.catch_up()
    processor = (server.processor_time() - before) / effort.chunk
    return Look(done + effort.chunk, latency, processor, server.memory(), server.descriptors())


def _times(looks: Mapping[str, list[Look]]) -> dict[str, list[float]]:
    """What takes time, as ratios to the stock server at the same time, by what it is."""
    return {
        f"{name}: {said}": [getattr(a, field) / getattr(b, field) for a, b in zip(those, looks["stock"], strict=True)]
        for name, those in looks.items()
        for field, said in (("latency", "latency of a join"), ("processor", "processor time of a join and a leave"))
        if name != "stock"
    }


def _growth(looks: Mapping[str, list[Look]]) -> Grid:
    """The last joins beside the first ones."""
    figures = {f"{what}, of the stock server's": values for what, values in _times(looks).items()}
    for name, those in looks.items():
        figures[f"{name}: memory (PSS), MiB"] = [look.memory for look in those]
        figures[f"{name}: open descriptors"] = [look.descriptors for look in those]
    joins = [look.joins for look in looks["stock"]]
    some = max(1, len(joins) // 5)
    rows = []
    for what, values in figures.items():
        first, last = statistics.median(values[:some]), statistics.median(values[-some:])
        verdict = "met" if last / first <= NO_GROWTH else "**missed**"
        target = "" if what.startswith("stock") else f"at most {NO_GROWTH}: {verdict}"
        rows.append([what, f"{first:,.4g}", f"{last:,.4g}", f"{last / first:.2f}", target])
    caption = f"Growth: the first {joins[some - 1]:,} joins and leaves, and the last of {joins[-1]:,}"
    return Grid(caption, ["", "first", "last", "ratio", "target"], rows)


def _time_plot(looks: Mapping[str, list[Look]]) -> Plot:
    xs = [look.joins for look in looks["stock"]]
    series = [Series(what, xs, values, fit_from=0) for what, values in _times(looks).items()]
    return Plot("join-time", "Joins while peers come and go", _X, "of the stock server's", series)


def _memory_plot(looks: Mapping[str, list[Look]]) -> Plot:
    series = [
        Series(name, [look.joins for look in those], [look.memory for look in those], fit_from=0)
        for name, those in looks.items()
    ]
    return Plot("join-memory", "Memory while peers come and go", _X, "PSS, MiB", series)


_X = "joins and leaves that there have been"


# Storms and coming and going


def measure_storms(effort: Effort) -> list[Part]:
    """All peers come at once, to a fabric on which nobody is."""
    with Crowd(PEERS, max(os.sched_getaffinity(0)), measured=True) as crowd, servers() as those:
        rows = [Row(k.name, *_in_turns(those, k, effort, lambda s: _storm(s, crowd)), most=k.storm) for k in KINDS]
    caption = f"{PEERS} peers connect at once: until everyone sees everyone"
    stock = Ratio.of(rows[0].theirs, rows[0].limit)
    return [
        Comparison(caption, "ms", "stock server", rows, limit="bare server"),
        f"""
        All peers together are sent as many messages by one kind of server as by the other, {PEERS * _FULL:,}, and the
        stock server takes {stock.median:.2f} of what the bare one takes: there is next to nothing left to save.
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
    caption = "One peer alone joins and leaves, over and over"
    least = Ratio.of(rows[0].limit, rows[0].theirs)
    return [
        Comparison(caption, "joins a second", "stock server", rows, limit="bare server"),
        f"""
        Nobody else is there, so the stock server sends {those["stock"].setup(0)} messages, as with fresh ports. With
        sticky ones a set-up names all ports, {_FULL} messages: the bare server, which has them ready and knows no
        leave, reaches {least.median:.2f} of the stock server's rate with these.
        """,
    ]


def _rate(server: Server, effort: Effort) -> float:
    messages = Messages(server.setup(0))
    server.settle()
    began = time.perf_counter()
    for _ in range(effort.alone):
        join(server, messages)[0].close()
    return effort.alone / (time.perf_counter() - began)


def _in_turns(those: Servers, kind: Kind, effort: Effort, measure: Callable[[Server], float]) -> Turns:
    found: Turns = ([], [], [])
    for _ in range(effort.rounds):
        for server, into in zip((those[kind.name], those["stock"], those.limit(kind)), found, strict=True):
            into.append(measure(server))
    return found


# Where the time goes


def measure_profile(effort: Effort) -> list[Part]:
    """What the worker does for a join and a leave as the last peer."""
    parts: list[Part] = []
    with crowded() as (those, crowd):
        # The tools are not to go before what they look at.
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        for kind in CLAIMED:
            try:
                parts += _profile(those[kind.name], those["stock"], crowd, effort)
            except ProfileError as e:
                parts.append(f"Where the time of {kind.name} joins goes cannot be measured here: {e}")
    return parts


def _profile(server: Server, stock: Server, crowd: Crowd, effort: Effort) -> list[Part]:
    worker, messages = server.processes[0], Messages(_FULL)
    members: list[socket.socket] = []

    def come(where: Server = server) -> None:
        members.append(join(where, messages)[0])
        where.settle()

    def go() -> None:
        members.pop().close()
        server.settle()

    def come_and_go() -> None:
        for _ in range(effort.joins):
            join(server, messages)[0].close()
        crowd.catch_up()

    coming, going = system_calls(worker, come), system_calls(worker, go)
    there = system_calls(stock.processes[0], lambda: come(stock))
    go()
    before = [processor_time(pid) for pid in server.processes]
    joining, leaving, _ = times(worker, effort.seconds, (come, go, crowd.catch_up))
    used = [processor_time(pid) - b for pid, b in zip(server.processes, before, strict=True)]
    found = functions(worker, effort.seconds, come_and_go)
    ours, theirs = (timed(those, messages, effort.joins).processor for those in (server, stock))
    kernel = 1 - joining[OWN]
    return [
        f"""
        Where the time of a join and a leave goes, {server.name}: the worker has {used[0] / sum(used):.0%} of the
        service's processor time, the supervisor, which logs both, the rest. Of the worker's time for a join the kernel
        has {kernel:.0%}, for a leave {1 - leaving[OWN]:.0%}. Were all of famezd's own code free, the kernel's part
        alone would make a join {kernel * used[0] / sum(used) * ours / theirs:.2f} of the stock server's processor time.
        """,
        _calls(f"{server.name}: the worker's system calls, and its time", (coming, joining), (going, leaving), there),
        _busiest(f"{server.name}: the worker's functions at work, for both", found),
    ]


Doing = tuple[Counter[str], Mapping[str, float]]
"""How often each system call was made, and what share of the time it took."""


def _calls(caption: str, joining: Doing, leaving: Doing, stock: Counter[str]) -> Grid:
    """System calls with at least a hundredth of the time of either."""
    names = {name for _, shares in (joining, leaving) for name, share in shares.items() if share >= 0.01}
    ordered = sorted(names, key=lambda name: -joining[1].get(name, 0))
    rows = [[name, *_cells(name, *joining), _count(stock[name]), *_cells(name, *leaving)] for name in ordered]
    rows.append(["all", str(joining[0].total()), "", str(stock.total()), str(leaving[0].total()), ""])
    return Grid(caption, ["", "a join: calls", "of its time", "stock: calls", "a leave: calls", "of its time"], rows)


def _cells(name: str, calls: Counter[str], shares: Mapping[str, float]) -> list[str]:
    return [_count(calls[name]), f"{shares.get(name, 0):.0%}"]


def _count(calls: int) -> str:
    return str(calls or "")


def _busiest(caption: str, found: Mapping[str, Function]) -> Grid:
    """The functions that work most themselves; where the worker waits it does not."""
    at_work = 1 - found[_LOOP].alone if _LOOP in found else 1.0
    busiest = [(name, f) for name, f in found.items() if name != _LOOP][:12]
    rows = [[name, f"{f.alone / at_work:.0%}", f"{f.with_others / at_work:.0%}"] for name, f in busiest]
    return Grid(caption, ["", "itself, with its system calls", "with what it calls"], rows)


_LOOP = "Worker.run (famezd/fabric/worker.py)"


# All of it


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
Peers of {VECTORS} vectors join fabrics for {PEERS}. famezd is the whole service, with its ark and its log, which is at its
default level and goes nowhere; a *worker alone* has neither supervisor nor ark. The stock server prints nothing. The *bare
server* has all messages ready, and sends a set-up by one system call: what it takes is the kernel's, and no server can
do with less. Whoever joins takes its whole set-up by one system call, too, so that servers are measured and not clients.

The {PEERS - 1} other peers are processes of their own, asleep until they are told something: by the stock server and on
fresh ports of each newcomer, on sticky ones of nothing. Server and newcomer have a processor each, and as root they go
before all else on the machine. All joins but those of a storm and of a peer alone begin when the server has nothing
else to do.
"""


def main() -> None:
    """Measures, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"only these: {', '.join(FIGURES)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="pairs of measurements (%(default)s)")
    arguments = parser.parse_args()
    if unknown := set(arguments.figures) - set(FIGURES):
        parser.error(f"there is no figure {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}")
    print(measured(Effort(arguments.rounds), arguments.figures or FIGURES).markdown())


if __name__ == "__main__":
    main()
