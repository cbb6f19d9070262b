"""What descriptors cost the kernel: memory that no process is said to have."""

from __future__ import annotations

import os
import select
import socket
import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

BATCHES = 5
RECORDS = 1_500
_SLABS = Path("/proc/slabinfo")


class Costs(NamedTuple):
    """Bytes of kernel memory for each."""

    eventfd: int
    watched: int
    """An eventfd that is also watched for edges by an epoll."""
    record: int
    """What carries descriptors in flight, be it one or 253."""


def costs(n: int) -> Costs | None:
    """Measured of `n` eventfds; None where the kernel shows its memory to others only."""
    if not os.access(_SLABS, os.R_OK):
        return None
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


def _cost(make: Callable[[], object], n: int) -> int:
    """What one takes: so many objects of each kind that the kernel has, each of so many bytes.

    Objects in use are counted, not pages, which have room from before. What other processes make and let go of
    meanwhile differs from batch to batch: the median counts, and one takes whole objects.
    """
    batch, counts = n // BATCHES, [_objects()]
    for _ in range(BATCHES):
        for _ in range(batch):
            make()
        counts.append(_objects())
    cost = 0
    for kind, (_, size) in counts[0].items():
        more = statistics.median(after[kind][0] - before[kind][0] for before, after in pairwise(counts))
        cost += round(more / batch) * size
    return cost


def _objects() -> dict[str, tuple[int, int]]:
    """Of each kind of the kernel's small objects: how many are in use, and the bytes of one."""
    rows = (line.split() for line in _SLABS.read_text().splitlines()[2:])
    return {kind: (int(used), int(size)) for kind, used, _, size, *_ in rows}


def _eventfd(stack: ExitStack) -> int:
    made = os.eventfd(0, os.EFD_NONBLOCK)
    stack.callback(os.close, made)
    return made
