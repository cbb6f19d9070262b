"""Events of the page: what is told to whom, and what those cost who do not read."""

from __future__ import annotations

import asyncio
import json
import select
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest
from aiohttp import ClientSession, web

from famezd.httpsettings import Http
from famezd.supervisor.http import gate
from famezd.supervisor.http.gate import Gate
from famezd.supervisor.http.policy import Policy
from famezd.supervisor.status.timeline import KEPT, LONGEST, Timeline
from famezd.supervisor.web import stream
from famezd.supervisor.web.page import add_page
from famezd.supervisor.web.stream import Listener, Stream


@asynccontextmanager
async def site(told: Stream) -> AsyncIterator[int]:
    """The page over this stream, behind a gate; the port."""
    app = web.Application()
    add_page(app, told)
    Policy(Http()).guard(app)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    assert runner.server is not None
    server = await asyncio.get_running_loop().create_server(Gate(runner.server), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await runner.cleanup()


async def events(reader: asyncio.StreamReader) -> AsyncIterator[tuple[str, Any, str]]:
    """Name, data and id of each."""
    lines: dict[str, str] = {}
    async for line in reader:
        key, _, value = line.decode().rstrip("\n").partition(": ")
        if key:
            lines[key] = value
        elif "event" in lines:
            yield lines["event"], json.loads(lines["data"]), lines.get("id", "")
            lines = {}


def test_who_listens_is_told_the_state_and_then_what_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        timeline = Timeline()
        told = Stream(dict, timeline)
        timeline.hear("lab", "info", "peer joined", {"peer": "3", "pid": "4", "name": "alice"})
        async with site(told) as port, ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/api/v1/events") as answer:
                assert answer.content_type == "text/event-stream"
                heard = events(answer.content)  # type: ignore[arg-type]  # lines are all that it reads
                name, state, number = await anext(heard)
                assert (name, number, state["fabrics"], state["fabric"]) == ("state", "1", [], None)
                (happening,) = state["timeline"]
                assert [happening[key] for key in ("kind", "peer", "name", "text")] == [
                    "join",
                    "3",
                    "alice",
                    "peer joined",
                ]
                timeline.hear("lab", "error", "worker died, it is started again", {"how": "a\nb\u2028c"})
                name, news, number = await anext(heard)
                assert (name, number) == ("happened", "2")
                assert news["happenings"][0]["text"].endswith("how=a\nb\u2028c")
            assert told.is_heard
        assert not told.is_heard

    monkeypatch.setattr(stream, "EVERY", 0.01)
    asyncio.run(test())


def test_nothing_is_sampled_while_nobody_listens() -> None:
    async def test() -> None:
        looked = []

        def workers() -> dict[str, Any]:
            looked.append(1)
            return {}

        told = Stream(workers, Timeline())
        before = asyncio.all_tasks()
        first, second = told.listen(None), told.listen("lab")
        # One task, however many listen.
        (task,) = asyncio.all_tasks() - before
        await told.next(first)
        assert looked
        told.leave(first)
        assert not task.done()
        told.leave(second)
        await asyncio.wait([task])
        looked.clear()
        await asyncio.sleep(0)
        assert looked == []
        # And again.
        told.leave(told.listen(None))

    asyncio.run(test())


def test_who_reads_too_slowly_is_told_the_newest_state() -> None:
    async def test() -> None:
        told = Stream(dict, Timeline())
        slow = told.listen(None)
        await told.next(slow)
        for _ in range(stream.QUEUE_EVENTS):
            slow.offer(b"old")
        assert not slow.is_behind
        slow.offer(b"too much")
        assert slow.is_behind
        slow.offer(b"lost")
        assert b"event: state" in await told.next(slow)
        slow.offer(b"new")
        assert await told.next(slow) == b"new"
        slow.offer(b"x" * (stream.QUEUE_BYTES + 1))
        assert b"event: state" in await told.next(slow)
        told.leave(slow)

    asyncio.run(test())


def test_a_comment_is_sent_where_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        listener = Listener(None)
        listener.is_behind = False
        await listener.wait()
        assert listener.take() == b":\n\n"

    monkeypatch.setattr(stream, "QUIET", 0.01)
    asyncio.run(test())


def test_a_reader_that_stalls_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        timeline = Timeline()
        told = Stream(dict, timeline)
        async with site(told) as port:
            with closing(socket.socket()) as stalled:
                stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                stalled.connect(("127.0.0.1", port))
                stalled.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
                poller = select.poll()
                poller.register(stalled, 0)
                # It is told of one thing after the other, until it is gone.
                while not poller.poll(0):
                    for _ in range(KEPT):
                        timeline.hear("lab", "error", "x" * LONGEST, {})
                    await asyncio.sleep(0.001)
                # And so is what was kept for it.
                while told.is_heard:
                    await asyncio.sleep(0.001)

    monkeypatch.setattr(gate, "READ_WITHIN", 0.05)
    monkeypatch.setattr(stream, "EVERY", 0.001)
    asyncio.run(test())


def test_one_listener_too_many_is_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        told = Stream(dict, Timeline())
        async with site(told) as port, ClientSession() as session:
            address = f"http://127.0.0.1:{port}/api/v1/events"
            async with session.get(address) as first, session.get(address) as second:
                assert (first.status, second.status) == (200, 503)
                assert second.headers["Retry-After"] == "10"

    monkeypatch.setattr(stream, "LISTENERS", 1)
    asyncio.run(test())


def test_a_task_that_fails_is_logged_and_lets_everybody_come_again(capsys: pytest.CaptureFixture[str]) -> None:
    async def test() -> None:
        def workers() -> dict[str, Any]:
            raise ArithmeticError("broken")

        told = Stream(workers, Timeline())
        listener = told.listen(None)
        while not listener.closed:
            await asyncio.sleep(0)
        told.leave(listener)

    asyncio.run(test())
    assert "the page's events have failed" in capsys.readouterr().out


def test_the_timeline_keeps_the_last() -> None:
    timeline = Timeline(clock=lambda: 7.0)
    for n in range(KEPT + 10):
        timeline.hear("lab", "info", "peer joined", {"peer": str(n)})
    timeline.hear("lab", "info", "fabric serves", {})  # nothing to tell of
    timeline.hear("lab", "warning", "x" * 1000, {"peer": "y" * 10000})
    kept = timeline.since(0)
    assert (len(kept), kept[0]["number"], kept[-1]["number"]) == (KEPT, 12, KEPT + 11)
    assert (kept[-1]["kind"], len(kept[-1]["text"]), len(kept[-1]["peer"])) == ("warning", LONGEST, LONGEST)
    assert timeline.since(KEPT + 10) == kept[-1:]
