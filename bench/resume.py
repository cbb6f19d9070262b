"""The gap that a worker's death leaves, measured: `python -m bench.resume`.

The worker of a full fabric is killed, and at once one peer rings another; the gap is the time until the doorbell is
delivered, by the successor. Beside it stands what a start costs at all: until a new worker with nobody on its fabric
serves. Only the ratio is a claim. Then the same fabric is restarted as planned, while one peer rings another over and
over: the pause is the longest that it waits for a doorbell.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from bench.programs import famezd, worker_of
from famezd.cli.control import post
from famezd.client import Doorbell, Peer

VECTORS = 16
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


def measure(peers: int, rounds: int) -> None:
    """Prints the gap for a full fabric of so many peers."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        directory = Path(folder)
        fabric = f"peers: {peers}\nvectors: {VECTORS}\nmailbox: {{backing: memfd}}\n"
        url = stack.enter_context(famezd(directory, {"full": fabric, "empty": fabric}))
        crowd = [stack.enter_context(Peer.join(directory / "run" / "full.sock")) for _ in range(peers)]
        gaps, starts = [], []
        for _ in range(rounds):
            time.sleep(STEADY)
            gaps.append(gap(url, crowd[0], crowd[-1]))
            starts.append(start(url, directory / "run" / "empty.sock"))
        pauses = [pause(directory / "run" / "control.sock", crowd[0], crowd[-1]) for _ in range(rounds)]
    ratios = sorted(g / s for g, s in zip(gaps, starts, strict=True))
    print(f"{peers} peers of {VECTORS} vectors, {rounds} deaths")
    print(f"  gap, ring to delivery      {statistics.median(gaps) * 1e3:7.1f} ms  (up to {max(gaps) * 1e3:.1f})")
    print(f"  an empty fabric's start    {statistics.median(starts) * 1e3:7.1f} ms")
    print(f"  ratio                      {statistics.median(ratios):7.2f}  ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    print(f"  pause of a planned restart {statistics.median(pauses) * 1e3:7.1f} ms  (up to {max(pauses) * 1e3:.1f})")


def main() -> None:
    """Measures, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="deaths (%(default)s)")
    rounds = parser.parse_args().rounds
    for peers in (4, 14, 30):
        measure(peers, rounds)


if __name__ == "__main__":
    main()
