"""What descriptors cost the kernel: memory that no process is said to have."""

from __future__ import annotations

import os
import select
import socket
import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

BATCHES = 5
RECORDS = 1_500


class Costs(NamedTuple):
    """Bytes of kernel memory for each."""

    eventfd: float
    watched: float
    """An eventfd that is also watched for edges by an epoll."""
    record: float
    """What carries descriptors in flight, be it one or 253."""


def costs(n: int) -> Costs:
    """Measured of `n` eventfds."""
    with ExitStack() as stack:
        eventfd = _cost(lambda: _eventfd(stack), n)
    with ExitStack() as stack:
        epoll = stack.enter_context(select.epoll())
        watched = _cost(lambda: epoll.register(_eventfd(stack), select.EPOLLIN | select.EPOLLET), n)
    with ExitStack() as stack:
        ours, theirs = map(stack.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        carried = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _eventfd(stack).to_bytes(4, sys.byteorder))]
        record = _cost(lambda: ours.sendmsg([b"join"], carried), RECORDS)
        theirs.close()
    return Costs(eventfd, watched, record)


def _cost(make: Callable[[], object], n: int) -> float:
    """What one takes: the median of batches, none of which lets go of anything that another could use again."""
    batch, found = n // BATCHES, []
    for _ in range(BATCHES):
        before = _slabs()
        for _ in range(batch):
            make()
        found.append((_slabs() - before) / batch)
    return statistics.median(found)


def _slabs() -> int:
    """Bytes of the kernel's small objects."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Slab:")) << 10


def _eventfd(stack: ExitStack) -> int:
    made = os.eventfd(0, os.EFD_NONBLOCK)
    stack.callback(os.close, made)
    return made
