"""Many peers in few processes: they read what they are sent, and keep of it what they need.

A peer keeps the eventfd on which it is rung, on one vector, and the bells to a few others, its partners, each on the
vector that the other listens on. All of that follows from its id, so that who is to be rung how often is known.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import select
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

from famezd.protocol import MESSAGE_SIZE, REFUSAL, decode

PARTNERS = 4
"""How many others each peer can ring."""
PATIENCE = 60.0
"""Seconds until what should happen is taken for failed."""

_ROOM = socket.CMSG_SPACE(4)

Rung = Counter[tuple[str, int]]
"""How often peers were rung, by the socket at which they joined, and their id."""
T = TypeVar("T")


class CrowdError(Exception):
    """A peer was refused, lost something, or was left waiting."""


def listens_on(peer: int, vectors: int) -> int:
    """The vector that a peer keeps."""
    return peer * 7 % vectors


def partners(peer: int, everybody: int) -> list[int]:
    """Whom of the ids below `everybody` a peer can ring."""
    others = [other for other in range(everybody) if other != peer]
    return random.Random(peer).sample(others, min(PARTNERS, len(others)))


class Member:
    """A peer of a fabric of `vectors`, where there will be the ids below `everybody`."""

    def __init__(self, path: str, vectors: int, everybody: int) -> None:
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.connection.connect(path)
        self.connection.setblocking(False)
        self.path = path
        self.id = -1
        self.bells: dict[int, int] = {}
        """By whom they ring."""
        self.own = -1
        """The eventfd on which it is rung."""
        self.greeted = False
        """Whether it was sent the version: somebody serves."""
        self._vectors = vectors
        self._everybody = everybody
        self._has_memory = False
        self._heard: Counter[int] = Counter()
        self._wanted: dict[int, int] = {}

    @property
    def complete(self) -> bool:
        """Whether its set-up is over."""
        return self._heard[self.id] == self._vectors

    def hear(self) -> None:
        """Reads all that was sent: one message at a time, for the kernel returns no more."""
        receive, close, heard, wanted = self.connection.recvmsg, os.close, self._heard, self._wanted
        with contextlib.suppress(BlockingIOError):
            while True:
                word, ancillary, flags, _ = receive(MESSAGE_SIZE, _ROOM, socket.MSG_CMSG_CLOEXEC)
                if flags & socket.MSG_CTRUNC:
                    raise CrowdError("a descriptor was lost: too few open files are allowed")
                if not ancillary:
                    self._take(word)
                    continue
                descriptor = int.from_bytes(ancillary[0][2][:4], "little")
                if not self._has_memory:
                    self._has_memory = True
                    close(descriptor)
                    continue
                peer = word[0] | word[1] << 8
                vector = heard[peer]
                heard[peer] = vector + 1
                if wanted.get(peer) == vector:
                    self._keep(peer, descriptor)
                else:
                    close(descriptor)

    def _take(self, word: bytes) -> None:
        """A message without a descriptor: the version, the id, or somebody's end."""
        if not word or decode(word) == REFUSAL:
            raise CrowdError("the connection has ended" if not word else "a peer was refused")
        if not self.greeted:
            self.greeted = True
        elif self.id < 0:
            self.id = decode(word)
            listening = [self.id, *partners(self.id, self._everybody)]
            self._wanted |= {peer: listens_on(peer, self._vectors) for peer in listening}
        else:
            del self._heard[decode(word)]
            if (bell := self.bells.pop(decode(word), None)) is not None:
                os.close(bell)

    def _keep(self, peer: int, descriptor: int) -> None:
        if peer == self.id:
            self.own = descriptor
        else:
            self.bells[peer] = descriptor

    def knows(self, n: int) -> bool:
        """Whether it was told of so many peers, itself among them, with all their vectors."""
        return len(self._heard) == n and set(self._heard.values()) == {self._vectors}

    def close(self) -> None:
        """Leaves."""
        self.connection.close()
        for descriptor in (*self.bells.values(), *((self.own,) if self.own >= 0 else ())):
            os.close(descriptor)


class _Process:
    """What runs in a process of the crowd's."""

    def __init__(self, orders: Connection, vectors: int, everybody: int) -> None:
        self._orders = orders
        self._of_all = vectors, everybody
        self._members: dict[int, Member] = {}
        self._epoll = select.epoll()
        self._epoll.register(orders, select.EPOLLIN)

    def run(self) -> None:
        """Does what it is told, until it is told no more, and hears what its peers are told meanwhile."""
        broken: CrowdError | None = None
        while True:
            try:
                self._hear()
            except CrowdError as e:
                broken = e
            if self._orders.poll():
                try:
                    order, *arguments = self._orders.recv()
                except EOFError:
                    return
                self._orders.send(broken or self._answer(order, arguments))

    def _answer(self, order: str, arguments: list[object]) -> object:
        try:
            return getattr(self, order)(*arguments)
        except (CrowdError, OSError) as e:
            return CrowdError(str(e))

    def _hear(self, timeout: float | None = None) -> None:
        for descriptor, _ in self._epoll.poll(timeout):
            if (member := self._members.get(descriptor)) is not None:
                member.hear()

    def join(self, path: str) -> tuple[int, float]:
        """Has one more join; returns its id, and the seconds until its set-up was complete."""
        began = time.perf_counter()
        member = Member(path, *self._of_all)
        self._members[member.connection.fileno()] = member
        self._epoll.register(member.connection, select.EPOLLIN)
        while not member.complete:
            self._hear(PATIENCE)
            if time.perf_counter() - began > PATIENCE:
                raise CrowdError("a peer's set-up does not end")
        return member.id, time.perf_counter() - began

    def know(self, n: int) -> bool:
        """Whether all of its peers were told of so many, with all their vectors."""
        return all(member.knows(n) for member in self._members.values())

    def ring(self) -> Rung:
        """Each peer rings each of its partners; returns who has to be rung by that."""
        rung: Rung = Counter()
        for member in self._members.values():
            for partner, bell in member.bells.items():
                os.eventfd_write(bell, 1)
                rung[member.path, partner] += 1
        return rung

    def take(self) -> Rung:
        """How often each of its peers was rung since it last looked, where it was."""
        rung: Rung = Counter()
        for member in self._members.values():
            with contextlib.suppress(BlockingIOError):
                rung[member.path, member.id] = os.eventfd_read(member.own)
        return rung

    def leave(self, n: int | None) -> None:
        """So many of its peers leave, the last first, None for all."""
        while self._members and n != 0:
            self._members.popitem()[1].close()
            n = None if n is None else n - 1


class Crowd:
    """Peers in a few processes, each of which may have as many open files as this machine allows."""

    def __init__(self, processes: int, vectors: int, everybody: int) -> None:
        """`everybody`: below it are the ids that there will be on each fabric, of which each peer chooses partners."""
        self._orders: list[Connection] = []
        self._processes = []
        for _ in range(processes):
            ours, theirs = socket.socketpair()
            # A small program of its own: multiprocessing would have it import all that this one has.
            arguments = map(str, (theirs.fileno(), vectors, everybody))
            command = [sys.executable, "-c", "from bench.scale.crowd import serve; serve()", *arguments]
            with theirs:
                self._processes.append(subprocess.Popen(command, pass_fds=[theirs.fileno()]))
            self._orders.append(Connection(ours.detach()))
        # When they are ready.
        self._ask(bool, "know", 0)
        self._next = 0

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        for orders in self._orders:
            orders.close()
        for process in self._processes:
            process.wait()

    def _ask(self, kind: type[T], *order: object) -> list[T]:
        """Gives an order to all, and returns their answers."""
        for orders in self._orders:
            orders.send(order)
        return self._answers(kind, self._orders)

    @staticmethod
    def _answers(kind: type[T], asked: Sequence[Connection]) -> list[T]:
        answers = [orders.recv() for orders in asked]
        for answer in answers:
            if isinstance(answer, CrowdError):
                raise answer
            if not isinstance(answer, kind):
                raise TypeError(answer)
        return answers

    def join(self, path: Path, n: int, *, at_once: int = 1) -> list[float]:
        """Has `n` more join, `at_once` at a time; returns the seconds that each took, in order."""
        seconds: list[float] = []
        while len(seconds) < n:
            now = min(at_once, n - len(seconds))
            # In turns, so that no process has too many.
            asked = [self._orders[(self._next + i) % len(self._orders)] for i in range(now)]
            self._next += now
            for orders in asked:
                orders.send(("join", str(path)))
            seconds += [took for _, took in self._answers(tuple, asked)]
        return seconds

    def await_acquaintance(self, n: int) -> None:
        """Waits until all know so many."""
        deadline = time.monotonic() + PATIENCE
        while not all(self._ask(bool, "know", n)):
            if time.monotonic() > deadline:
                raise CrowdError(f"not all were told of {n} peers within {PATIENCE:g} s")
            time.sleep(0.05)

    def ring(self) -> int:
        """Every peer rings its partners; returns how many doorbells that were, when all have arrived, and no other."""
        expected = sum(self._ask(Counter, "ring"), Rung())
        rung, deadline = Rung(), time.monotonic() + PATIENCE
        while rung.total() < expected.total() and time.monotonic() < deadline:
            rung += sum(self._ask(Counter, "take"), Rung())
        if rung != expected:
            raise CrowdError(
                f"{expected.total()} doorbells were rung, and {rung.total()} arrived within {PATIENCE:g} s"
            )
        return rung.total()

    def leave(self) -> None:
        """All leave."""
        self._ask(type(None), "leave", None)

    def leave_one(self) -> None:
        """One of them leaves."""
        self._orders[0].send(("leave", 1))
        self._answers(type(None), self._orders[:1])


def serve() -> None:
    """One process of a crowd's: the number of a descriptor from which to read orders, vectors, everybody."""
    descriptor, vectors, everybody = map(int, sys.argv[1:])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    _Process(Connection(descriptor), vectors, everybody).run()
