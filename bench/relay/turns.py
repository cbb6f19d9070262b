"""Where the time of a relayed doorbell goes: steps of a worker's turn, system calls, kernel and interpreter."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from bench import profile
from bench.report import Grid
from famezd.client import Peer
from famezd.fabric import log
from famezd.fabric.settings import Settings
from famezd.fabric.worker import Worker
from famezd.stats import IDLE
from tests.needs import need

TURNS = 5_000
REPEATS = 9
FREQUENCY = "20000"
"""Samples a second."""

Step = Callable[[], object]


def steps() -> Grid:
    """How long each part of a turn takes that relays one doorbell."""
    # In a process of its own: a worker has its process's signals, and is not to be run beside anything.
    command = [sys.executable, "-c", "from bench.relay.turns import tell; tell()"]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    *parts, whole, due, least = found.items()
    rows = [[name, f"{ns:,.0f}", f"{ns / whole[1]:.0%}"] for name, ns in (*parts, whole)]
    rows += [[name, f"{ns:,.0f}", ""] for name, ns in (due, least)]
    return Grid("A turn that relays one doorbell, step by step, all warm", ["", "ns", "of the turn"], rows)


def _measured() -> dict[str, float]:
    """The time of each step in nanoseconds, as the difference that it makes."""
    with _worker() as (worker, bell, receiver):
        took = _times(_steps(worker, bell, receiver))
    polled, read, passed, relayed, turned = (
        took[step] - took["rung"] for step in ("polled", "read", "passed", "relayed", "turned")
    )
    written, counted, due, least = (took[step] - took["nothing"] for step in ("written", "counted", "due", "least"))
    return {
        "epoll_wait, and its list of events": polled,
        "preadv, from the bell into the record in flight": read,
        "write, to the receiver": written,
        "counting it in the page, and the record": passed - read - written,
        "Relay.relay: the watch over writes that stand still": relayed - passed,
        "Fabric.turn: shares, members, the switch": turned - relayed,
        "Worker.run: two looks at the clock, counting the turn": counted,
        "all of it": polled + turned + counted,
        "to look what is due, after a turn that did more than relay": due,
        "getppid, the least that any system call takes from Python": least,
    }


def _steps(worker: Worker, bell: int, receiver: int) -> dict[str, Step]:
    """What is measured, some of it beginning with a ring."""
    fabric, words = worker._fabric, worker._page.words
    relay, poll = fabric.relay, fabric.epoll.poll
    relay._watchman.stop()
    events, into, one = [(bell, select.EPOLLIN)], [bytearray(8)], (1).to_bytes(8, "little")
    busy, idle = (worker._page.total_at(name) for name in ("busy_ns", IDLE))

    def ring() -> int:
        return os.write(bell, one)

    def nothing() -> int:
        return 0

    def pass_on() -> None:
        ring()
        relay._pass_on(events, [])

    def count() -> None:
        began = time.monotonic_ns()
        ended = time.monotonic_ns()
        words[idle + fabric.relayed] += 1
        words[busy] += ended - began

    return {
        "nothing": nothing,
        "rung": lambda: (ring(), nothing()),
        "polled": lambda: (ring(), poll(-1)),
        "read": lambda: (ring(), os.preadv(bell, into, -1, os.RWF_NOWAIT)),
        "written": lambda: os.write(receiver, one),
        "passed": pass_on,
        "relayed": lambda: (ring(), relay.relay(events)),
        "turned": lambda: (ring(), fabric.turn(events)),
        "counted": count,
        "least": os.getppid,
        "due": lambda: worker._tick(time.monotonic()),
    }


@contextmanager
def _worker() -> Iterator[tuple[Worker, int, int]]:
    """A worker in this process, with two peers in another; a bell, and the receiver that it leads to."""
    with tempfile.TemporaryDirectory() as directory:
        settings = Settings("bench", f"{directory}/bench.sock", "famez-bench", 1 << 20, backing="memfd")
        worker = Worker(settings, log.Log(least=log.ERROR))
        pid = os.fork()
        if pid == 0:
            crowd = [Peer.join(settings.socket) for _ in range(2)]
            signal.pause()
            del crowd
        try:
            fabric = worker._fabric
            while len(fabric.members) < 2:
                worker._hear(fabric.turn(fabric.epoll.poll(1)))
            relay = fabric.relay
            leads_to = {bell: relay._receivers[receiver] for bell, (_, receiver) in relay._bells.items()}
            yield worker, *next(pair for pair in leads_to.items() if pair[1] >= 0)
            fabric.close()
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _times(steps: Mapping[str, Step]) -> dict[str, float]:
    """Nanoseconds that each takes, the least of some measurements: what disturbs makes it only longer."""
    least = dict.fromkeys(steps, float("inf"))
    for _ in range(REPEATS):
        for name, step in steps.items():
            began = time.perf_counter_ns()
            for _ in range(TURNS):
                step()
            least[name] = min(least[name], (time.perf_counter_ns() - began) / TURNS)
    return least


def kernel(situations: Mapping[str, tuple[int, Callable[[], object]]]) -> Grid:
    """Who uses a relay's processor time: of each situation its name, the relay's pid, and what is done to it."""
    rows = []
    for name, (pid, act) in situations.items():
        rows.append([name, *(f"{share:.0%}" for share in _shares(pid, act).values())])
    return Grid("Processor time of relays, by perf", ["", "kernel", "interpreter", "libraries"], rows)


def _shares(pid: int, act: Callable[[], object]) -> dict[str, float]:
    """Shares of a process's samples while something is done to it."""
    with tempfile.TemporaryDirectory() as directory:
        data = f"{directory}/perf.data"
        perf = str(need("perf", "linux-perf"))
        record = [perf, "record", "-q", "-e", "cpu-clock", "-F", FREQUENCY, "-p", str(pid), "-o", data]
        with subprocess.Popen(record) as process:
            # Until it has begun.
            while not os.path.exists(data):
                time.sleep(0.01)
            time.sleep(0.2)
            act()
            process.send_signal(signal.SIGINT)
        report = [perf, "report", "-q", "--stdio", "-i", data, "--sort", "dso"]
        told = subprocess.run(report, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    shares = dict.fromkeys(("kernel", "interpreter", "libraries"), 0.0)
    for share, of in re.findall(r"([\d.]+)%\s+(\S+)", told):
        who = "kernel" if of.startswith("[kernel") else "interpreter" if "python" in of else "libraries"
        shares[who] += float(share) / 100
    return shares


def system_calls(pid: int, doorbells: int, act: Callable[[], object]) -> Grid:
    """Which system calls a relay makes for a doorbell, while `act` rings it so often."""
    found = profile.system_calls(pid, act).most_common()
    rows = [[name, f"{calls / doorbells:.2f}"] for name, calls in found if calls / doorbells >= 0.01]
    return Grid("System calls of the worker for each doorbell, by strace", ["", "calls"], rows)


def tell() -> None:
    """Measures the steps, and writes them to standard output as JSON."""
    json.dump(_measured(), sys.stdout)
