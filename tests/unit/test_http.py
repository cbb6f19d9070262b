"""Where HTTP is served: sockets that systemd hands on, and what is said where that is not as configured."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest
from aiohttp import ClientSession, web

from famezd.httpsettings import Http, is_loopback
from famezd.supervisor.http.addresses import HttpError, bind, may_open_none
from famezd.supervisor.http.server import HTTP, Server


@pytest.fixture
def remote() -> Iterator[socket.socket]:
    # Bound, and not listening: nobody is to come.
    with closing(socket.socket()) as bound:
        bound.bind(("0.0.0.0", 0))
        yield bound


def test_one_that_others_reach_is_not_served_unless_that_is_meant(remote: socket.socket) -> None:
    async def test() -> None:
        served = Server(web.Application(), web.Application(), {HTTP: [remote.fileno()]})
        with pytest.raises(HttpError, match=r"cannot serve HTTP on 0\.0\.0\.0:\d+, which systemd handed on"):
            served.prepare(Http())
        assert served.prepare(Http(allow_remote=True)).listener is None

    asyncio.run(test())


def test_who_connects_where_nobody_may_be_served_is_turned_away_until_that_is_allowed() -> None:
    async def test() -> None:
        listener = socket.create_server(("0.0.0.0", 0))
        port = listener.getsockname()[1]
        public = web.Application()
        public.router.add_get("/", _answer)
        server = Server(public, web.Application(), {HTTP: [listener.detach()]})
        with pytest.raises(HttpError, match="which systemd handed on"):
            await server.start_public(Http())
        assert "http.allow_remote" in server.remark(Http())
        for _ in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await reader.read() == b""
            writer.close()
        allowed = Http(allow_remote=True, listen=f"0.0.0.0:{port}")
        await server.change(server.prepare(allowed))
        assert server.remark(allowed) == ""
        async with ClientSession() as client, client.get(f"http://127.0.0.1:{port}/") as answer:
            assert await answer.text() == "here"
        await server.stop()

    asyncio.run(test())


async def _answer(_: web.Request) -> web.Response:
    return web.Response(text="here")


def test_what_listens_on_ipv6_is_reached_by_ipv4() -> None:
    # As [::] is, which would let other machines come: this is 127.0.0.1, to a socket of IPv6.
    with bind("::ffff:127.0.0.1", 0) as listener:
        assert listener.family == socket.AF_INET6
        socket.create_connection(("127.0.0.1", listener.getsockname()[1])).close()


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
    async def test() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        host, port = listener.getsockname()
        # The server owns what it was handed.
        server = Server(web.Application(), web.Application(), {HTTP: [listener.detach()]})
        http = Http(listen=None if listen is None else listen.format(host=host, port=port))
        await server.start_public(Http(hosts=("fabrics.example.org",)))
        try:
            # By no other address, whatever is configured.
            await server.change(server.prepare(http))
            assert server.url == f"http://{host}:{port}"
            async with ClientSession() as session, session.get(f"{server.url}/nowhere") as answer:
                assert answer.status == 404
            said = server.remark(http)
        finally:
            await server.stop()
        assert said.endswith(told) if told.endswith("out") else told in said
        if said:
            assert f"HTTP is served where systemd listens, on {server.url}: " in said
        assert bool(said) == bool(told)

    asyncio.run(test())


def test_nothing_is_said_where_famezd_listens_itself() -> None:
    assert not may_open_none()
    assert Server(web.Application(), web.Application(), {}).remark(Http(listen="127.0.0.1:1")) == ""


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.3.2.1", True),
        ("::1", True),
        ("localhost", True),
        ("LocalHost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example.org", False),
        ("fabrics", False),
    ],
)
def test_what_only_this_machine_reaches(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected
