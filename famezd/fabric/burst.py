"""Many messages by one system call, at half the cost of as many calls: sendmmsg(2), which Python does not have."""

from __future__ import annotations

import ctypes
import os
import socket
from array import array
from collections.abc import Sequence
from typing import Final

from famezd.protocol import MESSAGE_SIZE, Descriptor

_FLAGS: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


class Iovec(ctypes.Structure):
    """A piece of memory."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Control(ctypes.Structure):
    """A cmsghdr, and the one descriptor that it is about."""

    _fields_ = (
        ("length", ctypes.c_size_t),
        ("level", ctypes.c_int),
        ("type", ctypes.c_int),
        ("descriptor", ctypes.c_int),
    )


class Message(ctypes.Structure):
    """An mmsghdr."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("pieces", ctypes.c_void_p),
        ("pieces_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        # What the kernel aligns by a pointer comes after it: how many bytes were sent or received, and nothing.
        ("length", ctypes.c_size_t),
    )


class Burst:
    """Messages with a descriptor each, laid out once for all that are ever sent."""

    def __init__(self, most: int) -> None:
        """There are at most so many in one."""
        self._words = (ctypes.c_char * (most * MESSAGE_SIZE))()
        self._pieces = (Iovec * most)()
        self._controls = (Control * most)()
        self._messages = (Message * most)()
        words = ctypes.addressof(self._words)
        for i, (piece, control, message) in enumerate(zip(self._pieces, self._controls, self._messages, strict=True)):
            piece.base, piece.length = words + i * MESSAGE_SIZE, MESSAGE_SIZE
            control.length = socket.CMSG_LEN(4)
            control.level, control.type = socket.SOL_SOCKET, socket.SCM_RIGHTS
            message.pieces, message.pieces_length = ctypes.addressof(piece), 1
            message.control, message.control_length = ctypes.addressof(control), ctypes.sizeof(control)
        stride = ctypes.sizeof(Control) // 4
        self._values = memoryview(self._words).cast("B")
        self._descriptors = memoryview(self._controls).cast("B").cast("i")[Control.descriptor.offset // 4 :: stride]
        self._sendmmsg = ctypes.CDLL(None, use_errno=True).sendmmsg
        self._sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
        self._first = ctypes.addressof(self._messages)

    def send(self, connection: int, words: bytes, descriptors: Sequence[Descriptor]) -> int:
        """Sends one for each descriptor, without waiting; returns how many were sent, raises OSError if none was.

        `words` are their values, encoded.
        """
        self._values[: len(words)] = words
        self._descriptors[: len(descriptors)] = memoryview(array("i", descriptors))
        sent: int = self._sendmmsg(connection, self._first, len(descriptors), _FLAGS)
        if sent < 0:
            e = ctypes.get_errno()
            raise OSError(e, os.strerror(e))
        return sent
