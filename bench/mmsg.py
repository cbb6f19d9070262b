"""Many messages of the ivshmem protocol by one system call: the lightest client that there can be, and server.

What servers are measured by should cost the same with all of them, and next to nothing: recvmmsg waits in the kernel
for a whole set-up. sendmmsg is the other end: a server can hardly send the same messages with less.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Sequence

from famezd.fabric.burst import Control, Iovec, Message
from famezd.protocol import MESSAGE_SIZE, encode

MOST = 1024
"""Messages that the kernel takes by one call (UIO_MAXIOV)."""

_WORDS_OF_MESSAGE, _WORDS_OF_CONTROL = ctypes.sizeof(Message) // 4, ctypes.sizeof(Control) // 4
_libc = ctypes.CDLL(None, use_errno=True)


class Messages:
    """Room for so many messages with at most one descriptor each, made once to be used again and again."""

    def __init__(self, count: int) -> None:
        if count > MOST:
            raise ValueError(f"{count} messages: the kernel takes {MOST} at once")
        self.count = count
        self._words = ctypes.create_string_buffer(count * MESSAGE_SIZE)
        self._controls = (Control * count)()
        self._iovecs = (Iovec * count)()
        self._headers = (Message * count)()
        words, controls, iovecs = (ctypes.addressof(area) for area in (self._words, self._controls, self._iovecs))
        for i, (iovec, header) in enumerate(zip(self._iovecs, self._headers, strict=True)):
            iovec.base, iovec.length = words + i * MESSAGE_SIZE, MESSAGE_SIZE
            header.pieces, header.pieces_length = iovecs + i * ctypes.sizeof(Iovec), 1
            header.control, header.control_length = controls + i * ctypes.sizeof(Control), ctypes.sizeof(Control)
        self._lengths = memoryview(self._headers).cast("B").cast("I")[Message.length.offset // 4 :: _WORDS_OF_MESSAGE]
        descriptors = memoryview(self._controls).cast("B").cast("i")
        self._descriptors = descriptors[Control.descriptor.offset // 4 :: _WORDS_OF_CONTROL]
        # The kernel writes into both.
        self._unused = bytes(self._headers), b"\xff" * ctypes.sizeof(self._controls)

    @classmethod
    def of(cls, messages: Sequence[tuple[int, int | None]]) -> Messages:
        """What is to be sent: values, and descriptors."""
        made = cls(len(messages))
        made._words.raw = b"".join(encode(value) for value, _ in messages)
        for control, header, (_, descriptor) in zip(made._controls, made._headers, messages, strict=True):
            if descriptor is None:
                header.control, header.control_length = None, 0
            else:
                control.length, control.descriptor = socket.CMSG_LEN(4), descriptor
                control.level, control.type = socket.SOL_SOCKET, socket.SCM_RIGHTS
        return made

    def send(self, connection: int) -> None:
        """Sends all; raises OSError where that cannot be."""
        sent = _libc.sendmmsg(connection, self._headers, self.count, socket.MSG_NOSIGNAL)
        if sent != self.count:
            raise OSError(ctypes.get_errno(), f"{sent} of {self.count} messages sent")

    def receive(self, connection: int, flags: int = 0) -> int:
        """Waits until all have come, or no more will; returns how many came."""
        headers, controls = self._unused
        ctypes.memmove(self._headers, headers, len(headers))
        ctypes.memmove(self._controls, controls, len(controls))
        flags |= socket.MSG_CMSG_CLOEXEC
        received = max(0, int(_libc.recvmmsg(connection, self._headers, self.count, flags, None)))
        # At the end of a stream there is no end of messages of no bytes.
        return sum(self._lengths[:received]) // MESSAGE_SIZE

    def close(self) -> None:
        """Closes the descriptors that the last messages brought."""
        descriptors = [descriptor for descriptor in self._descriptors.tolist() if descriptor >= 0]
        if descriptors and max(descriptors) - min(descriptors) == len(descriptors) - 1:
            # One system call.
            os.closerange(min(descriptors), max(descriptors) + 1)
        else:
            for descriptor in descriptors:
                os.close(descriptor)
