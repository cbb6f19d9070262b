"""The relay, measured: `python -m bench.relay`.

Figures, each against its physical limit, or the same without, in the same run, in turns, because machines are noisy:

- the round trip of a doorbell between two processes, through eventfds alone and through a relayed fabric. Peers on two
  processors are what virtual machines are: each is woken from sleep. Peers on one are the extreme: without a relay a
  round trip is then two context switches and nothing else.
- ready doorbells that one worker relays in a second: every bell of every peer has been rung before it looks.
- the same with fault rules: one that concerns none of the bells that are rung, and one that concerns all of them and
  never strikes.

Only the ratios are claims.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import statistics
import subprocess
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

from bench.programs import bells, echoing, worker
from famezd.client import Peer
from famezd.fabric.settings import Settings
from famezd.stats import Page

ROUND_TRIPS = 5_000
ROUNDS = 10
PEERS, VECTORS = 14, 16


def round_trips(bell_out: int, bell_in: int, n: int) -> float:
    """Seconds of a round trip, the median of `n`."""
    poll = select.poll()
    poll.register(bell_in, select.POLLIN)
    times = []
    for _ in range(n):
        began = time.perf_counter()
        os.eventfd_write(bell_out, 1)
        poll.poll()
        os.eventfd_read(bell_in)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def measure_round_trips(directory: Path, rounds: int) -> None:
    """Prints the round trip without and with a relay between."""
    settings = Settings("bench", str(directory / "bench.sock"), "famez-bench", 1 << 20, backing="memfd")
    there, back = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2))
    everywhere = sorted(os.sched_getaffinity(0))
    print("round trip of a doorbell between two processes, medians of", ROUND_TRIPS)
    with worker(settings), Peer.join(settings.socket) as a, Peer.join(settings.socket) as b:
        relayed_out, relayed_in = bells(a, b.id)[0], bells(a, a.id)[0]
        echo_in, echo_out = bells(b, b.id)[0], bells(b, a.id)[0]
        os.sched_setaffinity(0, everywhere[:1])
        for processor in everywhere[:2]:
            bare, relayed = [], []
            with echoing(there, back, processor), echoing(echo_in, echo_out, processor):
                for _ in range(rounds):
                    bare.append(round_trips(there, back, ROUND_TRIPS))
                    relayed.append(round_trips(relayed_out, relayed_in, ROUND_TRIPS))
            ratios = sorted(r / b for r, b in zip(relayed, bare, strict=True))
            print("  peers on one processor" if processor == everywhere[0] else "  peers on two processors (aim: 1.6)")
            print(f"    eventfds alone    {statistics.median(bare) * 1e6:7.1f} us")
            print(f"    through a relay   {statistics.median(relayed) * 1e6:7.1f} us")
            print(f"    ratio             {statistics.median(ratios):7.2f}  ({ratios[0]:.2f} to {ratios[-1]:.2f})")
        os.sched_setaffinity(0, everywhere)


def bare_pairs() -> float:
    """Pairs a second of one eventfd read and one written, in a bare loop: what no relay can pass."""
    pairs = [(os.eventfd(1, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)) for _ in range(PEERS * VECTORS)]
    one, into = (1).to_bytes(8, "little"), bytearray(8)
    n = 0
    began = time.perf_counter()
    for _ in range(50):
        for source, target in pairs:
            os.readv(source, [into])
            os.write(target, one)
            os.write(source, one)
            n += 1
    seconds = time.perf_counter() - began
    for pair in pairs:
        for descriptor in pair:
            os.close(descriptor)
    # A third of what was timed made the bells ready again.
    return n / (seconds * 2 / 3)


class Crowd:
    """A worker whose fabric is full, and bells of all peers, those from peer 0 to peer 1 left out."""

    def __init__(self, process: subprocess.Popen[bytes], settings: Settings) -> None:
        self._process = process
        self._peers = [Peer.join(settings.socket) for _ in range(PEERS)]
        self._page = Page.open(_page_descriptor(process.pid))
        self._busy = self._page.total_at("busy_ns")
        pairs = [(peer, other) for peer in self._peers for other in peer.peers if (peer.id, other) != (0, 1)]
        self.bells = [bell for peer, other in pairs for bell in bells(peer, other)]

    def rate(self) -> float:
        """Ready doorbells that it relays in a second of its own time."""
        page = self._page
        self._process.send_signal(signal.SIGSTOP)
        for bell in self.bells:
            os.eventfd_write(bell, 1)
        expected, before = sum(page.doorbells()) + len(self.bells), page.words[self._busy]
        self._process.send_signal(signal.SIGCONT)
        _await_count(page, expected)
        # Once more: when this one is counted, the time of the turns before it is, too.
        os.eventfd_write(self.bells[0], 1)
        _await_count(page, expected + 1)
        return len(self.bells) / ((page.words[self._busy] - before) / 1e9)

    def close(self) -> None:
        """Lets go of all that was opened here."""
        for peer in self._peers:
            peer.leave()
        self._page.close()


def measure_throughput(directory: Path, rounds: int) -> None:
    """Prints how many ready doorbells a worker relays in a second of its own time."""
    settings = Settings("bench", str(directory / "bench.sock"), "famez-bench", 1 << 20, backing="memfd")
    with worker(settings) as process, closing(Crowd(process, settings)) as crowd:
        rates, bare = [], []
        for _ in range(rounds):
            bare.append(bare_pairs())
            rates.append(crowd.rate())
    ratios = [r / b for r, b in zip(rates, bare, strict=True)]
    print(f"ready doorbells, {len(crowd.bells)} bells of {PEERS} peers with {VECTORS} vectors")
    print(f"  bare read and write {statistics.median(bare):9,.0f} a second")
    print(f"  relayed by a worker {statistics.median(rates):9,.0f} a second of its busy time  (aim 500,000)")
    print(f"  ratio               {statistics.median(ratios):9.2f}  ({min(ratios):.2f} to {max(ratios):.2f})")


RULES = {
    "no rule": "",
    "a rule for another pair": "id=1 src=0 dst=1 drop=0.5",
    "a rule for these, which never strikes": "id=1 drop=0",
}


def measure_rules(directory: Path, rounds: int) -> None:
    """Prints what fault rules cost the doorbells that they concern, and the others."""
    with ExitStack() as stack:
        crowds, rates = {}, {}
        for n, (name, faults) in enumerate(RULES.items()):
            path = str(directory / f"bench{n}.sock")
            settings = Settings("bench", path, "famez-bench", 1 << 20, backing="memfd", faults=faults)
            process = stack.enter_context(worker(settings))
            crowds[name] = stack.enter_context(closing(Crowd(process, settings)))
            rates[name] = list[float]()
        for _ in range(rounds):
            for name, crowd in crowds.items():
                rates[name].append(crowd.rate())
    print("the same with fault rules; ratios to no rule (aim for another pair: 1.00)")
    without = rates["no rule"]
    for name, measured in rates.items():
        ratios = sorted(w / r for w, r in zip(without, measured, strict=True))
        print(
            f"  {name:38} {statistics.median(measured):9,.0f} a second, "
            f"time x {statistics.median(ratios):.2f}  ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


def _await_count(page: Page, expected: int) -> None:
    while sum(page.doorbells()) < expected:
        time.sleep(0.002)


def _page_descriptor(pid: int) -> int:
    """The worker's stats page, opened beside it."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if "famez-bench-stats" in os.readlink(link):
            return os.open(link, os.O_RDWR)
    raise RuntimeError("the worker has no stats page")


def main() -> None:
    """Measures, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="pairs of measurements (%(default)s)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as directory:
        measure_round_trips(Path(directory), rounds)
        measure_throughput(Path(directory), rounds)
        measure_rules(Path(directory), rounds)


if __name__ == "__main__":
    main()
