"""The gap that a worker's death leaves, measured: `python -m bench.resume`.

The worker of a full fabric is killed, and at once one peer rings another; the gap is the time until the doorbell is
delivered, by the successor. Beside it stands what a start costs at all: until a new worker with nobody on its fabric
serves. Then the same fabric is restarted as planned, while one peer rings another over and over: the pause is the
longest that it waits for a doorbell.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.programs import famezd, worker_of
from bench.report import Comparison, Grid, Row, Section, main
from famezd.cli.control import post
from famezd.client import Doorbell, Peer

VECTORS = 16
CROWDS = (4, 14, 30)
"""Peers of the fabrics."""
STEADY = 1.2
"""Seconds between two deaths: a worker that dies sooner is taken for one that cannot start, and waits."""


def gap(url: str, ringer: Peer, rung: Peer) -> float:
    """Seconds from a doorbell that is rung when the worker is dead until it is delivered."""
    os.kill(worker_of(url, "full"), signal.SIGKILL)
    began = time.perf_counter()
    ringer.ring(rung.id, 5)
    while not any(isinstance(event, Doorbell) for event in rung.wait(10)):
        pass
    return time.perf_counter() - began


def start(url: str, socket: Path) -> float:
    """Seconds from the death of a worker with nobody on its fabric until its successor takes a newcomer in."""
    os.kill(worker_of(url, "empty"), signal.SIGKILL)
    began = time.perf_counter()
    # It waits in the socket, which outlives the worker.
    Peer.join(socket).leave()
    return time.perf_counter() - began


def pause(control: Path, ringer: Peer, rung: Peer) -> float:
    """Seconds of the longest wait for a doorbell while the fabric is restarted as planned."""
    longest = 0.0
    with ThreadPoolExecutor(1) as pool:
        restart = pool.submit(post, control, "/api/v1/fabrics/full/restart")
        while not restart.done():
            began = time.perf_counter()
            ringer.ring(rung.id, 5)
            while not any(isinstance(event, Doorbell) for event in rung.wait(10)):
                pass
            longest = max(longest, time.perf_counter() - began)
        restart.result()
    return longest


def measure(peers: int, rounds: int) -> tuple[list[float], list[float], list[float]]:
    """Gaps, starts and pauses of a full fabric of so many peers, in milliseconds."""
    with TemporaryDirectory() as folder, ExitStack() as stack:
        directory = Path(folder)
        fabric = f"peers: {peers}\nvectors: {VECTORS}\nmailbox: {{backing: memfd}}\n"
        url = stack.enter_context(famezd(directory, {"full": fabric, "empty": fabric}))
        crowd = [stack.enter_context(Peer.join(directory / "run" / "full.sock")) for _ in range(peers)]
        gaps, starts = [], []
        for _ in range(rounds):
            time.sleep(STEADY)
            gaps.append(gap(url, crowd[0], crowd[-1]) * 1e3)
            starts.append(start(url, directory / "run" / "empty.sock") * 1e3)
        pauses = [pause(directory / "run" / "control.sock", crowd[0], crowd[-1]) * 1e3 for _ in range(rounds)]
    return gaps, starts, pauses


def section(rounds: int) -> Section:
    """Gaps and pauses by how many peers there are."""
    measured = {peers: measure(peers, rounds) for peers in CROWDS}
    rows = [Row(f"{peers} peers", gaps, starts) for peers, (gaps, starts, _) in measured.items()]
    pauses = [
        [f"{peers} peers", f"{statistics.median(pauses):.1f}", f"{max(pauses):.1f}"]
        for peers, (_, _, pauses) in measured.items()
    ]
    told = f"""
        The worker of a full fabric of {VECTORS} vectors is killed, and at once one peer rings another: the gap is the
        time until its successor has delivered the doorbell. Beside it is the time in which a worker of a fabric that
        nobody is on is replaced. A restart as planned is another thing: the pause is the longest that a peer waits that
        rings another over and over meanwhile."""
    return Section(
        "Deaths and restarts of a worker",
        [
            told,
            Comparison("After a death", "ms", "an empty fabric's start", rows, ours="gap"),
            Grid("In a planned restart, ms", ["", "pause", "the longest"], pauses),
        ],
    )


if __name__ == "__main__":
    main("bench.resume", section, __doc__)
