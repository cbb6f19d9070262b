"""What all unit tests share."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
