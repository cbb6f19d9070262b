from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest

from famezd.fabric.refusals import LINGER, MOST, Refusals


@pytest.fixture
def refusals() -> Iterator[Refusals]:
    refusals = Refusals()
    yield refusals
    refusals.tick(float("inf"))


def refuse(refusals: Refusals, now: float) -> socket.socket:
    """The other end of a connection that was refused."""
    ours, theirs = socket.socketpair()
    ours.send(b"no")
    refusals.keep(ours, now)
    return theirs


def hung_up(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, 0)  # a hang-up is always told
    return bool(poll.poll(0))


def test_who_was_refused_reads_that_and_the_end_and_is_not_hung_up_on(refusals: Refusals) -> None:
    with refuse(refusals, 100.0) as theirs:
        assert not hung_up(theirs)
        assert (theirs.recv(10), theirs.recv(10)) == (b"no", b"")
        assert refusals.due == 100.0 + LINGER
        refusals.tick(100.0 + LINGER - 0.1)
        assert not hung_up(theirs)
        refusals.tick(100.0 + LINGER)
        assert hung_up(theirs)
        assert refusals.due is None


def test_no_more_than_some_are_kept(refusals: Refusals) -> None:
    connections = [refuse(refusals, 100.0 + n) for n in range(MOST + 2)]
    assert [hung_up(connection) for connection in connections] == [True, True, *[False] * MOST]
    assert refusals.due == 102.0 + LINGER
    for connection in connections:
        connection.close()


def test_who_has_gone_already_is_not_kept(refusals: Refusals) -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    refusals.keep(ours, 100.0)
    refusals.tick(100.0 + LINGER)
    assert refusals.due is None
    assert ours.fileno() == -1
