"""Who is on the other end of a connection, and whether it may join."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from famezd.fabric.access import Rules, supplementary_groups
from famezd.fabric.listener import credentials

ROOT = os.geteuid() == 0
CALLER = """
import os, socket, sys
groups, uid, gid = eval(sys.argv[2])
if os.geteuid() == 0:
    os.setgroups(groups), os.setresgid(gid, gid, gid), os.setresuid(uid, uid, uid)
with socket.socket(socket.AF_UNIX) as caller:
    caller.connect(sys.argv[1].replace('@', '\\0'))
    sys.stdin.read()
"""
OWN = os.geteuid(), os.getegid()
UID, GID = (1234, 5678) if ROOT else OWN


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        # Where others can reach it, too.
        listener.bind(f"\0{tmp_path}")
        listener.listen()
        yield listener


@contextmanager
def called(listener: socket.socket, groups: Sequence[int]) -> Iterator[socket.socket]:
    """A connection from a process of user UID and group GID, and as root with these other groups."""
    address = os.fsdecode(listener.getsockname()).replace("\0", "@")
    command = [sys.executable, "-c", CALLER, address, repr((groups, UID, GID))]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as caller:
        connection, _ = listener.accept()
        with connection:
            yield connection
        caller.communicate()


def admitted(connection: socket.socket, *, users: Iterable[int] = (), groups: Iterable[int] = ()) -> bool:
    return Rules(frozenset(users), frozenset(groups)).admit(connection, credentials(connection))


# As many as Python's getsockopt has room for, one more, and as many as there can be.
@pytest.mark.parametrize("n", [0, 1, 256, 257, 65536])
def test_groups_are_those_of_the_other_end(listener: socket.socket, n: int) -> None:
    given = range(7000, 7000 + n)
    with called(listener, given) as connection:
        assert sorted(supplementary_groups(connection)) == (list(given) if ROOT else sorted(os.getgroups()))


def test_everybody_may_join_where_nobody_is_listed(listener: socket.socket) -> None:
    with called(listener, []) as connection:
        assert admitted(connection)


def test_users_and_groups_that_are_listed_may_join(listener: socket.socket) -> None:
    with called(listener, [7001, 7002]) as connection:
        assert admitted(connection, users={UID, 1})
        assert admitted(connection, groups={GID})
        assert admitted(connection, users={1}, groups={GID})
        for group in [7001, 7002] if ROOT else os.getgroups():
            assert admitted(connection, groups={group, 1})


def test_others_may_not(listener: socket.socket) -> None:
    with called(listener, [7001]) as connection:
        assert not admitted(connection, users={UID + 1})
        assert not admitted(connection, groups={7000, 7002})
        # A user's number is no group's.
        assert not admitted(connection, users={GID + 1}, groups={UID + 100000})


def test_root_may_not_unless_it_is_listed(listener: socket.socket) -> None:
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(listener.getsockname())
        connection, _ = listener.accept()
        with connection:
            assert not admitted(connection, users={OWN[0] + 1})
            assert not admitted(connection, groups={4000000000})
            assert admitted(connection, users={OWN[0]})
