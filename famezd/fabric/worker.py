"""The worker's process: what it opens or inherits, its loop, its signals, its manager."""

from __future__ import annotations

import contextlib
import errno
import importlib
import math
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator

from famezd.ark import Ark
from famezd.errors import FamezError
from famezd.fabric import log
from famezd.fabric.fabric import Fabric
from famezd.fabric.listener import give_socket, listen
from famezd.fabric.settings import Settings, parse
from famezd.mailbox import claim, give_mailbox, open_backing
from famezd.notify import Manager, inherited
from famezd.protocol import Descriptor
from famezd.stats import Page, StatsError
from famezd.switch.personality import Personality

START_FAILED = 78
"""Exit status (EX_CONFIG) of a worker for which trying again as it is would be no use."""
# Names of the descriptors that are handed on and kept
SOCKET, MAILBOX, LOCK, STATS, SUPERVISOR = "socket", "mailbox", "lock", "stats", "supervisor"

_ACCEPTS = 16
"""Newcomers taken in one turn: the loop stays fair to those who are there."""
_PAUSE = 1.0
"""Seconds without accepting, after the kernel had no descriptor or memory for a newcomer."""
_STATUS_EVERY = 1.0


class StartError(FamezError):
    """The worker's surroundings do not allow it to serve."""


class Worker:
    """One fabric being served."""

    def __init__(self, settings: Settings, logger: log.Log) -> None:
        self._settings = settings
        self._log = logger
        self._manager = Manager()
        self._stopping = False
        personality = load_personality(settings.personality)
        _raise_limit(settings.descriptors(switch=personality.is_peer))
        given = inherited()
        self._page, same = self._open_page(given, personality)
        self._mailbox = self._open_mailbox(given)
        self._listener = self._open_listener(given)
        ark = Ark(self._manager, given) if self._manager.listens else None
        self._fabric = Fabric(settings, personality, self._page, self._mailbox, ark=ark, logger=logger)
        self._board(resume=same and ark is not None and ark.exists)
        self._supervisor = given.get(SUPERVISOR, [-1])[0]
        self._signals = _catch_signals()
        epoll = self._fabric.epoll
        epoll.register(self._listener, select.EPOLLIN)
        epoll.register(self._signals, select.EPOLLIN)
        if self._supervisor >= 0:
            epoll.register(self._supervisor, select.EPOLLIN | select.EPOLLRDHUP)
        self._accept_again_at: float | None = None
        self._keep_alive_at: float | None = None
        self._told = ""
        self._tell_at = 0.0

    # Opening

    def _open_page(self, given: dict[str, list[int]], personality: type[Personality]) -> tuple[Page, bool]:
        """The stats page, and whether it is the predecessor's."""
        shape = self._settings.shape(switch=personality.is_peer)
        for descriptor in given.get(STATS, ()):
            try:
                page = Page.open(descriptor, writable=True)
            except StatsError as e:
                self._log.say(log.WARNING, f"the counters begin anew: {e}")
                continue
            if page.shape == shape:
                return page, True
            self._log.say(log.WARNING, "the counters begin anew: the fabric has another size")
            page.close()
        page = Page.create(f"famez-{self._settings.name}-stats", shape)
        self._manager.store(STATS, [page.descriptor])
        return page, False

    def _open_mailbox(self, given: dict[str, list[int]]) -> Descriptor:
        for descriptor in given.get(MAILBOX, ()):
            if self._settings.backing != "memfd" and LOCK not in given:
                self._manager.store(LOCK, [claim(descriptor, self._settings.memory)])
            if self._settings.backing != "memfd":
                # Its settings may be others than its predecessor's.
                with self._going_on():
                    give_mailbox(descriptor, self._settings.mailbox)
            return Descriptor(descriptor)
        memory = open_backing(self._settings.mailbox)
        self._manager.store(MAILBOX, [memory.descriptor])
        if memory.lock is not None:
            # Held as long as anybody keeps it: through our death and our successor's start.
            self._manager.store(LOCK, [memory.lock])
        return Descriptor(memory.descriptor)

    def _open_listener(self, given: dict[str, list[int]]) -> socket.socket:
        own = self._settings
        for descriptor in given.get(SOCKET, ()):
            listener = socket.socket(fileno=descriptor)
            listener.setblocking(False)
            with self._going_on():
                give_socket(own.socket, uid=own.socket_uid, gid=own.socket_gid, mode=own.socket_mode)
            return listener
        listener = listen(own.socket, uid=own.socket_uid, gid=own.socket_gid, mode=own.socket_mode)
        self._manager.store(SOCKET, [listener.fileno()])
        return listener

    @contextlib.contextmanager
    def _going_on(self) -> Iterator[None]:
        """What is wrong with what was inherited is logged: peers depend on it as it is."""
        try:
            yield
        except FamezError as e:
            self._log.say(log.ERROR, str(e))

    def _board(self, *, resume: bool) -> None:
        """Takes the fabric over from a predecessor, or begins it."""
        if resume:
            self._fabric.resume()
            self._log.say(log.INFO, "fabric resumed", peers=len(self._fabric.members))
        else:
            self._fabric.start()

    # Serving

    def run(self) -> None:
        """Serves until a signal, or the end of the supervisor, says to stop."""
        self._manager.tell("READY=1", wait=True)
        self._manager.hurry()
        self._log.say(log.INFO, "fabric serves", socket=self._settings.socket, peers=self._settings.peers)
        words, fabric, poll = self._page.words, self._fabric, self._fabric.epoll.poll
        turns, busy, clock = self._page.total_at("turns"), self._page.total_at("busy_ns"), time.monotonic_ns
        now = self._tick(time.monotonic())
        while not self._stopping:
            events = poll(self._timeout(now))
            began = clock()
            others = fabric.turn(events)
            if others:
                self._hear(others)
            ended = clock()
            words[turns] += 1
            words[busy] += ended - began
            now = self._tick(ended / 1e9)
        self._manager.tell("STOPPING=1")
        fabric.close()
        self._log.tick(math.inf)
        self._log.say(log.INFO, "fabric stopped")

    def _timeout(self, now: float) -> float:
        deadlines = (
            self._fabric.deadline,
            self._log.due,
            self._accept_again_at,
            self._keep_alive_at,
            self._status_due(),
        )
        first = min((d for d in deadlines if d is not None), default=None)
        return -1 if first is None else max(0.0, first - now)

    def _hear(self, events: list[tuple[int, int]]) -> None:
        accept = False
        for descriptor, _ in events:
            if descriptor == self._listener.fileno():
                accept = True
            elif descriptor == self._supervisor or self._stop_asked():
                self._stopping = True
        # Last, so that a place that was left in the same turn is free, and no descriptor that was closed in it is
        # taken for the newcomer's.
        if accept and not self._stopping:
            self._accept()

    def _stop_asked(self) -> bool:
        return bool(set(self._signals.recv(64)) & {signal.SIGTERM, signal.SIGINT})

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as e:
                if e.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    # The newcomer is gone already.
                    continue
                self._log.say(log.ERROR, f"newcomers have to wait: {e.strerror}")
                self._fabric.epoll.unregister(self._listener)
                self._accept_again_at = time.monotonic() + _PAUSE
                return
            self._fabric.join(connection)

    def _tick(self, now: float) -> float:
        deadline = self._fabric.deadline
        if deadline is not None and now >= deadline:
            self._fabric.tick(now)
        if self._log.due is not None and now >= self._log.due:
            self._log.tick(now)
        if self._accept_again_at is not None and now >= self._accept_again_at:
            self._accept_again_at = None
            self._fabric.epoll.register(self._listener, select.EPOLLIN)
        if self._manager.watchdog and (self._keep_alive_at is None or now >= self._keep_alive_at):
            self._keep_alive_at = now + self._manager.watchdog / 3
            self._manager.tell("WATCHDOG=1")
            self._fabric.look_after_mailbox()
        due = self._status_due()
        if due is not None and now >= due:
            self._told = self._status()
            self._tell_at = now + _STATUS_EVERY
            self._manager.tell(f"STATUS={self._told}")
        return now

    def _status(self) -> str:
        return f"{len(self._fabric.members)} of {self._settings.peers} peers"

    def _status_due(self) -> float | None:
        return self._tell_at if self._status() != self._told else None


def load_personality(reference: str) -> type[Personality]:
    """The class that `module:name` refers to; raises StartError if there is none."""
    module, _, name = reference.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as e:
        raise StartError(f"cannot load the personality {reference}: {e}") from e
    if not (isinstance(found, type) and issubclass(found, Personality)):
        raise StartError(f"{reference} is no personality: no subclass of {Personality.__module__}.Personality")
    return found


def _raise_limit(needed: int) -> None:
    """Raises the soft limit of descriptors to the hard one; raises StartError if the fabric needs more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise StartError(
            f"a full fabric needs {needed} descriptors, and the hard limit is {hard}: raise it "
            f"(LimitNOFILE={needed} in the unit, or ulimit -Hn), or configure fewer peers or vectors"
        )


def _catch_signals() -> socket.socket:
    """Signals become bytes to read: handlers only leave a note."""
    readable, writable = socket.socketpair()
    readable.setblocking(False)
    writable.setblocking(False)
    signal.set_wakeup_fd(writable.detach(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    # Reload, hang-up of a terminal: the manager's business.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return readable


def main() -> int:
    """Runs the worker of the fabric that the arguments name; returns its exit status."""
    logger = log.Log()
    try:
        worker = Worker(parse(sys.argv[1:]), logger)
    except FamezError as e:
        logger.say(log.ERROR, str(e))
        return START_FAILED
    except OSError as e:
        logger.say(log.ERROR, f"cannot start: {e.strerror or e}")
        return START_FAILED
    with contextlib.suppress(KeyboardInterrupt):
        worker.run()
    return os.EX_OK
