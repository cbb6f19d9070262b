"""What the tests of a worker share."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest

from famezd.fabric.settings import Settings
from famezd.mailbox import slots_size
from tests.fabric.workers import GENZ, PLAIN, Worker


class Kind(NamedTuple):
    """How a fabric is wired, and whether its ids are ports."""

    doorbells: str
    ports: str


KINDS = [Kind(doorbells, ports) for doorbells in ("relayed", "direct") for ports in ("sticky", "fresh")]


class Start(Protocol):
    def __call__(self, **settings: Any) -> Worker: ...


@pytest.fixture(scope="session", autouse=True)
def descriptors() -> Iterator[None]:
    """Whoever plays many peers at once holds the descriptors of all of them."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    """A test closes what it opened: what it leaves would count against the limits that later tests are about."""
    before = os.listdir("/proc/self/fd")
    yield
    gc.collect()
    left = {
        fd: os.readlink(f"/proc/self/fd/{fd}") for fd in set(os.listdir("/proc/self/fd")) - set(before) if exists(fd)
    }
    assert not left


def exists(descriptor: str) -> bool:
    """Whether it is still open: the one that the listing was read by is not."""
    return os.path.lexists(f"/proc/self/fd/{descriptor}")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose name is short enough for a socket's path."""
    with tempfile.TemporaryDirectory(prefix="fz") as name:
        yield Path(name)


@pytest.fixture(params=KINDS, ids="-".join)
def kind(request: pytest.FixtureRequest) -> Kind:
    """All four combinations."""
    chosen: Kind = request.param
    return chosen


@pytest.fixture(params=["relayed", "direct"])
def doorbells(request: pytest.FixtureRequest) -> str:
    """Both wirings."""
    chosen: str = request.param
    return chosen


@pytest.fixture(params=["sticky", "fresh"])
def ports(request: pytest.FixtureRequest) -> str:
    """Both kinds of ports."""
    chosen: str = request.param
    return chosen


def settings(folder: Path, **given: Any) -> Settings:
    """A small fabric in a memfd, with what is given set differently."""
    values: dict[str, Any] = {
        "name": "test",
        "socket": str(folder / "s"),
        "memory": "famezd-test",
        "backing": "memfd",
        "size": 1 << 16,
        "peers": 5,
        "vectors": 3,
        "personality": PLAIN,
    }
    if given.get("personality") == GENZ:
        peers = given.get("peers", values["peers"])
        values |= {"vectors": peers + 2, "size": slots_size(peers)}
    return Settings(**(values | given))


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Starts a worker of `settings`; at the end it must be alive, and stop cleanly."""
    with contextlib.ExitStack() as workers:

        def started(**given: Any) -> Worker:
            return workers.enter_context(Worker(settings(folder, **given), folder))

        yield started
