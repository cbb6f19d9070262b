"""The doors of a fabric: the sockets at which newcomers come. Its own, and those of ports that have one."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from famezd.errors import FamezError
from famezd.fabric.listener import give_socket, identity, listen, unlink
from famezd.fabric.settings import Settings

SOCKET = "socket"
"""What the fabric's own is called among the descriptors that are handed on and kept; a port's is `socket.PORT`."""
NAME = re.compile(rf"{SOCKET}(?:\.\d+)?")


class Keeper(Protocol):
    """Who keeps descriptors: the manager."""

    def store(self, name: str, descriptors: Sequence[int]) -> None:
        """Keeps descriptors under a name."""

    def forget(self, name: str) -> None:
        """Lets go of all that is kept under a name."""


class Door(NamedTuple):
    """A listening socket."""

    listener: socket.socket
    port: int | None
    """The port that is given there, None at the fabric's own."""
    file: tuple[int, int] | None
    """The identity of the socket's file."""


class Doors:
    """All doors of a fabric: those that were inherited, if they fit, and new ones."""

    def __init__(
        self,
        settings: Settings,
        given: Mapping[str, Sequence[int]],
        going_on: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """Raises ListenerError if one cannot be opened; what is wrong with inherited ones goes to `going_on`."""
        self._settings = settings
        self._going_on = going_on
        self._doors: dict[int, Door] = {}
        self._new: list[tuple[str, int]] = []
        wanted: dict[str, tuple[str, int | None]] = {SOCKET: (settings.socket, None)}
        for pinned in sorted(settings.pinned.sockets):
            wanted[f"{SOCKET}.{pinned}"] = settings.port_socket(pinned), pinned
        for name, (path, port) in wanted.items():
            listener = self._inherit(given.get(name, ()), path)
            if listener is None:
                listener = self._open(path)
                self._new.append((name, listener.fileno()))
            self._doors[listener.fileno()] = Door(listener, port, identity(path))
        self._obsolete = [name for name in given if NAME.fullmatch(name) and name not in wanted]
        for name in self._obsolete:
            for descriptor in given[name]:
                os.close(descriptor)

    def keep(self, keeper: Keeper) -> None:
        """Stores the new ones, and has those let go of that are not wanted any more: nobody needs these now."""
        for name, descriptor in self._new:
            keeper.store(name, [descriptor])
        for name in self._obsolete:
            keeper.forget(name)

    def withdraw(self) -> None:
        """Removes the files of the new ones: nobody will listen at these."""
        self._unlink(self._doors[descriptor] for _, descriptor in self._new)

    def discard(self) -> None:
        """Removes their files, as far as these are still their own."""
        self._unlink(self._doors.values())

    def __iter__(self) -> Iterator[Door]:
        return iter(self._doors.values())

    def at(self, descriptor: int) -> Door | None:
        """The door whose socket has this descriptor."""
        return self._doors.get(descriptor)

    def _inherit(self, given: Sequence[int], path: str) -> socket.socket | None:
        own = self._settings
        for descriptor in given:
            listener = socket.socket(fileno=descriptor)
            listener.setblocking(False)
            if listener.getsockname() == path and os.path.exists(path):
                with self._going_on():
                    give_socket(path, uid=own.socket_uid, gid=own.socket_gid, mode=own.socket_mode)
                return listener
            # It was given another path, or its file was removed, and nobody could find it any more.
            listener.close()
        return None

    def _open(self, path: str) -> socket.socket:
        own = self._settings
        try:
            return listen(path, uid=own.socket_uid, gid=own.socket_gid, mode=own.socket_mode)
        except FamezError:
            self.withdraw()
            raise

    def _unlink(self, doors: Iterable[Door]) -> None:
        for door in doors:
            unlink(door.listener.getsockname(), door.file)
