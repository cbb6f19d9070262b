"""Where HTTP on TCP listens, and whether it may."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Sequence

from famezd.config import Http
from famezd.errors import FamezError
from famezd.httpsettings import is_loopback


class HttpError(FamezError):
    """HTTP cannot be served so."""


def bind(host: str, port: int) -> socket.socket:
    """Listens on a TCP address; raises HttpError, which says what to do."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # As systemd does by default: [::] is every address, not those of IPv6 alone.
        both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
        return socket.create_server((host, port), family=family, dualstack_ipv6=both)
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


def is_at(address: tuple[str, int] | None, places: Sequence[tuple[str, int]]) -> bool:
    """Whether an address is one of the places, as numbers, at which somebody listens."""
    if address is None:
        return False
    with contextlib.suppress(OSError):
        return any(found[4][:2] in places for found in socket.getaddrinfo(*address, type=socket.SOCK_STREAM))
    return False


def require_permission(descriptor: int, http: Http) -> None:
    """Raises HttpError for a socket that systemd handed on, if it is for others than may be served."""
    with socket.socket(fileno=os.dup(descriptor)) as given:
        if given.family == socket.AF_UNIX or is_loopback(given.getsockname()[0]) or http.is_for_others:
            return
        where = "{}:{}".format(*given.getsockname()[:2])
    raise HttpError(
        f"cannot serve HTTP on {where}, which systemd handed on: other machines may reach it;"
        " set http.tls and http.users, or http.allow_remote: true, with which whoever can connect can read"
    )
