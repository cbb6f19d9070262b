"""Newcomers who were turned away, until they have read it.

A QEMU that runs connects when it is told of the socket, and reads when it is told of the device. If the connection is
gone by then, QEMU takes that for silence, and waits for the version in a loop that it never leaves (seen with 7.2). So
our side only says that nothing more will come, and stays for a while: the version -1 is read, and the device refused.
"""

from __future__ import annotations

import socket
from collections import deque

from famezd.fabric.ledger import hang_up

LINGER = 10.0
"""Seconds for which a connection is kept."""
MOST = 8
"""Connections that are kept at once: of those beyond the first ends early, or whoever is refused could use up all."""


class Refusals:
    """Connections on which a refusal was sent."""

    def __init__(self) -> None:
        self._kept: deque[tuple[float, int]] = deque()

    @property
    def due(self) -> float | None:
        """When `tick` has something to do, in seconds of the monotonic clock."""
        return self._kept[0][0] if self._kept else None

    def keep(self, connection: socket.socket, now: float) -> None:
        """Ends a connection in our direction, and the whole of it later."""
        try:
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            # Its other end is gone already.
            connection.close()
            return
        self._kept.append((now + LINGER, connection.detach()))
        if len(self._kept) > MOST:
            self._end_first()

    def tick(self, now: float) -> None:
        """Ends those whose time has come."""
        while self._kept and now >= self._kept[0][0]:
            self._end_first()

    def _end_first(self) -> None:
        hang_up(self._kept.popleft()[1])
