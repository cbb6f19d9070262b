"""What all unit tests share."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples every time, and no limit on how long a busy machine takes for one.
settings.register_profile("famezd", derandomize=True, deadline=None)
settings.load_profile("famezd")

NOBODY = 65534
"""A user id without any rights."""


@contextmanager
def closing(*descriptors: int) -> Iterator[None]:
    """Closes them at the end."""
    try:
        yield
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def wait_until(true: Callable[[], object], seconds: float = 60.0) -> None:
    """Waits for what no event tells of."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.001)


def state_of(pid: int) -> str:
    """What a process does: R runs, S sleeps, Z has ended."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.fixture
def eventfd() -> Iterator[Callable[[], int]]:
    """Makes eventfds as a fabric does, which are closed after the test."""
    made: list[int] = []

    def make() -> int:
        made.append(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        return made[-1]

    yield make
    for descriptor in made:
        os.close(descriptor)
