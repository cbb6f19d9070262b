"""Connections of HTTP on TCP: how many there may be, and how long each may take over what it says and reads.

aiohttp speaks HTTP. What stands between it and the sockets here is what keeps a client that is slow, silent or greedy
from costing more than a connection for a while. It also begins TLS, so that a handshake counts as well.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable
from typing import cast

CONNECTIONS = 256
"""At once. For one more, one that waits for nothing but its client is dropped; if there is none, it is turned away."""
REQUEST_WITHIN = 10.0
"""Seconds, of a new connection and from the first byte on, after which a request has to be there, and a handshake."""
IDLE = 120.0
"""Seconds that a connection may wait for its next request; Prometheus asks again after less."""
REQUEST_BYTES = 32768
"""Of a request: who sends more before there is an answer is dropped. Nothing that is asked here has a body."""
READ_WITHIN, READ_AT_LEAST = 10.0, 65536
"""Seconds, and bytes of an answer that have to be read meanwhile, or all that is left."""
UNREAD_BYTES = 64 << 20
"""Of all answers together that wait to be read: beyond that, who has waited for longest is dropped."""

_NOT_AT_ALL = struct.pack("ii", 1, 0)
"""struct linger: what is unsent when the socket is closed is thrown away."""
_TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 10\r\nContent-Length: 0\r\n\r\n"


class Gate:
    """Makes the protocols of connections that come in; `tls` is for those that come from now on."""

    def __init__(self, inner: Callable[[], asyncio.Protocol], limit: int = CONNECTIONS) -> None:
        """`inner` makes what speaks HTTP on one connection."""
        self.tls: ssl.SSLContext | None = None
        self._inner = inner
        self._limit = limit
        self._open: dict[Connection, None] = {}
        """In the order in which they came."""

    def __call__(self) -> Connection:
        """The protocol of one more connection."""
        return Connection(self, self._inner())

    def enter(self, connection: Connection) -> bool:
        """Whether there is room for one more, which now is there."""
        if len(self._open) >= self._limit:
            waiting = next((other for other in self._open if not other.is_answered and not other.unread), None)
            if waiting is None:
                return False
            waiting.drop()
        self._open[connection] = None
        return True

    def leave(self, connection: Connection) -> None:
        """It is there no more."""
        self._open.pop(connection, None)

    def relieve(self) -> None:
        """Drops those that do not read what they asked for, if that is too much."""
        stalled = sorted((c for c in self._open if c.stalled_since is not None), key=lambda c: c.stalled_since or 0)
        unread = sum(connection.unread for connection in stalled)
        for connection in stalled:
            if unread <= UNREAD_BYTES:
                return
            unread -= connection.unread
            connection.drop()


class Connection(asyncio.Protocol):
    """One connection, from when it is accepted to its end."""

    def __init__(self, gate: Gate, inner: asyncio.Protocol) -> None:
        self.is_answered = False
        """Whether what it asked is being answered."""
        self.stalled_since: float | None = None
        """Since when it does not read, by the loop's clock; None while it does."""
        self._gate = gate
        self._inner = inner
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None
        self._handshake: asyncio.Task[None]
        self._transport: asyncio.Transport
        self._arrived = 0
        self._early = b""
        self._is_told = False
        """Whether there is a connection as far as the inner protocol knows."""

    @property
    def unread(self) -> int:
        """Bytes that wait for it to read."""
        return self._transport.get_write_buffer_size()

    # What the application tells

    def begin_answer(self) -> None:
        """A whole request is there."""
        self.is_answered, self._arrived = True, 0
        self._cancel()

    def end_answer(self) -> None:
        """What is to be said has been said; it may not have been read."""
        self.is_answered = False
        self._drop_in(IDLE)

    def drop(self) -> None:
        """Ends it at once, and has the kernel forget what it holds for it."""
        self._gate.leave(self)
        plain = self._transport.get_extra_info("socket")
        if plain is not None and plain.fileno() >= 0:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NOT_AT_ALL)
        self._transport.abort()

    # What the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is accepted."""
        self._transport = cast("asyncio.Transport", transport)
        if not self._gate.enter(self):
            if self._gate.tls is None:
                self._transport.write(_TOO_MANY)
            self._transport.close()
        elif self._gate.tls is None:
            self._open()
        else:
            self._transport.pause_reading()
            self._handshake = self._loop.create_task(self._begin_tls(self._gate.tls))

    async def _begin_tls(self, context: ssl.SSLContext) -> None:
        plain = self._transport
        try:
            encrypted = await self._loop.start_tls(
                plain, self, context, server_side=True, ssl_handshake_timeout=REQUEST_WITHIN
            )
        except (OSError, asyncio.CancelledError):
            encrypted = None
        if encrypted is None:
            self._gate.leave(self)
            plain.abort()
        else:
            self._transport = encrypted
            self._open()

    def _open(self) -> None:
        self._is_told = True
        self._inner.connection_made(self._transport)
        self._drop_in(REQUEST_WITHIN)
        early, self._early = self._early, b""
        if early:
            self._inner.data_received(early)

    def data_received(self, data: bytes) -> None:
        """Part of a request, or more than one."""
        if self._is_told and not self.is_answered and not self._arrived:
            self._drop_in(REQUEST_WITHIN)
        self._arrived += len(data)
        if self._arrived > REQUEST_BYTES:
            self.drop()
        elif self._is_told:
            self._inner.data_received(data)
        else:
            # The handshake has ended, and its task does not know it yet.
            self._early += data

    def eof_received(self) -> bool | None:
        """Nothing more is asked."""
        return self._inner.eof_received() if self._is_told else None

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._gate.leave(self)
        self._cancel()
        self._is_reading()
        if self._is_told:
            self._is_told = False
            self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """More of an answer waits to be read than should."""
        self.stalled_since = self._loop.time()
        self._expect_reading(self.unread)
        if self._is_told:
            self._inner.pause_writing()
        self._gate.relieve()

    def resume_writing(self) -> None:
        """It has been read."""
        self._is_reading()
        if self._is_told:
            self._inner.resume_writing()

    # Its time

    def _is_reading(self) -> None:
        self.stalled_since = None
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _expect_reading(self, before: int) -> None:
        self._reading = self._loop.call_later(READ_WITHIN, self._look, before)

    def _look(self, before: int) -> None:
        if self.unread > before - READ_AT_LEAST:
            self.drop()
        else:
            self._expect_reading(self.unread)

    def _drop_in(self, seconds: float) -> None:
        self._cancel()
        self._timer = self._loop.call_later(seconds, self.drop)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
