"""Joins, measured: `python -m bench.join`.

How long a newcomer waits, what its join costs the server, how that grows, a storm of newcomers, and how many can come
and go in a second: famezd with all that it is (supervisor, ark, log at its default level) against the stock server
(which prints nothing), in turns. Where a limit is told, it is that of `bench.joining.bare`.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from bench import programs, report
from bench.joining import Crowd, Server, bare, join, parent
from bench.mmsg import Messages
from bench.report import Comparison, Grid, Plot, Row, Section, Series
from famezd.fabric.settings import Settings
from tests.stock.server import StockServer

PEERS, VECTORS = 14, 16
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
        processors = sorted(os.sched_getaffinity(0))
        self._first, self.last_processor = processors[0], processors[-1]
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
        """Its process has one processor for itself, but for what those do that are measured with it."""
        os.sched_setaffinity(server.processes[0], {self._first})
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
    """All servers, while this lasts; this process runs on another processor than they, if there is one."""
    processors = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        started = Servers(stack, Path(directory))
        os.sched_setaffinity(0, {started.last_processor})
        stack.callback(os.sched_setaffinity, 0, processors)
        yield started


class Joins(NamedTuple):
    """Medians of several joins; seconds."""

    latency: float
    processor: float


def timed(server: Server, messages: Messages, joins: int) -> Joins:
    """So many join and leave, one after the other, each when the server has nothing else to do."""
    latencies, times = [], []
    for _ in range(joins):
        before = server.settle()
        connection, latency = join(server, messages)
        times.append(server.settle() - before)
        connection.close()
        latencies.append(latency)
    server.settle()
    return Joins(statistics.median(latencies), statistics.median(times))


class Pairs(NamedTuple):
    """What was measured in turns."""

    ours: list[Joins]
    theirs: list[Joins]
    limit: list[Joins]


def measure_joins(those: Servers, crowd: Crowd, effort: Effort) -> dict[str, Pairs]:
    """Joins of the last peer that a fabric has room for; what was measured, by the name of the server."""
    messages = Messages(those["stock"].setup(PEERS - 1))
    measured = {}
    for kind in KINDS:
        for name in (kind.name, ALONE + kind.name) if kind in CLAIMED else (kind.name,):
            measured[name] = pairs = Pairs([], [], [])
            for _ in range(effort.rounds):
                for server, into in zip((those[name], those["stock"], those.limit(kind)), pairs, strict=True):
                    into.append(timed(server, messages, effort.joins))
                    crowd.catch_up()
    return measured


def comparison(measured: Mapping[str, Pairs], figure: str, caption: str) -> Comparison:
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
    """Of a join, ms."""
    processor: float
    """Of a join and a leave, and of whatever had to be done because of them; ms."""
    memory: float
    """MiB."""
    descriptors: float


def measure_growth(those: Servers, crowd: Crowd, effort: Effort) -> dict[str, list[Look]]:
    """How joins change while more and more have come and gone, looked at in turns."""
    names = ["stock", *(kind.name for kind in CLAIMED)]
    messages = Messages(those["stock"].setup(PEERS - 1))
    looks: dict[str, list[Look]] = {name: [] for name in names}
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
    return Look(done + effort.chunk, latency * 1e3, processor * 1e3, server.memory(), server.descriptors())


_FIGURES = {
    "latency": "latency of a join",
    "processor": "processor time of a join and a leave",
    "memory": "memory (PSS)",
    "descriptors": "open descriptors",
}


def growth(looks: Mapping[str, list[Look]]) -> list[Grid | Plot]:
    """A table of the last joins beside the first ones, and how it went between."""
    some = max(1, min(len(next(iter(looks.values()))) // 2, 2))
    rows = []
    for name, those in looks.items():
        for figure, said in _FIGURES.items():
            first, last = (
                statistics.mean(getattr(look, figure) for look in part) for part in (those[:some], those[-some:])
            )
            ratio = last / first
            target = "" if name == "stock" else f"at most {NO_GROWTH}: {'met' if ratio <= NO_GROWTH else '**missed**'}"
            rows.append([f"{name}: {said}", f"{first:.3g}", f"{last:.3g}", f"{ratio:.2f}", target])
    last_look = next(iter(looks.values()))[-1]
    caption = f"Growth: the last of {last_look.joins:,} joins and leaves, and the first; ms, MiB"
    return [
        Grid(caption, ["", "first", "last", "ratio", "target"], rows),
        _plot("join-time", "Processor time of a join and a leave", "ms", "processor", looks),
        _plot("join-memory", "Memory of the server while peers come and go", "MiB", "memory", looks),
    ]


def _plot(name: str, title: str, unit: str, figure: str, looks: Mapping[str, list[Look]]) -> Plot:
    series = [
        Series(label, [look.joins for look in those], [getattr(look, figure) for look in those], fit_from=0)
        for label, those in looks.items()
    ]
    return Plot(name, title, "joins and leaves that there have been", unit, series)


# Storms and coming and going


def measure_storms(those: Servers, crowd: Crowd, effort: Effort) -> Comparison:
    """All peers come at once, to a fabric on which nobody is."""
    rows = []
    for kind in KINDS:
        measured: tuple[list[float], list[float], list[float]] = ([], [], [])
        for _ in range(effort.rounds):
            for server, into in zip((those[kind.name], those["stock"], those.limit(kind)), measured, strict=True):
                into.append(crowd.storm(server) * 1e3)
                server.settle()
                crowd.leave(server)
                server.settle()
        rows.append(Row(kind.name, *measured, most=kind.storm))
    caption = f"{PEERS} peers of {VECTORS} vectors connect at once: until everyone sees everyone"
    return Comparison(caption, "ms", "stock server", rows, limit="bare server")


def measure_rates(those: Servers, effort: Effort) -> Comparison:
    """One peer comes and goes, on a fabric on which nobody else is."""
    rows = []
    for kind in KINDS:
        measured: tuple[list[float], list[float], list[float]] = ([], [], [])
        for _ in range(effort.rounds):
            for server, into in zip((those[kind.name], those["stock"], those.limit(kind)), measured, strict=True):
                into.append(rate(server, effort.alone))
        rows.append(Row(kind.name, *measured, least=kind.rate))
    caption = "One peer alone joins and leaves, over and over"
    return Comparison(caption, "joins a second", "stock server", rows, limit="bare server")


def rate(server: Server, cycles: int) -> float:
    """Joins and leaves a second of one peer alone."""
    messages = Messages(server.setup(0))
    server.settle()
    began = time.perf_counter()
    for _ in range(cycles):
        join(server, messages)[0].close()
    return cycles / (time.perf_counter() - began)


def section(rounds: int) -> Section:
    """Measures all."""
    return measured(Effort(rounds))


def measured(effort: Effort) -> Section:
    """Measures all, with so much effort."""
    processor = sorted(os.sched_getaffinity(0))[-1]
    with Crowd(PEERS, processor) as storming, servers() as those:
        storms = measure_storms(those, storming, effort)
        rates = measure_rates(those, effort)
    with Crowd(PEERS - 1, processor, last=True) as crowd, servers() as those:
        for server in those.all.values():
            crowd.join(server)
        looks = measure_growth(those, crowd, effort)
        joins = measure_joins(those, crowd, effort)
    return Section(
        "Joins",
        [
            _INTRODUCTION,
            comparison(joins, "latency", f"A join as the {PEERS}th peer, from connect() to the last descriptor"),
            comparison(joins, "processor", "Processor time of the server for it"),
            *growth(looks),
            storms,
            rates,
        ],
    )


_INTRODUCTION = f"""
Peers of {VECTORS} vectors join fabrics for {PEERS}.
"""


if __name__ == "__main__":
    report.main(section, __doc__)
