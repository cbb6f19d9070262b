"""Where the stock server ends: peers of sixteen vectors, which begin to read a moment after they have connected."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from bench.scale.growth import VECTORS
from famezd.protocol import MESSAGE_SIZE
from tests.stock.server import StockServer, StockServerError

MOMENT = 0.02
"""Seconds until a newcomer reads."""
_ROOM = socket.CMSG_SPACE(4)


class Mesh(NamedTuple):
    """How far it went."""

    faultless: int
    """Peers of whom all were told of all."""
    died: int
    """The peer at whom the server died; 0 if none of those was."""


def mesh(most: int) -> Mesh:
    """Has peers join the stock server, one after the other, up to so many."""
    connections: list[socket.socket] = []
    faultless = died = 0
    try:
        with tempfile.TemporaryDirectory() as folder, StockServer(Path(folder), vectors=VECTORS) as server:
            for n in range(1, most + 1):
                connections.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                connections[-1].connect(str(server.socket))
                time.sleep(MOMENT)
                told = [_bells(connection) for connection in connections]
                # All who were there are told of the newcomer, and the newcomer of all.
                if faultless == n - 1 and told == [VECTORS] * (n - 1) + [1 + VECTORS * n]:
                    faultless = n
                if not server.alive:
                    died = n
                    break
    except StockServerError:
        # It has died, as was to be shown.
        assert died, "the stock server did not start"
    finally:
        for connection in connections:
            connection.close()
    return Mesh(faultless, died)


def _bells(connection: socket.socket) -> int:
    """How many descriptors have been sent there since that was last asked; all are closed."""
    found = 0
    connection.setblocking(False)
    with suppress(BlockingIOError, ConnectionError):
        while True:
            word, ancillary, _, _ = connection.recvmsg(MESSAGE_SIZE, _ROOM, socket.MSG_CMSG_CLOEXEC)
            if not word:
                break
            if ancillary:
                os.close(int.from_bytes(ancillary[0][2][:4], "little"))
                found += 1
    return found
