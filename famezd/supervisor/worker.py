"""One fabric's worker, seen from above: started, watched, started again, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import signal
import socket
import sys
import time
from collections.abc import Callable

import structlog

from famezd.config import Fabric
from famezd.fabric.listener import identity, unlink
from famezd.fabric.worker import MAILBOX, SOCKET, START_FAILED, STATS, SUPERVISOR
from famezd.notify import Notification
from famezd.stats import Page
from famezd.supervisor.lines import LinePipe, parse
from famezd.supervisor.settings import worker_settings
from famezd.supervisor.spawn import spawn

WATCHDOG = 10.0
"""Seconds without a sign of life after which a worker is killed."""
TARDY = 1.0
"""Seconds that a timer is late at most while this process runs as it should."""
START_WITHIN = 30.0
"""Seconds that a worker has to become ready."""
STOP_WITHIN = 5.0
"""Seconds that a worker has to stop before it is killed."""
STEADY = 1.0
"""Seconds of serving after which a death is not taken for a failed start."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
"""Seconds before a worker that died soon after its start is started again; doubled with each such death.

One that served for a while is replaced at once: its peers are waiting.
"""

_TAKEN = {"event", "level", "self", "fabric", "exc_info", "stack_info", "stack", "exception", "timestamp"}
"""Names of fields that are structlog's or our own."""


class State(enum.Enum):
    """What a fabric's worker is doing."""

    STARTING = "starting"
    SERVING = "serving"
    WAITING = "waiting"
    """It died, and is started again after a pause."""
    FAILED = "failed"
    """It could not start."""
    STOPPING = "stopping"
    STOPPED = "stopped"


class Worker:
    """A fabric and the process that serves it."""

    def __init__(
        self,
        fabric: Fabric,
        notify_socket: str,
        drain: Callable[[], None],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """`drain` hears what workers have told so far; `changed` is called at each change of `state`."""
        self.fabric = fabric
        self.settings = worker_settings(fabric)
        self.state = State.STOPPED
        self.pid = 0
        """0 while there is no process."""
        self.restarts = 0
        """How often a dead worker was replaced."""
        self.failure = ""
        """What a worker that could not start said."""
        self.page: Page | None = None
        """The fabric's counters, as soon as there are any."""
        self.settled = asyncio.Event()
        """Set when the worker serves, failed or stopped; cleared while it starts or stops."""
        self._notify_socket = notify_socket
        self._drain = drain
        self._changed = changed
        self._log = structlog.get_logger().bind(fabric=fabric.name)
        self._kept: dict[str, list[int]] = {}
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._pause = 0.0
        self._served_since = 0.0
        self._pidfd = -1
        self._lifeline: socket.socket | None = None
        self._lines = LinePipe(self._repeat)
        self._bound: tuple[int, int] | None = None
        self._last_line = ""

    def start(self) -> None:
        """Starts a worker process."""
        self._to(State.STARTING)
        self.settled.clear()
        self._lifeline, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        log = self._lines.open()
        environ = {"NOTIFY_SOCKET": self._notify_socket, "WATCHDOG_USEC": str(int(WATCHDOG * 1e6))}
        command = [sys.executable, "-P", "-m", "famezd.fabric", *self.settings.arguments()]
        try:
            self.pid = spawn(command, {SUPERVISOR: [theirs.fileno()], **self._kept}, log, environ)
        finally:
            theirs.close()
            os.close(log)
        self._pidfd = os.pidfd_open(self.pid)
        self._loop.add_reader(self._pidfd, self._died)
        self._expect_within(START_WITHIN)

    def stop(self) -> None:
        """Asks the worker to stop; `settled` tells when it has."""
        if self.state in (State.STARTING, State.SERVING):
            self.settled.clear()
            self._to(State.STOPPING)
            os.kill(self.pid, signal.SIGTERM)
            self._expect_within(STOP_WITHIN)
        elif self.state is State.WAITING:
            self._cancel_timer()
            self._to(State.STOPPED)
            self.settled.set()

    def remove(self) -> None:
        """Removes what the fabric has in the file system, if it is still its own, and forgets its descriptors."""
        if SOCKET in self._kept:
            unlink(self.settings.socket, self._bound)
        if self.settings.backing != "memfd":
            with contextlib.suppress(FileNotFoundError):
                if any(
                    os.path.samestat(os.fstat(fd), os.lstat(self.settings.memory)) for fd in self._kept.get(MAILBOX, ())
                ):
                    os.unlink(self.settings.memory)
        for descriptors in self._kept.values():
            for descriptor in descriptors:
                os.close(descriptor)
        self._kept.clear()
        if self.page is not None:
            self.page.close()
            self.page = None

    def hear(self, notification: Notification) -> None:
        """Takes what the worker told; its descriptors are kept for its successor."""
        told = notification.assignments
        if told.get("FDSTORE") == "1":
            self._keep(told.get("FDNAME", "stored"), notification.descriptors)
        if told.get("FDSTOREREMOVE") == "1":
            for descriptor in self._kept.pop(told.get("FDNAME", ""), ()):
                os.close(descriptor)
        if told.get("READY") == "1" and self.state is State.STARTING:
            self._to(State.SERVING)
            self._served_since = time.monotonic()
            self.settled.set()
            self._expect_within(WATCHDOG)
        if told.get("WATCHDOG") == "1" and self.state is State.SERVING:
            self._expect_within(WATCHDOG)

    def _keep(self, name: str, descriptors: list[int]) -> None:
        for old in self._kept.pop(name, ()):
            os.close(old)
        self._kept[name] = descriptors
        if name == SOCKET:
            # A worker stores its socket as soon as it is bound; its successors have it from there.
            self._bound = identity(self.settings.socket)
        if name == STATS:
            if self.page is not None:
                self.page.close()
            self.page = Page.open(os.dup(descriptors[0]))

    def _died(self) -> None:
        # What it told before it died may be descriptors that its successor needs.
        self._drain()
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self.pid = 0
        self._cancel_timer()
        self._lines.close()
        if self._lifeline is not None:
            self._lifeline.close()
        if self.state is State.STOPPING:
            self._to(State.STOPPED)
            self.settled.set()
        elif code == START_FAILED and not self._served_since:
            self.failure = self._last_line
            self._to(State.FAILED)
            self.settled.set()
        else:
            self._start_again(code)

    def _start_again(self, code: int) -> None:
        if self.state is State.SERVING and time.monotonic() - self._served_since > STEADY:
            self._pause = 0.0
        how = f"killed by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exit status {code}"
        self._log.error("worker died, it is started again", how=how, pause=self._pause)
        self.restarts += 1
        self._to(State.WAITING)
        self._timer = self._loop.call_later(self._pause, self.start)
        self._pause = min(max(self._pause * 2, FIRST_PAUSE), LONGEST_PAUSE)

    def _expect_within(self, seconds: float) -> None:
        self._cancel_timer()
        due = self._loop.time() + seconds
        self._timer = self._loop.call_at(due, self._overdue, due, seconds)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _overdue(self, due: float, seconds: float) -> None:
        if self._loop.time() - due > TARDY:
            # It is we who stood still, as in a machine that was suspended: what it told meanwhile is still unread.
            self._expect_within(seconds)
        else:
            self._kill()

    def _kill(self) -> None:
        self._log.error("worker gives no sign of life, it is killed", state=self.state.value, pid=self.pid)
        os.kill(self.pid, signal.SIGKILL)

    def _to(self, state: State) -> None:
        self._log.debug("worker", state=state.value, before=self.state.value)
        self.state = state
        self._changed()

    def _repeat(self, line: str) -> None:
        """Logs a line of the worker's as our own."""
        entry = parse(line)
        self._last_line = entry.event
        # A worker's own field of such a name would be an error, or hide what it is the name of.
        fields = {f"{key}_" if key in _TAKEN else key: value for key, value in entry.fields.items()}
        getattr(self._log, entry.level)(entry.event, **fields)
