"""The mailbox, measured: `python -m bench.mailbox`.

Messages of 100 bytes a second from one host client to another, each acknowledged before the next is sent, as the
mailbox has it. Beside them a pair of AF_UNIX sockets, a text one way and a byte back, and as the limit the same
hand-over without famezd: an eventfd rings, the text and the acknowledgement are in shared memory.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.programs import worker
from bench.report import Comparison, Row, Section, main
from famezd.client import Mailbox, Peer
from famezd.client.mailbox import SPIN
from famezd.fabric.settings import Settings
from famezd.mailbox import FileMemory, Slots, slots_size

SECONDS = 0.8
SOCKETS, LIMIT = "a socket pair", "an eventfd and memory"
TEXT = "x" * 100
PEERS = 14
AIM = 20_000
GENZ = "famezd.switch.genz:Genz"

Send = Callable[[], None]
"""Sends one message and returns when it is acknowledged."""


@contextmanager
def process(run: Callable[[], None]) -> Iterator[None]:
    """A process that does this for ever."""
    pid = os.fork()
    if pid == 0:
        try:
            run()
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@contextmanager
def socket_pair() -> Iterator[Send]:
    """A text through a socket, and a byte back."""
    ours, theirs = socket.socketpair()
    text = TEXT.encode()

    def acknowledge() -> None:
        while True:
            theirs.recv(4096)
            theirs.send(b"a")

    def send() -> None:
        ours.send(text)
        ours.recv(1)

    with ours, theirs, process(acknowledge):
        yield send


@contextmanager
def shared_memory() -> Iterator[Send]:
    """The mailbox's own slots and an eventfd, and nothing else."""
    memory, bell = os.memfd_create("famez-bench"), os.eventfd(0, os.EFD_NONBLOCK)
    os.ftruncate(memory, slots_size(PEERS))
    slots = Slots(FileMemory(memory))
    text = TEXT.encode()

    def take() -> None:
        poll = select.poll()
        poll.register(bell, select.POLLIN)
        while True:
            poll.poll()
            os.eventfd_read(bell)
            slots.take(1)

    def send() -> None:
        slots.put(1, text, 2)
        os.eventfd_write(bell, 1)
        spin = time.monotonic() + SPIN
        while slots.pending(1):
            if time.monotonic() < spin:
                os.sched_yield()
            else:
                # As a client does: who waits for long leaves the processor to others.
                time.sleep(SPIN)

    try:
        with process(take):
            yield send
    finally:
        os.close(bell)
        os.close(memory)


@contextmanager
def fabric(directory: Path, doorbells: str) -> Iterator[Send]:
    """Two host clients on a fabric of famezd's."""
    size = slots_size(PEERS)
    settings = Settings(
        "bench",
        str(directory / f"{doorbells}.sock"),
        "famez-bench",
        size,
        backing="memfd",
        peers=PEERS,
        vectors=PEERS + 2,
        personality=GENZ,
        doorbells=doorbells,
    )

    def take() -> None:
        with closing(Mailbox(receiver)) as mailbox:
            while True:
                mailbox.receive()

    with (
        worker(settings),
        Peer.join(settings.socket) as sender,
        Peer.join(settings.socket) as receiver,
        process(take),
        closing(Mailbox(sender)) as mailbox,
    ):
        yield lambda: mailbox.send(receiver.id, TEXT)


def rate(send: Send) -> float:
    """Messages a second."""
    n, began = 0, time.perf_counter()
    while (now := time.perf_counter()) < began + SECONDS:
        send()
        n += 1
    return n / (now - began)


def section(rounds: int) -> Section:
    """Messages a second."""
    with TemporaryDirectory() as directory, ExitStack() as stack:
        ways = {
            SOCKETS: stack.enter_context(socket_pair()),
            LIMIT: stack.enter_context(shared_memory()),
            "direct": stack.enter_context(fabric(Path(directory), "direct")),
            "relayed": stack.enter_context(fabric(Path(directory), "relayed")),
        }
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, send in ways.items():
                rates[way].append(rate(send))
    sockets, limit = rates.pop(SOCKETS), rates.pop(LIMIT)
    rows = [Row(f"{way} doorbells", found, sockets, limit) for way, found in rates.items()]
    reached = [f"{way} {'met' if statistics.median(found) >= AIM else '**missed**'}" for way, found in rates.items()]
    told = f"""
        Messages of {len(TEXT)} bytes from one host client to another, acknowledged one by one. F.E.E. reports {AIM:,} a
        second between virtual machines, which is the target: {", ".join(reached)}."""
    return Section("The mailbox", [told, Comparison("Messages", "a second", SOCKETS, rows, limit=LIMIT)])


if __name__ == "__main__":
    main("bench.mailbox", section, __doc__)
