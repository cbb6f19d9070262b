"""A peer of a fabric that is a program on the host."""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
import time
from collections import Counter
from types import TracebackType
from typing import NamedTuple, Self

from famezd.confinement import confinement
from famezd.errors import FamezError
from famezd.mailbox import FileMemory, outliving_memory
from famezd.protocol import MESSAGE_SIZE, Client, Descriptor, PeerId, PeerLeft, VectorAdded
from famezd.remedies import remedy

QUIET = 0.05
"""Seconds without a message after which a client that is alone takes its set-up for complete.

The protocol does not say how many vectors there are; who is not alone has as many as the others.
"""
_ROOM = socket.CMSG_LEN(array.array("i").itemsize)
"""For one descriptor: no message of the protocol has more."""


class ClientError(FamezError):
    """The fabric cannot be joined, has ended the membership, or has no such peer or vector."""


class Doorbell(NamedTuple):
    """This peer was rung."""

    vector: int
    rings: int
    """How often since it was last read."""


class Joined(NamedTuple):
    """Another peer is there (with fresh ports; sticky ports tell nobody)."""

    peer: int


class Left(NamedTuple):
    """Another peer has gone (with fresh ports)."""

    peer: int


Event = Doorbell | Joined | Left


class Peer:
    """A membership, made by `join` and ended by `leave` or the end of a `with` block.

    For an event loop of any kind, `fileno` is readable whenever `wait` would return something at once.
    """

    def __init__(self, connection: socket.socket, where: str) -> None:
        self._connection = connection
        self.where = where
        """The path of the fabric's socket."""
        self._protocol = Client()
        self._epoll = select.epoll()
        self._epoll.register(connection, select.EPOLLIN)
        self._bells: dict[int, int] = {}
        self._count = bytearray(8)
        self.polls = False
        """Whether `wait` has to be called again and again: never, `fileno` tells of everything."""
        self.ended = False
        """Whether the server has ended the membership; the peers that are known can still be rung."""
        self.rung: Counter[int] = Counter()
        """How often this peer was rung on each vector, as far as `wait` has seen."""

    @classmethod
    def join(cls, path: str | os.PathLike[str], *, timeout: float = 10.0) -> Peer:
        """Joins the fabric whose socket is at `path`, and returns when the set-up is complete.

        Raises ClientError if that is not so within `timeout` seconds, or the fabric refuses.
        """
        try:
            connection = _connected(os.fspath(path), timeout)
        except OSError as e:
            usual = "is famezd running? `famezctl status` tells the sockets"
            if isinstance(e, PermissionError):
                usual = "run as a user, or in a group, that may write to it: `socket:` in the fabric's file says which"
            todo = remedy(e, usual, path, os.W_OK)
            raise ClientError(f"cannot join {path}: {e.strerror or e}; {todo}") from e
        peer = cls(connection, os.fspath(path))
        try:
            peer._set_up(time.monotonic() + timeout)
        except FamezError as e:
            peer.leave()
            raise ClientError(f"cannot join {path}: {e}") from e
        return peer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self.leave()

    @property
    def id(self) -> int:
        """This peer's id."""
        if self._protocol.peer is None:
            raise ClientError("the server has given no id yet")
        return self._protocol.peer

    @property
    def memory(self) -> int:
        """The descriptor of the shared memory, which stays the peer's.

        Unless it is a memfd, other peers can change its size: who maps it dies of SIGBUS when it touches what was cut
        off, until famezd has seen and undone that. pread and pwrite only read or write short.
        """
        if self._protocol.memory is None:
            raise ClientError("the server has shared no memory yet")
        return self._protocol.memory

    @property
    def memory_size(self) -> int:
        """Bytes of shared memory, now."""
        return os.fstat(self.memory).st_size

    def open_memory(self) -> FileMemory:
        """Access to the shared memory that outlives whatever others do to it; the caller closes it."""
        return outliving_memory(self.memory)

    @property
    def vectors(self) -> int:
        """How many vectors this peer has."""
        return len(self._protocol.peers.get(PeerId(self.id), ()))

    @property
    def peers(self) -> list[int]:
        """The ids that this peer can ring, without its own; with sticky ports all, occupied or not."""
        return sorted(peer for peer in self._protocol.peers if peer != self.id)

    def bells(self, peer: int) -> list[int]:
        """The eventfds by which `peer` is rung, by vector; our own are those that we are rung by.

        They stay this object's. Raises ClientError if `peer` is not known.
        """
        bells = self._protocol.peers.get(PeerId(peer))
        if bells is None:
            raise ClientError(f"no peer {peer}; there are: {', '.join(map(str, self.peers)) or 'none'}")
        return list(bells)

    def vectors_of(self, peer: int) -> int:
        """How many vectors a peer has; raises ClientError if it is not known."""
        return len(self.bells(peer))

    def fileno(self) -> int:
        """A descriptor that is readable when there is something for `wait` to return."""
        return self._epoll.fileno()

    def ring(self, peer: int, vector: int = 0) -> None:
        """Rings `peer` on `vector`; raises ClientError if it is not known or has no such vector."""
        bells = self.bells(peer)
        if not 0 <= vector < len(bells):
            raise ClientError(f"peer {peer} has no vector {vector}; it has 0 to {len(bells) - 1}")
        with contextlib.suppress(BlockingIOError):
            # Full: it is pending already.
            os.eventfd_write(bells[vector], 1)

    def wait(self, timeout: float | None = None) -> list[Event]:
        """What has happened: at least one event, or none after `timeout` seconds (None: for ever, 0: does not wait).

        Raises ClientError if the server has ended the membership; the peers that are known can still be rung.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            events: list[Event] = []
            for descriptor, _ in self._epoll.poll(left):
                if descriptor == self._connection.fileno():
                    events += self._hear()
                elif rings := self._take(descriptor):
                    events.append(Doorbell(self._bells[descriptor], rings))
                    self.rung[self._bells[descriptor]] += rings
            if events or (deadline is not None and time.monotonic() >= deadline):
                return events

    def leave(self) -> None:
        """Ends the membership and closes every descriptor."""
        self._epoll.close()
        self._connection.close()
        held = [fd for bells in self._protocol.peers.values() for fd in bells]
        if self._protocol.memory is not None:
            held.append(self._protocol.memory)
        self._protocol = Client()
        for descriptor in held:
            os.close(descriptor)

    def _set_up(self, deadline: float) -> None:
        self._connection.setblocking(False)
        while True:
            alone = self._protocol.complete and not self.peers
            left = QUIET if alone else deadline - time.monotonic()
            if self._protocol.complete and not alone:
                break
            if not self._epoll.poll(max(0.0, left)):
                if alone:
                    break
                raise ClientError("the server has not completed the set-up in time")
            self._hear()

    def _hear(self) -> list[Event]:
        """Reads all that the server has sent."""
        events: list[Event] = []
        while True:
            try:
                data, descriptors, flags = received(self._connection)
            except BlockingIOError:
                return events
            except OSError as e:
                self._end()
                raise ClientError(f"the connection is broken: {e.strerror}") from e
            events += self._understand(data, [Descriptor(fd) for fd in descriptors], flags)

    def _understand(self, data: bytes, descriptors: list[Descriptor], flags: int) -> list[Event]:
        try:
            if flags & socket.MSG_CTRUNC:
                raise ClientError(f"a descriptor was lost; {self._why_lost()}")
            if not data:
                self._protocol.end()
                raise ClientError("the server has ended the membership")
            told = self._protocol.receive(data, descriptors)
        except FamezError:
            for descriptor in descriptors:
                os.close(descriptor)
            if not data:
                self._end()
            raise
        events: list[Event] = []
        for event in told:
            if isinstance(event, PeerLeft):
                for descriptor in event.descriptors:
                    os.close(descriptor)
                events.append(Left(event.peer))
            elif isinstance(event, VectorAdded):
                if event.peer == self._protocol.peer:
                    self._bells[event.descriptor] = event.vector
                    self._epoll.register(event.descriptor, select.EPOLLIN)
                elif event.vector + 1 == self.vectors:
                    # With its last vector, so that it can be rung on all; all peers have as many.
                    events.append(Joined(event.peer))
        return events

    def _why_lost(self) -> str:
        """What to do about a descriptor that was sent and did not arrive."""
        confined = confinement() if self._has_room() else None
        # What confines a process looks at each file that it is given, too.
        return "raise this process's limit of open files" if confined is None else f"{confined}; {confined.remedy}"

    def _has_room(self) -> bool:
        """Whether there can be one more descriptor."""
        try:
            os.close(os.dup(self._connection.fileno()))
        except OSError:
            return False
        return True

    def _end(self) -> None:
        self.ended = True
        # Level-triggered, it would be readable for ever.
        self._epoll.unregister(self._connection)

    def _take(self, bell: int) -> int:
        try:
            # Not eventfd_read: the open file is shared, and so is whether it blocks.
            os.preadv(bell, [self._count], -1, os.RWF_NOWAIT)
        except BlockingIOError:
            return 0
        return int.from_bytes(self._count, "little")


def received(connection: socket.socket) -> tuple[bytes, list[int], int]:
    """What one read of a message's size returns: bytes, descriptors that no child inherits, and recvmsg(2)'s flags.

    socket.recv_fds would do, if it did not ignore the flags that it is given (as of Python 3.13).
    """
    data, ancillary, flags, _ = connection.recvmsg(MESSAGE_SIZE, _ROOM, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, carried in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(carried[: len(carried) // descriptors.itemsize * descriptors.itemsize])
    return data, list(descriptors), flags


def _connected(path: str, timeout: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection
