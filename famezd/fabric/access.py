"""Who may join a fabric: decided by what the kernel says of a connection, before anything is sent on it."""

from __future__ import annotations

import array
import errno
import socket
from typing import NamedTuple

from famezd.errors import FamezError
from famezd.fabric.listener import Credentials

_SO_PEERGROUPS = 59
"""Of the kernel; Python does not name it."""
_GROUPS_AT_ONCE = 256
"""As many as Python's getsockopt has room for."""
_MOST_GROUPS = 65536
"""NGROUPS_MAX of the kernel."""


class AccessError(FamezError):
    """The rules that a worker was given are none."""


class Rules(NamedTuple):
    """A fabric's rules."""

    users: frozenset[int] = frozenset()
    groups: frozenset[int] = frozenset()
    """Who is one of the users, or in one of the groups, may join; where both are empty, everybody may."""
    per_user: int = 0
    """The most memberships that one user may have at once, 0 for no limit."""

    def admit(self, connection: socket.socket, who: Credentials) -> bool:
        """Whether the other end of a connection may join. Root is no exception."""
        if not (self.users or self.groups) or who.uid in self.users or who.gid in self.groups:
            return True
        return bool(self.groups) and not self.groups.isdisjoint(supplementary_groups(connection))


def rules(users: str, groups: str, per_user: int) -> Rules:
    """The rules in a worker's settings, ids with commas between; raises AccessError for what is none."""
    return Rules(_ids("users", users), _ids("groups", groups), per_user)


def _ids(key: str, text: str) -> frozenset[int]:
    try:
        return frozenset(int(word) for word in text.split(",")) if text else frozenset()
    except ValueError as e:
        raise AccessError(f"{key}={text}: {key} are whole numbers with commas between") from e


def supplementary_groups(connection: socket.socket) -> list[int]:
    """The supplementary groups that a connected AF_UNIX socket's other end had when it connected (SO_PEERGROUPS)."""
    groups = array.array("I")
    try:
        groups.frombytes(connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_AT_ONCE * groups.itemsize))
    except OSError as e:
        if e.errno != errno.ERANGE:
            raise
        return _many_groups(connection)
    return groups.tolist()


def _many_groups(connection: socket.socket) -> list[int]:
    # The supervisor asks for nobody's groups, and does without this.
    import ctypes  # noqa: PLC0415

    groups = (ctypes.c_uint32 * _MOST_GROUPS)()
    size = ctypes.c_uint32(ctypes.sizeof(groups))
    libc = ctypes.CDLL(None, use_errno=True)
    found = libc.getsockopt(
        connection.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, ctypes.byref(groups), ctypes.byref(size)
    )
    if found < 0:
        raise OSError(ctypes.get_errno(), "SO_PEERGROUPS")
    return list(groups[: size.value // ctypes.sizeof(ctypes.c_uint32)])
