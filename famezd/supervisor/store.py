"""What fabrics leave with the supervisor, and the supervisor with its own manager: descriptors that outlive them both.

To systemd a fabric's descriptors are called `<fabric>.<name>`, where the names are those of `famezd.fabric.handed` and
`famezd.ark`; the supervisor's own is `config.<n>`, which no fabric's can be. See sd_pid_notify_with_fds(3), FDSTORE.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping, Sequence

import structlog

from famezd import ark
from famezd.fabric import doors
from famezd.fabric.handed import LOCK, MAILBOX, STATE, STATS
from famezd.fabric.listener import identity, unlink
from famezd.mailbox import discard
from famezd.notify import Manager

_OF_A_FABRIC = re.compile(rf"(.+)\.({doors.NAME.pattern}|{MAILBOX}|{LOCK}|{STATS}|{STATE}|{ark.NAME.pattern})")
_CONFIG = re.compile(r"config\.(\d+)")


class Shelf:
    """One fabric's part of the store."""

    def __init__(self, fabric: str, manager: Manager) -> None:
        self._fabric = fabric
        self._manager = manager
        self._kept: dict[str, list[int]] = {}
        self._sockets: dict[str, tuple[str, tuple[int, int] | None]] = {}
        """Path and identity of each socket's file, by the descriptor's name."""
        self._missed = False

    @property
    def kept(self) -> Mapping[str, Sequence[int]]:
        """The descriptors by name; they stay the shelf's."""
        return self._kept

    def put(self, name: str, descriptors: list[int]) -> None:
        """Takes descriptors over that the manager has already."""
        self._kept[name] = descriptors
        if doors.NAME.fullmatch(name):
            path = _path(descriptors[0])
            self._sockets[name] = path, identity(path)

    def keep(self, name: str, descriptors: list[int]) -> None:
        """Takes descriptors over, in place of those that it had under that name, and hands copies to the manager."""
        self.forget(name)
        self.put(name, descriptors)
        try:
            self._manager.store(f"{self._fabric}.{name}", descriptors)
        except OSError as e:
            # Of one that is only too busy more may be wanted later.
            self._missed |= isinstance(e, TimeoutError | BlockingIOError)
            structlog.get_logger().error(
                "the manager keeps nothing: the fabric would not outlive famezd", fabric=self._fabric, error=str(e)
            )

    def handed_on(self) -> bool:
        """Whether the manager had time for all that it was to keep since this was last asked."""
        missed, self._missed = self._missed, False
        return not missed

    def forget(self, name: str) -> None:
        """Lets go of what it has under a name, if anything.

        Of a socket its file goes, too: nobody listens there any more.
        """
        if name in self._sockets:
            unlink(*self._sockets.pop(name))
        if name in self._kept:
            self._manager.forget(f"{self._fabric}.{name}")
            for descriptor in self._kept.pop(name):
                os.close(descriptor)

    def discard(self, memory: str) -> None:
        """Ends the fabric: its files go, if they are still its own, and all descriptors.

        `memory` is where the mailbox's file was made.
        """
        for descriptor in self._kept.get(MAILBOX, ()):
            discard(descriptor, memory)
        for name in list(self._kept):
            self.forget(name)


def _path(listening: int) -> str:
    with socket.socket(fileno=os.dup(listening)) as listener:
        return str(listener.getsockname())


class Store:
    """All shelves, and the text of the configuration that was accepted last."""

    def __init__(self, manager: Manager, given: Mapping[str, list[int]]) -> None:
        """`given` is what the manager handed on."""
        self.manager = manager
        self.others: dict[str, list[int]] = {}
        """What was handed on and comes from no store."""
        self._shelves: dict[str, Shelf] = {}
        self._config: dict[int, int] = {}
        for name, descriptors in given.items():
            if found := _OF_A_FABRIC.fullmatch(name):
                self.shelf(found[1]).put(found[2], descriptors)
            elif found := _CONFIG.fullmatch(name):
                self._config[int(found[1])] = descriptors[0]
            else:
                self.others[name] = descriptors

    @property
    def fabrics(self) -> list[str]:
        """The fabrics of which there is anything."""
        return [name for name, shelf in self._shelves.items() if shelf.kept]

    def shelf(self, fabric: str) -> Shelf:
        """A fabric's part."""
        return self._shelves.setdefault(fabric, Shelf(fabric, self.manager))

    @property
    def config(self) -> str | None:
        """What was kept by `keep_config`, None if nothing was."""
        if not self._config:
            return None
        descriptor = self._config[max(self._config)]
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode()

    def keep_config(self, text: str) -> None:
        """Keeps a text for the next famezd; the one before it goes when this one is there."""
        descriptor = os.memfd_create("famezd-config", os.MFD_CLOEXEC)
        os.write(descriptor, text.encode())
        number = max(self._config, default=-1) + 1
        try:
            self.manager.store(f"config.{number}", [descriptor])
        except OSError as e:
            # What was accepted before is better than nothing.
            structlog.get_logger().error("the manager does not keep the accepted configuration", error=str(e))
            os.close(descriptor)
            return
        self.forget_config()
        self._config[number] = descriptor

    def forget_config(self) -> None:
        """Lets go of what `keep_config` kept."""
        for number, descriptor in self._config.items():
            self.manager.forget(f"config.{number}")
            os.close(descriptor)
        self._config.clear()
