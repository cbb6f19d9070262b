"""The servers that joins are compared on: famezd with a fabric of each kind, the stock server, and the bare ones."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from bench import programs
from bench.hostile import first_of_all
from bench.join.bare import bare
from bench.join.crowd import Crowd
from bench.join.server import GREETING, Server, parent
from famezd.fabric.settings import Settings
from tests.stock.server import StockServer

PEERS, VECTORS = 14, 16
FULL = GREETING + PEERS * VECTORS
"""Messages of the set-up of the last peer, and with sticky ports of every peer."""
ALONE = "worker alone, "
"""Before the name of a kind of fabric: without a supervisor, and so without an ark."""


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
        """The bare one of its kind, beside which its figures are to be seen."""
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
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # What all have in flight counts for each: in a storm more than the customary 1024.
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
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


@contextmanager
def crowded() -> Iterator[tuple[Servers, Crowd]]:
    """All servers, each with as many peers that the next one has the last place."""
    with Crowd(PEERS - 1, max(os.sched_getaffinity(0))) as crowd, servers() as those:
        for server in those.all.values():
            crowd.join(server)
        yield those, crowd
