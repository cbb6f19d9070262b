"""famezd itself: the runtime directory, the fabrics' workers, HTTP, and what systemd is told."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import structlog
from aiohttp import web

from famezd.config import Config
from famezd.errors import FamezError
from famezd.fabric.listener import credentials, identity, listen, unlink
from famezd.notify import Manager, NotifySocket, inherited
from famezd.supervisor.api import application
from famezd.supervisor.metrics import registry
from famezd.supervisor.view import FabricView, look
from famezd.supervisor.worker import State, Worker

HTTP, CONTROL = "http", "control"
"""Names of the sockets that systemd may hand on."""
HTTP_ENDS_WITHIN = 0.5
"""Seconds that requests under way have to end when famezd stops: a client that says nothing must not hold it up."""


class ServiceError(FamezError):
    """famezd cannot run as it is configured."""


class Service:
    """The supervisor.

    `ready` is called once, when every fabric listens, with the URL of HTTP ("" where it is not served).
    """

    def __init__(self, config: Config, ready: Callable[[str], None]) -> None:
        self._config = config
        self._on_ready = ready
        self._log = structlog.get_logger()
        self._manager = Manager()
        self._workers: dict[str, Worker] = {}
        self._stop = asyncio.Event()
        self._ready = False
        self._told = ""
        self._url = ""
        self._control: tuple[int, int] | None = None
        """The identity of control.sock, once it is ours."""

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT; raises FamezError if it cannot. Either way nothing is left behind."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        # A terminal that hangs up is no reason to end what others depend on.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        given = inherited()
        with _runtime_directory(self._config), self._notifications() as notify_socket:
            self._workers = {
                name: Worker(fabric, notify_socket.path, partial(self._hear, notify_socket), self._tell_status)
                for name, fabric in self._config.fabrics.items()
            }
            async with self._http(given):
                try:
                    await self._serve()
                finally:
                    self._manager.tell("STOPPING=1", "STATUS=stopping")
                    await self._stop_workers()

    async def _serve(self) -> None:
        for worker in self._workers.values():
            worker.start()
        started = asyncio.gather(*(worker.settled.wait() for worker in self._workers.values()))
        stop = asyncio.ensure_future(self._stop.wait())
        keep_alive = asyncio.ensure_future(self._keep_alive())
        try:
            await asyncio.wait((started, stop), return_when=asyncio.FIRST_COMPLETED)
            failed = [worker for worker in self._workers.values() if worker.state is State.FAILED]
            if failed:
                raise ServiceError("\n".join(f"fabric {w.fabric.name}: {w.failure}" for w in failed))
            if not self._stop.is_set():
                self._ready = True
                self._told = self._summary()
                self._manager.tell("READY=1", f"STATUS={self._told}")
                self._log.info("famezd is ready", fabrics=len(self._workers), http=self._url)
                self._on_ready(self._url)
                await stop
        finally:
            for task in (started, stop, keep_alive):
                task.cancel()
            await asyncio.gather(started, stop, keep_alive, return_exceptions=True)

    async def _stop_workers(self) -> None:
        for worker in self._workers.values():
            worker.stop()
        await asyncio.gather(*(worker.settled.wait() for worker in self._workers.values() if worker.pid))
        for worker in self._workers.values():
            worker.remove()
        self._log.info("famezd has stopped")

    def look(self) -> list[FabricView]:
        """A view of each fabric."""
        return [look(worker) for worker in self._workers.values()]

    # What workers say, and what systemd is told

    @contextmanager
    def _notifications(self) -> Iterator[NotifySocket]:
        path = self._config.notify_socket
        try:
            # Whoever left it is gone: the runtime directory is ours alone.
            path.unlink(missing_ok=True)
            listening = NotifySocket(str(path))
        except OSError as e:
            raise ServiceError(
                f"cannot make {path}, where workers talk to famezd: {e.strerror or e}; move away what is there, "
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
            worker = next((w for w in self._workers.values() if w.pid == notification.pid), None)
            if worker is None:
                for descriptor in notification.descriptors:
                    os.close(descriptor)
                continue
            worker.hear(notification)
            if "STATUS" in notification.assignments:
                self._tell_status()

    def _tell_status(self) -> None:
        if not self._ready or self._stop.is_set():
            return
        summary = self._summary()
        if summary != self._told:
            self._told = summary
            self._manager.tell(f"STATUS={summary}")

    def _summary(self) -> str:
        serving = sum(worker.state is State.SERVING for worker in self._workers.values())
        peers = sum(len(worker.page.occupants()) for worker in self._workers.values() if worker.page is not None)
        return f"{serving} of {len(self._workers)} fabrics serve {peers} peers"

    async def _keep_alive(self) -> None:
        """Feeds systemd's watchdog: from this loop, and so only while it turns."""
        while self._manager.watchdog:
            self._manager.tell("WATCHDOG=1")
            await asyncio.sleep(self._manager.watchdog / 3)

    # HTTP

    @asynccontextmanager
    async def _http(self, given: dict[str, list[int]]) -> AsyncIterator[None]:
        runner = web.AppRunner(
            application(self.look, registry(self.look)), access_log=None, shutdown_timeout=HTTP_ENDS_WITHIN
        )
        await runner.setup()
        try:
            for listener in self._http_sockets(given):
                await web.SockSite(runner, listener).start()
            yield
        finally:
            unlink(str(self._config.control_socket), self._control)
            await runner.cleanup()

    def _http_sockets(self, given: dict[str, list[int]]) -> Iterator[socket.socket]:
        address = self._config.http.address
        tcp = [socket.socket(fileno=fd) for fd in given.get(HTTP, ())]
        if not tcp and address is not None:
            tcp = [_listen_tcp(*address)]
        for listener in tcp:
            if listener.family != socket.AF_UNIX:
                host, port = listener.getsockname()[:2]
                self._url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            yield listener
        if CONTROL in given:
            yield from (socket.socket(fileno=fd) for fd in given[CONTROL])
        else:
            own, path = self._config.control, str(self._config.control_socket)
            control = listen(
                path,
                uid=-1 if own.uid is None else own.uid,
                gid=-1 if own.gid is None else own.gid,
                mode=own.mode,
            )
            self._control = identity(path)
            yield control


@contextmanager
def _runtime_directory(config: Config) -> Iterator[None]:
    """Makes the directory, and makes sure that no other famezd uses it."""
    path = config.runtime_directory
    try:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        lock = _lock(config)
    except OSError as e:
        where = f" ({e.filename})" if e.filename not in (None, str(path)) else ""
        raise ServiceError(
            f"cannot use the runtime directory {path}: {e.strerror}{where}; set runtime_directory to one that "
            f"user id {os.geteuid()} can write to"
        ) from e
    try:
        yield
    finally:
        unlink(str(config.lock_file), _identity(lock))
        os.close(lock)


def _lock(config: Config) -> int:
    """Opens and locks the lock file, which only we may open: anybody who can open a file can lock it."""
    path = str(config.lock_file)
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            os.close(lock)
            raise ServiceError(
                f"another famezd uses the runtime directory {config.runtime_directory}{_owner(config.control_socket)}; "
                f"stop it, or set another runtime_directory"
            ) from e
        if _identity(lock) == identity(path):
            return lock
        # Its last owner has removed it meanwhile.
        os.close(lock)


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _owner(control: Path) -> str:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        probe.connect(str(control))
        return f" (process {credentials(probe).pid})"
    return ""


def _listen_tcp(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as e:
        # The error's own text tells the address again; a name that is not found has no errno.
        why = os.strerror(e.errno) if e.errno and e.errno > 0 else e.strerror
        raise ServiceError(
            f"cannot serve HTTP on {host}:{port}: {why}; stop what listens there or set http.listen"
        ) from e
