"""The settings of HTTP on TCP, and what is wrong between them."""

from __future__ import annotations

import importlib.util
import ipaddress
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from famezd import kinds
from famezd.checkedfile import Mistake
from famezd.errors import FamezError

_HASH = re.compile(r"\$2[aby]\$(?P<cost>[0-9]{2})\$[./A-Za-z0-9]{53}", re.ASCII)
_MOST_COST = 15
"""Of a bcrypt hash: each more doubles the time of a verification, and this is a second or more."""


class TlsError(FamezError):
    """Certificate and key cannot be used; `key` is the setting that is to blame."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(why)
        self.key = key


class Tls(BaseModel):
    """What makes HTTP HTTPS."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cert: Annotated[Path, kinds.ABSOLUTE_PATH] = Field(
        default=Path("/etc/famez/tls/cert.pem"),
        description="The certificate in PEM, and after it those that it is signed by; read anew at each reload.",
        examples=["/etc/famez/tls/cert.pem"],
    )
    key: Annotated[Path, kinds.ABSOLUTE_PATH] = Field(
        default=Path("/etc/famez/tls/key.pem"),
        description="Its private key in PEM, without a passphrase; readable for famezd's user.",
        examples=["/etc/famez/tls/key.pem"],
    )

    def context(self) -> ssl.SSLContext:
        """What connections are encrypted by, from the files as they are now; raises TlsError."""
        for key, path in (("cert", self.cert), ("key", self.key)):
            try:
                path.open("rb").close()
            except OSError as e:
                raise TlsError(key, f"{path} cannot be read: {e.strerror}") from e
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols(["http/1.1"])
        try:
            # Without a password OpenSSL would ask for one at the terminal.
            context.load_cert_chain(self.cert, self.key, password=b"")
        except (OSError, ValueError) as e:
            why = getattr(e, "reason", None) or str(e)
            raise TlsError("cert", f"{self.cert} and {self.key} are no certificate and its key in PEM: {why}") from e
        return context


class Http(BaseModel):
    """Where the page, the metrics and the read-only API are served, and to whom."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    listen: Annotated[str, kinds.LISTEN] | None = Field(
        default="127.0.0.1:9991",
        description="HOST:PORT to listen on, an IPv6 address in brackets; [::] is every address, of IPv4 as well;"
        " port 0 is any free port; null serves none. Under systemd famezd-http.socket listens, and its"
        " ListenStream= is what counts. What other machines can reach needs allow_remote, or tls and users.",
        examples=["127.0.0.1:9991", "[::1]:9991", None],
    )
    allow_remote: Annotated[bool, kinds.BOOLEAN] = Field(
        default=False,
        description="Whether listen may be an address that other machines can reach, although there is neither tls nor"
        " users: then whoever can connect can read.",
    )
    hosts: tuple[Annotated[str, kinds.HOST_NAME], ...] = Field(
        default=(),
        description="Names by which this host is asked, besides localhost and that in listen; requests for others are"
        " refused, as a web page elsewhere could have sent them (DNS rebinding). Addresses need not be listed.",
        examples=[["fabrics.example.org"]],
    )
    tls: Tls | None = Field(
        default=None,
        description="Certificate and key, for HTTPS; null is HTTP.",
        examples=[{"cert": "/etc/famez/tls/cert.pem", "key": "/etc/famez/tls/key.pem"}],
    )
    users: Annotated[dict[str, str], kinds.USERS] = Field(
        default={},
        description="Who may read: names, and bcrypt hashes of their passwords, as `htpasswd -nBC 10 NAME` prints them"
        " after the colon; {} is everybody. Needs Python's bcrypt.",
        examples=[{"prometheus": "$2b$10$Vng/fCqTBY4IXJUhmNEjP.Gh4uXMhj9EUOZ0pmOjAxQ0mcXzOiCaG"}],
    )

    @property
    def address(self) -> tuple[str, int] | None:
        """Host, without brackets, and port; None to serve none."""
        return None if self.listen is None else kinds.host_and_port(self.listen)

    @property
    def is_for_others(self) -> bool:
        """Whether other machines may be served."""
        return self.allow_remote or (self.tls is not None and bool(self.users))

    def mistakes(self) -> Iterator[Mistake]:
        """Yield what is wrong between settings that are each right by themselves, by keys from the file's top."""
        if self.address is not None and not is_loopback(self.address[0]) and not self.is_for_others:
            message = (
                f"{self.listen} may be reached by other machines: listen on 127.0.0.1 or [::1], or set tls and users,"
                " or allow_remote: true, with which whoever can connect can read"
            )
            needs = frozenset({"http.allow_remote", "http.tls", "http.users"})
            yield Mistake(("http", "listen"), message, needs)
        if self.tls is not None:
            try:
                self.tls.context()
            except TlsError as e:
                yield Mistake(("http", "tls", e.key), str(e), frozenset({"http.tls.cert", "http.tls.key"}))
        yield from self._user_mistakes()

    def _user_mistakes(self) -> Iterator[Mistake]:
        for name, hashed in self.users.items():
            # What stands there is not shown: it may be the password itself.
            found = _HASH.fullmatch(hashed)
            if found is None:
                message = f"must be a bcrypt hash, what `htpasswd -nBC 10 {name}` prints after the colon"
                yield Mistake(("http", "users", name), message)
            elif not 4 <= int(found["cost"]) <= _MOST_COST:
                message = f"must be a bcrypt hash of cost 4 to {_MOST_COST}, not {int(found['cost'])}: 10 will do"
                yield Mistake(("http", "users", name), message)
        if self.users and importlib.util.find_spec("bcrypt") is None:
            message = "needs Python's bcrypt, which is missing: `apt install python3-bcrypt`, or famezd[auth] by pip"
            yield Mistake(("http", "users"), message, whole=True)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it; what is a name is not looked up."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
