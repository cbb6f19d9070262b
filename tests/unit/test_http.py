"""Sockets of HTTP that systemd hands on: judged as those that the configuration names."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest
from aiohttp import ClientSession, web

from famezd.httpsettings import Http, is_loopback
from famezd.supervisor.http import HTTP, HttpError, Server


@pytest.fixture
def local() -> Iterator[socket.socket]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener


@pytest.fixture
def remote() -> Iterator[socket.socket]:
    # Bound, and not listening: nobody is to come.
    with closing(socket.socket()) as bound:
        bound.bind(("0.0.0.0", 0))
        yield bound


def server(given: socket.socket) -> Server:
    return Server(web.Application(), web.Application(), {HTTP: [given.fileno()]})


def test_one_that_others_reach_is_not_served_unless_that_is_meant(remote: socket.socket) -> None:
    async def test() -> None:
        served = server(remote)
        with pytest.raises(HttpError, match=r"cannot serve HTTP on 0\.0\.0\.0:\d+, which systemd handed on"):
            served.prepare(Http())
        assert served.prepare(Http(allow_remote=True)).listener is None

    asyncio.run(test())


def test_one_is_served_whatever_listen_says(local: socket.socket) -> None:
    async def test() -> None:
        # The server owns what it was handed.
        served = Server(web.Application(), web.Application(), {HTTP: [socket.dup(local.fileno())]})
        await served.start_public(Http(hosts=("fabrics.example.org",)))
        async with ClientSession() as session, session.get(f"{served.url}/nowhere") as answer:
            assert answer.status == 404
        # By no other address, whatever is configured.
        await served.change(served.prepare(Http(listen="127.0.0.1:1")))
        async with ClientSession() as session, session.get(f"{served.url}/nowhere") as answer:
            assert answer.status == 404
        await served.stop()

    asyncio.run(test())


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
