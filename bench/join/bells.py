"""What private bells cost at all: eventfds that are made and watched for a peer, and let go of when it leaves."""

from __future__ import annotations

import os
import select
import statistics
import time

REPEATS = 20


def private(bells: int) -> float:
    """Seconds in which so many are made, watched, watched no more, and closed, in a bare loop; the median."""
    times = []
    with select.epoll() as epoll:
        for _ in range(REPEATS):
            began = time.perf_counter()
            made = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(bells)]
            for bell in made:
                epoll.register(bell, select.EPOLLIN | select.EPOLLET)
            for bell in made:
                epoll.unregister(bell)
                os.close(bell)
            times.append(time.perf_counter() - began)
    return statistics.median(times)
