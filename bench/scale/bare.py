"""What a message with a descriptor costs at all: between two processes, by a bare socket pair."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time

from famezd.protocol import MESSAGE_SIZE

MESSAGES = 20_000


def message() -> float:
    """Seconds of the sender's processor time for one, to a peer that reads it and closes the descriptor."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    process = multiprocessing.get_context("fork").Process(target=_read, args=(theirs,), daemon=True)
    process.start()
    bell = os.eventfd(0)
    try:
        with ours, theirs:
            carried = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, bell.to_bytes(4, sys.byteorder))]
            began = time.process_time()
            for _ in range(MESSAGES):
                ours.sendmsg((bytes(MESSAGE_SIZE),), carried)
            ours.shutdown(socket.SHUT_WR)
            process.join()
            return (time.process_time() - began) / MESSAGES
    finally:
        os.close(bell)


def _read(connection: socket.socket) -> None:
    room = socket.CMSG_SPACE(4)
    while True:
        word, ancillary, _, _ = connection.recvmsg(MESSAGE_SIZE, room)
        if not word:
            return
        os.close(int.from_bytes(ancillary[0][2], sys.byteorder))
