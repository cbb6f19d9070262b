"""A scrape, measured: `python -m bench.scrape`.

A real famezd with a hundred fabrics of 14 peers, each peer a connection, each fabric a worker of its own:

- how long a scrape takes, and of famezd's processor time; beside it what prometheus_client takes to write as many
  doorbell counters alone;
- for how long the supervisor's loop answers nobody else meanwhile: the longest answer to /healthz beside a scrape;
- what a scrape a second changes for the round trip of a doorbell on one of the fabrics, against none, in turns: by the
  median of all round trips, and by their mean, which has those during the scrapes in it.
"""

from __future__ import annotations

import http.client
import os
import select
import signal
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from bench.programs import bells, echoing, famezd, processor_time, status
from bench.report import Comparison, Part, Row, Section, main
from famezd.client import Peer
from famezd.protocol import MESSAGE_SIZE

PEERS, VECTORS = 14, 16
FABRICS = 100
AIM = 250
"""Milliseconds for a scrape."""
WINDOW = 1.5
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


class Scrapes(NamedTuple):
    """Scrapes, in milliseconds."""

    series: int
    times: list[float]
    """From asking to the last byte."""
    used: list[float]
    """Of famezd's processor time."""
    library: list[float]
    """What prometheus_client takes of it for the doorbells."""
    others: list[float]
    """How long somebody else waits at most."""


def measure_scrapes(url: str, fabrics: int, rounds: int) -> Scrapes:
    """How long scrapes take."""
    client, pid = Client(url), status(url)["pid"]
    series = sum(not line.startswith(b"#") for line in client.ask("/metrics")[1].splitlines())
    times, used = [], []
    for _ in range(rounds):
        before = processor_time(pid)
        times.append(client.ask("/metrics")[0] * 1e3)
        used.append((processor_time(pid) - before) * 1e3)
    client.close()
    libraries, others = [], []
    for _ in range(rounds):
        libraries.append(library(fabrics) * 1e3)
        others.append(beside(url) * 1e3)
    return Scrapes(series, times, used, libraries, others)


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


def measure_latency(url: str, path: Path, rounds: int) -> tuple[list[list[float]], list[list[float]]]:
    """Round trips of a doorbell in seconds, by rounds: without scrapes, and with one a second."""
    quiet, busy = [], []
    with Peer.join(path) as one, Peer.join(path) as other:
        bell_out, bell_in = bells(one, other.id)[0], bells(one, one.id)[0]
        echo_in, echo_out = bells(other, other.id)[0], bells(other, one.id)[0]
        with echoing(echo_in, echo_out, {max(os.sched_getaffinity(0))}):
            for _ in range(rounds):
                quiet.append(round_trips(bell_out, bell_in))
                with scraping(url):
                    busy.append(round_trips(bell_out, bell_in))
    return quiet, busy


def section(rounds: int) -> Section:
    """What a scrape takes, and what it takes from others."""
    text = f"peers: {PEERS}\nvectors: {VECTORS}\nmailbox: {{backing: memfd}}\n"
    with TemporaryDirectory() as folder, ExitStack() as stack:
        names = [f"f{n}" for n in range(FABRICS)]
        url = stack.enter_context(famezd(Path(folder), dict.fromkeys(names, text)))
        sockets = [Path(folder, "run", f"{name}.sock") for name in names]
        for path in sockets[1:]:
            for _ in range(PEERS):
                stack.enter_context(seat(path))
        quiet, busy = measure_latency(url, sockets[0], rounds)
        for _ in range(PEERS):
            stack.enter_context(seat(sockets[0]))
        scrapes = measure_scrapes(url, FABRICS, rounds)
    return Section("A scrape", [*_told(scrapes), _latency(quiet, busy)])


def _told(scrapes: Scrapes) -> Iterator[Part]:
    took = statistics.median(scrapes.times)
    yield f"""
        A scrape of {FABRICS} fabrics with {PEERS} peers each, which are {scrapes.series:,} series, takes {took:.0f} ms
        from asking to the last byte, at most {max(scrapes.times):.0f} ms; the target is {AIM} ms:
        {"met" if took < AIM else "**missed**"}. Meanwhile somebody else waits for an answer for
        {statistics.median(scrapes.others):.0f} ms at most, {max(scrapes.others):.0f} ms in the worst round."""
    rows = [Row("a scrape", scrapes.used, scrapes.library)]
    theirs = "prometheus_client, for the doorbells alone"
    yield Comparison("Processor time of famezd", "ms", theirs, rows)


def _latency(quiet: list[list[float]], busy: list[list[float]]) -> Comparison:
    def row(name: str, of: Callable[[list[float]], float]) -> Row:
        return Row(name, [of(times) * 1e6 for times in busy], [of(times) * 1e6 for times in quiet], most=1.05)

    rows = [row("median", statistics.median), row("mean", statistics.fmean)]
    return Comparison("Round trips of a doorbell, with a scrape a second", "us", "without", rows, ours="with")


if __name__ == "__main__":
    main("bench.scrape", section, __doc__)
