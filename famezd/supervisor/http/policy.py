"""Who may ask what over TCP: nothing is changed there, the host has to be ours, and who asks may have to be a user."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import os
import time
from collections import OrderedDict

import structlog
from aiohttp import BasicAuth, hdrs, web
from aiohttp.typedefs import Handler

from famezd.httpsettings import Http
from famezd.supervisor.http.gate import Connection

HEADERS = {
    # The page is in files of its own: what somebody managed to write into it is not run, drawn, loaded or framed.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src"
    " 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Server": "famezd",
}
READS = (hdrs.METH_GET, hdrs.METH_HEAD)
KNOWN = 128
"""Users and passwords that are known to be right: to verify one takes a twentieth of a second or more."""
QUIET = 60.0
"""Seconds after a wrong password was logged in which others are only counted."""
_LONGEST_PASSWORD = 72
"""Bytes that bcrypt looks at."""
_NOBODY = "$2b$10$Vng/fCqTBY4IXJUhmNEjP.Gh4uXMhj9EUOZ0pmOjAxQ0mcXzOiCaG"
"""The hash for users whom there is not: it takes as long to say no to them."""


class Policy:
    """What the application on TCP asks before it answers; `http` is what is in force."""

    def __init__(self, http: Http) -> None:
        self.http = http
        self._users = Users()
        self._failures = Failures()

    def guard(self, app: web.Application) -> None:
        """From now on `app` answers only what this permits."""
        app.middlewares.append(self._answer)
        app.on_response_prepare.append(_add_headers)

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = None if request.transport is None else request.transport.get_protocol()
        if not isinstance(connection, Connection):
            # It is gone already.
            raise web.HTTPServiceUnavailable
        connection.begin_answer()
        try:
            return await self._permitted(request, handler)
        finally:
            connection.end_answer()

    async def _permitted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method not in READS:
            why = "nothing is changed over TCP: famezctl does that, on the control socket\n"
            raise web.HTTPMethodNotAllowed(request.method, READS, text=why)
        host = request.headers.get(hdrs.HOST)
        if host is not None and not is_ours(host, self.http):
            why = "this host is not known by that name here: ask by its address, or add the name to http.hosts\n"
            raise web.HTTPMisdirectedRequest(text=why)
        claimed = request.headers.get(hdrs.AUTHORIZATION)
        if self.http.users and not await self._users.admit(claimed, self.http.users):
            if claimed is not None:
                self._failures.note(request.remote)
            asks = {hdrs.WWW_AUTHENTICATE: 'Basic realm="famezd", charset="UTF-8"'}
            raise web.HTTPUnauthorized(text="say who you are: see http.users\n", headers=asks)
        return await handler(request)


class Users:
    """Says whether somebody is who they say they are, by HTTP's basic authentication."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._secret = os.urandom(32)
        self._one_by_one = asyncio.Lock()

    async def admit(self, authorization: str | None, users: dict[str, str]) -> bool:
        """Whether the header names one of `users`, whose hashes these are, with the password."""
        try:
            claim = BasicAuth.decode(authorization or "", encoding="utf-8")
        except ValueError:
            return False
        hashed = users.get(claim.login, _NOBODY)
        # The hash is part of it: when that changes, the password has to be verified again.
        told = "\0".join((claim.login, hashed, claim.password))
        key = hmac.digest(self._secret, told.encode(errors="surrogateescape"), hashlib.sha256)
        if key in self._known:
            self._known.move_to_end(key)
            return True
        # One at a time: who tries passwords does not keep all processors busy.
        async with self._one_by_one:
            right = await asyncio.to_thread(_is_right, claim.password, hashed)
        if right and claim.login in users:
            self._known[key] = None
            if len(self._known) > KNOWN:
                self._known.popitem(last=False)
        return right and claim.login in users


class Failures:
    """Logs that somebody tried a wrong name or password: at once, and then not for each attempt of a flood."""

    def __init__(self) -> None:
        self._log = structlog.get_logger()
        self._attempts = 0
        self._quiet_until = 0.0

    def note(self, address: str | None) -> None:
        """Somebody did, from this address; None where a proxy asks, over a socket of this machine."""
        self._attempts += 1
        now = time.monotonic()
        if now >= self._quiet_until:
            self._log.warning("HTTP: wrong user or password", address=address or "a proxy", attempts=self._attempts)
            self._attempts, self._quiet_until = 0, now + QUIET


def _is_right(password: str, hashed: str) -> bool:
    # Most do without users, and need not have it.
    import bcrypt  # noqa: PLC0415

    told = password.encode(errors="surrogateescape")
    # With a zero byte bcrypt would stop there, or raise an error.
    return b"\0" not in told and bcrypt.checkpw(told[:_LONGEST_PASSWORD], hashed.encode())


def is_ours(host: str, http: Http) -> bool:
    """Whether a Host header means this host.

    Addresses always do: a page from elsewhere that has its own name lead here still asks for that name.
    """
    name, colon, port = (host, "", "") if host.endswith("]") or ":" not in host else host.rpartition(":")
    if colon and not (port.isascii() and port.isdigit()):
        return False
    name = name.strip("[]").rstrip(".").lower()
    try:
        ipaddress.ip_address(name)
    except ValueError:
        own = "" if http.address is None else http.address[0].lower()
        return name in ("localhost", own, *http.hosts) and name != ""
    return True


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)
