"""Many peers at once: those that are there already, and storms of those that come."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from functools import cache
from typing import Self

from bench.hostile import first_of_all
from bench.join.server import GREETING, JoinError, Server, connect
from bench.mmsg import Messages


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
