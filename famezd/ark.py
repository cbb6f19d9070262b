"""The ark: descriptors that outlive the process that opened them.

A machine never reconnects, so whoever serves it next needs the very same descriptors. They are parked in the receive
queues of SEQPACKET socket pairs, as records: a text that names what it carries, and up to 253 descriptors. Appending
one is a single system call, after which the kernel has it, whatever becomes of us. The manager keeps the pairs (both
ends, so that a successor can go on appending), and a pair is one or two descriptors for it where its content is
thousands.

Reading peeks: a record stays in its queue, so a reader that is killed on the way leaves all as it was.

Pairs belong to generations. A generation is written, known to be in the manager's hands, and then marked as whole,
before the one before it is let go: else the manager could die with the only word of it still unread. For the same
reason nothing is appended to a pair of which the manager is not known to have heard.

What is in flight counts against the limit of open files of the user, over all processes (ETOOMANYREFS).
"""

from __future__ import annotations

import array
import fcntl
import os
import re
import select
import socket
import sys
import termios
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

MAX_DESCRIPTORS = 253
"""The most descriptors in one record: SCM_MAX_FD of the kernel."""
NAME = re.compile(r"ark\.(\d+)\.(\d+)")
"""What the manager keeps a pair under: generation and number, each counted from 0."""

_MAX_TEXT = 8192
_SO_PEEK_OFF = 42
_BUFFER = 4 << 20
"""Bytes of records that a pair shall hold; the kernel gives what net.core.wmem_max allows."""
_UNSEEN = 8
"""Records that are added before it is looked how full a pair is: they take far less than half of its room."""
_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_BEGIN, _WHOLE = b"ark", b"whole"


class Keeper(Protocol):
    """Who keeps descriptors: the manager."""

    def store(self, name: str, descriptors: Iterable[int]) -> None:
        """Keeps descriptors under a name."""

    def forget(self, name: str) -> None:
        """Lets go of all that is kept under a name."""

    def settle(self) -> bool:
        """Waits a moment until all of that is done; whether it is."""


class Record(NamedTuple):
    """What was put into the ark in one piece."""

    text: bytes
    descriptors: tuple[int, ...] = ()


class Ark:
    """A log of records that the manager keeps."""

    def __init__(self, keeper: Keeper, given: Mapping[str, Sequence[int]]) -> None:
        """Opens the newest whole generation among the descriptors that the manager handed on.

        Takes those over whose names are an ark's, and lets go of older or unfinished generations.
        """
        self._keeper = keeper
        self._generation = -1
        self._pairs: list[_Pair] = []
        generations: dict[int, dict[int, _Pair]] = {}
        for name, descriptors in given.items():
            if (found := NAME.fullmatch(name)) and len(descriptors) == 2:
                generations.setdefault(int(found[1]), {})[int(found[2])] = _Pair.adopt(descriptors)
        # No number is given twice: the manager may be late to let go of a generation that failed or was unfinished.
        self._last = max(generations, default=-1)
        for generation in sorted(generations, reverse=True):
            pairs = [generations[generation][n] for n in sorted(generations[generation])]
            if not self._pairs and any(pair.whole() for pair in pairs):
                self._generation, self._pairs = generation, pairs
            else:
                self._drop(generation, pairs)

    @property
    def exists(self) -> bool:
        """Whether there was one to resume from."""
        return bool(self._pairs)

    def records(self) -> Iterator[Record]:
        """All records in order; their descriptors are new ones, the receiver's from now on."""
        for pair in self._pairs:
            for record in pair.records():
                if record.text not in (_BEGIN, _WHOLE):
                    yield record

    def reserve(self) -> None:
        """Makes room for records to come, about half a pair's or more, so that to append them takes no manager.

        Raises OSError as `append`.
        """
        if self._pairs and self._pairs[-1].half_full:
            self._extend()

    def append(self, record: Record) -> None:
        """Adds a record.

        Raises OSError if the kernel has no room for it or its descriptors, and TimeoutError if more room is needed than
        was reserved, and the manager does not take it.
        """
        try:
            self._pairs[-1].append(record)
        except BlockingIOError:
            self._extend()
            self._pairs[-1].append(record)

    def renew(self, records: Iterable[Record]) -> None:
        """Begins a new generation with these records in place of all before.

        Raises OSError as `append`, and TimeoutError if the manager does not take it; then all is as it was.
        """
        self._last += 1
        generation, pairs = self._last, list[_Pair]()
        try:
            self._open_pair(generation, pairs)
            for record in records:
                try:
                    pairs[-1].append(record)
                except BlockingIOError:
                    self._open_pair(generation, pairs).append(record)
            self._settle()
            self._mark(generation, pairs)
        except BaseException:
            self._drop(generation, pairs)
            raise
        self._drop(self._generation, self._pairs)
        self._generation, self._pairs = generation, pairs

    def clear(self) -> None:
        """Lets go of everything: there is no ark until the next `renew`.

        The manager may be late to hear of it, or dead. So the pairs are emptied, whoever has them: what happens from
        now on is not written down there, and nobody must go on from what was true before.
        """
        for pair in self._pairs:
            pair.empty()
        self._drop(self._generation, self._pairs)
        self._pairs = []

    def _mark(self, generation: int, pairs: list[_Pair]) -> None:
        """Marks a generation as whole that the manager has: one that is given up must never be gone on from.

        The manager may hear of that much later, while more is written to the one before it.
        """
        try:
            pairs[-1].append(Record(_WHOLE))
        except BlockingIOError:
            pair = self._open_pair(generation, pairs)
            self._settle()
            pair.append(Record(_WHOLE))

    def _extend(self) -> None:
        """Adds a pair to those in use, which is known to be in the manager's hands."""
        pairs = self._pairs.copy()
        self._open_pair(self._generation, pairs)
        try:
            self._settle()
        except TimeoutError:
            self._keeper.forget(f"ark.{self._generation}.{len(self._pairs)}")
            pairs[-1].close()
            raise
        self._pairs = pairs

    def _open_pair(self, generation: int, pairs: list[_Pair]) -> _Pair:
        pair = _Pair.create()
        try:
            # Kept before anything is in it: what is appended is safe at once.
            self._keeper.store(f"ark.{generation}.{len(pairs)}", pair.descriptors)
        except (BlockingIOError, TimeoutError, ConnectionError) as e:
            pair.close()
            raise TimeoutError("the manager does not take it") from e
        except OSError:
            pair.close()
            raise
        pairs.append(pair)
        return pair

    def _settle(self) -> None:
        if not self._keeper.settle():
            raise TimeoutError("the manager does not take it")

    def _drop(self, generation: int, pairs: list[_Pair]) -> None:
        for n, pair in enumerate(pairs):
            self._keeper.forget(f"ark.{generation}.{n}")
            pair.close()


class _Pair:
    """A socket pair with records in the receive queue of one end."""

    def __init__(self, reading: socket.socket, writing: socket.socket) -> None:
        self._reading = reading
        self._writing = writing
        self._writing.setblocking(False)
        self._reading.setblocking(False)
        self._half = writing.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2
        self._half_full = False
        self._unseen = _UNSEEN

    @classmethod
    def create(cls) -> _Pair:
        reading, writing = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        writing.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        pair = cls(reading, writing)
        # The first record tells the ends apart: only one of them has something to read.
        pair.append(Record(_BEGIN))
        return pair

    @classmethod
    def adopt(cls, descriptors: Sequence[int]) -> _Pair:
        """A pair that was handed on, its ends in any order."""
        one, other = (socket.socket(fileno=descriptor) for descriptor in descriptors)
        readable = select.poll()
        readable.register(one, select.POLLIN)
        return cls(one, other) if readable.poll(0) else cls(other, one)

    @property
    def half_full(self) -> bool:
        """Whether its content takes half of its room or more, or did when there were a few records less."""
        if self._unseen >= _UNSEEN:
            self._unseen = 0
            taken = fcntl.ioctl(self._writing, termios.TIOCOUTQ, bytes(4))
            self._half_full = int.from_bytes(taken, sys.byteorder) >= self._half
        return self._half_full

    @property
    def descriptors(self) -> list[int]:
        return [self._reading.fileno(), self._writing.fileno()]

    def append(self, record: Record) -> None:
        carried = array.array("i", record.descriptors).tobytes()
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, carried)] if carried else []
        self._writing.sendmsg([record.text], ancillary, _FLAGS)
        self._unseen += 1

    def records(self) -> Iterator[Record]:
        self._reading.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, 0)
        while True:
            try:
                record = self._peek()
            except BlockingIOError:
                return
            if not record.text:
                return
            yield record

    def whole(self) -> bool:
        """Whether the pair holds the mark of a whole generation."""
        self._reading.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, 0)
        try:
            while text := self._reading.recv(_MAX_TEXT, socket.MSG_PEEK):
                if text == _WHOLE:
                    return True
        except BlockingIOError:
            pass
        return False

    def empty(self) -> None:
        try:
            # In order, so that what is left by who is killed meanwhile does not begin as an ark does.
            while self._reading.recv(_MAX_TEXT):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        self._reading.close()
        self._writing.close()

    def _peek(self) -> Record:
        room = socket.CMSG_SPACE(4 * MAX_DESCRIPTORS)
        text, ancillary, flags, _ = self._reading.recvmsg(_MAX_TEXT, room, socket.MSG_PEEK | socket.MSG_CMSG_CLOEXEC)
        fds = array.array("i")
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data[: len(data) // 4 * 4])
        if flags & socket.MSG_CTRUNC:
            for fd in fds:
                os.close(fd)
            raise OSError("descriptors are missing")
        return Record(text, tuple(fds))
