"""How many more descriptors peers' processes can take: QEMU dies of one that does not arrive."""

from __future__ import annotations

import time
from collections.abc import Collection

from famezd.fabric.peer import Peer
from famezd.fabric.processes import open_descriptors, soft_limit

AGE = 0.01
"""Seconds for which a look is good. What is sent because of it may lie unread for as long; a storm is over by then."""


class Rooms:
    """What was seen a moment ago of the members' processes, less what they were sent since."""

    def __init__(self) -> None:
        self._left: dict[int, int] = {}
        self._until = 0.0

    def take(self, pid: int, memberships: Collection[Peer], needed: int, *, anew: bool = False) -> int:
        """How many are left when a process, with these memberships, has taken so many more; below 0 it cannot.

        `anew`: whatever was seen before.
        """
        left = self._left.get(pid, -1) if time.monotonic() < self._until else self._forget()
        if anew or left < needed:
            left = room(pid, memberships)
        self._left[pid] = left - needed
        return left - needed

    def _forget(self) -> int:
        self._left.clear()
        self._until = time.monotonic() + AGE
        return -1


def room(pid: int, memberships: Collection[Peer]) -> int:
    """How many more descriptors a process, with these memberships, can take before it passes its soft limit.

    What was sent counts before it is read: a QEMU opens all its connections before it reads from any.
    """
    return soft_limit(pid) - open_descriptors(pid) - sum(member.undelivered() for member in memberships)
