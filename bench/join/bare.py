"""The least that a server can do: what it takes is the kernel's, and a server can hardly do with less."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.join.server import Server
from bench.mmsg import Messages


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
