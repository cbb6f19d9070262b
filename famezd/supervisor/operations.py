"""What famezd can be told to do while it serves: reload, restart a fabric, kick a peer, break things by rules."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import structlog

from famezd.config import Config, ConfigError, Problem, load
from famezd.configreport import report
from famezd.errors import FamezError
from famezd.fabric.listener import ListenerError
from famezd.faultsettings import read_fault
from famezd.openfiles import hard_limit
from famezd.supervisor.faults import FaultTable
from famezd.supervisor.http.addresses import HttpError
from famezd.supervisor.http.server import Prepared
from famezd.supervisor.logs import configure
from famezd.supervisor.plan import Difference, difference, disconnecting, is_as_it_was, listed, present, removals
from famezd.supervisor.settings import misfits, worker_settings
from famezd.supervisor.status.owners import not_given
from famezd.supervisor.status.view import ACCEPTED, REFUSED, look
from famezd.supervisor.worker import State, Worker

if TYPE_CHECKING:
    from famezd.supervisor.service import Service


class UnknownFabricError(FamezError):
    """There is no such fabric."""

    def __init__(self, name: str, fabrics: Iterable[str]) -> None:
        super().__init__(f"no fabric {name!r}; there are: {', '.join(sorted(fabrics)) or 'none'}")


class UnknownPeerError(FamezError):
    """There is no such peer on the fabric."""


@dataclass
class Reloaded:
    """What a reload did, by the fabrics' names."""

    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    disconnected: dict[str, int] = field(default_factory=dict)
    """Peers whose membership the removal of their fabric ended, where there were any."""
    changed: list[str] = field(default_factory=list)
    """In place: their peers noticed nothing."""
    waiting: dict[str, str] = field(default_factory=dict)
    """Served as before until restarted, because what changed would end them; and what that is."""
    failed: dict[str, str] = field(default_factory=dict)
    """Not served as they should be, and why."""


@dataclass
class Restarted:
    """How a fabric was restarted."""

    pause: float
    """Seconds for which nobody served it."""
    disconnected: int
    """Peers whose membership that ended."""
    why: str
    """What ended them, "" if nothing did."""


class Operations:
    """Changes to a running service, one after the other."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._log = structlog.get_logger()
        self._one_by_one = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def close(self) -> None:
        """Nothing is changed any more."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()

    def reload_soon(self) -> None:
        """Reloads, for who waits for no answer: SIGHUP."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._reload_for_nobody())

    async def _reload_for_nobody(self) -> None:
        try:
            await self.reload()
        except FamezError as e:
            self._log.error("reload failed", error=str(e))

    def report(self) -> dict[str, object]:
        """What `check` finds, for JSON."""
        return report(self._service.path, lambda _: self.check())

    def check(self) -> Config:
        """Reads the configuration and changes nothing; raises ConfigError if a reload would refuse it for a mistake."""
        config = load(self._service.path, limit=hard_limit())
        running = self._service.accepted.config.runtime_directory
        if config.runtime_directory != running:
            why = f"is {running} as long as famezd runs: restart famezd to change it"
            raise ConfigError([Problem(self._service.path, 1, 1, "runtime_directory", why)])
        return config

    def diff(self) -> Difference:
        """What a reload would do; raises ConfigError as `check` does."""
        return difference(self._service.accepted.config, self._service.workers, self.check())

    async def reload(self, *, force: bool = False) -> Reloaded:
        """Reads the configuration anew and does what it says.

        Raises ConfigError if there is any mistake in it, and, unless `force`, if it would remove a fabric that has
        peers; then nothing has changed.
        """
        async with self._one_by_one:
            service = self._service
            self._check_open()
            service.manager.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", wait=True)
            began, result = time.monotonic(), REFUSED
            try:
                reloaded = await self._reload(force=force)
                result = ACCEPTED
                return reloaded
            finally:
                service.reloaded(result, time.monotonic() - began)
                service.manager.tell("READY=1", f"STATUS={service.summary()}", wait=True)

    async def _reload(self, *, force: bool) -> Reloaded:
        service = self._service
        try:
            config = self.check()
            if not force and (refused := list(removals(service.path, service.workers, config))):
                raise ConfigError(refused)  # noqa: TRY301 (one among those of the calls around it)
            http = self._prepare(config)
            self._permit(config, http)
        except ConfigError as e:
            service.refuse(e)
            raise
        service.config_view = replace(service.config_view, successful=True, accepted=time.time(), problems=())
        configure(config.log.level, config.log.format, config.fabric_log_levels)
        await service.http.change(http)
        reloaded = Reloaded()
        await self._remove(config, reloaded)
        # What waits for a restart is known before anything is done that may take a while.
        served = {name: w.fabric for name, w in service.workers.items() if self._waits(w, config, reloaded)}
        service.accept(config, served)
        service.tell_of_http()
        service.tell_of_parking()
        await self._change(config, reloaded)
        await self._add(config, reloaded)
        # Now with the fault rules that are in force.
        service.accept(config, served)
        did = {key: value for key, value in vars(reloaded).items() if value}
        self._log.info("configuration reloaded", **did)
        told = {key: ", ".join(value) for key, value in did.items()}
        service.timeline.hear("", "info", "configuration reloaded", told)
        return reloaded

    def _prepare(self, config: Config) -> Prepared:
        """What HTTP needs to be served as it is configured now; raises ConfigError if it cannot be."""
        try:
            return self._service.http.prepare(config.http)
        except HttpError as e:
            raise ConfigError([Problem(self._service.path, 1, 1, "http.listen", str(e))]) from e

    def _permit(self, config: Config, http: Prepared) -> None:
        """Gives the control socket its permissions; raises ConfigError, and drops `http`, if it cannot have them."""
        service = self._service
        try:
            service.http.permit(config.control, service.accepted.config.control)
        except ListenerError as e:
            http.drop()
            raise ConfigError([Problem(service.path, 1, 1, "control", str(e))]) from e

    async def _remove(self, config: Config, reloaded: Reloaded) -> None:
        workers = self._service.workers
        for name in sorted(workers.keys() - config.fabrics.keys()):
            worker = workers[name]
            if peers := present(worker):
                self._log.warning("fabric is removed, its peers are disconnected", fabric=name, peers=listed(peers))
                reloaded.disconnected[name] = len(peers)
            # It passes on what was rung before it ends.
            worker.stop()
            await worker.settled.wait()
            worker.remove()
            del workers[name]
            reloaded.removed.append(name)

    def _waits(self, worker: Worker, config: Config, reloaded: Reloaded) -> bool:
        """Whether a fabric has peers whom its new settings would disconnect."""
        name = worker.fabric.name
        if why := disconnecting(worker, config.fabrics[name]):
            reloaded.waiting[name] = "; ".join(why)
        return bool(why)

    async def _change(self, config: Config, reloaded: Reloaded) -> None:
        service = self._service
        for name, worker in service.workers.items():
            fabric = config.fabrics[name]
            faults = worker.faults.fitting(fabric)
            if name in service.accepted.served or is_as_it_was(worker, fabric):
                continue
            if worker_settings(fabric) == worker.settings._replace(faults="") and worker.state is State.SERVING:
                worker.fabric = fabric
                if why := await self._change_faults(worker, faults):
                    reloaded.failed[name] = why
                    continue
            elif why := await self._restart(worker) or "; ".join(not_given(worker.settings)):
                reloaded.failed[name] = why
                continue
            reloaded.changed.append(name)

    async def _change_faults(self, worker: Worker, faults: FaultTable) -> str:
        """Changes the rules on a fabric that serves; returns why that failed, "" if it did not."""
        try:
            if faults != worker.faults:
                await worker.change_faults(faults)
        except FamezError as e:
            return str(e)
        return ""

    async def _add(self, config: Config, reloaded: Reloaded) -> None:
        service = self._service
        added = [service.add(name) for name in sorted(config.fabrics.keys() - service.workers.keys())]
        await service.start(added)
        for worker in added:
            name = worker.fabric.name
            if worker.state is State.SERVING:
                reloaded.added.append(name)
            else:
                reloaded.failed[name] = worker.failure

    async def _restart(self, worker: Worker) -> str:
        """Brings a worker's settings up to date; returns why that failed, "" if it did not."""
        fabric = self._service.accepted.config.fabrics[worker.fabric.name]
        unfit = misfits(fabric, worker.fabric, worker.settings)
        try:
            if not unfit and worker.state is State.SERVING:
                await worker.succeed(fabric)
            else:
                await worker.restart(fabric)
        except FamezError as e:
            return str(e)
        return worker.failure

    async def restart(self, name: str) -> Restarted:
        """Has another process serve a fabric, as it is configured now.

        Its peers notice nothing, unless its settings have changed so that they no longer fit: then they are
        disconnected. Raises UnknownFabricError, and OrderError or NotServingError if that failed.
        """
        async with self._one_by_one:
            service = self._service
            self._check_open()
            worker = self._worker(name)
            fabric = service.accepted.config.fabrics[name]
            why = misfits(fabric, worker.fabric, worker.settings)
            peers = 0 if worker.page is None else len(worker.page.occupants())
            began = time.monotonic()
            if not why and worker.state is State.SERVING:
                return Restarted(await worker.succeed(fabric), 0, "")
            await worker.restart(fabric)
            waiting = {name: f for name, f in service.accepted.served.items() if name != worker.fabric.name}
            service.accept(service.accepted.config, waiting)
            return Restarted(time.monotonic() - began, peers if why else 0, "; ".join(why))

    async def kick(self, name: str, peer: str) -> tuple[int, str]:
        """Ends the membership of a peer, given by its id or its name; returns both.

        Raises UnknownFabricError, UnknownPeerError, NotServingError or OrderError.
        """
        async with self._one_by_one:
            # While it does not serve nobody is seen on it, and they may all be there again in a moment.
            self._worker(name).require_serving()
            view = look(self._worker(name))
            # No peer's name can be taken for an id, and no two are the same.
            named = [p for p in view.peers if peer in (str(p.id), p.name)]
            if not named:
                raise UnknownPeerError(f"fabric {name} has no peer {peer}; `famezctl peers {name}` lists them")
            await self._worker(name).kick(named[0].id)
            return named[0].id, named[0].name

    async def add_fault(self, name: str, asked: Mapping[str, object]) -> int:
        """Adds a fault rule, which is checked as in a file; returns its id.

        Raises UnknownFabricError, FaultError, TooManyRulesError, or OrderError if the worker does not answer.
        """
        async with self._one_by_one:
            worker = self._worker(name)
            faults = worker.faults.added(read_fault(asked, worker.fabric))
            await self._put_in_force(worker, faults)
            text = faults.rules[-1].rule.text
            self._log.info("fault rule added", fabric=name, rule=text)
            self._service.timeline.hear(name, "info", "fault rule added", {"rule": text})
            return faults.last

    async def clear_faults(self, name: str, number: int | None) -> list[int]:
        """Takes the fault rule of this id away, or all, also those of the file; returns the ids of those that went.

        Raises UnknownFabricError, UnknownRuleError, or OrderError if the worker does not answer.
        """
        async with self._one_by_one:
            worker = self._worker(name)
            before, faults = worker.faults, worker.faults.cleared(number)
            await self._put_in_force(worker, faults)
            gone = [numbered for numbered in before.rules if numbered not in faults.rules]
            for numbered in gone:
                self._service.timeline.hear(name, "info", "fault rule cleared", {"rule": numbered.rule.text})
            return [numbered.id for numbered in gone]

    async def _put_in_force(self, worker: Worker, faults: FaultTable) -> None:
        service = self._service
        self._check_open()
        try:
            await worker.change_faults(faults)
        finally:
            service.accept(service.accepted.config, service.accepted.served)

    def _worker(self, name: str) -> Worker:
        workers = self._service.workers
        if name not in workers:
            raise UnknownFabricError(name, workers)
        return workers[name]

    def _check_open(self) -> None:
        if self._closed:
            raise FamezError("famezd is stopping")
