"""Who joins, and what is joined: servers of all kinds behind one face, and peers that cost them the same.

A peer takes its whole set-up by one system call (`bench.mmsg`), so what is measured is the server. Peers that only
have to be there are processes of their own, as machines are, keep no descriptor but their connection, and read what
they are told of joins and departures when nothing is measured.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

from bench.hostile import first_of_all
from bench.mmsg import Messages

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


def processor_time(pid: int) -> float:
    """Seconds, user and system, of a process's life; exact to the nanosecond, as /proc/PID/stat is not."""
    # What clock_getcpuclockid returns: CPUCLOCK_SCHED of the process.
    return time.clock_gettime(~pid << 3 | 2)


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
    connection.connect(path)
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


@cache
def _room(count: int) -> Messages:
    """Room for so many messages, made once in each process."""
    return Messages(count)


class Crowd:
    """Peers, each a process of its own, that do what they are told: one member of each server at most.

    They sleep until a server tells them something, and read it then.
    """

    def __init__(self, number: int, processor: int, *, measured: bool = False) -> None:
        """They run on this processor; those that are not `measured` give way there to who is."""
        self._gate = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_SEMAPHORE)
        self._members: list[tuple[int, socket.socket]] = []
        for _ in range(number):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            pid = os.fork()
            if pid == 0:
                with contextlib.suppress(BaseException):
                    # An end that a sibling held open would never be noticed.
                    for end in (ours, *(member for _, member in self._members)):
                        end.close()
                    os.sched_setaffinity(0, {processor})
                    if measured:
                        first_of_all(0)
                    elif os.geteuid() != 0:
                        os.nice(19)
                    _Member(theirs, self._gate).serve()
                os._exit(0)
            theirs.close()
            self._members.append((pid, ours))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends all of them."""
        for pid, member in self._members:
            member.close()
            os.waitpid(pid, 0)
        os.close(self._gate)

    def join(self, server: Server) -> None:
        """All join a fabric on which nobody is, one after the other."""
        for present, (_, member) in enumerate(self._members):
            member.send(_order("join", server.path, server.setup(present)))
            _hear(member)
            self.catch_up()

    def catch_up(self) -> None:
        """All read what they have been told meanwhile."""
        self._all(_order("catch up"))

    def leave(self, server: Server) -> None:
        """All leave it."""
        self._all(_order("leave", server.path))

    def storm(self, server: Server) -> float:
        """All join at once; returns the seconds until everyone sees everyone.

        That is when each has been sent all vectors of all. Be it in one set-up, or in set-ups and announcements of
        newcomers, that is the same number of messages.
        """
        count = GREETING + server.vectors * len(self._members)
        for _, member in self._members:
            member.send(_order("storm", server.path, count))
            _hear(member)
        began = time.perf_counter()
        os.eventfd_write(self._gate, len(self._members))
        return max([float(_hear(member)) for _, member in self._members]) - began

    def _all(self, order: bytes) -> None:
        for _, member in self._members:
            member.send(order)
        for _, member in self._members:
            _hear(member)


def _order(verb: str, path: str = "", count: int = 0) -> bytes:
    return f"{verb}\0{path}\0{count}".encode()


def _hear(member: socket.socket) -> str:
    status, _, answer = member.recv(500).decode().partition(" ")
    if status != "done":
        raise JoinError(answer or "a peer died")
    return answer


class _Member:
    """One of a crowd, in its own process."""

    def __init__(self, orders: socket.socket, gate: int) -> None:
        self._orders = orders
        self._gate = gate
        self._poll = select.poll()
        self._poll.register(orders, select.POLLIN)
        self._connections: dict[str, socket.socket] = {}

    def serve(self) -> None:
        """Reads what it is told, and does as ordered, until there is nobody to order."""
        while True:
            for descriptor, mask in self._poll.poll():
                if descriptor != self._orders.fileno():
                    self._read(descriptor, mask)
                elif order := self._orders.recv(500):
                    self._obey(*order.decode().split("\0"))
                else:
                    return

    def _read(self, connection: int, mask: int) -> None:
        messages = _room(64)
        if not messages.receive(connection, socket.MSG_DONTWAIT) and mask & select.POLLHUP:
            # The server is gone; who relies on it notices that otherwise.
            self._poll.unregister(connection)
        messages.close()

    def _obey(self, verb: str, path: str, count: str) -> None:
        try:
            answer = self._do(verb, path, int(count))
        except (JoinError, OSError) as e:
            self._orders.send(f"failed {e}".encode())
        else:
            self._orders.send(f"done {answer}".encode())

    def _do(self, verb: str, path: str, count: int) -> str:
        if verb == "join":
            self._join(path, _room(count))
        elif verb == "storm":
            room = _room(count)
            self._orders.send(b"done")
            os.eventfd_read(self._gate)
            return str(self._join(path, room))
        elif verb == "leave":
            connection = self._connections.pop(path)
            self._poll.unregister(connection)
            connection.close()
        else:
            while there := [event for event in self._poll.poll(0) if event[0] != self._orders.fileno()]:
                for event in there:
                    self._read(*event)
        return ""

    def _join(self, path: str, messages: Messages) -> float:
        """When the last descriptor was there, seconds of the clock that all processes have."""
        connection = self._connections[path] = connect(path)
        received = messages.receive(connection.fileno())
        ended = time.perf_counter()
        messages.close()
        if received != messages.count:
            raise JoinError(f"{path}: {received} messages of {messages.count}")
        self._poll.register(connection, select.POLLIN)
        return ended


@contextmanager
def bare(directory: Path, name: str, peers: int, vectors: int, *, sticky: bool) -> Iterator[Server]:
    """The least that a server can do: it sends each newcomer its set-up by one system call.

    Unless it is sticky it tells all others of the newcomer then, by a system call for each. All messages are made
    beforehand, and so is the one eventfd that all of them carry.
    """
    path = str(directory / f"{name}.sock")
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(64)
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                _Bare(listener, peers, vectors, sticky=sticky).serve()
            os._exit(1)
        stack.callback(os.waitpid, pid, 0)
        stack.callback(os.kill, pid, signal.SIGKILL)
        yield Server(name, path, (pid,), peers, vectors, sticky)


class _Bare:
    """The bare server, in its own process."""

    def __init__(self, listener: socket.socket, peers: int, vectors: int, *, sticky: bool) -> None:
        eventfd = os.eventfd(0)
        greeting: list[tuple[int, int | None]] = [(0, None), (0, None), (-1, os.memfd_create("bare"))]
        batch: list[tuple[int, int | None]] = [(0, eventfd)] * vectors
        self._listener = listener
        self._sticky = sticky
        self._setups = [Messages.of(greeting + batch * n) for n in range(1, peers + 1)]
        self._news = Messages.of(batch)
        self._members: dict[int, socket.socket] = {}
        self._poll = select.poll()

    def serve(self) -> None:
        """Takes in whoever comes."""
        while True:
            newcomer, _ = self._listener.accept()
            for gone, _ in self._poll.poll(0):
                self._poll.unregister(gone)
                self._members.pop(gone).close()
            descriptor = newcomer.fileno()
            self._setups[-1 if self._sticky else len(self._members)].send(descriptor)
            for member in () if self._sticky else self._members:
                self._news.send(member)
            self._members[descriptor] = newcomer
            self._poll.register(newcomer, select.POLLRDHUP)
