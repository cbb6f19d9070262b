"""Slow, silent, greedy and too many clients at the gate of HTTP: real sockets, and aiohttp behind it."""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import pytest
from aiohttp import web

from famezd.httpsettings import Http, Tls
from famezd.supervisor.http import gate
from famezd.supervisor.http.gate import Gate
from famezd.supervisor.http.policy import Policy
from tests.certificate import make_certificate

ASK = b"GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n"
LARGE = 16 << 20
SOON, NEVER = 0.05, 3600.0


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Site:
    """An application behind a gate."""

    def __init__(self, gate: Gate, port: int, waits: asyncio.Queue[None]) -> None:
        self.gate = gate
        self.port = port
        self.waits = waits
        """Has something for each request that has come and gets no answer."""

    async def connect(
        self, encrypted: ssl.SSLContext | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=encrypted)


@asynccontextmanager
async def site(limit: int = 8) -> AsyncIterator[Site]:
    async def small(_: web.Request) -> web.Response:
        return web.Response(text="small")

    async def large(_: web.Request) -> web.Response:
        return web.Response(body=b"x" * LARGE)

    waiting: asyncio.Queue[None] = asyncio.Queue()

    async def waits(_: web.Request) -> web.Response:
        waiting.put_nowait(None)
        await asyncio.Event().wait()
        raise AssertionError

    app = web.Application()
    app.add_routes([web.get("/small", small), web.get("/large", large), web.get("/waits", waits)])
    Policy(Http()).guard(app)
    runner = web.AppRunner(app, shutdown_timeout=0.1)  # 0 is for ever
    await runner.setup()
    assert runner.server is not None
    guarded = Gate(runner.server, limit)
    server = await asyncio.get_running_loop().create_server(guarded, "127.0.0.1", 0)
    try:
        yield Site(guarded, server.sockets[0].getsockname()[1], waiting)
    finally:
        server.close()
        await runner.cleanup()


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What still comes until the other end is gone."""
    told = b""
    try:
        while data := await reader.read(65536):
            told += data
    except ConnectionError:
        pass
    return told


async def close(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        writer.close()
        try:
            await writer.wait_closed()
        except OSError:
            pass


@pytest.mark.parametrize("said", [b"", b"GET /small HT", ASK[:-2] + b"X-More: "])
def test_who_does_not_say_what_it_wants_is_dropped(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    async def test() -> None:
        async with site() as served:
            reader, writer = await served.connect()
            writer.write(said)
            assert await ended(reader) == b""
            await close(writer)

    monkeypatch.setattr(gate, "REQUEST_WITHIN", SOON)
    asyncio.run(test())


def test_a_connection_that_has_been_idle_for_long_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with site() as served:
            reader, writer = await served.connect()
            for _ in range(2):
                writer.write(ASK)
                await reader.readuntil(b"small")
            assert await ended(reader) == b""
            await close(writer)

    monkeypatch.setattr(gate, "IDLE", SOON)
    # aiohttp has a limit of its own, which is not what is tested.
    monkeypatch.setattr(gate, "REQUEST_WITHIN", NEVER)
    asyncio.run(test())


@pytest.mark.parametrize(
    "said",
    [
        b"GET /small HTTP/1.1\r\n" + b"X-A: b\r\n" * 10000,
        b"GET /waits HTTP/1.1\r\nHost: localhost\r\n\r\n" + ASK * 1000,
        b"GET /" + b"x" * 100000,
    ],
    ids=["headers", "pipelined", "line"],
)
def test_who_says_too_much_is_dropped(said: bytes) -> None:
    async def test() -> None:
        async with site() as served:
            reader, writer = await served.connect()
            writer.write(said)
            # aiohttp may say first that a line is too long.
            assert b"small" not in await ended(reader)
            await close(writer)

    asyncio.run(test())


def test_who_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with site() as served:
            # Not through asyncio, which reads ahead.
            with closing(socket.create_connection(("127.0.0.1", served.port))) as stalled:
                stalled.sendall(ASK.replace(b"small", b"large"))
                assert await asyncio.to_thread(_is_reset, stalled)

    monkeypatch.setattr(gate, "READ_WITHIN", SOON)
    asyncio.run(test())


def test_who_reads_slowly_gets_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with site() as served:
            reader, writer = await served.connect()
            writer.write(ASK.replace(b"small", b"large"))
            await reader.readuntil(b"\r\n\r\n")
            assert len(await reader.readexactly(LARGE)) == LARGE
            await close(writer)

    # Each look finds that more has been read since the last.
    monkeypatch.setattr(gate, "READ_AT_LEAST", 1)
    asyncio.run(test())


def test_what_is_not_read_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with site() as served:
            stalled = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(3)]
            try:
                for client in stalled:
                    client.sendall(ASK.replace(b"small", b"large"))
                # Two do not fit: who stalled first goes.
                assert await asyncio.to_thread(_is_reset, stalled[0])
            finally:
                for client in stalled:
                    client.close()

    monkeypatch.setattr(gate, "UNREAD_BYTES", LARGE)
    asyncio.run(test())


def _is_reset(client: socket.socket) -> bool:
    """Waits until the other end has gone, and reads nothing meanwhile."""
    poller = select.poll()
    poller.register(client, 0)
    poller.poll()
    return True


def test_one_too_many_takes_the_place_of_who_only_waits() -> None:
    async def test() -> None:
        async with site(limit=2) as served:
            first, second, third = [await served.connect() for _ in range(3)]
            assert await ended(first[0]) == b""
            for reader, writer in (second, third):
                writer.write(ASK)
                await reader.readuntil(b"small")
            await close(first[1], second[1], third[1])

    asyncio.run(test())


def test_one_too_many_is_turned_away_where_all_are_being_answered() -> None:
    async def test() -> None:
        async with site(limit=2) as served:
            busy = []
            for _ in range(2):
                reader, writer = await served.connect()
                writer.write(ASK.replace(b"small", b"waits"))
                busy.append(writer)
                await served.waits.get()
            reader, writer = await served.connect()
            assert (await ended(reader)).startswith(b"HTTP/1.1 503 ")
            await close(writer, *busy)

    asyncio.run(test())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def test_a_handshake_counts_and_has_its_time(monkeypatch: pytest.MonkeyPatch, certificate: Tls) -> None:
    async def test() -> None:
        async with site(limit=1) as served:
            served.gate.tls = certificate.context()
            silent, silent_writer = await served.connect()
            # Who says nothing is dropped in time, and then there is room again.
            assert await ended(silent) == b""
            monkeypatch.undo()
            reader, writer = await served.connect(ssl.create_default_context(cafile=certificate.cert))
            writer.write(ASK)
            await reader.readuntil(b"small")
            await close(silent_writer, writer)

    monkeypatch.setattr(gate, "REQUEST_WITHIN", SOON)
    asyncio.run(test())


def test_a_handshake_makes_room_for_another(certificate: Tls) -> None:
    async def test() -> None:
        async with site(limit=1) as served:
            served.gate.tls = certificate.context()
            silent, silent_writer = await served.connect()
            reader, writer = await served.connect(ssl.create_default_context(cafile=certificate.cert))
            writer.write(ASK)
            await reader.readuntil(b"small")
            assert await ended(silent) == b""
            await close(silent_writer, writer)

    asyncio.run(test())


def test_what_is_no_handshake_is_dropped(certificate: Tls) -> None:
    async def test() -> None:
        async with site() as served:
            served.gate.tls = certificate.context()
            reader, writer = await served.connect()
            writer.write(ASK)
            assert b"small" not in await ended(reader)
            await close(writer)

    asyncio.run(test())
