"""The live page: its files, which are part of the package, and the events that it shows."""

from __future__ import annotations

import hashlib
import socket
from importlib.resources import files
from typing import NamedTuple

from aiohttp import hdrs, web

from famezd.supervisor.web.stream import Stream, TooManyListenersError

SEND_BYTES = 65536
"""Of events that the kernel holds for one listener; it doubles this for its own needs, see socket(7)."""

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class _File(NamedTuple):
    """A file of the page, as it is sent."""

    content: bytes
    content_type: str
    etag: str


def add_page(app: web.Application, stream: Stream) -> None:
    """Has `app` serve the page at `/`, and what it listens to."""
    found = _files()

    async def send(request: web.Request) -> web.Response:
        file = found.get(request.match_info.get("name", "index.html"))
        if file is None:
            raise web.HTTPNotFound
        # Asked for each time, so that a page of the famezd before this one is not mixed with ours.
        headers = {hdrs.ETAG: file.etag, hdrs.CACHE_CONTROL: "no-cache"}
        if request.headers.get(hdrs.IF_NONE_MATCH) == file.etag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=file.content, content_type=file.content_type, charset="utf-8", headers=headers)

    async def events(request: web.Request) -> web.StreamResponse:
        try:
            listener = stream.listen(request.query.get("fabric"))
        except TooManyListenersError as e:
            raise web.HTTPServiceUnavailable(text=f"{e}\n", headers={hdrs.RETRY_AFTER: "10"}) from e
        # A proxy in between is not to collect events.
        headers = {hdrs.CACHE_CONTROL: "no-store", "X-Accel-Buffering": "no"}
        response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "text/event-stream", **headers})
        try:
            await response.prepare(request)
            _bound(request)
            while not listener.closed:
                await response.write(await stream.next(listener))
        except ConnectionError:
            # The page was closed.
            pass
        finally:
            stream.leave(listener)
        return response

    async def close(_: web.Application) -> None:
        stream.close()

    app.add_routes(
        [
            web.get("/", send),
            web.get("/page/{name}", send),
            web.get("/api/v1/events", events, allow_head=False),
        ]
    )
    app.on_shutdown.append(close)


def _bound(request: web.Request) -> None:
    """Has the kernel hold little for who does not read: events are small, and old ones are worth nothing."""
    connection = request.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)


def _files() -> dict[str, _File]:
    found = {}
    for file in (files("famezd") / "page").iterdir():
        suffix = file.name[file.name.rfind(".") :]
        if suffix in _TYPES:
            content = file.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found[file.name] = _File(content, _TYPES[suffix], etag)
    return found
