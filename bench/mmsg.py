"""Many messages of the ivshmem protocol by one system call: the lightest client that there can be, and server.

What servers are measured by should cost the same with all of them, and next to nothing: recvmmsg waits in the kernel
for a whole set-up. sendmmsg is the other end: no server can send the same messages with less.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Sequence

from famezd.protocol import MESSAGE_SIZE, encode

MOST = 1024
"""Messages that the kernel takes by one call (UIO_MAXIOV)."""

_libc = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("iovecs", ctypes.c_void_p),
        ("iovecs_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("padding", ctypes.c_int),
        ("length", ctypes.c_uint),
        ("more_padding", ctypes.c_int),
    )
    """An mmsghdr: `length` is how many bytes were sent or received."""


class _Control(ctypes.Structure):
    """Ancillary data of one descriptor."""

    _fields_ = (
        ("length", ctypes.c_size_t),
        ("level", ctypes.c_int),
        ("type", ctypes.c_int),
        ("descriptor", ctypes.c_int),
        ("padding", ctypes.c_int),
    )


class Messages:
    """Room for so many messages with at most one descriptor each, made once to be used again and again."""

    def __init__(self, count: int) -> None:
        if count > MOST:
            raise ValueError(f"{count} messages: the kernel takes {MOST} at once")
        self.count = count
        self._words = ctypes.create_string_buffer(count * MESSAGE_SIZE)
        self._controls = (_Control * count)()
        self._iovecs = (_Iovec * count)()
        self._headers = (_Msghdr * count)()
        words, controls, iovecs = (ctypes.addressof(area) for area in (self._words, self._controls, self._iovecs))
        for i, (iovec, header) in enumerate(zip(self._iovecs, self._headers, strict=True)):
            iovec.base, iovec.length = words + i * MESSAGE_SIZE, MESSAGE_SIZE
            header.iovecs, header.iovecs_length = iovecs + i * ctypes.sizeof(_Iovec), 1
            header.control, header.control_length = controls + i * ctypes.sizeof(_Control), ctypes.sizeof(_Control)
        self._lengths = memoryview(self._headers).cast("B").cast("I")[14 :: ctypes.sizeof(_Msghdr) // 4]
        self._descriptors = memoryview(self._controls).cast("B").cast("i")[4 :: ctypes.sizeof(_Control) // 4]
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
