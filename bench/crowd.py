"""Many peers in few processes: they read what they are sent, and keep of it what they need.

A peer keeps the eventfd on which it is rung, on one vector, and the bells to a few others, its partners, each on the
vector that the other listens on. All of that follows from its id, so that who is to be rung how often is known.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import resource
import select
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from famezd.protocol import MESSAGE_SIZE

PARTNERS = 4
"""How many others each peer can ring."""
PATIENCE = 60.0
"""Seconds until what should happen is taken for failed."""

_ROOM = socket.CMSG_SPACE(4)
_REFUSED = (-1).to_bytes(MESSAGE_SIZE, "little", signed=True)


class CrowdError(Exception):
    """A peer was refused, lost something, or was left waiting."""


def listens_on(peer: int, vectors: int) -> int:
    """The vector that a peer keeps."""
    return peer * 7 % vectors


def partners(peer: int, others: Sequence[int]) -> list[int]:
    """Whom of the others a peer can ring."""
    rest = [other for other in others if other != peer]
    return random.Random(peer).sample(rest, min(PARTNERS, len(rest)))


class _Member:
    """One peer."""

    def __init__(self, path: str, vectors: int, everybody: range) -> None:
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.connection.connect(path)
        self.connection.setblocking(False)
        self.id = -1
        self.complete = False
        self.bells: dict[int, int] = {}
        """By whom they ring."""
        self.own = -1
        self._vectors = vectors
        self._everybody = everybody
        self._read = 0
        self._heard: Counter[int] = Counter()
        self._wanted: dict[int, int] = {}

    def hear(self) -> None:
        """Reads all that was sent, one message at a time, which is all that the kernel returns."""
        receive, close = self.connection.recvmsg, os.close
        heard, wanted = self._heard, self._wanted
        with contextlib.suppress(BlockingIOError):
            while True:
                word, ancillary, _, _ = receive(MESSAGE_SIZE, _ROOM, socket.MSG_CMSG_CLOEXEC)
                if not ancillary:
                    self._take(word)
                    continue
                descriptor = int.from_bytes(ancillary[0][2][:4], "little")
                peer = word[0] | word[1] << 8
                if self.id < 0 or self._read == 2:
                    # The memory.
                    self._read = 3
                    close(descriptor)
                    continue
                vector = heard[peer]
                heard[peer] = vector + 1
                if wanted.get(peer) == vector:
                    self._keep(peer, descriptor)
                else:
                    close(descriptor)
                if peer == self.id and vector + 1 == self._vectors:
                    self.complete = True

    def _take(self, word: bytes) -> None:
        """A message without a descriptor: the version, the id, or somebody's end."""
        if not word or word == _REFUSED:
            raise CrowdError("the connection has ended" if not word else "refused")
        if self._read < 2:
            self._read += 1
            if self._read == 2:
                self.id = int.from_bytes(word, "little")
                listening = [self.id, *partners(self.id, self._everybody)]
                self._wanted |= {peer: listens_on(peer, self._vectors) for peer in listening}
            return
        gone = int.from_bytes(word, "little")
        del self._heard[gone]
        if (bell := self.bells.pop(gone, None)) is not None:
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
        self.connection.close()
        for descriptor in (*self.bells.values(), *((self.own,) if self.own >= 0 else ())):
            os.close(descriptor)


class _Process:
    """What runs in a process of the crowd's."""

    def __init__(self, orders: Connection, path: str, vectors: int, everybody: range) -> None:
        self._orders = orders
        self._new = path, vectors, everybody
        self._members: dict[int, _Member] = {}
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
                    name, *arguments = self._orders.recv()
                except EOFError:
                    return
                self._orders.send(broken or self._answer(name, arguments))

    def _answer(self, name: str, arguments: list[Any]) -> Any:
        try:
            return getattr(self, name)(*arguments)
        except (CrowdError, OSError) as e:
            return CrowdError(str(e))

    def _hear(self, timeout: float | None = None) -> None:
        for descriptor, _ in self._epoll.poll(timeout):
            if (member := self._members.get(descriptor)) is not None:
                member.hear()

    def join(self) -> tuple[int, float]:
        """Has one more join; returns its id, and the seconds that it took."""
        began = time.perf_counter()
        member = _Member(*self._new)
        self._members[member.connection.fileno()] = member
        self._epoll.register(member.connection, select.EPOLLIN)
        while not member.complete:
            self._hear(PATIENCE)
            if time.perf_counter() - began > PATIENCE:
                raise CrowdError("a peer's set-up does not end")
        return member.id, time.perf_counter() - began

    def ids(self) -> list[int]:
        """Of its peers."""
        return [member.id for member in self._members.values()]

    def know(self, n: int) -> bool:
        """Whether all of its peers were told of so many, with all their vectors."""
        return all(member.knows(n) for member in self._members.values())

    def ring(self, times: int) -> int:
        """Each peer rings each of its partners so many times; returns how many doorbells that were."""
        rung = 0
        for member in self._members.values():
            for bell in member.bells.values():
                for _ in range(times):
                    os.eventfd_write(bell, 1)
                    rung += 1
        return rung

    def ring_one(self, ringer: int, rung: int) -> float:
        """One peer rings another; returns when, by the system's monotonic clock."""
        bell = next(m for m in self._members.values() if m.id == ringer).bells[rung]
        began = time.monotonic()
        os.eventfd_write(bell, 1)
        return began

    def await_rung(self, peer: int) -> float:
        """Waits until one peer is rung; returns when that was seen."""
        own = next(m for m in self._members.values() if m.id == peer).own
        if not select.select([own], [], [], PATIENCE)[0]:
            raise CrowdError(f"peer {peer} was not rung within {PATIENCE:g} s")
        return time.monotonic()

    def take(self) -> dict[int, int]:
        """How often each of its peers was rung since it last looked, where it was."""
        rung = {}
        for member in self._members.values():
            with contextlib.suppress(BlockingIOError):
                rung[member.id] = os.eventfd_read(member.own)
        return rung

    def leave(self, n: int | None = None) -> int:
        """Has so many of its peers leave, or all; returns how many are left."""
        for descriptor in list(self._members)[:n]:
            self._members.pop(descriptor).close()
        return len(self._members)


def _main(orders: Connection, *settings: Any) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    _Process(orders, *settings).run()


class Crowd:
    """Peers of one fabric, in a few processes."""

    def __init__(self, path: Path, vectors: int, everybody: range, processes: int) -> None:
        """`everybody`: the ids that there will be, of which each peer chooses its partners."""
        spawning = multiprocessing.get_context("spawn")
        self._orders: list[Connection] = []
        self._processes = []
        for _ in range(processes):
            ours, theirs = spawning.Pipe()
            process = spawning.Process(target=_main, args=(theirs, str(path), vectors, everybody), daemon=True)
            process.start()
            theirs.close()
            self._orders.append(ours)
            self._processes.append(process)
        self.size = 0

    def _ask(self, *order: Any) -> list[Any]:
        """Gives an order to all, and returns their answers."""
        for orders in self._orders:
            orders.send(order)
        return self._answers(self._orders)

    @staticmethod
    def _answers(asked: Sequence[Connection]) -> list[Any]:
        answers = [orders.recv() for orders in asked]
        for answer in answers:
            if isinstance(answer, CrowdError):
                raise answer
        return answers

    def join(self, n: int, *, at_once: int = 1) -> list[float]:
        """Has `n` more join, `at_once` at a time; returns the seconds that each took, in the order of their ids."""
        seconds: dict[int, float] = {}
        while len(seconds) < n:
            now = min(at_once, n - len(seconds))
            # In turns, so that none has too many.
            asked = [self._orders[(self.size + i) % len(self._orders)] for i in range(now)]
            for orders in asked:
                orders.send(("join",))
            for peer, took in self._answers(asked):
                seconds[peer] = took
            self.size += now
        return [seconds[peer] for peer in sorted(seconds)]

    def await_acquaintance(self, n: int) -> None:
        """Waits until all know so many."""
        deadline = time.monotonic() + PATIENCE
        while not all(self._ask("know", n)):
            if time.monotonic() > deadline:
                raise CrowdError(f"not all were told of {n} peers within {PATIENCE:g} s")
            time.sleep(0.05)

    def ring(self, times: int = 1) -> int:
        """Every peer rings its partners; returns how many doorbells that were."""
        return sum(self._ask("ring", times))

    def take(self) -> Counter[int]:
        """How often each peer was rung since that was last asked."""
        rung: Counter[int] = Counter()
        for answer in self._ask("take"):
            rung.update(answer)
        return rung

    def leave(self) -> None:
        """All leave."""
        self._ask("leave")
        self.size = 0

    def close(self) -> None:
        """Ends the processes."""
        for orders in self._orders:
            orders.close()
        for process in self._processes:
            process.join()
