"""The worker's process: what it opens or inherits, its loop, its signals, its manager, its supervisor's orders.

The supervisor's channel is a SEQPACKET socket, whose end is an order to stop. What is written to it is an order, which
the worker answers, when it has done it, by telling its manager `X_FAMEZ=<order>`:

    wait          found there at the start: prepare to succeed a worker that serves still, but go on only when told `go`
    go            that one has ended
    stay away     it goes on after all, or nobody does: leave nothing behind
    hold          a successor prepares: nobody comes or goes, and nothing new is begun
    carry on      it failed
    park          it is ready: touch nothing any more, and wait for the end
    kick PEER     end the membership of this id
    faults RULES  from now on these fault rules are in force (see `famezd.faults`); the answer is `faults` alone
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import math
import os
import resource
import select
import signal
import site
import socket
import sys
import time
from collections.abc import Callable, Iterator

from famezd.ark import Ark
from famezd.errors import FamezError
from famezd.fabric import log
from famezd.fabric.doors import Door, Doors
from famezd.fabric.fabric import FROZEN, Fabric
from famezd.fabric.handed import LOCK, MAILBOX, START_FAILED, STATE, STATS, SUPERVISOR
from famezd.fabric.ledger import LAYOUT, charter
from famezd.fabric.relay import Event
from famezd.fabric.settings import Settings, parse
from famezd.fabric.switch import has_switch, keeps_state
from famezd.faults import parse_rules
from famezd.mailbox import claim, discard, give_mailbox, is_backed, open_backing
from famezd.notify import Manager, inherited
from famezd.protocol import Descriptor
from famezd.statepage import StateError, StatePage
from famezd.stats import IDLE, Page, StatsError
from famezd.switch.personality import FAILURES, Personality, wrong

_ACCEPTS = 16
"""Newcomers taken in one turn: the loop stays fair to those who are there."""
_PAUSE = 1.0
"""Seconds without accepting, after the kernel had no descriptor or memory for a newcomer."""
SOON = 50_000
"""Nanoseconds for which the loop looks without sleeping for what comes next, if the last came as soon."""
_STATUS_EVERY = 1.0
_FINISH = 2.0
"""Seconds that the switch has to finish what it does before a successor prepares."""
_LONGEST_ORDER = 32768
"""Bytes: as many fault rules as a fabric can have are less than half of it."""


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
        _raise_limit(settings.descriptors(switch=has_switch(personality, settings)))
        given = inherited()
        self._supervisor = socket.socket(fileno=given[SUPERVISOR][0]) if SUPERVISOR in given else None
        self._manager.confirms = self._supervisor is not None
        succeeding = self._supervisor is not None and _is_to_succeed(self._supervisor)
        ark = Ark(self._manager, given) if self._manager.listens else None
        self._nobody_left = False
        page = self._find_page(given, personality)
        former = None if ark is None else charter(ark)
        misfits = self._misfits(former, page)
        if succeeding and misfits != []:
            # Before anything is made or stored that the predecessor would miss.
            raise StartError(f"cannot succeed the worker that serves: {'; '.join(misfits or ['there is no ark'])}")
        self._page = page or self._make_page(personality)
        if misfits != []:
            self._abandon_mailbox(given, (former or {}).get("memory", settings.memory))
        self._made_mailbox = False
        self._mailbox = self._open_mailbox(given)
        state = self._open_state(given, personality)
        own = {"page": str(self._page.identity), **settings.fixed}
        self._fabric = Fabric(
            settings, personality, self._page, self._mailbox, state=state, ark=ark, charter=own, logger=logger
        )
        self._signals = _catch_signals()
        try:
            self._doors = Doors(settings, given, self._going_on)
        except FamezError:
            if self._made_mailbox and not self._manager.listens:
                discard(self._mailbox, settings.memory)
            raise
        if not succeeding:
            self._doors.keep(self._manager)
        self._is_new = False
        self._board(misfits, self._supervisor if succeeding else None)
        if succeeding:
            self._doors.keep(self._manager)
        epoll = self._fabric.epoll
        self._open_doors()
        epoll.register(self._signals, select.EPOLLIN)
        if self._supervisor is not None:
            epoll.register(self._supervisor, select.EPOLLIN | select.EPOLLRDHUP)
        self._accept_again_at: float | None = None
        self._keep_alive_at: float | None = None
        self._held = False
        self._finish_by: float | None = None
        self._parked: socket.socket | None = None
        self._told = ""
        self._tell_at = 0.0

    # Opening

    def _find_page(self, given: dict[str, list[int]], personality: type[Personality]) -> Page | None:
        """The predecessor's stats page, None if there is none that fits."""
        for descriptor in given.get(STATS, ()):
            try:
                page = Page.open(descriptor, writable=True)
            except StatsError as e:
                self._log.say(log.WARNING, f"the counters begin anew: {e}")
                continue
            self._nobody_left = not page.occupants()
            if page.shape == self._settings.shape(switch=has_switch(personality, self._settings)):
                return page
            self._log.say(log.WARNING, "the counters begin anew: the fabric has another size")
            page.close()
        return None

    def _make_page(self, personality: type[Personality]) -> Page:
        shape = self._settings.shape(switch=has_switch(personality, self._settings))
        page = Page.create(f"famez-{self._settings.name}-stats", shape)
        self._manager.store(STATS, [page.descriptor])
        return page

    def _open_state(self, given: dict[str, list[int]], personality: type[Personality]) -> StatePage | None:
        """The predecessor's state page, or a new one; None for a switch that knows nothing."""
        if not keeps_state(personality):
            if STATE in given:
                # What another personality knew.
                self._manager.forget(STATE)
            return None
        for descriptor in given.get(STATE, ()):
            try:
                return StatePage.open(descriptor, writable=True)
            except StateError as e:
                self._log.say(log.WARNING, f"the switch begins anew: {e}")
        state = StatePage.create(f"famez-{self._settings.name}-state")
        self._manager.store(STATE, [state.descriptor])
        return state

    def _misfits(self, found: dict[str, str] | None, page: Page | None) -> list[str] | None:
        """Why the fabric with that charter cannot go on; None if there is none, [] if it can."""
        if found is None:
            return None
        misfits = self._settings.misfits(found)
        if found.get("layout") != LAYOUT:
            misfits.append(f"its ark is of layout {found.get('layout')}, this famezd knows {LAYOUT}")
        if page is None or found.get("page") != str(page.identity):
            misfits.append("its stats page is not there")
        return misfits

    def _open_mailbox(self, given: dict[str, list[int]]) -> Descriptor:
        for descriptor in given.get(MAILBOX, ()):
            if self._settings.mailbox.has_name and LOCK not in given:
                self._manager.store(LOCK, [claim(descriptor, self._settings.memory)])
            if self._settings.mailbox.has_name:
                # Its settings may be others than its predecessor's.
                with self._going_on():
                    give_mailbox(descriptor, self._settings.mailbox)
            return Descriptor(descriptor)
        memory = open_backing(self._settings.mailbox)
        self._made_mailbox = memory.made
        self._manager.store(MAILBOX, [memory.descriptor])
        if memory.lock is not None:
            # Held as long as anybody keeps it: through our death and our successor's start.
            self._manager.store(LOCK, [memory.lock])
        return Descriptor(memory.descriptor)

    def _abandon_mailbox(self, given: dict[str, list[int]], path: str) -> None:
        """Lets go of the mailbox of a fabric that ends, which is at `path`, if ours is to be another."""
        for descriptor in given.get(MAILBOX, ()):
            if not is_backed(descriptor, self._settings.mailbox):
                discard(descriptor, path)
                self._manager.forget(MAILBOX)
                self._manager.forget(LOCK)
                del given[MAILBOX]
                return

    @contextlib.contextmanager
    def _going_on(self) -> Iterator[None]:
        """What is wrong with what was inherited is logged: peers depend on it as it is."""
        try:
            yield
        except FamezError as e:
            self._log.say(log.ERROR, str(e))

    def _board(self, misfits: list[str] | None, serving: socket.socket | None) -> None:
        """Takes the fabric over, or begins it; where a worker serves still, the channel by which its end is told."""
        if misfits == []:
            try:
                self._fabric.prepare()
                if serving is not None:
                    self._await_end(serving)
            except (FamezError, OSError):
                if serving is not None:
                    self._doors.withdraw()
                raise
            self._fabric.resume()
            # Of a planned succession the supervisor tells.
            level = log.INFO if serving is None else log.DEBUG
            self._log.say(level, "fabric resumed", peers=len(self._fabric.members), socket=self._settings.socket)
        else:
            self._is_new = True
            if misfits:
                self._tell_end("; ".join(misfits))
            self._fabric.start()
            # From now on there may be peers who cannot do without what is stored.
            self._manager.settle()

    def _tell_end(self, why: str) -> None:
        if self._nobody_left:
            self._log.say(log.INFO, f"fabric begins anew, nobody was on it: {why}")
        else:
            self._log.say(log.ERROR, f"fabric ended, its peers are disconnected: {why}")

    def _await_end(self, serving: socket.socket) -> None:
        """Waits for the end of the worker that serves still; raises StartError if it goes on after all."""
        self._answer("wait")
        if _read_order(serving, wait=True) != "go":
            raise StartError("the worker that serves is not to be succeeded")

    # Serving

    def run(self) -> None:
        """Serves until a signal, or the end of the supervisor, says to stop."""
        self._page.live()
        self._manager.tell("READY=1", wait=True)
        self._manager.hurry()
        if self._is_new:
            self._log.say(log.INFO, "fabric serves", socket=self._settings.socket, peers=self._settings.peers)
        words, fabric, poll = self._page.words, self._fabric, self._fabric.epoll.poll
        idle, busy, clock = self._page.total_at(IDLE), self._page.total_at("busy_ns"), time.monotonic_ns
        ended, soon = clock(), False
        due = self._tick(ended / 1e9)
        while not self._stopping:
            # To be woken from sleep takes longer than all that is done for a doorbell.
            events = (soon and fabric.calm and _look(poll, ended + SOON)) or poll(
                -1 if due is None else max(0.0, due - ended / 1e9)
            )
            began = clock()
            soon = began - ended < SOON
            others = fabric.turn(events)
            if others:
                self._hear(others)
            ended = clock()
            if (bells := fabric.relayed) < 2:
                words[idle + bells] += 1
            else:
                self._page.batch(bells)
            words[busy] += ended - began
            # A turn that only relayed has changed nothing of what is due, and to look costs more than a doorbell.
            if not fabric.calm or (due is not None and ended / 1e9 >= due):
                due = self._tick(ended / 1e9)
        self._manager.tell("STOPPING=1")
        fabric.close()
        self._log.tick(math.inf)
        if self._parked is not None:
            self._answer("park")
            # To end takes a while, with all that is open, and the successor needs the processor more.
            while _read_order(self._parked, wait=True):
                pass
        self._log.say(log.INFO, "fabric stopped")

    def discard(self) -> None:
        """Removes the fabric's files, if they are still its own: for who stops it, and has nobody go on with it."""
        self._doors.discard()
        discard(self._mailbox, self._settings.memory)

    def _due(self) -> float | None:
        """When `_tick` has something to do, in seconds of the monotonic clock."""
        deadlines = (
            self._fabric.deadline,
            self._log.due,
            self._accept_again_at,
            self._keep_alive_at,
            self._finish_by,
            self._status_due(),
        )
        return min((d for d in deadlines if d is not None), default=None)

    def _hear(self, events: list[tuple[int, int]]) -> None:
        ready: list[Door] = []
        for descriptor, _ in events:
            if (door := self._doors.at(descriptor)) is not None:
                ready.append(door)
            elif self._supervisor is not None and descriptor == self._supervisor.fileno():
                self._obey(_read_order(self._supervisor), self._supervisor)
            elif self._stop_asked():
                self._stopping = True
        # Last, so that a place that was left in the same turn is free, and no descriptor that was closed in it is
        # taken for the newcomer's.
        for door in ready:
            if not self._stopping and not self._held and self._accept_again_at is None:
                self._accept(door)
        if ready:
            self._fabric.say_who_joined()

    def _obey(self, order: str | None, supervisor: socket.socket) -> None:
        if order == "":
            self._stopping = True
        elif order == "park":
            self._stopping, self._parked = True, supervisor
        elif order == "hold" and not self._held:
            self._fabric.hold()
            if self._accept_again_at is None:
                self._close_doors()
            self._accept_again_at = None
            self._held, self._finish_by = True, time.monotonic() + _FINISH
        elif order == "carry on" and self._held:
            self._held, self._finish_by = False, None
            self._accept_again_at = time.monotonic()
            self._fabric.carry_on()
        elif order is not None and order.startswith("kick "):
            self._fabric.kick(int(order.removeprefix("kick ")))
            self._answer(order)
        elif order is not None and order.startswith("faults "):
            self._fabric.change_rules(parse_rules(order.removeprefix("faults ")))
            self._answer("faults")

    def _answer(self, order: str) -> None:
        self._manager.tell(f"X_FAMEZ={order}", wait=True)

    def _stop_asked(self) -> bool:
        return bool(set(self._signals.recv(64)) & {signal.SIGTERM, signal.SIGINT})

    def _open_doors(self) -> None:
        for door in self._doors:
            self._fabric.epoll.register(door.listener, select.EPOLLIN)

    def _close_doors(self) -> None:
        for door in self._doors:
            self._fabric.epoll.unregister(door.listener)

    def _accept(self, door: Door) -> None:
        for _ in range(_ACCEPTS):
            if not self._fabric.can_change():
                self._pause_accepting(FROZEN)
                return
            try:
                connection, _ = door.listener.accept()
            except BlockingIOError:
                return
            except OSError as e:
                if e.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    # The newcomer is gone already.
                    continue
                self._log.say(log.ERROR, f"newcomers have to wait: {e.strerror}")
                self._fabric.give_way()
                self._pause_accepting(_PAUSE)
                return
            self._fabric.join(connection, door.port)

    def _pause_accepting(self, seconds: float) -> None:
        self._close_doors()
        self._accept_again_at = time.monotonic() + seconds

    def _tick(self, now: float) -> float | None:
        """Does what was due by `now`, and returns when something is again."""
        deadline = self._fabric.deadline
        if deadline is not None and now >= deadline:
            self._fabric.tick(now)
            self._page.add("busy_ns", time.monotonic_ns() - int(now * 1e9))
        if self._log.due is not None and now >= self._log.due:
            self._log.tick(now)
        if self._accept_again_at is not None and now >= self._accept_again_at:
            self._accept_again_at = None
            self._open_doors()
        if self._finish_by is not None and (now >= self._finish_by or not self._fabric.busy):
            self._finish_by = None
            self._answer("hold")
        if self._manager.watchdog and (self._keep_alive_at is None or now >= self._keep_alive_at):
            self._keep_alive_at = now + self._manager.watchdog / 3
            if self._supervisor is None:
                self._manager.tell("WATCHDOG=1")
            # A supervisor looks there: to be told by each of its workers would wake it for each.
            self._page.live()
            self._fabric.look_after_mailbox()
        due = self._status_due()
        if due is not None and now >= due:
            self._told = self._status()
            self._tell_at = now + _STATUS_EVERY
            self._manager.tell(f"STATUS={self._told}")
        return self._due()

    def _status(self) -> str:
        return f"{len(self._fabric.members)} of {self._settings.peers} peers"

    def _status_due(self) -> float | None:
        return self._tell_at if self._status() != self._told else None


def _look(poll: Callable[[float], list[Event]], until: int) -> list[Event]:
    """What comes until then, by the monotonic clock in nanoseconds, without going to sleep."""
    while not (events := poll(0)) and time.monotonic_ns() < until:
        pass
    return events


def load_personality(reference: str) -> type[Personality]:
    """The class that `module:name` refers to; raises StartError if there is none."""
    module, _, name = reference.partition(":")
    if sys.flags.no_site and not module.startswith("famezd."):
        # It may be installed in any way that Python knows; see `famezd.interpreter`.
        site.main()
    try:
        found = getattr(importlib.import_module(module), name)
    except FAILURES as e:  # a plug-in's import may raise anything
        raise StartError(f"cannot load the personality {reference}: {type(e).__name__}: {e}") from e
    if why := wrong(found):
        raise StartError(f"{reference} {why}")
    loaded: type[Personality] = found
    return loaded


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


def _read_order(supervisor: socket.socket, *, wait: bool = False) -> str | None:
    """The next order, None if there is none; "" when the supervisor is gone."""
    try:
        return supervisor.recv(_LONGEST_ORDER, 0 if wait else socket.MSG_DONTWAIT).decode()
    except BlockingIOError:
        return None
    except ConnectionError:
        return ""


def _is_to_succeed(supervisor: socket.socket) -> bool:
    """Whether another worker serves still; raises StartError if the supervisor is gone."""
    order = _read_order(supervisor)
    if order == "":
        # The next one may have started another worker.
        raise StartError("the supervisor is gone")
    return order == "wait"


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


def open_worker(arguments: list[str], logger: log.Log) -> Worker | None:
    """The worker of the fabric that the arguments name, None, with a line in the log, if it cannot serve."""
    try:
        return Worker(parse(arguments), logger)
    except FamezError as e:
        logger.say(log.ERROR, str(e))
    except OSError as e:
        # Also for what it hands its manager, and that is of all of the user's processes.
        more = "; raise the limit of open files (LimitNOFILE=)" if e.errno in (errno.EMFILE, errno.ETOOMANYREFS) else ""
        logger.say(log.ERROR, f"cannot start: {e.strerror or e}{more}")
    return None


def main() -> int:
    """Runs the worker of the fabric that the arguments name; returns its exit status."""
    worker = open_worker(sys.argv[1:], log.Log())
    if worker is None:
        return START_FAILED
    with contextlib.suppress(KeyboardInterrupt):
        worker.run()
    return os.EX_OK
