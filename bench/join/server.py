"""What is joined, and how it is joined for a benchmark: servers of all kinds behind one face."""

from __future__ import annotations

import os
import socket
import statistics
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench.mmsg import Messages
from bench.programs import processor_time

GREETING = 3
"""Messages before the announcements: version, id, shared memory."""
QUIET = 0.002
"""Seconds without any work of a server after which it has done all that there was to do."""
PATIENCE = 30
"""Seconds after which a server that has not sent all is taken for broken."""


class JoinError(Exception):
    """A set-up did not come as it should."""


@dataclass(frozen=True)
class Server:
    """One server with one fabric."""

    name: str
    path: str
    processes: tuple[int, ...]
    """Their pids; all of their processor time is the server's."""
    peers: int
    vectors: int
    sticky: bool = False
    """Whether a set-up names all ports, whoever is there."""

    def setup(self, present: int) -> int:
        """How many messages a newcomer's set-up has when so many peers are there."""
        others = self.peers - 1 if self.sticky else present
        return GREETING + self.vectors * (others + 1)

    def processor_time(self) -> float:
        """Seconds, user and system, of all its life."""
        return sum(map(processor_time, self.processes))

    def settle(self) -> float:
        """Waits until it has done all that there was to do; returns its processor time."""
        before = self.processor_time()
        while True:
            time.sleep(QUIET)
            now = self.processor_time()
            # One that waits for the processor uses none, either.
            if now == before and all(map(_sleeps, self.processes)):
                return now
            before = now

    def descriptors(self) -> int:
        """How many it has open."""
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self.processes)

    def memory(self) -> float:
        """Its proportional memory (PSS), MiB."""
        return sum(_pss(pid) for pid in self.processes) / 2**20


def _sleeps(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise JoinError(f"/proc/{pid}/smaps_rollup has no Pss")


def parent(pid: int) -> int:
    """The process that started this one."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("PPid:"):
            return int(line.split()[1])
    raise JoinError(f"/proc/{pid}/status has no PPid")


def connect(path: str) -> socket.socket:
    """A connection that gives up where a server is stuck."""
    connection = socket.socket(socket.AF_UNIX)
    # The kernel's own time limit: with Python's the socket would not block.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", PATIENCE, 0))
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def join(server: Server, messages: Messages) -> tuple[socket.socket, float]:
    """Joins; returns the connection, and the seconds from connect() until the last descriptor was there."""
    began = time.perf_counter()
    connection = connect(server.path)
    received = messages.receive(connection.fileno())
    ended = time.perf_counter()
    messages.close()
    if received != messages.count:
        connection.close()
        raise JoinError(f"{server.name}: {received} messages of a set-up of {messages.count}")
    return connection, ended - began


class Joins(NamedTuple):
    """Of several joins; seconds."""

    latency: float
    processor: float
    """Of the server, from connect() until it has nothing more to do."""
    both: float
    """The same for a join and a leave, with what is done when they are over."""


def timed(server: Server, messages: Messages, joins: int) -> Joins:
    """So many join and leave, one after the other, each when the server has nothing else to do."""
    latencies, times = [], []
    began = before = server.settle()
    for _ in range(joins):
        connection, latency = join(server, messages)
        times.append(server.settle() - before)
        connection.close()
        before = server.settle()
        latencies.append(latency)
    return Joins(statistics.median(latencies), statistics.median(times), (before - began) / joins)
