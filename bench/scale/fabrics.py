"""Many fabrics in one service: how long it takes to start, to tell how they are, and to end."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench.programs import peers_of, workers_of
from bench.scale.crowd import Crowd
from bench.scale.growth import descriptors, memory
from famezd.supervisor.service import STARTS

PEERS, VECTORS = 4, 16
_BIN = Path(sys.executable).parent


@dataclass
class Served:
    """What became of so many fabrics."""

    fabrics: int
    start: float = 0.0
    """Seconds from the start of famezd until all serve."""
    interpreters: float = 0.0
    """Seconds that as many interpreters take that do nothing, as many at a time: no worker can start sooner."""
    joined: float = 0.0
    """Seconds until all peers were there."""
    rung: int = 0
    """Doorbells that were rung, and arrived."""
    workers: int = 0
    """Bytes of all workers' proportional memory, with all peers there."""
    supervisor: int = 0
    """Bytes of the supervisor's."""
    open: int = 0
    """Descriptors that the supervisor has open then."""
    scrape: float = 0.0
    """Seconds."""
    scraped: int = 0
    """Bytes of its answer."""
    status: float = 0.0
    """Seconds of `famezctl status`."""
    reload: float = 0.0
    """Seconds of a reload after one fabric has changed."""
    restart: float = 0.0
    """Seconds of `famezctl restart` of one fabric."""
    stop: float = 0.0
    """Seconds until all have ended."""


def served(fabrics: int) -> Served:
    """Serves so many fabrics of four peers."""
    found = Served(fabrics, interpreters=interpreters(fabrics))
    names = [f"f{n:03}" for n in range(fabrics)]
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        _configure(directory, names)
        command = [str(_BIN / "famezd"), "-c", str(directory / "famezd.yaml")]
        environ = os.environ | {"RUNTIME_DIRECTORY": str(directory / "run")}
        began = time.perf_counter()
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ, text=True
        ) as process:
            assert process.stdout is not None
            url = ""
            for line in process.stdout:
                if line.startswith("metrics"):
                    url = line.split()[1].removesuffix("/metrics")
                elif line.startswith("status"):
                    break
            found.start = time.perf_counter() - began
            # What it prints must not fill the pipe.
            _use(found, process.pid, url, directory, names)
            began = time.perf_counter()
            process.terminate()
            process.wait()
            found.stop = time.perf_counter() - began
    return found


def _configure(directory: Path, names: Iterable[str]) -> None:
    (directory / "fabrics.d").mkdir()
    (directory / "famezd.yaml").write_text("http: {listen: '127.0.0.1:0'}\nlog: {level: error}\n")
    for name in names:
        _define(directory, name, PEERS)


def _define(directory: Path, name: str, peers: int) -> None:
    text = f"peers: {peers}\nvectors: {VECTORS}\nmailbox: {{backing: memfd}}\n"
    (directory / "fabrics.d" / f"{name}.yaml").write_text(text)


def _use(found: Served, pid: int, url: str, directory: Path, names: list[str]) -> None:
    """Has peers join all, and asks the service for what it is asked for."""
    workers = workers_of(url)
    assert all(workers.values()), "not all fabrics serve"
    with Crowd(2, VECTORS, PEERS) as crowd:
        began = time.perf_counter()
        for name in names:
            crowd.join(directory / "run" / f"{name}.sock", PEERS, at_once=2)
        found.joined = time.perf_counter() - began
        found.rung = crowd.ring()
        assert set(peers_of(url).values()) == {PEERS}
        found.workers = sum(memory(worker)[0] for worker in workers.values())
        found.supervisor, found.open = memory(pid)[0], descriptors(pid)
        began = time.perf_counter()
        with urllib.request.urlopen(f"{url}/metrics") as answer:
            found.scraped = len(answer.read())
        found.scrape = time.perf_counter() - began
        found.status = _ctl(directory, "status")
        found.restart = _ctl(directory, "restart", names[0])
        crowd.leave()
    _define(directory, names[-1], PEERS + 1)
    found.reload = _ctl(directory, "reload")


def _ctl(directory: Path, *arguments: str) -> float:
    """Seconds that famezctl takes."""
    began = time.perf_counter()
    command = [str(_BIN / "famezctl"), "-s", str(directory / "run" / "control.sock"), *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def interpreters(n: int) -> float:
    """Seconds that `n` interpreters take that begin and end, as many at once as workers are started."""
    began = time.perf_counter()
    with ThreadPoolExecutor(STARTS) as pool:
        list(pool.map(lambda _: subprocess.run([sys.executable, "-P", "-c", "pass"], check=True), range(n)))
    return time.perf_counter() - began
