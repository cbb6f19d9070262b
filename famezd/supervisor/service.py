"""famezd itself: the fabrics' workers, who asks it, and what systemd is told."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import structlog

from famezd.config import Config, ConfigError, Fabric
from famezd.errors import FamezError
from famezd.mailbox import SHM
from famezd.notify import NotifySocket
from famezd.openfiles import in_flight_limit
from famezd.remedies import remedy
from famezd.supervisor.accepted import Accepted, keep, recall
from famezd.supervisor.http.addresses import HttpError
from famezd.supervisor.http.server import HttpView, Server
from famezd.supervisor.job import is_restart
from famezd.supervisor.metrics.own import registry
from famezd.supervisor.metrics.scrape import Scraper
from famezd.supervisor.operations import Operations
from famezd.supervisor.parking import remark
from famezd.supervisor.runtime import runtime_directory
from famezd.supervisor.settings import worker_settings
from famezd.supervisor.status.health import unready
from famezd.supervisor.status.rates import History
from famezd.supervisor.status.timeline import Timeline
from famezd.supervisor.status.view import ConfigView, FabricView, look
from famezd.supervisor.store import Store
from famezd.supervisor.web.api import application
from famezd.supervisor.web.page import add_page
from famezd.supervisor.web.stream import Stream
from famezd.supervisor.worker import WATCHDOG, State, Worker

STARTS = 8
"""Workers that are started at once."""
BEAT = WATCHDOG / 3
"""Seconds between two looks at all that goes on by itself; a systemd that expects signs of life may shorten them."""
BEAT_WATCHED = 2.0
"""The same while somebody looks at the page, which shows how busy fabrics are."""


class ServiceError(FamezError):
    """famezd cannot run as it is configured."""


class Service:
    """The supervisor.

    It goes on with what is in `store`. `ready` is called once, when every fabric listens, with the URL of HTTP ("" for
    none).
    """

    def __init__(self, path: Path, accepted: Accepted, store: Store, ready: Callable[[str], None]) -> None:
        self.path = path
        """Of famezd.yaml."""
        self.accepted = accepted
        self.manager = store.manager
        self.store = store
        self.workers: dict[str, Worker] = {}
        """By the fabrics' names."""
        self.config_view = ConfigView(True, time.time(), ())
        self._history = History()
        self.timeline = Timeline()
        """What has happened lately, for the page."""
        self._stream = Stream(lambda: self.workers, self.timeline)
        self._resumes = bool(store.fabrics)
        self._on_ready = ready
        self._log = structlog.get_logger()
        self._stop = asyncio.Event()
        self._ready = False
        self._told = ""
        self._remarked = ""
        self._parking = ""
        self._notify_socket: NotifySocket
        self._operations = Operations(self)
        scraper = Scraper(lambda: self.workers, self.look_at, registry(self.config))
        asked = partial(application, self.look, self.config, lambda: self._http_view, scraper, self._history)
        public = asked(operations=None)
        add_page(public, self._stream)
        self.http = Server(public, asked(operations=self._operations), store.others)

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT; raises FamezError if it cannot.

        Either way nothing is left behind, unless another famezd is to go on with it.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._operations.reload_soon)
        with runtime_directory(self.accepted.config), self._notifications() as self._notify_socket:
            self._end_absent()
            for name in self.accepted.config.fabrics:
                self.add(name)
            self.accept(self.accepted.config, self.accepted.served)
            goes_on = self._resumes
            try:
                await self._listen()
                await self._serve()
                goes_on = await is_restart()
            finally:
                await self._end(goes_on=goes_on)

    def add(self, name: str) -> Worker:
        """Has a worker for a fabric of the accepted configuration, which is not started yet."""
        heard = partial(self._hear, self._notify_socket)
        fabric, shelf = self.accepted.fabric(name), self.store.shelf(name)
        faults = self.accepted.faults.get(name)
        worker = Worker(
            fabric,
            shelf,
            self._notify_socket.path,
            heard,
            changed=self.tell_status,
            told=partial(self.timeline.hear, name),
            faults=faults,
        )
        self.workers[name] = worker
        return worker

    async def start(self, workers: Iterable[Worker]) -> None:
        """Starts workers that nobody has started yet, a few at a time; returns when each serves or has failed.

        To start a hundred at once takes seconds, in which this loop would hear nothing of what they tell.
        """
        few = asyncio.Semaphore(STARTS)

        async def start(worker: Worker) -> None:
            async with few:
                # A reload may have started or removed it meanwhile.
                if worker.state is State.STOPPED and self.workers.get(worker.fabric.name) is worker:
                    worker.start()
                await worker.settled.wait()

        await asyncio.gather(*map(start, workers))

    def accept(self, config: Config, served: dict[str, Fabric]) -> None:
        """From now on this is what is in force, together with the workers' fault rules; the next famezd is told."""
        faults = {name: worker.faults for name, worker in self.workers.items() if worker.faults.last}
        self.accepted = Accepted(config=config, served=served, faults=faults)
        keep(self.accepted, self.store)

    def refuse(self, error: ConfigError) -> None:
        """Says that the configuration in the files is wrong: what was accepted before is served on."""
        for problem in error.problems:
            self._log.error("configuration refused", problem=str(problem))
            self.timeline.hear("", "error", "configuration refused", {"problem": str(problem)})
        self.config_view = replace(self.config_view, successful=False, problems=error.problems)

    def reloaded(self, result: str, seconds: float) -> None:
        """A reload took so long."""
        reloads = {**self.config_view.reloads, result: self.config_view.reloads[result] + 1}
        self.config_view = replace(self.config_view, reload_seconds=seconds, reloads=reloads)

    def look(self) -> list[FabricView]:
        """A view of each fabric."""
        return [self._look(name, worker) for name, worker in sorted(self.workers.items())]

    def look_at(self, name: str) -> FabricView | None:
        """A view of one fabric, None if there is none of that name."""
        worker = self.workers.get(name)
        return None if worker is None else self._look(name, worker)

    def _look(self, name: str, worker: Worker) -> FabricView:
        return look(worker, self.accepted.config.fabrics.get(name) if name in self.accepted.served else None)

    def config(self) -> ConfigView:
        """How the last attempt to read the configuration went."""
        return self.config_view

    @property
    def _http_view(self) -> HttpView:
        return HttpView(self.http.url, self.http.remark(self.accepted.config.http))

    async def _listen(self) -> None:
        await self.http.start_control(self.accepted.config)
        try:
            await self.http.start_public(self.accepted.config.http)
        except HttpError:
            if not self._resumes:
                raise
            # Machines wait for their fabrics.
        self.tell_of_http()
        self.tell_of_parking()

    async def _serve(self) -> None:
        started = asyncio.ensure_future(self.start(list(self.workers.values())))
        stop = asyncio.ensure_future(self._stop.wait())
        beat = asyncio.ensure_future(self._beat())
        beat.add_done_callback(self._ended)
        try:
            await asyncio.wait((started, stop), return_when=asyncio.FIRST_COMPLETED)
            if started.done():
                started.result()
            failed = [worker for worker in self.workers.values() if worker.state is State.FAILED]
            if failed and not self._resumes:
                raise ServiceError("\n".join(f"fabric {w.fabric.name}: {w.failure}" for w in failed))
            if not self._stop.is_set():
                self._ready = True
                self._told = self.summary()
                self.manager.tell("READY=1", f"STATUS={self._told}", wait=True)
                self._log.info("famezd is ready", fabrics=len(self.workers), http=self.http.url)
                self._on_ready(self.http.url)
                await stop
        finally:
            tasks = started, stop, beat
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _end(self, *, goes_on: bool) -> None:
        """Stops all workers; what their fabrics are made of goes, too, unless another famezd is to go on with it."""
        self.manager.tell("STOPPING=1", "STATUS=stopping")
        self._operations.close()
        for worker in self.workers.values():
            worker.stop()
        await asyncio.gather(*(worker.settled.wait() for worker in self.workers.values()))
        await self.http.stop()
        if goes_on:
            # What waits to be restarted is restarted with us.
            self.accept(self.accepted.config, {})
        else:
            for worker in self.workers.values():
                worker.remove()
            self.store.forget_config()
            self.manager.flush()
        self._log.info("famezd has stopped", fabrics="kept" if goes_on else "ended")

    def _end_absent(self) -> None:
        """Ends the fabrics in the store that are not in the configuration any more."""
        former = recall(self.store)
        known = {} if former is None else {name: former.fabric(name) for name in former.config.fabrics}
        for name in set(self.store.fabrics) - self.accepted.config.fabrics.keys():
            self._log.warning("fabric ended: it is not in the configuration any more", fabric=name)
            memory = worker_settings(known[name]).memory if name in known else f"{SHM}/famez-{name}"
            self.store.shelf(name).discard(memory)

    # What workers say, and what systemd is told

    @contextmanager
    def _notifications(self) -> Iterator[NotifySocket]:
        path = self.accepted.config.notify_socket
        try:
            # Whoever left it is gone: the runtime directory is ours alone.
            path.unlink(missing_ok=True)
            listening = NotifySocket(str(path))
        except OSError as e:
            todo = remedy(e, "move away what is there", path)
            raise ServiceError(
                f"cannot make {path}, where workers talk to famezd: {e.strerror or e}; {todo}, "
                f"or set another runtime_directory"
            ) from e
        loop = asyncio.get_running_loop()
        loop.add_reader(listening, self._hear, listening)
        try:
            yield listening
        finally:
            loop.remove_reader(listening)
            listening.close()

    def _hear(self, listening: NotifySocket) -> None:
        while True:
            try:
                notification = listening.receive()
            except BlockingIOError:
                return
            worker = next((w for w in self.workers.values() if w.is_process(notification.pid)), None)
            if worker is None:
                notification.close()
                continue
            worker.hear(notification)
            if "STATUS" in notification.assignments:
                self.tell_status()

    def tell_of_http(self) -> None:
        """Logs what of HTTP is not as the accepted configuration says, each time that it is something else."""
        remark = self.http.remark(self.accepted.config.http)
        if remark and remark != self._remarked:
            self._log.warning(remark)
        self._remarked = remark

    def tell_of_parking(self) -> None:
        """Logs that not all fabrics could be full and outlive their workers, each time that it is something else."""
        said = remark([fabric.parked for fabric in self.accepted.config.fabrics.values()], in_flight_limit())
        if said and said != self._parking:
            self._log.warning(said)
        self._parking = said

    def tell_status(self) -> None:
        """Tells systemd how things are, if that has changed."""
        if not self._ready or self._stop.is_set():
            return
        summary = self.summary()
        if summary != self._told:
            self._told = summary
            self.manager.tell(f"STATUS={summary}")

    def summary(self) -> str:
        """How things are, in one line."""
        unserved = unready(self.workers.values())
        peers = sum(len(worker.page.occupants()) for worker in self.workers.values() if worker.page is not None)
        parts = [f"{len(self.workers) - len(unserved)} of {len(self.workers)} fabrics serve {peers} peers"]
        if unserved:
            parts.append(f"not served: {', '.join(unserved)}")
        if self.config_view.problems:
            parts.append(f"configuration refused, the one before it is served: {self.config_view.problems[0]}")
        return "; ".join(parts)

    def _ended(self, task: asyncio.Future[None]) -> None:
        """Nobody waits for it, so nobody else would say that it has failed."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("what goes on beside the fabrics has failed", exc_info=error)

    async def _beat(self) -> None:
        """Does all that has to be done every now and then, at once: each wake-up of a service that idles costs power.

        systemd's watchdog is fed from here, and so only while this loop turns.
        """
        loop, noting, note_at = asyncio.get_running_loop(), None, 0.0
        while True:
            if self.manager.watchdog:
                self.manager.tell("WATCHDOG=1")
            for worker in self.workers.values():
                worker.watch(loop.time() + 1.5 * BEAT)
            if loop.time() >= note_at and (noting is None or noting.done()):
                note_at = loop.time() + BEAT_WATCHED / 2
                # Whatever becomes of it, the signs of life go on.
                noting = asyncio.ensure_future(self._note())
                noting.add_done_callback(self._ended)
            await asyncio.sleep(min(BEAT_WATCHED if self._stream.is_heard else BEAT, self.manager.watchdog / 3 or BEAT))

    async def _note(self) -> None:
        await self._history.note(self.workers.values())
        if self._stream.is_heard:
            self._stream.note(self._history.noted())
