"""How small famezd is: memory, wake-ups and processor time of a service that has nothing to do.

`python -m bench.small` installs famezd twice: its wheel in an environment of Debian's own Python (of this one, where
there is no other), and from the sources, as `make run` does. With each it runs a real service with systemd's watchdog
in force, HTTP served, and peers that sit still. That takes about five minutes, for most of which it waits.
"""

from __future__ import annotations

import os
import re
import resource
import socket
import statistics
import subprocess
import tempfile
import time
from array import array
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from bench.report import Grid, Part, Section, parser
from bench.small.installed import WATCHDOG, Kind, Service, kinds, service
from bench.small.memory import Memory, look
from famezd.client import Peer
from famezd.protocol import MESSAGE_SIZE
from famezd.stats import WORD, Page, Shape
from famezd.supervisor.status.tally import Tally

PEERS, VECTORS = 14, 16
MIB = 1 << 20
WORKER_IDLE, WORKER_FULL, SUPERVISOR = 10, 14, 45
"""The most that shall be in memory, in MiB."""
WAKE_UPS = 1.0
"""The most in a second, of each process."""
CROWD = 500
"""Peers of a fabric at which somebody looks."""
LOOKS = 5
"""Processes that do nothing of which the least one counts."""
WATCHED = 60.0
"""Seconds for which a service is watched that has nothing to do."""
_RELAYED = f"{{peers: {PEERS}, vectors: {VECTORS}, mailbox: {{backing: memfd}}}}\n"
_DIRECT = "{doorbells: direct, ports: fresh, vectors: 4, mailbox: {backing: memfd}}\n"
_WAIT = "\nimport os; os.write(1, b'r'); os.read(0, 1)"


_MEMORY_HEAD = ("MiB", "PSS", "PSS alone", "its own", "limit: imported", "limit: Python", "target")
_MEMORY = """
What processes of a service have in memory, when it has served a scrape and has nothing to do. *PSS* is what the
kernel says (smaps_rollup): pages that several processes have are divided among them. It is less where other programs
use Python, too, as here; *PSS alone* counts the pages again, as if there were only famezd on the machine, with every
library to itself. *Its own* is what no process can share. The limits are of a process of the same Python that has
imported the same modules and does nothing, and of one that has imported none (`python3 -c pass`; of a worker, which
is started so, `python3 -S -c pass`): its own pages as well, of the least of several.
"""
_MEMORY_TOLD = """
Where it comes from: what each import adds to the imports before it. A worker is started without `site`, whose work
the supervisor has done already. What a fabric, its peers, scrapes and a reload add is the difference between *its
own* and *imported* above. To be much smaller the supervisor would need another HTTP library, and another one for its
configuration; a worker would have to do without `socket`, `typing`, `re` and `enum`.
"""
_WORKER_IMPORTS = ("socket", "typing", "famezd.fabric.worker")
_SUPERVISOR_IMPORTS = (
    "asyncio",
    "pydantic.main",
    "aiohttp.web",
    "structlog",
    "yaml",
    "prometheus_client",
    "famezd.cli.famezd",
)
_REST_HEAD = ("a minute at rest", "wake-ups a second", "processor time, ms", "target")
_REST_TOLD = """
Wake-ups are voluntary context switches of all threads (/proc/PID/status), with systemd's watchdog of ten seconds in
force, which famezd.service sets, and the supervisor's for its workers, of as many. What remains are these: three
signs of life in ten seconds from each process. The supervisor gives its own when it looks at its workers', all at
once, and notes what was rung; so it does not wake more often when there are more fabrics. Most of its processor time
is that of waking up; each further fabric adds a look at its page and a checksum of its counters.
"""
_PAGES_HEAD = ("peers of 16 vectors", "MiB", "of it counters", "same, ms", "at once", "all new, ms", "at once")
_PAGES_TOLD = """
A stats page is allocated as a whole when its fabric begins (posix_fallocate): memory that was missing later could be
told by a signal only. So a fabric takes this much for the peers that it may have, once for worker and supervisor
together; what nobody has touched of it is no part of a process's memory. Of a relayed one most are counters, one for
each pair and vector; of a direct one, what each peer has been told of each other one. The last columns are the
supervisor's look at all counters, every three seconds, of which nothing has changed or all have, and for how long it
does nothing else meanwhile.
"""


class Use(NamedTuple):
    """What a process has done so far."""

    wakes: int
    """How often it slept and was woken, all its threads together (voluntary_ctxt_switches)."""
    nanoseconds: int
    """Of processor time, its own and the kernel's for it (schedstat, which is more exact than utime and stime)."""


def bare(kind: Kind, imports: str, *options: str) -> Memory:
    """What Python has in memory that has imported this, and nothing else to do; the least of several.

    The first one may have to compile what it imports.
    """
    return min((_bare(kind, imports, *options) for _ in range(LOOKS)), key=lambda memory: memory.own)


def _bare(kind: Kind, imports: str, *options: str) -> Memory:
    told = [kind.python, "-c", "from famezd.interpreter import launch; print(launch('')[1]['PYTHONPATH'])"]
    path = subprocess.run(told, capture_output=True, text=True, check=True).stdout.strip()
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environ |= {"PYTHONPATH": path} if "-S" in options else {}
    command = [kind.python, *options, "-c", (imports or "pass") + _WAIT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ, cwd="/") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.read(1)
        found = look([process.pid])[process.pid]
        process.stdin.close()
    return found


def measure_memory(kind: Kind) -> list[list[str]]:
    """Rows of memory: of the supervisor, an idle worker, and one with peers, each beside what Python itself takes."""
    python, supervisor = bare(kind, ""), bare(kind, "import famezd.cli.famezd")
    small_python, worker = bare(kind, "", "-S"), bare(kind, "import famezd.fabric.worker, famezd.switch.plain", "-S")
    with service(kind, {"lab": _RELAYED, "plain": _DIRECT}) as famezd, ExitStack() as stack:
        famezd.ask("/metrics")
        famezd.ask("/api/v1/status")
        supervisor_pid, full_pid, idle_pid = famezd.pids
        for _ in range(PEERS):
            stack.enter_context(Peer.join(famezd.run / "lab.sock"))
        famezd.listen(5)
        found = look(famezd.pids)
    return [
        _row(f"supervisor, two fabrics, {kind.name}", found[supervisor_pid], supervisor, python, SUPERVISOR),
        _row(f"worker, nobody there, {kind.name}", found[idle_pid], worker, small_python, WORKER_IDLE),
        _row(f"worker, {PEERS} relayed peers, {kind.name}", found[full_pid], worker, small_python, WORKER_FULL),
    ]


def measure_imports(kind: Kind) -> list[list[str]]:
    """Rows of what each import adds, in the processes of a service."""
    rows = []
    for what, modules, options in (("worker", _WORKER_IMPORTS, ("-S",)), ("supervisor", _SUPERVISOR_IMPORTS, ())):
        sizes = [bare(kind, f"import {', '.join(modules[:n]) or 'sys'}", *options).own for n in range(len(modules) + 1)]
        added = [
            f"{name} {(after - before) / MIB:.1f}"
            for name, (before, after) in zip(modules, pairwise(sizes), strict=True)
        ]
        rows.append([f"{what}, {kind.name}", f"Python {sizes[0] / MIB:.1f}, {', '.join(added)}"])
    return rows


def _row(what: str, found: Memory, imported: Memory, nothing: Memory, most: float) -> list[str]:
    verdict = "met" if found.pss <= most * MIB else "**missed**"
    parts = (found.pss, found.alone, found.own, imported.own, nothing.own)
    return [what, *(f"{part / MIB:.1f}" for part in parts), f"at most {most}: {verdict}"]


def use(pid: int) -> Use:
    """What a process has done so far."""
    wakes = nanoseconds = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)$", (task / "status").read_text(), re.MULTILINE)
        assert found is not None
        wakes += int(found[1])
        nanoseconds += int((task / "schedstat").read_text().split()[0])
    return Use(wakes, nanoseconds)


def measure_rest(kind: Kind, fabrics: Mapping[str, str], peers: int) -> list[list[str]]:
    """Rows of wake-ups and processor time at rest: of the supervisor, and of the busiest worker."""
    with service(kind, fabrics) as famezd, ExitStack() as stack:
        famezd.ask("/metrics")
        for _ in range(peers):
            stack.enter_context(Peer.join(famezd.run / f"{next(iter(fabrics))}.sock"))
        # What comes of the start and of the joins, such as the last status line, is over by then.
        famezd.listen(6)
        pids, began = famezd.pids, time.monotonic()
        before = {pid: use(pid) for pid in pids}
        signs = famezd.listen(WATCHED)
        after, seconds = {pid: use(pid) for pid in pids}, time.monotonic() - began
    assert signs >= WATCHED / WATCHDOG, "systemd would have killed it"
    done = {pid: Use(*(now - then for then, now in zip(before[pid], after[pid], strict=True))) for pid in pids}
    supervisor, workers = done[pids[0]], [done[pid] for pid in pids[1:]]
    most = Use(*map(max, zip(*workers, strict=True)))
    there = f"{len(fabrics)} fabrics, {peers or 'no'} peers, {kind.name}"
    return [
        _rest(f"supervisor, {there}", supervisor, seconds),
        _rest(f"worker, the busiest, {there}", most, seconds),
    ]


def _rest(what: str, done: Use, seconds: float) -> list[str]:
    # What the kernel tells of processor time elsewhere is in whole ticks: less than one is none.
    wakes, ms, tick = done.wakes / seconds, done.nanoseconds / 1e6, 1000 / os.sysconf("SC_CLK_TCK")
    verdict = "met" if wakes <= WAKE_UPS and ms < tick else "**missed**"
    return [what, f"{wakes:.2f}", f"{ms:.1f}", f"at most {WAKE_UPS:g}, and less than {tick:g} ms: {verdict}"]


def measure_pages() -> list[list[str]]:
    """Rows of what stats pages take, and of a look at all their counters when each of them has changed."""
    rows = []
    for what, shape in {
        "14 relayed": Shape(15, 15, 16),
        "60 relayed": Shape(60, 60, 16),
        "500 relayed": Shape(500, 500, 16),
        "1,000 direct": Shape(1000, 0, 16),
    }.items():
        page = Page.create("bench", shape)
        allocated = os.fstat(page.descriptor).st_blocks * 512
        counters = shape.answered_at - shape.doorbells_at
        tally = Tally()
        _longest(tally, page)
        idle = _longest(tally, page)
        page.words[shape.doorbells_at : shape.answered_at] = memoryview(array("Q", [1000]) * counters)
        busy = _longest(tally, page)
        page.close()
        rows.append(
            [what, f"{allocated / MIB:.2f}", f"{counters * WORD / MIB:.2f}"]
            + [f"{seconds * 1e3:.2f}" for pair in (idle, busy) for seconds in pair]
        )
    return rows


def _longest(tally: Tally, page: Page) -> tuple[float, float]:
    """Seconds that a look takes: all in all, and at most at once."""
    times = [time.perf_counter()]
    for _ in tally.look(page):
        times.append(time.perf_counter())
    times.append(time.perf_counter())
    return times[-1] - times[0], max(after - before for before, after in pairwise(times))


@contextmanager
def seat(path: Path, messages: int) -> Iterator[None]:
    """Somebody on a fabric who has read so many messages, its set-up, and kept nothing of it."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        for _ in range(messages):
            for descriptor in socket.recv_fds(connection, MESSAGE_SIZE, 1)[1]:
                os.close(descriptor)
        yield


def measure_crowd(kind: Kind) -> list[list[str]]:
    """Rows of how soon famezd answers that has a fabric of CROWD peers, and may be asked for the page of it."""
    fabric = {"big": f"{{peers: {CROWD}, vectors: 1, doorbells: direct, mailbox: {{backing: memfd}}}}\n"}
    with service(kind, fabric) as famezd, ExitStack() as stack:
        for _ in range(CROWD):
            # Version, id and memory, and a bell to each port.
            stack.enter_context(seat(famezd.run / "big.sock", 3 + CROWD))
        rows = [_answers("nobody looks", famezd)]
        with famezd.watched("big"):
            rows.append(_answers("the page is open", famezd))
        scrapes = [famezd.ask("/metrics") for _ in range(10)]
    return [*rows, ["/metrics", f"{statistics.median(scrapes) * 1e3:.1f}", f"{max(scrapes) * 1e3:.1f}"]]


def _answers(what: str, famezd: Service) -> list[str]:
    over, times = time.monotonic() + 10, []
    while time.monotonic() < over:
        times.append(famezd.ask("/healthz"))
    return [f"/healthz, {what}", f"{statistics.median(times) * 1e3:.1f}", f"{max(times) * 1e3:.1f}"]


def section(_rounds: int) -> Section:
    """Measures, and tells; there are no pairs, as what is counted does not depend on what else the machine does."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as folder:
        installed, developed = kinds(Path(folder))
        memory = [row for kind in (installed, developed) for row in measure_memory(kind)]
        imports = measure_imports(installed)
        few, many = {"lab": _RELAYED, "plain": _DIRECT}, {f"f{n}": _RELAYED for n in range(20)}
        rest = [row for fabrics, peers in ((few, PEERS), (many, 0)) for row in measure_rest(installed, fabrics, peers)]
        rest += measure_rest(developed, few, PEERS)
        crowd = measure_crowd(developed)
    parts: list[Part] = [
        _MEMORY,
        Grid("Memory", _MEMORY_HEAD, memory),
        _MEMORY_TOLD,
        Grid("Of its own", ("MiB", "imported one after the other"), imports),
        Grid("At rest", _REST_HEAD, rest),
        _REST_TOLD,
        Grid("Stats pages", _PAGES_HEAD, measure_pages()),
        _PAGES_TOLD,
        Grid(f"Answers beside a fabric of {CROWD} peers, ms", ("", "median", "longest"), crowd),
    ]
    return Section("Memory and rest", parts)


def main() -> None:
    """Measures this part alone, and prints it."""
    parser("bench.small", __doc__).parse_args()
    print(section(1).markdown())
