"""How many: a thousand peers, two hundred fabrics, where it ends, and how all of it grows: `python -m bench.scale`.

All goes through the whole service. Peers are programs on the host, many in a process (`bench.scale.crowd`), which read
what they are sent and keep of it what they need; every doorbell has to be at the very peer for whom it was. It takes
about four minutes, most of them for twice 16 million messages.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from bench.report import Grid, Part, Plot, Ratio, Section, Series
from bench.scale.bare import message as bare_message
from bench.scale.fabrics import PEERS, Served, served
from bench.scale.growth import AT_ONCE, DIRECT, FRESH, RELAYED, VECTORS, Grown, Kind, full, growing
from bench.scale.kernelmemory import Costs, costs
from bench.scale.stockmesh import MOMENT, Mesh, mesh
from famezd.fabric.settings import SPARE_DESCRIPTORS
from famezd.openfiles import hard_limit
from famezd.stats import WORD

START = 15.0
"""Seconds in which all fabrics shall serve."""
HOSTS = (20_000, 65_536, 524_288, 1_048_576)
"""Limits of open files: this one's where it was written, a common one, that of our unit, and of a kernel left alone."""
_MIB = 1 << 20

T = TypeVar("T")


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    relayed: Sequence[int] = (2, 4, 8, 14, 20, 30, 35)
    """Peers of relayed fabrics."""
    direct: Sequence[int] = (2, 10, 32, 100, 316, 1000)
    """Of direct ones with sticky ports."""
    fresh: Sequence[int] = (2, 10, 32, 100, 316, 1000)
    """On a direct one with fresh ports, one after the other."""
    deaths: Sequence[int] = (14, 30, 1000)
    """Those of them whose worker is killed."""
    fabrics: int = 200
    stock: int = 70
    """Peers that are tried with the stock server."""
    bells: int = 12_000
    """Of which the kernel's memory is measured."""


class Found(NamedTuple):
    """All that was measured."""

    relayed: list[Grown]
    direct: list[Grown]
    fresh: list[Grown]
    served: Served
    mesh: Mesh
    costs: Costs | None
    message: list[float]
    """Seconds of processor time that a message with a descriptor takes its sender, bare."""


def section(rounds: int) -> Section:
    """What this part tells."""
    return told(measured(Sizes(), rounds))


def measured(sizes: Sizes, rounds: int) -> Found:
    """Measures all for which this machine's hard limit of open files has room."""
    limit = hard_limit() or HOSTS[-1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    message = [bare_message()]
    bells = costs(min(sizes.bells, limit // 2))
    stock = mesh(sizes.stock)
    many = _said(f"{sizes.fabrics} fabrics", lambda: served(sizes.fabrics))
    relayed = _filled(RELAYED, sizes.relayed, sizes, rounds)
    direct = _filled(DIRECT, sizes.direct, sizes, rounds)
    message.append(bare_message())
    there = _fitting(FRESH, sizes.fresh)
    fresh = _said(f"{there[-1]} peers, {FRESH}", lambda: growing(FRESH, there))
    message.append(bare_message())
    return Found(relayed, direct, fresh, many, stock, bells, message)


def _filled(kind: Kind, peers: Sequence[int], sizes: Sizes, rounds: int) -> list[Grown]:
    found = []
    for n in _fitting(kind, peers):
        look = partial(full, kind, n, rounds=rounds, deaths=n in sizes.deaths)
        found.append(_said(f"{n} peers, {kind}", look))
    return found


def _fitting(kind: Kind, peers: Sequence[int]) -> list[int]:
    """Those numbers of peers for whose worker there is room here."""
    limit = hard_limit() or HOSTS[-1]
    return [n for n in peers if n <= most(kind, limit)]


def _said(what: str, measure: Callable[[], T]) -> T:
    began = time.monotonic()
    found = measure()
    print(f"  {what}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return found


def told(found: Found) -> Section:
    """What was found, as a section."""
    return Section(
        "Scale", [*_many_peers(found), *_end(found), *_many_fabrics(found.served), *_growth(found), *_needs(found)]
    )


def _many_peers(found: Found) -> list[Part]:
    sticky, fresh, bare = found.direct[-1], found.fresh[-1], statistics.median(found.message)
    rows = [
        ["peers, all of whom were told of all", f"{sticky.peers:,}", f"{fresh.peers:,}", f"{found.mesh.faultless}"],
        ["doorbells rung, each of which arrived", f"{sticky.rung:,}", f"{fresh.rung:,}", ""],
        ["until all were there", _s(sticky.filled), _s(fresh.filled), ""],
        ["a join of the last", _ms(sticky.join), _ms(fresh.join), ""],
        ["the worker's processor time for it", _ms(sticky.cpu), _ms(fresh.cpu), ""],
        ["... for a message", _us(_a_message(sticky)), _us(_a_message(fresh)), ""],
        [
            "... as a multiple of the bare one",
            f"{_a_message(sticky) / bare:.2f}",
            f"{_a_message(fresh) / bare:.2f}",
            "",
        ],
        ["until all had left, at once", _s(sticky.parted), _s(fresh.parted), ""],
        ["open files of the worker", f"{sticky.descriptors:,}", f"{fresh.descriptors:,}", ""],
        ["its proportional memory", _mib(sticky.pss), _mib(fresh.pss), ""],
        ["of that, the stats page", _mib(sticky.page), _mib(fresh.page), ""],
        [
            "served again after its worker's death",
            _s(statistics.median(sticky.resumed)) if sticky.resumed else "",
            "",
            "",
        ],
    ]
    died = f"at peer {found.mesh.died} it dies" if found.mesh.died else "it was not brought to its end"
    text = f"""
    A peer's set-up has a message for each vector of each other peer, so that {sticky.peers:,} peers take
    {VECTORS * sticky.peers**2:,} messages, each of which hands over a descriptor: a bare `sendmsg` of one takes
    {_us(bare)} of processor time. They joined {AT_ONCE} at a time, and took what they were sent; all were told of all,
    and each of the doorbells that were rung arrived where it should, and no other. The stock server is faultless up to
    {found.mesh.faultless} peers that begin to read {MOMENT * 1e3:.0f} ms after they have connected:
    what does not fit into a socket it leaves out; {died}, whatever limit it has: descriptor 1024 is beyond its
    select(2).
    """
    head = ["direct, 16 vectors", "sticky ports", "fresh ports", "stock server"]
    return ["### A thousand peers", text, Grid("", head, rows)]


def _a_message(grown: Grown) -> float:
    """Seconds of the worker's processor time for a message of a join: fresh ports tell everybody of it."""
    return grown.cpu / (VECTORS * grown.peers * (2 if grown.kind == FRESH else 1))


def most(kind: Kind, limit: int) -> int:
    """How many peers of 16 vectors a worker may have with so many open files."""
    return bisect_right(range(1, limit), limit, key=lambda n: kind.settings(n).descriptors(switch=False))


def parked(grown: Grown) -> int:
    """How many descriptors a full fabric has in its ark."""
    return grown.kind.settings(grown.peers).descriptors(switch=False) - SPARE_DESCRIPTORS


def _end(found: Found) -> list[Part]:
    last, limit = found.relayed[-1], hard_limit() or HOSTS[-1]
    fits = most(RELAYED, limit)
    wrong = {
        "bells": f"peers: {fits + 1}\n",
        "counters": "peers: 65535\nvectors: 1\ndoorbells: direct\n",
        "genz": "personality: genz\npeers: 63\nvectors: 64\n",
        "peers": "peers: 65536\n",
        "vectors": "vectors: 2049\n",
    }
    said = "\n" + "\n".join(f"    {line}" for line in refusal(wrong)) + "\n"
    text = (
        textwrap.dedent(f"""
    Relayed, bells grow with the square of the peers: n peers of v vectors have n (n v + 1) descriptors open in their
    worker. With this machine's hard limit of {limit:,} open files {fits} peers of {VECTORS} vectors fit. One more
    is refused where the file is read, by `famezd`, `famezctl check` and `famezctl reload` alike, and whoever is there
    is not disturbed; `famezd --check` warns, for a unit has another limit than a shell. So are these:
    """)
        + said
    )
    python = _python_per_bell(found.relayed)
    rows = [_host(found, host, python) for host in HOSTS]
    head = ["open files", "peers", "bells", "worker's memory", "kernel's memory", "a join", "until all are there"]
    cost = f"""
    A bell costs {python:.0f} bytes of the worker's memory, and {_us(_per_bell(last))} of a join.
    {_kernels(found.costs)}
    Computed from that, full fabrics of relayed peers of {VECTORS} vectors on hosts with other limits, with the joins
    one after the other:
    """
    return ["### Where relayed ends, and what is refused", text, cost, Grid("", head, rows)]


def _kernels(costs: Costs | None) -> str:
    """What bells cost the kernel."""
    if costs is None:
        return "What it costs the kernel is shown to root only (/proc/slabinfo)."
    return (
        f"In the kernel, where no process is said to have it, it takes {costs.watched} bytes (the eventfd alone "
        f"{costs.eventfd}); what is parked for a successor, {costs.record / 1024:.1f} KiB for each 253 descriptors."
    )


def _python_per_bell(relayed: Sequence[Grown]) -> float:
    """Bytes of the worker's memory for a bell."""
    few, many = relayed[0], relayed[-1]
    return (many.pss - few.pss) / (parked(many) - parked(few))


def _per_bell(grown: Grown) -> float:
    """Seconds of a join for each of the newcomer's bells."""
    return grown.join / (VECTORS * grown.peers)


def _host(found: Found, limit: int, python: float) -> list[str]:
    n, last = most(RELAYED, limit), found.relayed[-1]
    bells, join = VECTORS * n * n, VECTORS * n * _per_bell(last)
    memory = found.relayed[0].pss + bells * python
    kernel = ""
    if found.costs is not None:
        kernel = _mib(bells * found.costs.watched + (bells // 253 + n) * found.costs.record)
    return [f"{limit:,}", f"{n}", f"{bells:,}", _mib(memory), kernel, _ms(join), _s(n * join)]


def refusal(fabrics: dict[str, str]) -> list[str]:
    """What famezd says of a configuration with a mistake."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        (directory / "fabrics.d").mkdir()
        (directory / "famezd.yaml").write_text("http: {listen: '127.0.0.1:0'}\n")
        for name, text in fabrics.items():
            (directory / "fabrics.d" / f"{name}.yaml").write_text(text)
        command = [str(Path(sys.executable).with_name("famezd")), "-c", "famezd.yaml"]
        environ = os.environ | {"RUNTIME_DIRECTORY": str(directory / "run")}
        done = subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done
    return done.stderr.splitlines()


def _many_fabrics(many: Served) -> list[Part]:
    n = many.fabrics
    peers = n * PEERS
    rows = [
        [f"start of {n} until all serve", _s(many.start), f"at most {START:.0f} s: {_verdict(many.start <= START)}"],
        ["... of the time of as many bare interpreters", f"{many.start / many.interpreters:.1f}", ""],
        [f"until {peers} peers were there", _s(many.joined), ""],
        ["doorbells rung, each of which arrived", f"{many.rung:,}", ""],
        ["proportional memory of all workers", _mib(many.workers), f"{_mib(many.workers / n)} each"],
        ["of the supervisor", _mib(many.supervisor), ""],
        ["open files of the supervisor", f"{many.open:,}", f"{many.open / n:.0f} for a fabric"],
        ["a scrape", _s(many.scrape), f"{many.scraped / _MIB:.1f} MiB"],
        ["`famezctl status`", _s(many.status), ""],
        ["`famezctl restart` of one", _s(many.restart), ""],
        ["`famezctl reload` after one has changed", _s(many.reload), ""],
        ["stop", _s(many.stop), ""],
    ]
    text = f"""
    {n} fabrics of {PEERS} relayed peers of {VECTORS} vectors in one service. What a start takes is {n} interpreters
    with what a worker imports: as many interpreters that do nothing, as many at a time, take {_s(many.interpreters)}.
    """
    return ["### Two hundred fabrics" if n == 200 else f"### {n} fabrics", text, Grid("", ["", "", ""], rows)]


def _growth(found: Found) -> list[Part]:
    kinds = (found.relayed, found.direct, found.fresh)
    joins = Plot(
        "scale-join",
        "A join, by the peers of its fabric",
        "peers",
        "ms",
        [_series(str(k[-1].kind), k, lambda g: g.join * 1e3) for k in kinds]
        + [_series(f"{k[-1].kind}, the worker's CPU", k, lambda g: g.cpu * 1e3) for k in kinds],
    )
    memory = Plot(
        "scale-memory",
        "A full fabric's worker, by its peers",
        "peers",
        "MiB",
        [_series(f"PSS, {k[-1].kind}", k, lambda g: g.pss / _MIB, fitted=False) for k in kinds]
        + [_series(f"stats page, {k[-1].kind}", k, lambda g: g.page / _MIB) for k in (found.relayed, found.direct)],
    )
    ark = Plot(
        "scale-ark",
        "Descriptors parked for a successor, by peers",
        "peers",
        "descriptors",
        [_series(str(k[-1].kind), k, parked) for k in (found.relayed, found.direct)],
    )
    latency = Plot(
        "scale-latency",
        "A relayed doorbell, by the peers that are there",
        "peers",
        "us",
        [_series("through the worker", found.relayed, lambda g: statistics.median(g.latency) * 1e6)],
    )
    return ["### Growth", joins, memory, ark, latency, _latencies(found), _resumes(found)]


def _series(label: str, grown: Sequence[Grown], y: Callable[[Grown], float], *, fitted: bool = True) -> Series:
    xs = [float(g.peers) for g in grown]
    return Series(label, xs, [y(g) for g in grown], fit_from=xs[len(xs) // 2] if fitted and len(xs) > 3 else None)


def _latencies(found: Found) -> Grid:
    rows = [
        [
            f"{g.peers}",
            _us(statistics.median(g.latency)),
            _us(statistics.median(g.bare)),
            str(Ratio.of(g.latency, g.bare)),
        ]
        for g in found.relayed
    ]
    return Grid(
        "A doorbell through the worker, beside one there and back with eventfds alone: as many changes of process",
        ["peers", "relayed", "eventfds alone", "ratio"],
        rows,
    )


def _resumes(found: Found) -> Grid:
    killed = [g for g in (*found.relayed, *found.direct) if g.resumed]
    rows = [
        [
            f"{g.kind}: {g.peers}",
            _longest(g.resumed),
            _longest(g.delivered),
            f"{parked(g):,}",
            _mib(g.pss),
            _mib(g.page),
        ]
        for g in killed
    ]
    head = ["peers", "until a newcomer is welcomed", "until a doorbell is there", "parked", "PSS", "stats page"]
    return Grid("After the worker was killed: the median, and the longest of three", head, rows)


def _longest(times: Sequence[float]) -> str:
    return f"{_ms(statistics.median(times))} ({_ms(max(times))})" if times else ""


def _needs(found: Found) -> list[Part]:
    """What is needed of LimitNOFILE."""
    sizes = [(RELAYED, 14), (RELAYED, 30), (RELAYED, 62), (RELAYED, 180), (DIRECT, 100), (DIRECT, 1000), (DIRECT, 5000)]
    rows = []
    for kind, n in sizes:
        worker, setup = kind.settings(n).descriptors(switch=False), 1 + VECTORS * n
        page = kind.settings(n).shape(switch=False).words * WORD
        rows.append(
            [
                f"{n} {kind.doorbells}",
                f"{worker:,}",
                f"{2 * (worker - SPARE_DESCRIPTORS):,}",
                f"{setup + 64:,}",
                _mib(page),
            ]
        )
    per_fabric = found.served.open / found.served.fabrics
    text = f"""
    A worker needs what is in the second column, and is not started with less. What is parked counts for all processes
    of a user together, and twice for as long as it is packed anew (the third; root is exempt): add up all fabrics. A
    peer has to take a whole set-up beside the 64 or so that a QEMU has open anyway: the soft limit of 1024 that shells
    and libvirt give it is enough for 59 peers. Who could not hold a set-up is refused (`own_limit`), and with
    fresh ports who would be one too many for a peer that is there (`member_limit`); nobody who is there notices. The
    supervisor needs {per_fabric:.0f} for each of these fabrics, and 13 for one that is `genz`.
    """
    head = [f"peers of {VECTORS} vectors", "worker", "in flight", "each peer", "stats page"]
    return ["### What is needed of the limit of open files", text, Grid("", head, rows)]


def _verdict(met: object) -> str:
    return "met" if met else "**missed**"


def _s(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds >= 100 else f"{seconds:.3g} s"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f} ms" if seconds >= 0.1 else f"{seconds * 1e3:.3g} ms"


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.3g} us"


def _mib(size: float) -> str:
    return f"{size / _MIB:,.0f} MiB" if size >= 100 * _MIB else f"{size / _MIB:.3g} MiB"
