"""One real worker process, started as the supervisor starts it, and clients that do to it only what a test says.

Whatever is waited for is waited for with a deadline, and a worker that dies meanwhile is noticed at once.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Self, TypeVar

from famezd import ark
from famezd.client import Peer
from famezd.client.peer import received
from famezd.fabric import doors
from famezd.fabric.handed import LOCK, MAILBOX, STATE, STATS, SUPERVISOR
from famezd.fabric.settings import Settings
from famezd.notify import NotifySocket
from famezd.protocol import (
    MESSAGE_SIZE,
    Client,
    Descriptor,
    Event,
    Message,
    PeerId,
    PeerLeft,
    ProtocolError,
    decode,
    encode,
)
from famezd.stats import Page
from famezd.supervisor.spawn import spawn

DEADLINE = 60.0
"""Seconds for anything that is expected; nothing takes nearly as long, however much else the machine has to do."""
LOOK = 0.002
"""Seconds between two looks at what has no event, such as a counter in shared memory."""
_MOMENT = 0.005
"""Seconds without a turn of its loop, after which a worker that sleeps is at rest."""
PLAIN, GENZ = "famezd.switch.plain:Plain", "famezd.switch.genz:Genz"

T = TypeVar("T")


class WorkerDiedError(Exception):
    """The worker is gone, and nobody asked it to go."""


class Worker:
    """A worker, from its start to the end of the `with` block, where it has to stop cleanly."""

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        *,
        kept: Mapping[str, Sequence[int]] | None = None,
        limit: int | None = None,
        through: Sequence[str] = (),
        watchdog: float = 0.0,
        notify: NotifySocket | None = None,
        orders: Sequence[str] = (),
    ) -> None:
        """Starts the process, `through` a command that becomes it.

        `kept` is handed on to it, `limit` is its hard limit of descriptors, and it gives a sign of life three times in
        `watchdog` seconds. `orders` wait for it.
        """
        self.settings = settings
        self.kept: dict[str, list[int]] = {}
        """Copies of the descriptors that it stored, or was handed: for its successor."""
        self.told: list[dict[str, str]] = []
        """What it told its manager."""
        self.page: Page
        """Its counters, as soon as it is ready."""
        self.status: int | None = None
        """Its exit status once it has ended, minus a signal's number."""
        self.notify = notify or NotifySocket(str(folder / f"notify-{time.monotonic_ns()}"))
        """Where it tells its manager."""
        self._log = folder / f"log-{time.monotonic_ns()}"
        self._clients: list[Raw] = []
        self._calls: list[Callable[[], object]] = []
        self._lifeline, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for order in orders:
            self.order(order)
        command = [sys.executable, "-P", "-m", "famezd.fabric", *settings.arguments()]
        if limit is not None:
            command = ["/bin/sh", "-c", 'ulimit -n "$0"; exec "$@"', str(limit), *command]
        command = [*through, *command]
        handed = {SUPERVISOR: [theirs.fileno()], **(kept or {})}
        with open(self._log, "ab") as log, theirs:
            environ = {"NOTIFY_SOCKET": self.notify.path, "WATCHDOG_USEC": str(int(watchdog * 1e6))}
            self.pid = spawn(command, handed, log.fileno(), environ)
        for name, descriptors in (kept or {}).items():
            self._keep(name, [os.dup(fd) for fd in descriptors])
        self._pidfd = os.pidfd_open(self.pid)
        self._poll = select.poll()
        self._poll.register(self._pidfd, select.POLLIN)
        self._poll.register(self.notify, select.POLLIN)

    def __enter__(self) -> Self:
        try:
            return self.ready()
        except BaseException:
            self.close()
            raise

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.check()
        finally:
            self.close()

    @property
    def log(self) -> str:
        """All that it logged."""
        return self._log.read_text()

    def ready(self) -> Self:
        """Waits until it says that it serves."""
        self.wait(lambda: {"READY": "1"} in self.told, "the worker is ready")
        return self

    def wait(self, condition: Callable[[], T], what: str, *, timeout: float = DEADLINE) -> T:
        """Waits until `condition` returns something true, and returns it."""
        deadline = time.monotonic() + timeout
        while not (found := condition()):
            if self.status is not None:
                raise WorkerDiedError(f"status {self.status} while waiting until {what}; its log:\n{self.log}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {timeout} s until {what}; the worker's log:\n{self.log}")
            self._listen(LOOK)
        return found

    def ended(self, *, timeout: float = DEADLINE) -> int:
        """Waits until the process has ended; returns its exit status."""
        deadline = time.monotonic() + timeout
        while self.status is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the worker has not ended within {timeout} s; its log:\n{self.log}")
            self._listen(deadline - time.monotonic())
        return self.status

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Sends a signal, and waits for the end."""
        if self.status is None:
            os.kill(self.pid, number)
        status = self.ended()
        if number == signal.SIGTERM:
            # Stopped for good: a manager lets go of all, and then the peers' connections end. We still want to read.
            for name in set(self.kept) - {STATS}:
                self._forget(name)
        return status

    def order(self, order: str) -> None:
        """Tells it to do something."""
        self._lifeline.send(order.encode())

    def await_answer(self, order: str) -> None:
        """Waits until it says that it has done it."""
        self.wait(lambda: {"X_FAMEZ": order} in self.told, f"it answers to {order!r}")

    def hear(self) -> None:
        """Takes what it has told its manager so far, so that it need not wait: for who stops it while it tells much."""
        while self.notify.fileno() in dict(self._poll.poll(0)):
            self._hear()

    def hang_up(self) -> None:
        """Closes the supervisor's end, as its death would."""
        self._lifeline.close()

    def lose_manager(self) -> None:
        """Its manager dies: what it was told and has not read, and all that it is told from now on, is lost."""
        self._poll.unregister(self.notify)
        self.notify.close()

    def forget(self) -> None:
        """Closes the descriptors that it stored: as if its manager had never kept any."""
        for name in list(self.kept):
            self._forget(name)

    @contextlib.contextmanager
    def unheard(self) -> Iterator[None]:
        """While this lasts its manager does not read what it tells."""
        self._poll.unregister(self.notify)
        try:
            yield
        finally:
            self._poll.register(self.notify, select.POLLIN)

    def check(self) -> None:
        """It lives, nothing in it failed, and it stops cleanly."""
        assert self.kill(signal.SIGTERM) in (0, -signal.SIGKILL), self.log
        assert "Traceback" not in self.log, self.log
        assert "personality failed" not in self.log, self.log

    def at_end(self, call: Callable[[], object]) -> None:
        """Calls this before all that belongs to the worker ends."""
        self._calls.append(call)

    def close(self) -> None:
        """Ends the process if it still runs, and all that belongs to it."""
        for call in self._calls:
            call()
        for client in self._clients:
            client.close()
        if self.status is None:
            self.kill()
        os.close(self._pidfd)
        self._lifeline.close()
        self.notify.close()
        self.forget()

    # Its peers

    def connect(self) -> Raw:
        """A new connection, on which nothing has been read."""
        client = Raw(self.settings)
        self._clients.append(client)
        return client

    def join(self) -> Raw:
        """A new peer, its set-up read."""
        return self.connect().set_up()

    def peer(self) -> Peer:
        """A new peer of the library's."""
        return Peer.join(self.settings.socket, timeout=DEADLINE)

    def acquaint(self, *clients: Raw) -> None:
        """Waits until these know each other: with fresh ports a peer hears of a later one a little later."""
        for client, other in product(clients, clients):
            self.wait(lambda: client.can_ring(other.id), f"peer {client.id} knows peer {other.id}")  # noqa: B023

    def barrier(self) -> None:
        """Returns when the worker has done all that was there to do before this call, and disturbs no peer.

        Twice, because it may be in the middle of a turn.
        """
        for _ in range(2):
            turns = self.totals["turns"]
            # The signal by which its relay watches itself: it makes the loop turn, and does nothing else.
            os.kill(self.pid, signal.SIGALRM)
            self.wait(lambda: self.totals["turns"] > turns, "it turns once more")  # noqa: B023 (called at once)

    def rest(self) -> None:
        """Returns when it has nothing to do, and has had nothing for a moment: it makes nothing ready any more."""

        def rests() -> bool:
            turns = self.totals["turns"]
            self._listen(_MOMENT)
            return self.state == "S" and self.totals["turns"] == turns

        self.wait(rests, "it is at rest")

    @property
    def state(self) -> str:
        """What its process does, as proc(5) has it: S where it sleeps, T where it is stopped."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2][0]

    # Its counters

    @property
    def totals(self) -> dict[str, int]:
        """The stats page's totals."""
        return self.page.totals()

    @property
    def left(self) -> int:
        """How many peers have left, whatever the reason."""
        return sum(n for name, n in self.totals.items() if name.startswith("left_"))

    @property
    def refused(self) -> int:
        """How many newcomers were refused, whatever the reason."""
        return sum(n for name, n in self.totals.items() if name.startswith("refused_"))

    @property
    def present(self) -> list[int]:
        """The ids of those who are there."""
        return sorted(occupant.peer for occupant in self.page.occupants())

    def doorbells(self) -> dict[tuple[int, int, int], int]:
        """Every doorbell counter that is not zero, by (row, place, vector)."""
        shape, found = self.page.shape, {}
        for i, n in enumerate(self.page.doorbells()):
            if n:
                row, rest = divmod(i, shape.places * shape.vectors)
                found[row, *divmod(rest, shape.vectors)] = n
        return found

    def await_total(self, name: str, n: int) -> None:
        """Waits until a total is exactly `n`."""
        self.wait(lambda: self.totals[name] >= n, f"{name} is {n}")
        assert self.totals[name] == n, self.totals

    def await_doorbells(self, expected: Mapping[tuple[int, int, int], int]) -> None:
        """Waits until as many doorbells were counted as are expected; they have to be the expected ones."""
        self.wait(lambda: sum(self.doorbells().values()) >= sum(expected.values()), "all doorbells are counted")
        assert self.doorbells() == dict(expected)

    def await_log(self, text: str, n: int = 1) -> None:
        """Waits until it has logged this `n` times: it logs what it has done, so a little later."""
        self.wait(lambda: self.log.count(text) >= n, f"it logs {text!r}")

    # Its manager

    def _listen(self, timeout: float) -> None:
        ready = dict(self._poll.poll(max(0.0, timeout) * 1000))
        if self.notify.fileno() in ready:
            self._hear()
        elif self._pidfd in ready and self.status is None:
            # Only when it has been heard to the end.
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _hear(self) -> None:
        told = self.notify.receive()
        if told.pid != self.pid:
            # Somebody else's, who was there to fill the queue.
            return
        if "BARRIER" in told.assignments:
            told.confirm()
            return
        self.told.append(told.assignments)
        if told.assignments.get("FDSTORE") == "1":
            self._keep(told.assignments["FDNAME"], told.descriptors)
        if told.assignments.get("FDSTOREREMOVE") == "1":
            self._forget(told.assignments["FDNAME"])

    def _keep(self, name: str, descriptors: list[int]) -> None:
        known = name in (MAILBOX, LOCK, STATS, STATE) or ark.NAME.fullmatch(name) or doors.NAME.fullmatch(name)
        assert known, name
        self._forget(name)
        self.kept[name] = descriptors
        if name == STATS:
            self.page = Page.open(os.dup(descriptors[0]))

    def _forget(self, name: str) -> None:
        for descriptor in self.kept.pop(name, ()):
            os.close(descriptor)
            if name == STATS:
                self.page.close()


class Raw:
    """A client that reads messages one by one, and checks each by the protocol."""

    def __init__(self, settings: Settings) -> None:
        self.client = Client()
        self.values: list[int] = []
        """Of all messages that were read."""
        self._vectors = settings.vectors
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.connection.settimeout(DEADLINE)
        self.connection.connect(settings.socket)

    def read(self) -> Message | None:
        """The next message, not looked into; None at the end of the stream."""
        try:
            word, descriptors, flags = received(self.connection)
        except ConnectionResetError:
            return None
        assert not flags & socket.MSG_CTRUNC, "a descriptor was lost: this process's limit of open files is too low"
        if not word:
            return None
        assert len(word) == MESSAGE_SIZE
        message = Message(decode(word), Descriptor(descriptors[0]) if descriptors else None)
        self.values.append(message.value)
        return message

    def hear(self) -> list[Event]:
        """Reads all that is there without waiting, and takes it for what the protocol says."""
        events: list[Event] = []
        self.connection.setblocking(False)
        try:
            while message := self.read():
                events += self.understand(message)
        except BlockingIOError:
            pass
        finally:
            self.connection.settimeout(DEADLINE)
        return events

    def understand(self, message: Message) -> list[Event]:
        """Gives a message to the protocol's state machine, which raises ProtocolError where it is out of order."""
        carried = () if message.descriptor is None else (message.descriptor,)
        try:
            events = self.client.receive(encode(message.value), carried)
        except ProtocolError:
            for descriptor in carried:
                os.close(descriptor)
            raise
        for event in events:
            if isinstance(event, PeerLeft):
                for descriptor in event.descriptors:
                    os.close(descriptor)
        return events

    def set_up(self) -> Self:
        """Reads until the set-up is complete."""
        while len(self.own) < self._vectors:
            message = self.read()
            assert message is not None, f"the set-up ends after {self.values}"
            self.understand(message)
        return self

    def ended(self) -> bool:
        """Whether its connection is over, when all that was sent has been read."""
        self.connection.setblocking(False)
        try:
            return not self.connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        finally:
            self.connection.settimeout(DEADLINE)

    def at_end(self) -> bool:
        """Waits for the next message; whether there is none any more."""
        return self.read() is None

    @property
    def id(self) -> int:
        """This peer's id."""
        assert self.client.peer is not None
        return self.client.peer

    @property
    def memory(self) -> int:
        """The descriptor of the shared memory."""
        assert self.client.memory is not None
        return self.client.memory

    @property
    def peers(self) -> list[int]:
        """The others' ids, as far as this one knows."""
        return sorted(peer for peer in self.client.peers if peer != self.client.peer)

    def knows(self, n: int) -> bool:
        """Reads what there is; whether there are then n others."""
        self.hear()
        return len(self.peers) == n

    def can_ring(self, peer: int) -> bool:
        """Reads what there is; whether it can then ring `peer` on all vectors."""
        self.hear()
        return len(self.client.peers.get(PeerId(peer), ())) == self._vectors

    @property
    def own(self) -> list[Descriptor]:
        """The eventfds on which it receives, by vector."""
        return [] if self.client.peer is None else self.client.peers.get(self.client.peer, [])

    def bells(self, peer: int) -> list[Descriptor]:
        """What it rings `peer` by, by vector."""
        return self.client.peers[PeerId(peer)]

    def ring(self, peer: int, vector: int = 0, n: int = 1) -> None:
        """Rings `peer`, `n` times at once."""
        os.eventfd_write(self.bells(peer)[vector], n)

    def take(self, vector: int = 0) -> int:
        """How often it was rung since it last looked; does not wait."""
        return take(self.own[vector])

    def close(self) -> None:
        """Leaves."""
        self.connection.close()
        held = [fd for bells in self.client.peers.values() for fd in bells]
        if self.client.memory is not None:
            held.append(self.client.memory)
        self.client = Client()
        for descriptor in held:
            os.close(descriptor)


def take(eventfd: int) -> int:
    """Takes an eventfd's count, also where it would block."""
    count = bytearray(8)
    try:
        os.preadv(eventfd, [count], -1, os.RWF_NOWAIT)
    except BlockingIOError:
        return 0
    return int.from_bytes(count, sys.byteorder)


def eventfd_id(descriptor: int) -> str:
    """The kernel's number of an eventfd: the same for every descriptor of it."""
    for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines():
        if line.startswith("eventfd-id:"):
            return line.split()[1]
    raise AssertionError(f"descriptor {descriptor} is no eventfd")


def stood_still(worker: Worker, seconds: float) -> bool:
    """Whether its loop has not turned for so long."""
    turns = worker.totals["turns"]
    try:
        worker.wait(lambda: worker.totals["turns"] != turns, "it turns", timeout=seconds)
    except TimeoutError:
        return True
    return False
