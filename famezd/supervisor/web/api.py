"""HTTP: metrics, health, and the API; what changes anything is on the control socket only."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any

import structlog
from aiohttp import web

from famezd import __version__
from famezd.attach import NoPortSocketError, NotInXmlError, libvirt_commandline, libvirt_element, qemu_arguments
from famezd.config import ConfigError
from famezd.errors import FamezError
from famezd.fabric.listener import credentials
from famezd.fabric.processes import program
from famezd.faults import FaultError
from famezd.statepage import StateError
from famezd.supervisor.faults import UnknownRuleError
from famezd.supervisor.http.server import HttpView
from famezd.supervisor.metrics.scrape import Scraper
from famezd.supervisor.operations import Operations, UnknownFabricError, UnknownPeerError
from famezd.supervisor.settings import worker_settings
from famezd.supervisor.status.health import unready
from famezd.supervisor.status.names import LONGEST, sanitised
from famezd.supervisor.status.owners import not_given
from famezd.supervisor.status.rates import History
from famezd.supervisor.status.switch import NoSwitchError, first_genz, switch, system
from famezd.supervisor.status.view import ConfigView, FabricView

BODY = 65536
"""Bytes of a request's body: a fault rule is the longest that is sent."""

Look = Callable[[], Sequence[FabricView]]


def application(
    look: Look,
    config: Callable[[], ConfigView],
    http: Callable[[], HttpView],
    scraper: Scraper,
    history: History,
    *,
    operations: Operations | None,
) -> web.Application:
    """The application; `look` returns a view of each fabric, without `operations` it is read-only."""
    handlers = _Handlers(look, config, http, scraper, history)
    app = web.Application(client_max_size=BODY)
    app.add_routes(
        [
            web.get("/metrics", handlers.metrics),
            web.get("/healthz", handlers.health),
            web.get("/readyz", handlers.readiness),
            web.get("/api/v1/status", handlers.status),
            web.get("/api/v1/fabrics/{fabric}/peers", handlers.peers),
            web.get("/api/v1/fabrics/{fabric}/doorbells", handlers.doorbells),
            web.get("/api/v1/fabrics/{fabric}/faults", handlers.faults),
            web.get("/api/v1/fabrics/{fabric}/qemu", handlers.qemu),
            web.get("/api/v1/fabrics/{fabric}/libvirt", handlers.libvirt),
            web.get("/api/v1/fabrics/{fabric}/switch", handlers.switch),
            web.get("/system", handlers.system),
        ]
    )
    if operations is not None:
        changing = _ChangingHandlers(operations)
        app.add_routes(
            [
                # What stands in the files is not for everybody.
                web.get("/api/v1/check", changing.check),
                web.get("/api/v1/diff", changing.diff),
                web.post("/api/v1/reload", changing.reload),
                web.post("/api/v1/fabrics/{fabric}/restart", changing.restart),
                web.post("/api/v1/fabrics/{fabric}/peers/{peer}/kick", changing.kick),
                web.post("/api/v1/fabrics/{fabric}/faults", changing.add_fault),
                web.post("/api/v1/fabrics/{fabric}/faults/clear", changing.clear_faults),
                web.post("/api/v1/fabrics/{fabric}/faults/{rule}/clear", changing.clear_faults),
            ]
        )
    return app


class _Handlers:
    def __init__(
        self,
        look: Look,
        config: Callable[[], ConfigView],
        http: Callable[[], HttpView],
        scraper: Scraper,
        history: History,
    ) -> None:
        self._look = look
        self._config = config
        self._http = http
        self._scraper = scraper
        self._history = history

    async def metrics(self, request: web.Request) -> web.Response:
        text, content_type = await self._scraper.scrape(request.headers.get("Accept", ""))
        return web.Response(body=text, headers={"Content-Type": content_type})

    async def health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readiness(self, _: web.Request) -> web.Response:
        unserved = unready(self._look())
        if not unserved:
            return web.Response(text="ok\n")
        return web.Response(status=503, text="".join(f"fabric {name}: {why}\n" for name, why in unserved.items()))

    async def status(self, _: web.Request) -> web.Response:
        config, views = self._config(), self._look()
        return _json(
            {
                "version": __version__,
                "unready": unready(views),
                "pid": os.getpid(),
                "configuration": {
                    "successful": config.successful,
                    "accepted": config.accepted,
                    "problems": [str(problem) for problem in config.problems],
                },
                "http": self._http()._asdict(),
                "fabrics": [_fabric(view, self._history) for view in views],
            }
        )

    async def peers(self, request: web.Request) -> web.Response:
        view = self._view(request)
        peers = [
            {
                "id": p.id,
                "name": p.name,
                "kind": p.kind,
                "pid": p.pid,
                "uid": p.uid,
                "program": sanitised(program(p.pid), LONGEST),
                "joined": p.joined,
            }
            for p in view.peers
        ]
        s = view.switch
        switch = None if s is None else {"id": s.id, "name": s.name, "kind": s.kind, "pid": s.pid, "uid": s.uid}
        return _json({"fabric": view.fabric.name, "peers": peers, "switch": switch})

    async def doorbells(self, request: web.Request) -> web.Response:
        view = self._view(request)
        pairs = [{"src": src, "dst": dst, "count": n} for (src, dst), n in sorted(view.pairs.items())]
        vectors = [{"dst": dst, "vector": v, "count": n} for (dst, v), n in sorted(view.vectors.items())]
        # Direct ones are not counted, but for those to and from the switch: who asks should know.
        how, names = view.fabric.doorbells, {p.id: p.name for p in view.everybody}
        return _json({"fabric": view.fabric.name, "doorbells": how, "names": names, "pairs": pairs, "vectors": vectors})

    async def qemu(self, request: web.Request) -> web.Response:
        fabric, port = self._view(request).fabric, _port(request)
        try:
            arguments = qemu_arguments(fabric, port)
        except NoPortSocketError as e:
            raise _no(web.HTTPNotFound, str(e)) from e
        return _json({"fabric": fabric.name, "arguments": arguments})

    async def libvirt(self, request: web.Request) -> web.Response:
        fabric, port, form = self._view(request).fabric, _port(request), request.query.get("form", "element")
        if form not in ("element", "commandline"):
            raise _no(web.HTTPBadRequest, f"form must be element or commandline, not {form!r}")
        try:
            if form == "commandline":
                xml = libvirt_commandline(fabric, port)
            else:
                xml = libvirt_element(fabric, port, request.query.get("name"))
        except NoPortSocketError as e:
            raise _no(web.HTTPNotFound, str(e)) from e
        except NotInXmlError as e:
            raise _no(web.HTTPUnprocessableEntity, str(e)) from e
        return _json({"fabric": fabric.name, "xml": xml})

    async def faults(self, request: web.Request) -> web.Response:
        view = self._view(request)
        return _json({"fabric": view.fabric.name, "faults": [asdict(fault) for fault in view.faults]})

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
        except FaultError as e:
            raise _no(web.HTTPUnprocessableEntity, str(e)) from e
        except (UnknownFabricError, UnknownPeerError, UnknownRuleError) as e:
            raise _no(web.HTTPNotFound, str(e)) from e
        except FamezError as e:
            raise _no(web.HTTPConflict, str(e)) from e

    return handle


class _ChangingHandlers:
    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def check(self, _: web.Request) -> web.Response:
        return _json(self._operations.report())

    async def diff(self, _: web.Request) -> web.Response:
        try:
            return _json(asdict(self._operations.diff()))
        except ConfigError as e:
            raise _no(web.HTTPUnprocessableEntity, str(e)) from e

    @_logged
    async def reload(self, request: web.Request) -> web.Response:
        return _json(asdict(await self._operations.reload(force=request.query.get("force") == "true")))

    @_logged
    async def restart(self, request: web.Request) -> web.Response:
        return _json(asdict(await self._operations.restart(request.match_info["fabric"])))

    @_logged
    async def kick(self, request: web.Request) -> web.Response:
        fabric, peer = request.match_info["fabric"], request.match_info["peer"]
        kicked, name = await self._operations.kick(fabric, peer)
        return _json({"kicked": kicked, "name": name})

    @_logged
    async def add_fault(self, request: web.Request) -> web.Response:
        try:
            asked = await request.json()
        except ValueError as e:
            raise FaultError(f"a fault rule is a JSON object: {e}") from e
        if not isinstance(asked, dict):
            raise FaultError('a fault rule is a JSON object, such as {"src": 1, "dst": "*", "drop": 0.1}')
        return _json({"id": await self._operations.add_fault(request.match_info["fabric"], asked)})

    @_logged
    async def clear_faults(self, request: web.Request) -> web.Response:
        fabric, rule = request.match_info["fabric"], request.match_info.get("rule")
        if rule is not None and not rule.isdecimal():
            raise UnknownRuleError(f"a fault rule's id is a number, not {rule!r}; see `famezctl fault list {fabric}`")
        number = None if rule is None else int(rule)
        return _json({"cleared": await self._operations.clear_faults(fabric, number)})


def _port(request: web.Request) -> int | None:
    port = request.query.get("port")
    if port is not None and not (port.isascii() and port.isdecimal() and len(port) < 10):
        raise _no(web.HTTPBadRequest, f"port must be a number, not {port!r}")
    return None if port is None else int(port)


def _no(kind: type[web.HTTPError], why: str) -> web.HTTPError:
    return kind(text=json.dumps({"error": why}), content_type="application/json")


def _fabric(view: FabricView, history: History) -> dict[str, Any]:
    fabric, rates, remarks = view.fabric, history.rates(view), _remarks(view, history)
    worries = bool(remarks or view.waiting)
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
        "health": "down" if not view.up else "warning" if worries else "ok",
        "remarks": remarks,
        "rates": None if rates is None else asdict(rates),
    }


def _remarks(view: FabricView, history: History) -> list[str]:
    """What an operator should know of a fabric, a phrase each."""
    remarks = history.worries(view)
    if view.up:
        remarks += not_given(worker_settings(view.fabric))
    if len(view.peers) == view.fabric.peers:
        remarks.append("there is no room for another peer")
    if view.faults:
        remarks.append(f"doorbells or messages fail on purpose: see `famezctl fault list {view.fabric.name}`")
    return remarks


def _json(data: object) -> web.Response:
    return web.Response(text=json.dumps(data) + "\n", content_type="application/json")
