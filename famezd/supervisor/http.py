"""Where famezd is asked: HTTP on TCP, read-only, and on the control socket, for famezctl."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aiohttp import web

from famezd.config import Config, Control, Http
from famezd.errors import FamezError
from famezd.fabric.listener import identity, listen, unlink
from famezd.httpsettings import TlsError, is_loopback
from famezd.supervisor.gate import Gate
from famezd.supervisor.policy import Policy

HTTP, CONTROL = "http", "control"
"""Names of the sockets that systemd may hand on."""
ENDS_WITHIN = 0.5
"""Seconds that requests under way have to end when famezd stops: a client that says nothing must not hold it up."""


class HttpError(FamezError):
    """HTTP cannot be served so."""


class Prepared(NamedTuple):
    """What it takes to serve HTTP by other settings, made before anything has changed."""

    http: Http
    listener: socket.socket | None
    """Where to listen, None to stay where it is, or for nowhere."""
    tls: ssl.SSLContext | None


class Server:
    """The two applications on their sockets."""

    def __init__(self, public: web.Application, control: web.Application, given: Mapping[str, Sequence[int]]) -> None:
        """`given` are sockets that systemd handed on: they are used instead of what the configuration says."""
        self.url = ""
        """Of the public one, "" where it is not served."""
        self._given = given
        self._policy = Policy(Http())
        self._policy.guard(public)
        self._public = _runner(public)
        self._gate = Gate(self._protocol)
        self._control = _runner(control)
        self._address: tuple[str, int] | None = None
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
            await web.SockSite(self._control, listener).start()

    async def start_public(self, http: Http) -> None:
        """Listens on TCP; raises HttpError."""
        await self._public.setup()
        await self.change(self.prepare(http))

    def prepare(self, http: Http) -> Prepared:
        """Looks whether HTTP can be served by these settings, and makes what it takes; raises HttpError."""
        for descriptor in self._given.get(HTTP, ()):
            _require_permission(descriptor, http)
        try:
            tls = None if http.tls is None else http.tls.context()
        except TlsError as e:
            raise HttpError(f"cannot serve HTTP by TLS: {e}") from e
        listener = bind(*http.address) if self._moves(http) and http.address is not None else None
        return Prepared(http, listener, tls)

    async def change(self, prepared: Prepared) -> None:
        """Serves so from now on; who is connected may go on asking, if that is still permitted."""
        self._policy.http, self._gate.tls = prepared.http, prepared.tls
        if HTTP in self._given and not self._servers:
            for descriptor in self._given[HTTP]:
                await self._serve(socket.socket(fileno=descriptor))
        elif self._moves(prepared.http):
            former, self._servers, self.url = self._servers, [], ""
            if prepared.listener is not None:
                await self._serve(prepared.listener)
            self._address = prepared.http.address
            for server in former:
                server.close()
        elif self.url:
            self.url = self._scheme + self.url.partition(":")[2]

    def _moves(self, http: Http) -> bool:
        return HTTP not in self._given and http.address != self._address

    def permit(self, control: Control) -> None:
        """Gives the control socket other permissions."""
        if self._socket is not None:
            path, _ = self._socket
            # Nobody may connect meanwhile who may not in the end.
            os.chmod(path, 0)
            os.chown(path, _number(control.uid), _number(control.gid))
            os.chmod(path, control.mode)

    async def stop(self) -> None:
        """Ends both, and removes the control socket."""
        if self._socket is not None:
            unlink(*self._socket)
        for server in self._servers:
            server.close()
        for runner in (self._public, self._control):
            await runner.cleanup()

    async def _serve(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        if listener.family == socket.AF_UNIX:
            self._servers.append(await loop.create_unix_server(self._gate, sock=listener))
            return
        self._servers.append(await loop.create_server(self._gate, sock=listener))
        host, port = listener.getsockname()[:2]
        self.url = self._scheme + (f"//[{host}]:{port}" if ":" in host else f"//{host}:{port}")

    def _protocol(self) -> asyncio.Protocol:
        """What speaks HTTP on one connection."""
        assert self._public.server is not None, "set up before anything is listened on"  # noqa: S101
        return self._public.server()

    @property
    def _scheme(self) -> str:
        return "http:" if self._gate.tls is None else "https:"


def _require_permission(descriptor: int, http: Http) -> None:
    """Raises HttpError for a socket that systemd handed on, if it is for others than may be served."""
    with socket.socket(fileno=os.dup(descriptor)) as given:
        if given.family == socket.AF_UNIX or is_loopback(given.getsockname()[0]) or http.is_for_others:
            return
        where = "{}:{}".format(*given.getsockname()[:2])
    raise HttpError(
        f"cannot serve HTTP on {where}, which systemd handed on: other machines may reach it;"
        " set http.tls and http.users, or http.allow_remote: true, with which whoever can connect can read"
    )


def bind(host: str, port: int) -> socket.socket:
    """Listens on a TCP address; raises HttpError, which says what to do."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as e:
        # The error's own text tells the address again; a name that is not found has no errno.
        why = os.strerror(e.errno) if e.errno and e.errno > 0 else e.strerror
        raise HttpError(f"cannot serve HTTP on {host}:{port}: {why}; stop what listens there or set http.listen") from e


def _runner(application: web.Application) -> web.AppRunner:
    return web.AppRunner(application, access_log=None, shutdown_timeout=ENDS_WITHIN)


def _number(identity: int | None) -> int:
    """-1 leaves it as it is, as in chown(2)."""
    return -1 if identity is None else identity
