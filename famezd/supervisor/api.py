"""HTTP: metrics, health, and the API; what changes anything is on the control socket only."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from famezd import __version__
from famezd.config import ConfigError
from famezd.errors import FamezError
from famezd.fabric.listener import credentials
from famezd.fabric.peer import program
from famezd.statepage import StateError
from famezd.supervisor.operations import Operations, UnknownFabricError, UnknownPeerError
from famezd.supervisor.switch import NoSwitchError, first_genz, switch, system
from famezd.supervisor.view import ConfigView, FabricView

Look = Callable[[], Sequence[FabricView]]


def application(
    look: Look, config: Callable[[], ConfigView], metrics: CollectorRegistry, operations: Operations | None
) -> web.Application:
    """The application; `look` returns a view of each fabric, without `operations` it is read-only."""
    handlers = _Handlers(look, config, metrics)
    app = web.Application()
    app.add_routes(
        [
            web.get("/metrics", handlers.metrics),
            web.get("/healthz", handlers.health),
            web.get("/api/v1/status", handlers.status),
            web.get("/api/v1/fabrics/{fabric}/peers", handlers.peers),
            web.get("/api/v1/fabrics/{fabric}/doorbells", handlers.doorbells),
            web.get("/api/v1/fabrics/{fabric}/switch", handlers.switch),
            web.get("/system", handlers.system),
        ]
    )
    if operations is not None:
        changing = _ChangingHandlers(operations)
        app.add_routes(
            [
                web.post("/api/v1/reload", changing.reload),
                web.post("/api/v1/fabrics/{fabric}/restart", changing.restart),
                web.post("/api/v1/fabrics/{fabric}/peers/{peer}/kick", changing.kick),
            ]
        )
    return app


class _Handlers:
    def __init__(self, look: Look, config: Callable[[], ConfigView], metrics: CollectorRegistry) -> None:
        self._look = look
        self._config = config
        self._metrics = metrics

    async def metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._metrics), headers={"Content-Type": content_type})

    async def health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def status(self, _: web.Request) -> web.Response:
        config = self._config()
        return _json(
            {
                "version": __version__,
                "configuration": {
                    "accepted": config.accepted,
                    "problems": [str(problem) for problem in config.problems],
                },
                "fabrics": [_fabric(view) for view in self._look()],
            }
        )

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

    async def switch(self, request: web.Request) -> web.Response:
        view = self._view(request)
        try:
            return _json({"fabric": view.fabric.name, "personality": view.fabric.personality, **switch(view)})
        except NoSwitchError as e:
            raise _no(web.HTTPNotFound, str(e)) from e
        except StateError as e:
            raise _no(web.HTTPServiceUnavailable, str(e)) from e

    async def system(self, request: web.Request) -> web.Response:
        try:
            view = self._view_of(request.query["fabric"]) if "fabric" in request.query else first_genz(self._look())
            answer = _json(system(view))
        except NoSwitchError as e:
            raise _no(web.HTTPNotFound, str(e)) from e
        except StateError as e:
            raise _no(web.HTTPServiceUnavailable, str(e)) from e
        # As FAME-Z does: pages that draw it come from anywhere.
        answer.headers["Access-Control-Allow-Origin"] = "*"
        return answer

    def _view(self, request: web.Request) -> FabricView:
        return self._view_of(request.match_info["fabric"])

    def _view_of(self, name: str) -> FabricView:
        views = self._look()
        for view in views:
            if view.fabric.name == name:
                return view
        raise _no(web.HTTPNotFound, str(UnknownFabricError(name, [view.fabric.name for view in views])))


Handler = Callable[["_ChangingHandlers", web.Request], Awaitable[web.Response]]


def _logged(handler: Handler) -> Handler:
    """Logs who asked for what; an operation that fails is answered with its error."""

    async def handle(self: _ChangingHandlers, request: web.Request) -> web.Response:
        who = credentials(request.get_extra_info("socket"))
        asked = {"uid": who.uid, "pid": who.pid, "program": program(who.pid)}
        structlog.get_logger().info("famezctl asks", what=handler.__name__, **request.match_info, **asked)
        try:
            return await handler(self, request)
        except ConfigError as e:
            raise _no(web.HTTPUnprocessableEntity, str(e)) from e
        except (UnknownFabricError, UnknownPeerError) as e:
            raise _no(web.HTTPNotFound, str(e)) from e
        except FamezError as e:
            raise _no(web.HTTPConflict, str(e)) from e

    return handle


class _ChangingHandlers:
    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    @_logged
    async def reload(self, _: web.Request) -> web.Response:
        return _json(asdict(await self._operations.reload()))

    @_logged
    async def restart(self, request: web.Request) -> web.Response:
        return _json(asdict(await self._operations.restart(request.match_info["fabric"])))

    @_logged
    async def kick(self, request: web.Request) -> web.Response:
        fabric, peer = request.match_info["fabric"], request.match_info["peer"]
        if not peer.isdecimal():
            raise _no(web.HTTPNotFound, f"a peer's id is a number, not {peer!r}; `famezctl peers {fabric}` lists them")
        await self._operations.kick(fabric, int(peer))
        return _json({"kicked": int(peer)})


def _no(kind: type[web.HTTPError], why: str) -> web.HTTPError:
    return kind(text=json.dumps({"error": why}), content_type="application/json")


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
        "failure": view.failure,
        "waiting": list(view.waiting),
    }


def _json(data: object) -> web.Response:
    return web.Response(text=json.dumps(data) + "\n", content_type="application/json")
