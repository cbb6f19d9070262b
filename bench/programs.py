"""The programs that are measured, and what is done to them by several benchmarks."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from famezd.client import Peer
from famezd.fabric.settings import Settings
from famezd.protocol import PeerId

WORKER = "from famezd.fabric.worker import main; raise SystemExit(main())"
"""What runs a worker; its arguments are the settings."""


@contextmanager
def worker(settings: Settings, program: str = WORKER) -> Iterator[subprocess.Popen[bytes]]:
    """A worker, started by hand, that listens when this returns."""
    command = [sys.executable, "-P", "-c", program, *settings.arguments()]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        if b"fabric serves" not in line:
            raise RuntimeError(line.decode())
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.stderr.read()


@contextmanager
def famezd(directory: Path, fabrics: Mapping[str, str], *, log: str = "error") -> Iterator[str]:
    """A famezd with these fabrics, by name what their files say, that logs from a level on; yields its URL."""
    (directory / "fabrics.d").mkdir()
    (directory / "famezd.yaml").write_text(f"http: {{listen: '127.0.0.1:0'}}\nlog: {{level: {log}}}\n")
    for name, text in fabrics.items():
        (directory / "fabrics.d" / f"{name}.yaml").write_text(text)
    command = [str(Path(sys.executable).with_name("famezd")), "-c", str(directory / "famezd.yaml")]
    environ = os.environ | {"RUNTIME_DIRECTORY": str(directory / "run")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ, text=True
    ) as process:
        assert process.stdout is not None
        line = next((line for line in process.stdout if line.startswith("metrics")), None)
        if line is None:
            found = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False)
            raise RuntimeError(f"famezd does not start\n{found.stdout}{found.stderr}")
        try:
            yield line.split()[1].removesuffix("/metrics")
        finally:
            process.terminate()
            process.stdout.read()


def processor_time(pid: int) -> float:
    """Seconds, user and system, of a process's life; exact to the nanosecond, as /proc/PID/stat is not."""
    # What clock_getcpuclockid returns: CPUCLOCK_SCHED of the process.
    return time.clock_gettime(~pid << 3 | 2)


def worker_of(url: str, fabric: str) -> int:
    """The pid of a fabric's worker, 0 while it does not serve."""
    return workers_of(url)[fabric]


def workers_of(url: str) -> dict[str, int]:
    """The pids of all fabrics' workers, 0 while one does not serve."""
    return {f["name"]: f["pid"] if f["state"] == "serving" else 0 for f in status(url)["fabrics"]}


def peers_of(url: str) -> dict[str, int]:
    """How many peers are on each fabric."""
    return {f["name"]: f["peers"] for f in status(url)["fabrics"]}


def status(url: str) -> dict[str, Any]:
    """What famezd says of itself and all fabrics."""
    with urllib.request.urlopen(f"{url}/api/v1/status") as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def echo(bell_in: int, bell_out: int) -> None:
    """Rings back whenever it is rung, for ever."""
    poll = select.poll()
    poll.register(bell_in, select.POLLIN)
    while True:
        poll.poll()
        os.eventfd_read(bell_in)
        os.eventfd_write(bell_out, 1)


@contextmanager
def echoing(bell_in: int, bell_out: int, processors: set[int]) -> Iterator[None]:
    """A process that echoes, on some processors."""
    pid = os.fork()
    if pid == 0:
        os.sched_setaffinity(0, processors)
        echo(bell_in, bell_out)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def bells(peer: Peer, other: int) -> list[int]:
    """The eventfds by which `peer` rings `other`, or itself is rung."""
    return list(peer._protocol.peers[PeerId(other)])
