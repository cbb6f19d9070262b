"""HTTP: metrics, health, and the API, the same read-only on TCP and on the control socket."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from famezd import __version__
from famezd.fabric.peer import program
from famezd.supervisor.view import FabricView

Look = Callable[[], Sequence[FabricView]]


def application(look: Look, metrics: CollectorRegistry) -> web.Application:
    """The application; `look` returns a view of each fabric."""
    handlers = _Handlers(look, metrics)
    app = web.Application()
    app.add_routes(
        [
            web.get("/metrics", handlers.metrics),
            web.get("/healthz", handlers.health),
            web.get("/api/v1/status", handlers.status),
            web.get("/api/v1/fabrics/{fabric}/peers", handlers.peers),
            web.get("/api/v1/fabrics/{fabric}/doorbells", handlers.doorbells),
        ]
    )
    return app


class _Handlers:
    def __init__(self, look: Look, metrics: CollectorRegistry) -> None:
        self._look = look
        self._metrics = metrics

    async def metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._metrics), headers={"Content-Type": content_type})

    async def health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def status(self, _: web.Request) -> web.Response:
        return _json({"version": __version__, "fabrics": [_fabric(view) for view in self._look()]})

    async def peers(self, request: web.Request) -> web.Response:
        view = self._view(request)
        peers = [
            {"id": p.id, "pid": p.pid, "uid": p.uid, "program": program(p.pid), "joined": p.joined} for p in view.peers
        ]
        return _json({"fabric": view.fabric.name, "peers": peers})

    async def doorbells(self, request: web.Request) -> web.Response:
        view = self._view(request)
        pairs = [{"src": src, "dst": dst, "count": n} for (src, dst), n in sorted(view.pairs.items())]
        vectors = [{"dst": dst, "vector": v, "count": n} for (dst, v), n in sorted(view.vectors.items())]
        # Direct ones are not counted, but for those to and from the switch: who asks should know.
        how = view.fabric.doorbells
        return _json({"fabric": view.fabric.name, "doorbells": how, "pairs": pairs, "vectors": vectors})

    def _view(self, request: web.Request) -> FabricView:
        name, views = request.match_info["fabric"], self._look()
        for view in views:
            if view.fabric.name == name:
                return view
        there = ", ".join(view.fabric.name for view in views) or "none"
        raise web.HTTPNotFound(
            text=json.dumps({"error": f"no fabric {name!r}; there are: {there}"}), content_type="application/json"
        )


def _fabric(view: FabricView) -> dict[str, Any]:
    fabric = view.fabric
    return {
        "name": fabric.name,
        "state": view.state.value,
        "personality": fabric.personality,
        "doorbells": fabric.doorbells,
        "ports": fabric.ports,
        "peers": len(view.peers),
        "peers_limit": fabric.peers,
        "vectors": fabric.vectors,
        "rung": view.doorbells,
        "socket": str(fabric.socket.path),
        "mailbox": None if fabric.mailbox.file is None else str(fabric.mailbox.file),
        "mailbox_size": fabric.mailbox.size,
        "pid": view.pid,
        "restarts": view.restarts,
    }


def _json(data: object) -> web.Response:
    return web.Response(text=json.dumps(data) + "\n", content_type="application/json")
