"""Where famezd is asked: HTTP on TCP, read-only, and on the control socket, for famezctl."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, NamedTuple

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.log import server_logger

from famezd.config import Config, Control, Http
from famezd.fabric.listener import ListenerError, give_socket, identity, listen, unlink
from famezd.httpsettings import TlsError
from famezd.supervisor.http.addresses import HttpError, bind, is_at, may_open_none, require_permission
from famezd.supervisor.http.gate import Gate
from famezd.supervisor.http.policy import Policy

HTTP, CONTROL = "http", "control"
"""Names of the sockets that systemd may hand on."""
ENDS_WITHIN = 0.5
"""Seconds that requests under way have to end when famezd stops: a client that says nothing must not hold it up."""
# Whom aiohttp wants to be told that: the runner, but before 3.9, which Debian 12 has, each site.
_TIMEOUT: dict[str, Any] = {"shutdown_timeout": ENDS_WITHIN}
_OF_RUNNER = _TIMEOUT if "shutdown_timeout" in signature(web.BaseRunner).parameters else {}
_OF_SITE = {} if _OF_RUNNER else _TIMEOUT


class Prepared(NamedTuple):
    """What it takes to serve HTTP by other settings, made before anything has changed."""

    http: Http
    listener: socket.socket | None
    """Where to listen, None to stay where it is, or for nowhere."""
    tls: ssl.SSLContext | None

    def drop(self) -> None:
        """It will not be needed."""
        if self.listener is not None:
            self.listener.close()


class HttpView(NamedTuple):
    """How HTTP on TCP is served."""

    url: str
    """Where, "" if it is not."""
    remark: str
    """What is not as the configuration says, and what to do; "" if all is."""


class Server:
    """The two applications on their sockets."""

    def __init__(self, public: web.Application, control: web.Application, given: Mapping[str, Sequence[int]]) -> None:
        """`given` are sockets that systemd handed on: they are used instead of what the configuration says."""
        self.url = ""
        """Of the public one, "" where it is not served."""
        self._given = given
        self._confined = HTTP not in given and may_open_none()
        self._policy = Policy(Http())
        self._policy.guard(public)
        self._public = _runner(public)
        self._gate = Gate(self._protocol)
        self._control = _runner(control)
        self._failure = ""
        self._address: tuple[str, int] | None = None
        self._places: list[tuple[str, int]] = []
        self._servers: list[asyncio.Server] = []
        self._socket: tuple[str, tuple[int, int] | None] | None = None

    async def start_control(self, config: Config) -> None:
        """Listens on the control socket; raises FamezError."""
        await self._control.setup()
        if CONTROL in self._given:
            listeners = [socket.socket(fileno=fd) for fd in self._given[CONTROL]]
        else:
            own, path = config.control, str(config.control_socket)
            listeners = [listen(path, uid=_number(own.uid), gid=_number(own.gid), mode=own.mode)]
            self._socket = path, identity(path)
        for listener in listeners:
            await web.SockSite(self._control, listener, **_OF_SITE).start()

    async def start_public(self, http: Http) -> None:
        """Listens on TCP; raises HttpError.

        Where systemd listens, it goes on doing so: who connects there is then turned away, and not left waiting.
        """
        await self._public.setup()
        try:
            await self.change(self.prepare(http))
        except HttpError as e:
            self._failure = str(e)
            for descriptor in self._given.get(HTTP, ()):
                asyncio.get_running_loop().add_reader(descriptor, _turn_away, descriptor)
            raise

    def prepare(self, http: Http) -> Prepared:
        """Looks whether HTTP can be served by these settings, and makes what it takes; raises HttpError."""
        for descriptor in self._given.get(HTTP, ()):
            require_permission(descriptor, http)
        try:
            tls = None if http.tls is None else http.tls.context()
        except TlsError as e:
            raise HttpError(f"cannot serve HTTP by TLS: {e}") from e
        listener = bind(*http.address) if self._moves(http) and http.address is not None else None
        return Prepared(http, listener, tls)

    async def change(self, prepared: Prepared) -> None:
        """Serves so from now on; who is connected may go on asking, if that is still permitted."""
        self._policy.http, self._gate.tls, self._failure = prepared.http, prepared.tls, ""
        if HTTP in self._given and not self._servers:
            for descriptor in self._given[HTTP]:
                asyncio.get_running_loop().remove_reader(descriptor)
                await self._serve(socket.socket(fileno=descriptor))
        elif self._moves(prepared.http):
            former, self._servers, self._places, self.url = self._servers, [], [], ""
            if prepared.listener is not None:
                await self._serve(prepared.listener)
            self._address = prepared.http.address
            for server in former:
                server.close()
        elif self.url:
            self.url = self._scheme + self.url.partition(":")[2]

    def remark(self, http: Http) -> str:
        """What is not as the configuration says, as systemd listens, or nobody may, and what to do; "" if all is."""
        if self._failure:
            return self._failure
        if self._confined and http.listen is not None:
            return (
                "HTTP is not served: the unit allows famezd no network sockets, systemd opens them; "
                "`systemctl enable famezd-http.socket && systemctl restart famezd`, where that fails `systemctl status "
                "famezd-http.socket` says why; or set http.listen to null"
            )
        if HTTP not in self._given or http.listen == Http().listen or is_at(http.address, self._places):
            return ""
        what = f"http.listen is {http.listen or 'null'}, but HTTP is served where systemd listens, on {self.url}: "
        if http.listen is None:
            return what + "`systemctl disable famezd-http.socket && systemctl restart famezd`, or leave http.listen out"
        return what + "set ListenStream= there by `systemctl edit famezd-http.socket`, and leave http.listen out"

    def permit(self, control: Control, former: Control) -> None:
        """Gives the control socket other permissions; raises ListenerError if they are not ours to give.

        Then it keeps those that it has, which `former` says.
        """
        if self._socket is None:
            return
        path, _ = self._socket
        if identity(path) is None:
            raise ListenerError(f"the socket {path} was removed, nobody can ask famezd; restart famezd")
        try:
            give_socket(path, uid=_number(control.uid), gid=_number(control.gid), mode=control.mode)
        except ListenerError:
            with contextlib.suppress(ListenerError):
                give_socket(path, uid=_number(former.uid), gid=_number(former.gid), mode=former.mode)
            raise

    async def stop(self) -> None:
        """Ends both, and removes the control socket."""
        if self._socket is not None:
            unlink(*self._socket)
        for server in self._servers:
            server.close()
        if _OF_SITE and self._public.server is not None:
            # Such an aiohttp leaves this to its sites, of which the public one has none.
            await self._public.shutdown()
            await self._public.server.shutdown(ENDS_WITHIN)
        for runner in (self._public, self._control):
            await runner.cleanup()

    def _moves(self, http: Http) -> bool:
        """Whether to serve by these settings is to listen elsewhere."""
        return HTTP not in self._given and not self._confined and http.address != self._address

    async def _serve(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        if listener.family == socket.AF_UNIX:
            self._servers.append(await loop.create_unix_server(self._gate, sock=listener))
            return
        self._servers.append(await loop.create_server(self._gate, sock=listener))
        host, port = listener.getsockname()[:2]
        self._places.append((host, port))
        self.url = self._scheme + (f"//[{host}]:{port}" if ":" in host else f"//{host}:{port}")

    def _protocol(self) -> asyncio.Protocol:
        """What speaks HTTP on one connection."""
        assert self._public.server is not None, "set up before anything is listened on"  # noqa: S101
        return self._public.server()

    @property
    def _scheme(self) -> str:
        return "http:" if self._gate.tls is None else "https:"


def _turn_away(descriptor: int) -> None:
    """Hangs up on who waits at a socket at which nobody is served."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as listener:
        listener.setblocking(False)
        listener.accept()[0].close()


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether it is more than that somebody sends what is no HTTP: anybody can, as often as they like."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


def _runner(application: web.Application) -> web.AppRunner:
    server_logger.addFilter(_is_ours)
    return web.AppRunner(application, access_log=None, **_OF_RUNNER)


def _number(identity: int | None) -> int:
    """-1 leaves it as it is, as in chown(2)."""
    return -1 if identity is None else identity
