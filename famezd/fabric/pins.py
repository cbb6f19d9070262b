"""Pins: ports that are kept for somebody, so that a machine gets the same id again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from famezd.errors import FamezError

SOCKET = "socket"
"""Of a port that has a socket of its own, in place of a user id."""


def port_socket(directory: str, fabric: str, port: int) -> str:
    """The path of a port's own socket."""
    return f"{directory}/{fabric}.{port}.sock"


class PinsError(FamezError):
    """The pins that a worker was given are none."""


class Pins(NamedTuple):
    """A fabric's pins."""

    users: Mapping[int, int] = {}
    """By port, the user id for which it is kept."""
    sockets: frozenset[int] = frozenset()
    """Ports that have a socket of their own, and are for who joins there."""

    def open_to(self, port: int, uid: int) -> bool:
        """Whether somebody with this user id may get the port at the fabric's own socket."""
        return port not in self.sockets and self.users.get(port, uid) == uid

    def of(self, uid: int) -> list[int]:
        """The ports that are kept for a user."""
        return sorted(port for port, user in self.users.items() if user == uid)

    def __str__(self) -> str:
        """As `pins` reads them."""
        users = {port: str(uid) for port, uid in self.users.items()}
        told = users | dict.fromkeys(self.sockets, SOCKET)
        return ",".join(f"{port}:{whose}" for port, whose in sorted(told.items()))


def pins(text: str) -> Pins:
    """The pins in a worker's settings: `PORT:UID` or `PORT:socket`, with commas between; raises PinsError."""
    users: dict[int, int] = {}
    sockets = set[int]()
    for word in text.split(",") if text else ():
        port, _, whose = word.partition(":")
        try:
            if whose == SOCKET:
                sockets.add(int(port))
            else:
                users[int(port)] = int(whose)
        except ValueError as e:
            raise PinsError(f"pins={text}: pins are PORT:UID or PORT:{SOCKET}, with commas between") from e
    return Pins(users, frozenset(sockets))
