"""How small famezd is: memory, wake-ups and processor time of a service that has nothing to do.

`python -m bench.small` installs famezd twice: its wheel in an environment of Debian's own Python (of this one, where
there is no other), and from the sources, as `make run` does. With each it runs a real service with systemd's watchdog
in force, HTTP served, and peers that sit still.
"""

from __future__ import annotations

import os
import re
import resource
import select
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from bench import report
from bench.memory import Memory, look
from bench.report import Grid, Part, Section
from famezd.client import Peer
from famezd.notify import NotifySocket
from famezd.stats import WORD, Page, Shape
from famezd.supervisor.status.tally import Tally

ROOT = Path(__file__).parents[1]
PEERS, VECTORS = 14, 16
MIB = 1 << 20
WORKER_IDLE, WORKER_FULL, SUPERVISOR = 10, 14, 45
"""The most that shall be in memory, in MiB."""
WAKE_UPS = 1.0
"""The most in a second, of each process."""
WATCHED = 60.0
"""Seconds for which a service is watched that has nothing to do."""
WATCHDOG = 10
"""Seconds, as famezd.service has it."""
_RELAYED = f"{{peers: {PEERS}, vectors: {VECTORS}, mailbox: {{backing: memfd}}}}\n"
_DIRECT = "{doorbells: direct, ports: fresh, vectors: 4, mailbox: {backing: memfd}}\n"
_WAIT = "\nimport os; os.write(1, b'r'); os.read(0, 1)"


_MEMORY_HEAD = ("MiB", "PSS", "PSS alone", "its own", "limit: imported", "limit: Python", "target")
_MEMORY = """
What processes of a service have in memory, when it has served a scrape and has nothing to do. *PSS* is what the
kernel says (smaps_rollup): pages that several processes have are divided among them. It is less where other programs
use Python, too, as here; *PSS alone* counts the pages again, as if there were only famezd on the machine, with every
library to itself. *Its own* is what no process can share. The limits are of a process of the same Python that has
imported the same modules and does nothing, and of one that has imported none (`python3 -c pass`): its own pages as
well.
"""
_MEMORY_TOLD = """
A worker's own memory is Python (a third), Python's modules that it uses (`socket`, `typing`, `re` and `enum` are the
large ones, another third), our code, and the objects of one fabric. It is started without `site`, whose work the
supervisor has done already. The supervisor's is its libraries: aiohttp 11 MiB with what it imports in turn, asyncio
6, pydantic 5, prometheus_client, structlog and PyYAML about 1 each, famezd's own code 3. No configuration, fabric or
scrape adds as much as one MiB to that; what it would take to be smaller is another HTTP library.
"""
_REST_HEAD = ("a minute at rest", "wake-ups a second", "processor time, ms", "target")
_REST_TOLD = """
Wake-ups are voluntary context switches of all threads (/proc/PID/status), with systemd's watchdog of ten seconds in
force, which famezd.service sets, and the supervisor's for its workers, of as many. What remains are these: three
signs of life in ten seconds from each process. The supervisor gives its own when it looks at its workers', all at
once, and notes what was rung; so it does not wake more often when there are more fabrics.
"""
_PAGES_HEAD = ("peers of 16 vectors", "MiB", "of it counters", "same, ms", "at once", "all new, ms", "at once")
_PAGES_TOLD = """
A stats page is allocated as a whole when its fabric begins (posix_fallocate): memory that was missing later could be
told by a signal only. So a fabric takes this much for the peers that it may have, once for worker and supervisor
together. Of a relayed one most are counters, one for each pair and vector; of a direct one, what each peer has been
told of each other one. The last columns are the supervisor's look at all counters, every three seconds, of which
nothing has changed or all have, and for how long it does nothing else meanwhile.
"""


class Kind(NamedTuple):
    """A way to install famezd."""

    name: str
    folder: Path
    """Of its commands."""

    @property
    def python(self) -> str:
        """Its Python."""
        return str(self.folder / "python3")


class Use(NamedTuple):
    """What a process has done so far."""

    wakes: int
    """How often it slept and was woken, all its threads together (voluntary_ctxt_switches)."""
    ticks: int
    """Of processor time, its own and the kernel's for it."""


class Service:
    """A famezd that runs, with this process in the place of systemd."""

    def __init__(self, kind: Kind, folder: Path, fabrics: Mapping[str, str], notify: NotifySocket) -> None:
        (folder / "fabrics.d").mkdir()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            # Under systemd famezd does not print which it chose.
            self._port = listener.getsockname()[1]
        (folder / "famezd.yaml").write_text(f"http: {{listen: '127.0.0.1:{self._port}'}}\nlog: {{level: warning}}\n")
        for name, text in fabrics.items():
            (folder / "fabrics.d" / f"{name}.yaml").write_text(text)
        self.run = folder / "run"
        self._notify = notify
        environ = os.environ | {"RUNTIME_DIRECTORY": str(self.run), "NOTIFY_SOCKET": notify.path}
        environ |= {"WATCHDOG_USEC": str(WATCHDOG * 1_000_000)}
        # An installed famezd is compiled; here it compiles itself.
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        command = [str(kind.folder / "famezd"), "-c", str(folder / "famezd.yaml")]
        self._process = subprocess.Popen(command, env=environ)
        while "READY" not in self._hear(60):
            pass

    def _hear(self, within: float) -> Mapping[str, str]:
        """What it tells systemd next, nothing if it says nothing for so many seconds."""
        if not select.select([self._notify], [], [], within)[0]:
            return {}
        told = self._notify.receive()
        told.close()
        return told.assignments

    @property
    def pids(self) -> list[int]:
        """The supervisor's, and then the workers', in the order of their fabrics' names."""
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *sorted(map(int, children), key=lambda child: Path(f"/proc/{child}/cmdline").read_bytes())]

    def listen(self, seconds: float) -> int:
        """Lets time pass; how many signs of life systemd was given."""
        signs, over = 0, time.monotonic() + seconds
        while (left := over - time.monotonic()) > 0:
            signs += "WATCHDOG" in self._hear(left)
        return signs

    def ask(self, path: str) -> None:
        """Asks by HTTP, and reads the answer."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}") as answer:
            answer.read()

    def stop(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait()


@contextmanager
def service(kind: Kind, fabrics: Mapping[str, str]) -> Iterator[Service]:
    """A famezd with these fabrics, by name what their files say, that is ready."""
    with tempfile.TemporaryDirectory() as folder:
        notify = NotifySocket(f"{folder}/systemd")
        running = Service(kind, Path(folder), fabrics, notify)
        try:
            yield running
        finally:
            running.stop()
            notify.close()


def kinds(folder: Path) -> list[Kind]:
    """Installs famezd below `folder` as a package does; returns that, and what `make run` uses."""
    base = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    subprocess.run([sys.executable, "-m", "build", "-q", "--wheel", "--outdir", folder, ROOT], check=True)
    # A copy: that of another user of it would be shared with us, and famezd might be all that uses Python.
    subprocess.run([base, "-m", "venv", "--copies", folder / "venv"], check=True)
    bin_folder, wheel = folder / "venv/bin", next(folder.glob("*.whl"))
    subprocess.run([bin_folder / "pip", "install", "-qq", "--disable-pip-version-check", wheel], check=True)
    version = subprocess.run([bin_folder / "python3", "-V"], capture_output=True, text=True, check=True).stdout.split()
    return [
        Kind(f"installed, {'Debian' if base.startswith('/usr/bin') else ''} Python {version[1]}", bin_folder),
        Kind(f"`make run`, Python {sys.version.split()[0]}", Path(sys.executable).parent),
    ]


def bare(kind: Kind, imports: str, options: Sequence[str] = ()) -> Memory:
    """What Python has in memory that has imported this, and nothing else to do."""
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
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
    nothing = bare(kind, "")
    worker = bare(kind, "import famezd.fabric.worker, famezd.switch.genz")
    supervisor = bare(kind, "import famezd.cli.famezd")
    with service(kind, {"lab": _RELAYED, "plain": _DIRECT}) as famezd, ExitStack() as stack:
        famezd.ask("/metrics")
        famezd.ask("/api/v1/status")
        supervisor_pid, full_pid, idle_pid = famezd.pids
        for _ in range(PEERS):
            stack.enter_context(Peer.join(famezd.run / "lab.sock"))
        famezd.listen(5)
        found = look(famezd.pids)
    return [
        _row(f"supervisor, two fabrics, {kind.name}", found[supervisor_pid], supervisor, nothing, SUPERVISOR),
        _row(f"worker, nobody there, {kind.name}", found[idle_pid], worker, nothing, WORKER_IDLE),
        _row(f"worker, {PEERS} relayed peers, {kind.name}", found[full_pid], worker, nothing, WORKER_FULL),
    ]


def _row(what: str, found: Memory, imported: Memory, nothing: Memory, most: float) -> list[str]:
    verdict = "met" if found.pss <= most * MIB else "**missed**"
    parts = (found.pss, found.alone, found.own, imported.own, nothing.own)
    return [what, *(f"{part / MIB:.1f}" for part in parts), f"at most {most}: {verdict}"]


def use(pid: int) -> Use:
    """What a process has done so far."""
    wakes = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)$", (task / "status").read_text(), re.MULTILINE)
        assert found is not None
        wakes += int(found[1])
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Use(wakes, int(fields[11]) + int(fields[12]))


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
    done = {pid: Use(after[pid].wakes - before[pid].wakes, after[pid].ticks - before[pid].ticks) for pid in pids}
    supervisor, workers = done[pids[0]], [done[pid] for pid in pids[1:]]
    most = Use(max(worker.wakes for worker in workers), max(worker.ticks for worker in workers))
    there = f"{len(fabrics)} fabrics, {peers or 'no'} peers, {kind.name}"
    return [
        _rest(f"supervisor, {there}", supervisor, seconds),
        _rest(f"worker, the busiest, {there}", most, seconds),
    ]


def _rest(what: str, done: Use, seconds: float) -> list[str]:
    wakes = done.wakes / seconds
    verdict = "met" if wakes <= WAKE_UPS and done.ticks <= 1 else "**missed**"
    tick = 1000 // os.sysconf("SC_CLK_TCK")
    return [what, f"{wakes:.2f}", f"{done.ticks * tick}", f"at most {WAKE_UPS:g}, and {tick} ms: {verdict}"]


def measure_pages() -> list[list[str]]:
    """Rows of what stats pages take, and of a look at all their counters when each of them has changed."""
    rows = []
    for what, shape in {
        "14 relayed": Shape(15, 15, 16),
        "60 relayed": Shape(60, 60, 16),
        "500 relayed": Shape(500, 500, 16),
        "1,000 direct": Shape(1000, 0, 16),
        "1,000 relayed": Shape(1000, 1000, 16),
    }.items():
        page = Page.create("bench", shape)
        allocated = os.fstat(page.descriptor).st_blocks * 512
        counters = shape.answered_at - shape.doorbells_at
        tally = Tally()
        idle, busy = _longest(tally, page, 0), _longest(tally, page, 1)
        page.close()
        rows.append(
            [what, f"{allocated / MIB:.2f}", f"{counters * WORD / MIB:.2f}"]
            + [f"{seconds * 1e3:.2f}" for pair in (idle, busy) for seconds in pair]
        )
    return rows


def _longest(tally: Tally, page: Page, n: int) -> tuple[float, float]:
    """Seconds that a look takes at which all counters have grown by `n`: all in all, and at most at once."""
    list(tally.look(page))
    at, end = page.shape.doorbells_at, page.shape.answered_at
    if n:
        for i in range(at, end):
            page.words[i] += 1000 + n
    times = [time.perf_counter()]
    for _ in tally.look(page):
        times.append(time.perf_counter())
    times.append(time.perf_counter())
    return times[-1] - times[0], max(after - before for before, after in pairwise(times))


def section(_rounds: int) -> Section:
    """Measures, and tells; there are no pairs, as what is counted does not depend on what else the machine does."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as folder:
        installed, developed = kinds(Path(folder))
        memory = [row for kind in (installed, developed) for row in measure_memory(kind)]
        few, many = {"lab": _RELAYED, "plain": _DIRECT}, {f"f{n}": _RELAYED for n in range(20)}
        rest = [row for fabrics, peers in ((few, PEERS), (many, 0)) for row in measure_rest(installed, fabrics, peers)]
        rest += measure_rest(developed, few, PEERS)
    parts: list[Part] = [
        _MEMORY,
        Grid("Memory", _MEMORY_HEAD, memory),
        _MEMORY_TOLD,
        Grid("At rest", _REST_HEAD, rest),
        _REST_TOLD,
    ]
    return Section("Small", [*parts, Grid("Stats pages", _PAGES_HEAD, measure_pages()), _PAGES_TOLD])


def main() -> None:
    """Measures this part alone, and prints it."""
    report.main(section, __doc__, rounds=1)


if __name__ == "__main__":
    main()
