"""One fabric and the process that serves it, seen from above: started, watched, started again, succeeded, stopped."""

from __future__ import annotations

import asyncio
import enum
import math
import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import structlog

from famezd.config import Fabric
from famezd.errors import FamezError
from famezd.fabric.handed import MAILBOX, START_FAILED, STATE, STATS
from famezd.fabric.settings import Settings
from famezd.fabric.switch import has_switch
from famezd.mailbox import FileMemory, Slots
from famezd.notify import Notification
from famezd.statepage import StateError, StatePage
from famezd.stats import Page, StatsError
from famezd.supervisor.faults import FaultTable
from famezd.supervisor.lines import parse
from famezd.supervisor.process import OrderError, Process
from famezd.supervisor.settings import personality, worker_settings
from famezd.supervisor.status.names import Names
from famezd.supervisor.store import Shelf

WATCHDOG = 10.0
"""Seconds without a sign of life after which a worker is killed."""
TARDY = 1.0
"""Seconds that a timer is late at most while this process runs as it should."""
START_WITHIN = 30.0
"""Seconds that a worker has to become ready."""
STOP_WITHIN = 5.0
"""Seconds that a worker has to stop before it is killed."""
HOLD_WITHIN = 5.0
"""Seconds that a worker has to finish what it does before it is succeeded."""
STEADY = 1.0
"""Seconds of serving after which a death is not taken for a failed start."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
"""Seconds before a worker that died soon after its start is started again; doubled with each such death.

One that served for a while is replaced at once: its peers are waiting.
"""
GIVE_UP = 5
"""Deaths in a row, each soon after the start, after which the fabric is reported as failed; it is tried on and on."""

DEATH, RESTART = CAUSES = ("death", "restart")
"""Why another process goes on with a fabric."""

_TAKEN = {"event", "level", "self", "fabric", "exc_info", "stack_info", "stack", "exception", "timestamp"}
"""Names of fields that are structlog's or our own."""

_PEER = re.compile(r"\d{1,5}", re.ASCII)


Told = Callable[[str, str, Mapping[str, str]], None]
"""Hears a level, an event and its fields."""


class NotServingError(FamezError):
    """What was asked of a fabric needs a worker that serves."""


class Resumes(NamedTuple):
    """Times that another process went on with a fabric."""

    times: int
    seconds: float
    """For which nobody served it, all in all."""


class State(enum.Enum):
    """What a fabric's worker is doing."""

    STARTING = "starting"
    SERVING = "serving"
    WAITING = "waiting"
    """It died, and is started again after a pause."""
    FAILED = "failed"
    """It could not start, or died again and again."""
    STOPPING = "stopping"
    STOPPED = "stopped"


class Worker:
    """A fabric and the process that serves it."""

    def __init__(
        self,
        fabric: Fabric,
        shelf: Shelf,
        notify_socket: str,
        drain: Callable[[], None],
        *,
        changed: Callable[[], None] = lambda: None,
        told: Told = lambda _level, _event, _fields: None,
        faults: FaultTable | None = None,
    ) -> None:
        """`shelf` may hold what an earlier process left there: then its worker goes on from that, `faults` included.

        `drain` hears what workers have told so far; `changed` is called at each change of `state`, `told` with what is
        logged of the fabric.
        """
        self.fabric = fabric
        self.faults = (faults or FaultTable()).fitting(fabric)
        """The rules that are in force."""
        self.settings = worker_settings(fabric, self.faults.text)
        self.state = State.STOPPED
        self.restarts = 0
        """How often a dead worker was replaced."""
        self.resumes: Mapping[str, Resumes] = dict.fromkeys(CAUSES, Resumes(0, 0.0))
        """How often another process went on with the fabric, by cause."""
        self.failure = ""
        """Why the fabric is not served, if its state is FAILED."""
        self.page: Page | None = None
        """The fabric's counters, as soon as there are any."""
        self.names = Names()
        """What its peers are called."""
        self.state_page: StatePage | None = None
        """What its switch knows, where it knows anything."""
        self.settled = asyncio.Event()
        """Set when the worker serves, failed or stopped; cleared while it starts or stops."""
        self._shelf = shelf
        self._environ = {"NOTIFY_SOCKET": notify_socket, "WATCHDOG_USEC": str(int(WATCHDOG * 1e6))}
        self._drain = drain
        self._changed = changed
        self._told = told
        self._log = structlog.get_logger(fabric=fabric.name)  # lazy: a reload may configure it anew
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._pause = 0.0
        self._deaths = 0
        self._served_since = 0.0
        self._died_at: float | None = None
        self._resumes = bool(shelf.kept)
        self._process = self._new_process()
        self._successor: Process | None = None
        self._succession = asyncio.Lock()
        self._last_line = ""
        self._told_faults = ""
        for descriptor in shelf.kept.get(STATS, ()):
            self._look_at(descriptor)
        for descriptor in shelf.kept.get(STATE, ()):
            self._look_at_state(descriptor)

    @property
    def pid(self) -> int:
        """Of the process that serves, 0 while there is none."""
        return self._process.pid

    @property
    def switch(self) -> int | None:
        """The id of the switch, None where it is no peer."""
        switch = personality(self.fabric.personality)
        return switch.first_id + self.fabric.peers if has_switch(switch, self.settings) else None

    @property
    def slots(self) -> Slots | None:
        """The mailbox's slots, as long as it keeps its descriptor; None where there are none."""
        mailbox = self._shelf.kept.get(MAILBOX)
        if not mailbox or not personality(self.fabric.personality).has_slots:
            return None
        # Never through a mapping: whoever has the file could cut it.
        return Slots(FileMemory(mailbox[0]))

    def nodename(self, peer: int) -> str:
        """What stands in a peer's slot of the mailbox, whoever wrote it; "" where there are no slots."""
        try:
            return "" if (slots := self.slots) is None else slots.nodename(peer)
        except OSError:
            return ""

    def start(self) -> None:
        """Starts a worker process; where that is not possible now, it is tried again as if it had died."""
        self._cancel_timer()
        if self.state is not State.FAILED:
            self._to(State.STARTING)
        self.settled.clear()
        self._told_faults = self.settings.faults
        try:
            self._process.start(self.settings, self._shelf.kept, self._environ)
        except OSError as e:
            self._start_again(f"it cannot be started: {e.strerror}")
        else:
            self._expect_within(START_WITHIN)

    def stop(self) -> None:
        """Asks the worker to stop; `settled` tells when it has. What it served can be gone on with."""
        if self._successor is not None:
            self._successor.dismiss()
        if self._process.pid:
            self.settled.clear()
            self._to(State.STOPPING)
            self._process.kill(signal.SIGTERM)
            self._expect_within(STOP_WITHIN)
        else:
            self._cancel_timer()
            self._to(State.STOPPED)
            self.settled.set()

    def remove(self) -> None:
        """Ends the fabric, whose worker has stopped."""
        self._shelf.discard(self.settings.memory)
        if self.page is not None:
            self.page.close()
            self.page = None
        self._forget_state()

    async def restart(self, fabric: Fabric) -> None:
        """Starts another worker, once there is none any more, which serves the fabric as `fabric` defines it.

        If that does not fit what there is, it disconnects the peers and begins anew.
        """
        self.stop()
        await self.settled.wait()
        self._define(fabric)
        self._pause, self._deaths, self._died_at = 0.0, 0, None
        self.start()
        await self.settled.wait()

    # What is asked of it while it serves

    @property
    def has_peers(self) -> bool:
        """Whether there is anybody on the fabric."""
        return self.page is not None and bool(self.page.occupants())

    async def kick(self, peer: int) -> None:
        """Ends the membership of `peer`; raises NotServingError, or OrderError if it does not answer."""
        self.require_serving()
        order = f"kick {peer}"
        self._process.order(order)
        await self._process.answer(order, STOP_WITHIN)

    async def change_faults(self, faults: FaultTable) -> None:
        """From now on these fault rules are in force, and stay so when another process serves.

        Raises OrderError if the process does not answer: then they are in force when it goes on.
        """
        self.faults, self.settings = faults, self.settings._replace(faults=faults.text)
        if self.state is State.SERVING and self._process.pid:
            serving = self._process
            self._tell_faults()
            try:
                await serving.answer("faults", STOP_WITHIN)
            except OrderError:
                if serving.pid:
                    raise

    def _tell_faults(self) -> None:
        self._told_faults = self.settings.faults
        self._process.order(f"faults {self._told_faults}")

    async def succeed(self, fabric: Fabric) -> float:
        """Has another process go on with the fabric, defined as `fabric`; returns the seconds for which nobody served.

        Its peers notice nothing. Raises NotServingError, and OrderError if the new process cannot take over: then the
        old one goes on as it was.
        """
        async with self._succession:
            self.require_serving()
            old, new = self._process, self._new_process()
            self._successor = new
            try:
                await self._prepare(old, new, worker_settings(fabric, self.faults.fitting(fabric).text))
                return await self._hand_over(old, new, fabric)
            except (OrderError, OSError) as e:
                new.dismiss()
                if old.pid:
                    old.order("carry on")
                elif self.state is State.SERVING:
                    self._start_again("while it was to be succeeded")
                raise OrderError(f"fabric {self.fabric.name}: another process cannot take over: {e}") from e
            finally:
                self._successor = None

    async def _prepare(self, old: Process, new: Process, settings: Settings) -> None:
        """Brings the successor so far that it only waits for the old process to end."""
        old.order("hold")
        await old.answer("hold", HOLD_WITHIN)
        new.start(settings, self._shelf.kept, self._environ, ["wait"])
        try:
            await new.answer("wait", START_WITHIN)
        except OrderError as e:
            raise OrderError(self._last_line if not new.pid and self._last_line else str(e)) from e

    async def _hand_over(self, old: Process, new: Process, fabric: Fabric) -> float:
        began = time.monotonic()
        if old.pid:
            old.order("park")
            try:
                await old.answer("park", STOP_WITHIN)
            except OrderError:
                # It hangs, or is dead: either way it must touch nothing any more.
                old.kill()
                await old.over.wait()
        if self.state is not State.SERVING:
            # It is parked, and would hear of nothing any more.
            old.kill()
            raise OrderError("famezd is stopping")
        self.settled.clear()
        self._process, self._successor = new, None
        self._define(fabric)
        self._told_faults = self.settings.faults
        new.order("go")
        self._expect_within(START_WITHIN)
        await self.settled.wait()
        pause = time.monotonic() - began
        old.kill()
        self.require_serving()
        self._resumed(RESTART, pause)
        pause_ms = round(pause * 1e3, 1)
        self._log.info("worker succeeded", pid=new.pid, pause_ms=pause_ms)
        self._told("info", "worker succeeded", {"pid": str(new.pid), "pause_ms": str(pause_ms)})
        return pause

    def _define(self, fabric: Fabric) -> None:
        """From now on the fabric is defined so."""
        self.fabric, self.faults = fabric, self.faults.fitting(fabric)
        self.settings = worker_settings(fabric, self.faults.text)

    def require_serving(self) -> None:
        """Raises NotServingError if nobody serves it now."""
        if self.state is not State.SERVING:
            why = f": {self.failure}" if self.failure else ""
            raise NotServingError(f"fabric {self.fabric.name} is not served, it is {self.state.value}{why}")

    # What it tells

    def is_process(self, pid: int) -> bool:
        """Whether this is the process that serves, or is to."""
        return pid == self._process.pid or (self._successor is not None and pid == self._successor.pid)

    def hear(self, notification: Notification) -> None:
        """Takes what a worker process told; its descriptors are kept for its successor."""
        told = notification.assignments
        if "X_FAMEZ" in told:
            for process in (self._process, self._successor):
                if process is not None and process.pid == notification.pid:
                    process.hear_answer(told["X_FAMEZ"])
        if told.get("FDSTORE") == "1":
            self._keep(told.get("FDNAME", "stored"), notification.descriptors)
        elif told.get("BARRIER") == "1" and self._shelf.handed_on():
            notification.confirm()
        else:
            notification.close()
        if told.get("FDSTOREREMOVE") == "1":
            self._shelf.forget(told.get("FDNAME", ""))
            if told.get("FDNAME") == STATE:
                self._forget_state()
        if told.get("READY") == "1" and notification.pid == self._process.pid:
            self._serves()

    def _keep(self, name: str, descriptors: list[int]) -> None:
        if not descriptors:
            # What is kept under that name may still be good.
            self._log.error("no descriptor is free for what is to be kept: raise the limit of open files", stored=name)
            return
        self._shelf.keep(name, descriptors)
        if name == STATS:
            self._look_at(descriptors[0])
        elif name == STATE:
            self._look_at_state(descriptors[0])

    def _serves(self) -> None:
        if self.state in (State.STARTING, State.FAILED):
            self.failure = ""
            self._to(State.SERVING)
            self._served_since = time.monotonic()
            if self._died_at is not None:
                self._resumed(DEATH, self._served_since - self._died_at)
                self._died_at = None
            if self._told_faults != self.settings.faults:
                # They were changed while it started.
                self._tell_faults()
        if self.state is State.SERVING:
            self.settled.set()
            self._cancel_timer()

    def _resumed(self, cause: str, seconds: float) -> None:
        """For so long nobody served."""
        times, before = self.resumes[cause]
        self.resumes = {**self.resumes, cause: Resumes(times + 1, before + seconds)}

    def _look_at(self, descriptor: int) -> None:
        if self.page is not None:
            self.page.close()
            self.page = None
        try:
            self.page = Page.open(os.dup(descriptor))
        except StatsError as e:
            # One that an older famezd left; the worker makes another.
            self._log.debug("no counters", why=str(e))
        except OSError as e:
            self._log.error("its counters cannot be read: raise the limit of open files", why=e.strerror)

    def _look_at_state(self, descriptor: int) -> None:
        self._forget_state()
        try:
            copy = os.dup(descriptor)
        except OSError as e:
            self._log.error("its switch's state cannot be read: raise the limit of open files", why=e.strerror)
            return
        try:
            self.state_page = StatePage.open(copy)
        except StateError as e:
            os.close(copy)
            self._log.debug("nothing is known of the switch", why=str(e))

    def _forget_state(self) -> None:
        if self.state_page is not None:
            self.state_page.close()
            self.state_page = None

    # Its processes

    def _new_process(self) -> Process:
        # What it told before it ended may be descriptors that its successor needs.
        return Process(self._repeat, self._drain, self._ended)

    def _ended(self, process: Process, code: int) -> None:
        if process is not self._process:
            return
        if self.state is State.STOPPING:
            self._cancel_timer()
            self._to(State.STOPPED)
            self.settled.set()
        elif self._successor is not None:
            # Whoever has it prepare knows what to do.
            self._log.info("worker ended", pid=process.pid)
        elif code == START_FAILED and not self._served_since and not self._resumes:
            self._cancel_timer()
            self._fail(self._last_line)
        else:
            how = f"killed by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exit status {code}"
            self._start_again(how)

    def _fail(self, why: str) -> None:
        self.failure = why
        self._to(State.FAILED)
        self.settled.set()

    def _start_again(self, how: str) -> None:
        self._cancel_timer()
        if self.state is State.SERVING and time.monotonic() - self._served_since > STEADY:
            self._pause, self._deaths = 0.0, 0
        self._deaths += 1
        self.restarts += 1
        if self._died_at is None:
            self._died_at = time.monotonic()
        self._log.error("worker died, it is started again", how=how, pause=self._pause)
        self._told("error", "worker died, it is started again", {"how": how})
        if self._deaths >= GIVE_UP:
            last = f", its last words: {self._last_line}" if self._last_line else ""
            self._fail(f"its worker died {self._deaths} times in a row ({how}{last}); it is tried again and again")
        else:
            self._to(State.WAITING)
        self._timer = self._loop.call_later(self._pause, self.start)
        self._pause = min(max(self._pause * 2, FIRST_PAUSE), LONGEST_PAUSE)

    def watch(self, until: float) -> None:
        """Sees to it that a worker which serves is killed WATCHDOG after its last sign of life.

        `until` is when it is watched again at the latest, by the loop's clock: a timer is there only for one that could
        be dead by then.
        """
        if self.state is State.SERVING and self._timer is None and (due := self._gives_sign_by()) < until:
            self._expect_by(due, WATCHDOG)

    def _gives_sign_by(self) -> float:
        """When a worker that serves has to have given another sign of life."""
        if self.page is None:
            return math.inf
        return max(self.page.lived_at, self._served_since) + WATCHDOG

    def _expect_within(self, seconds: float) -> None:
        self._expect_by(self._loop.time() + seconds, seconds)

    def _expect_by(self, due: float, seconds: float) -> None:
        self._cancel_timer()
        self._timer = self._loop.call_at(due, self._overdue, due, seconds)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _overdue(self, due: float, seconds: float) -> None:
        self._timer = None
        if self.state is State.SERVING and self._gives_sign_by() > due:
            # It has given one meanwhile.
            return
        if self._loop.time() - due > TARDY:
            # It is we who stood still, as in a machine that was suspended: what it told meanwhile is still unread.
            self._expect_within(seconds)
        else:
            self._kill()

    def _kill(self) -> None:
        self._log.error("worker gives no sign of life, it is killed", state=self.state.value, pid=self.pid)
        self._process.kill()

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
        if name := self._name_of(fields.get("peer", "")):
            fields.setdefault("name", name)
        getattr(self._log, entry.level)(entry.event, **fields)
        self._told(entry.level, entry.event, fields)

    def _name_of(self, peer: str) -> str | None:
        """What the peer with this id is called, or was until it left; None if that is but its id."""
        if self.page is None or not _PEER.fullmatch(peer):
            return None
        occupant = self.page.occupant(int(peer))
        name = self.names.miss(int(peer)) if occupant is None else self.names.meet(occupant, self.nodename)
        return None if name == peer else name
