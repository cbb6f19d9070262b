"""Where famezd is asked: HTTP on TCP, read-only, and on the control socket, for famezctl."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

from aiohttp import web

from famezd.config import Config, Control, Http
from famezd.errors import FamezError
from famezd.fabric.listener import ListenerError, give_socket, identity, listen, unlink

HTTP, CONTROL = "http", "control"
"""Names of the sockets that systemd may hand on."""
ENDS_WITHIN = 0.5
"""Seconds that requests under way have to end when famezd stops: a client that says nothing must not hold it up."""
# Whom aiohttp wants to be told that: the runner, but before 3.9, which Debian 12 has, each site.
_TIMEOUT: dict[str, Any] = {"shutdown_timeout": ENDS_WITHIN}
_OF_RUNNER = _TIMEOUT if "shutdown_timeout" in signature(web.BaseRunner).parameters else {}
_OF_SITE = {} if _OF_RUNNER else _TIMEOUT


class HttpError(FamezError):
    """An address cannot be listened on."""


class Server:
    """The two applications on their sockets."""

    def __init__(self, public: web.Application, control: web.Application, given: Mapping[str, Sequence[int]]) -> None:
        """`given` are sockets that systemd handed on: they are used instead of what the configuration says."""
        self.url = ""
        """Of the public one, "" where it is not served."""
        self._given = given
        self._confined = HTTP not in given and may_open_none()
        self._public = _runner(public)
        self._control = _runner(control)
        self._address: tuple[str, int] | None = None
        self._places: list[tuple[str, int]] = []
        self._sites: list[web.SockSite] = []
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

    async def start_public(self, address: tuple[str, int] | None) -> None:
        """Listens on TCP; raises HttpError."""
        await self._public.setup()
        if HTTP in self._given:
            listeners = [socket.socket(fileno=fd) for fd in self._given[HTTP]]
        else:
            listeners = [] if address is None or self._confined else [bind(*address)]
            self._address = address
        for listener in listeners:
            await self._serve(listener)

    def moves(self, address: tuple[str, int] | None) -> bool:
        """Whether to serve on `address` would be a change."""
        return HTTP not in self._given and not self._confined and address != self._address

    def remark(self, http: Http) -> str:
        """What is not as the configuration says, as systemd listens, or nobody may, and what to do; "" if all is."""
        if self._confined and http.listen is not None:
            return (
                "HTTP is not served: the unit allows famezd no network sockets, systemd opens them; "
                "`systemctl enable famezd-http.socket && systemctl restart famezd`, where that fails `systemctl status "
                "famezd-http.socket` says why; or set http.listen to null"
            )
        if HTTP not in self._given or http == Http() or _is_at(http.address, self._places):
            return ""
        what = f"http.listen is {http.listen or 'null'}, but HTTP is served where systemd listens, on {self.url}: "
        if http.listen is None:
            return what + "`systemctl disable famezd-http.socket && systemctl restart famezd`, or leave http.listen out"
        return what + "set ListenStream= there by `systemctl edit famezd-http.socket`, and leave http.listen out"

    async def move(self, address: tuple[str, int] | None, listener: socket.socket | None) -> None:
        """Serves on `listener`, which is bound to `address`, and no longer where it did."""
        former, self._sites, self._places, self.url = self._sites, [], [], ""
        if listener is not None:
            await self._serve(listener)
        self._address = address
        for site in former:
            await site.stop()

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
        for runner in (self._public, self._control):
            await runner.cleanup()

    async def _serve(self, listener: socket.socket) -> None:
        site = web.SockSite(self._public, listener, **_OF_SITE)
        await site.start()
        self._sites.append(site)
        if listener.family != socket.AF_UNIX:
            host, port = listener.getsockname()[:2]
            self._places.append((host, port))
            self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def bind(host: str, port: int) -> socket.socket:
    """Listens on a TCP address; raises HttpError, which says what to do."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as e:
        # The error's own text tells the address again; a name that is not found has no errno.
        why = os.strerror(e.errno) if e.errno and e.errno > 0 else e.strerror
        raise HttpError(f"cannot serve HTTP on {host}:{port}: {why}; stop what listens there or set http.listen") from e


def may_open_none() -> bool:
    """Whether this process may open no network sockets at all, as with RestrictAddressFamilies=AF_UNIX."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.socket(family, socket.SOCK_STREAM).close()
        except OSError as e:
            if e.errno == errno.EAFNOSUPPORT:
                continue
        return False
    return True


def _is_at(address: tuple[str, int] | None, places: Sequence[tuple[str, int]]) -> bool:
    """Whether an address is one of the places, as numbers, at which somebody listens."""
    if address is None:
        return False
    with contextlib.suppress(OSError):
        return any(found[4][:2] in places for found in socket.getaddrinfo(*address, type=socket.SOCK_STREAM))
    return False


def _runner(application: web.Application) -> web.AppRunner:
    return web.AppRunner(application, access_log=None, **_OF_RUNNER)


def _number(identity: int | None) -> int:
    """-1 leaves it as it is, as in chown(2)."""
    return -1 if identity is None else identity
