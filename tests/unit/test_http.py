"""Where HTTP is served, and what is said where that is not as configured."""

import asyncio
import socket

import pytest
from aiohttp import web

from famezd.config import Http
from famezd.supervisor.http import HTTP, Server, may_open_none


@pytest.mark.parametrize(
    ("listen", "told"),
    [
        ("127.0.0.1:9991", ""),
        ("{host}:{port}", ""),
        ("localhost:{port}", ""),
        ("127.0.0.1:1", "set ListenStream= there by `systemctl edit famezd-http.socket`, and leave http.listen out"),
        ("nowhere.invalid:{port}", "set ListenStream= there by"),
        (None, "`systemctl disable famezd-http.socket && systemctl restart famezd`, or leave http.listen out"),
    ],
)
def test_an_inherited_socket_goes_before_the_setting(listen: str | None, told: str) -> None:
    async def remark() -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        host, port = listener.getsockname()
        server = Server(web.Application(), web.Application(), {HTTP: [listener.detach()]})
        http = Http(listen=None if listen is None else listen.format(host=host, port=port))
        await server.start_public(http.address)
        try:
            assert server.url == f"http://{host}:{port}"
            assert not server.moves(http.address)
            said = server.remark(http)
            assert not said or f"HTTP is served where systemd listens, on {server.url}: " in said
            return said
        finally:
            await server.stop()

    said = asyncio.run(remark())
    assert told in said if told else said == ""


def test_nothing_is_said_where_famezd_listens_itself() -> None:
    assert not may_open_none()
    assert Server(web.Application(), web.Application(), {}).remark(Http(listen="127.0.0.1:1")) == ""
