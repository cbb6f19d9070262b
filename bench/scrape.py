"""A scrape, measured: `python -m bench.scrape`.

A real famezd with a hundred fabrics of 14 peers, each peer a connection, each fabric a worker of its own:

- how long a scrape takes, in all and of famezd's processor time, and what prometheus_client takes to write as many
  doorbell counters alone, in processor time;
- for how long the supervisor's loop answers nobody else meanwhile: the longest answer to /healthz beside a scrape;
- what a scrape a second changes for the round trip of a doorbell on one of the fabrics, against none, in turns: by the
  median of all round trips, and by their mean, which has those during the scrapes in it.

Only the ratios are claims, and that a scrape takes less than 250 ms.
"""

from __future__ import annotations

import argparse
import http.client
import os
import select
import signal
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from bench.programs import bells, echoing, famezd
from famezd.client import Peer
from famezd.protocol import MESSAGE_SIZE

PEERS, VECTORS = 14, 16
WINDOW = 3.0
"""Seconds for which round trips are measured with scrapes, and then without."""


@contextmanager
def seat(path: Path) -> Iterator[None]:
    """Somebody on a fabric who has read the set-up, and kept nothing of it: descriptors are dear in such numbers."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        for _ in range(3 + PEERS * VECTORS):
            _, descriptors, _, _ = socket.recv_fds(connection, MESSAGE_SIZE, 1)
            for descriptor in descriptors:
                os.close(descriptor)
        yield


class Client:
    """Asks famezd over one connection, as Prometheus does."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)

    def ask(self, path: str) -> tuple[float, bytes]:
        """How many seconds the answer takes, and what it is."""
        began = time.perf_counter()
        self._connection.request("GET", path)
        text = self._connection.getresponse().read()
        return time.perf_counter() - began, text

    def close(self) -> None:
        """Hangs up."""
        self._connection.close()


class _Doorbells(Collector):
    """As many doorbell counters as the fabrics have, as prometheus_client's own objects."""

    def __init__(self, fabrics: int) -> None:
        self._fabrics = fabrics

    def collect(self) -> Iterator[Metric]:
        for name, label, others in (("pairs", "src", PEERS - 1), ("vectors", "vector", VECTORS)):
            family = CounterMetricFamily(name, "Doorbells.", labels=["fabric", "dst", label])
            for fabric in range(self._fabrics):
                for dst in range(PEERS):
                    for other in range(others):
                        family.add_metric([f"f{fabric}", str(dst), str(other)], 0)
            yield family


def library(fabrics: int) -> float:
    """Seconds of processor time that prometheus_client takes for the doorbell counters of so many fabrics."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Doorbells(fabrics))
    began = time.process_time()
    generate_latest(registry)
    return time.process_time() - began


def beside(url: str) -> float:
    """The longest that /healthz takes while another process scrapes."""
    pid = os.fork()
    if pid == 0:
        try:
            Client(url).ask("/metrics")
        finally:
            os._exit(0)
    client, longest = Client(url), 0.0
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        longest = max(longest, client.ask("/healthz")[0])
    client.close()
    return longest


def processor_time(text: bytes) -> float:
    """What a scrape says of famezd's own process, in seconds."""
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(b"process_cpu_seconds_total "))


def measure_scrapes(url: str, fabrics: int, rounds: int) -> None:
    """Prints how long scrapes take."""
    client = Client(url)
    times, libraries, longest = [], [], []
    first = client.ask("/metrics")[1]
    series = sum(not line.startswith(b"#") for line in first.splitlines())
    times += [client.ask("/metrics")[0] for _ in range(rounds)]
    # Between its own beginnings: as many scrapes as rounds.
    used = (processor_time(client.ask("/metrics")[1]) - processor_time(first)) / (rounds + 1)
    for _ in range(rounds):
        libraries.append(library(fabrics))
        longest.append(beside(url))
    client.close()
    ratios = sorted(used / of for of in libraries)
    print(f"a scrape of {fabrics} fabrics, {series:,} series")
    most = max(times) * 1e3
    print(f"  from asking to the last byte {statistics.median(times) * 1e3:7.1f} ms  (aim 250; up to {most:.1f})")
    print(f"  famezd's processor time      {used * 1e3:7.1f} ms")
    print(f"  doorbells by the library     {statistics.median(libraries) * 1e3:7.1f} ms")
    print(f"  ratio                        {statistics.median(ratios):7.2f}  ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    print(
        f"  somebody else waits at most  {statistics.median(longest) * 1e3:7.1f} ms  (up to {max(longest) * 1e3:.1f})"
    )


def round_trips(bell_out: int, bell_in: int) -> list[float]:
    """Seconds of each round trip in a window."""
    poll = select.poll()
    poll.register(bell_in, select.POLLIN)
    times = []
    over = time.perf_counter() + WINDOW
    while (began := time.perf_counter()) < over:
        os.eventfd_write(bell_out, 1)
        poll.poll()
        os.eventfd_read(bell_in)
        times.append(time.perf_counter() - began)
    return times


@contextmanager
def scraping(url: str) -> Iterator[None]:
    """A process that scrapes, once a second."""
    pid = os.fork()
    if pid == 0:
        client = Client(url)
        while True:
            time.sleep(1)
            client.ask("/metrics")
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def measure_latency(url: str, path: Path, rounds: int) -> None:
    """Prints what scrapes do to the round trip of a doorbell."""
    medians, means, alone = [], [], []
    with Peer.join(path) as one, Peer.join(path) as other:
        bell_out, bell_in = bells(one, other.id)[0], bells(one, one.id)[0]
        echo_in, echo_out = bells(other, other.id)[0], bells(other, one.id)[0]
        with echoing(echo_in, echo_out, {max(os.sched_getaffinity(0))}):
            for _ in range(rounds):
                quiet = round_trips(bell_out, bell_in)
                with scraping(url):
                    busy = round_trips(bell_out, bell_in)
                alone.append(statistics.median(quiet))
                medians.append(statistics.median(busy) / statistics.median(quiet))
                means.append(statistics.mean(busy) / statistics.mean(quiet))
    print("round trip of a doorbell on one of them, with a scrape a second, against none")
    print(f"  alone                        {statistics.median(alone) * 1e6:7.1f} us")
    for name, ratios in (("median", medians), ("mean", means)):
        told = f"({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"  ratio of the {name:6}          {statistics.median(ratios):7.2f}  {told}  (aim: below 1.05)")


def main() -> None:
    """Measures, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fabrics", type=int, default=100, help="how many (%(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="of each (%(default)s)")
    arguments = parser.parse_args()
    text = f"peers: {PEERS}\nvectors: {VECTORS}\nmailbox: {{backing: memfd}}\n"
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        names = [f"f{n}" for n in range(arguments.fabrics)]
        url = stack.enter_context(famezd(Path(folder), dict.fromkeys(names, text)))
        sockets = [Path(folder, "run", f"{name}.sock") for name in names]
        for path in sockets[1:]:
            for _ in range(PEERS):
                stack.enter_context(seat(path))
        measure_latency(url, sockets[0], arguments.rounds)
        for _ in range(PEERS):
            stack.enter_context(seat(sockets[0]))
        measure_scrapes(url, arguments.fabrics, arguments.rounds)


if __name__ == "__main__":
    main()
