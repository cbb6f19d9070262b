"""What the page shows, as server-sent events: sampled once for all who listen, and not at all where nobody does.

The events are described in docs/page.md. Each listener has a short queue. Who does not read fast enough loses what is
in it and is told the newest state instead; who does not read at all is dropped by the gate
(`famezd.supervisor.http.gate`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import pwd
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

import structlog

from famezd import __version__
from famezd.config import GENZ
from famezd.errors import FamezError
from famezd.fabric.processes import program
from famezd.statepage import StateError
from famezd.supervisor.faults import look_at_faults
from famezd.supervisor.status.names import LONGEST, sanitised
from famezd.supervisor.status.rates import Rates
from famezd.supervisor.status.sampler import Growth, Sampler
from famezd.supervisor.status.timeline import Timeline
from famezd.supervisor.status.view import ids_of
from famezd.supervisor.worker import Worker

EVERY = 0.2
"""Seconds between two samples; more where a sample takes long, so that a tenth of the time is spent on it at most."""
DETAIL_EVERY = 1.0
"""Seconds between two looks at what changes seldom: names, link states, fault rules."""
LISTENERS = 64
"""At once; one more is turned away."""
QUEUE_EVENTS, QUEUE_BYTES = 64, 1 << 20
"""What waits for one listener at most."""
PAIRS, VECTORS = 512, 256
"""Entries of one sample: the largest. What is left out is told as a sum."""
QUIET = 15.0
"""Seconds without an event after which a comment is sent, by which either end learns that the other has gone."""
LONGEST_FAILURE = 500
"""Characters of why a fabric is not served."""
RETRY_MS = 2000
"""What a browser is told to wait before it connects again."""

Json = dict[str, Any]


class TooManyListenersError(FamezError):
    """There is no room for one more."""


class Listener:
    """Somebody who reads events of all fabrics, and of one more closely."""

    def __init__(self, fabric: str | None) -> None:
        self.fabric = fabric
        self.is_behind = True
        """Whether it is to be told the newest state before all else."""
        self.closed = False
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        self._news = asyncio.Event()

    def offer(self, event: bytes) -> None:
        """Has it told, unless it is too far behind."""
        if self.is_behind:
            return
        if len(self._queue) == QUEUE_EVENTS or self._bytes + len(event) > QUEUE_BYTES:
            self._queue.clear()
            self._bytes, self.is_behind = 0, True
        else:
            self._queue.append(event)
            self._bytes += len(event)
        self._news.set()

    def close(self) -> None:
        """Nothing more comes."""
        self.closed = True
        self._news.set()

    async def wait(self) -> None:
        """Returns when there is something, or nothing has come for QUIET."""
        if not self.is_behind:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), QUIET)

    def take(self) -> bytes:
        """All that waits, or a comment."""
        taken = b"".join(self._queue) or b":\n\n"
        self._queue.clear()
        self._bytes = 0
        self._news.clear()
        return taken


class Watch:
    """What listeners of one fabric have been told of it."""

    def __init__(self) -> None:
        self.peers: dict[int, Json] = {}
        self.detail: Json = {}
        self._sampler: Sampler | None = None
        self._present: object = None

    async def rings(self, worker: Worker) -> Growth | None:
        """What was rung since the last time, None if that cannot be known."""
        page = worker.page
        if page is None:
            self._sampler = None
            return None
        if self._sampler is None or self._sampler.page is not page:
            self._sampler = Sampler(worker.fabric, page)
        try:
            return await self._sampler.grown()
        except ValueError:
            # The fabric was removed, or began anew, while its counters were being read.
            self._sampler = None
            return None

    def is_due(self, worker: Worker) -> bool:
        """Whether somebody has joined or left, or another worker serves."""
        page = worker.page
        present = worker.state, None if page is None else page.occupants()
        if present == self._present:
            return False
        self._present = present
        return True

    def look(self, worker: Worker, users: Mapping[int, str]) -> tuple[Json, Json]:
        """Brings all up to date; returns what of the peers and of the rest has changed, each may be nothing."""
        peers, detail = _peers(worker, users), _detail(worker)
        changed = [peer for number, peer in peers.items() if self.peers.get(number) != peer]
        gone = [number for number in self.peers if number not in peers]
        news = {"changed": changed, "gone": gone} if changed or gone else {}
        other = {} if detail == self.detail else detail
        self.peers, self.detail = peers, detail
        return news, other


class Stream:
    """All listeners, and the one task that samples for them."""

    def __init__(self, workers: Callable[[], Mapping[str, Worker]], timeline: Timeline) -> None:
        self._workers = workers
        self._timeline = timeline
        self._listeners: set[Listener] = set()
        self._watches: dict[str, Watch] = {}
        self._briefs: dict[str, Json] = {}
        self._rates: Mapping[str, Rates | None] = {}
        self._told = 0
        self._users: dict[int, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._log = structlog.get_logger()

    @property
    def is_heard(self) -> bool:
        """Whether anybody listens."""
        return bool(self._listeners)

    def note(self, rates: Mapping[str, Rates | None]) -> None:
        """Takes how busy fabrics have been lately."""
        self._rates = rates

    def listen(self, fabric: str | None) -> Listener:
        """One more listener, who has to be let go again; raises TooManyListenersError."""
        if len(self._listeners) >= LISTENERS:
            raise TooManyListenersError(f"{LISTENERS} listen already: close a page, or try again later")
        listener = Listener(fabric)
        self._listeners.add(listener)
        if self._task is None or self._task.done():
            self._told = self._timeline.number
            self._task = asyncio.get_running_loop().create_task(self._sample_for_all())
            self._task.add_done_callback(self._ended)
        return listener

    def leave(self, listener: Listener) -> None:
        """It listens no more."""
        self._listeners.discard(listener)
        if not self._listeners and self._task is not None:
            self._task.cancel()
            self._task = None
            self._watches.clear()
            self._briefs.clear()
            self._rates = {}

    def close(self) -> None:
        """Nobody is told anything any more."""
        for listener in self._listeners:
            listener.close()

    async def next(self, listener: Listener) -> bytes:
        """What it is to be told next: waits until there is something."""
        await listener.wait()
        if not listener.is_behind:
            return listener.take()
        state = await self._state(listener.fabric)
        listener.take()
        listener.is_behind = False
        return state

    async def _state(self, fabric: str | None) -> bytes:
        """All that there is to be known now."""
        if not self._briefs:
            self._briefs = self._look_briefly()
        watched = None
        worker = self._workers().get(fabric or "")
        if worker is not None:
            watch = await self._watched(worker)
            watched = {"name": worker.fabric.name, "peers": list(watch.peers.values()), **watch.detail}
        told = {
            "version": __version__,
            "fabrics": list(self._briefs.values()),
            "fabric": watched,
            "timeline": [happening for happening in self._timeline.since(0) if happening["number"] <= self._told],
        }
        return f"retry: {RETRY_MS}\n".encode() + _event("state", told, self._told)

    async def _watched(self, worker: Worker) -> Watch:
        name = worker.fabric.name
        if name not in self._watches:
            watch = Watch()
            await self._look_up(worker)
            # What is rung after the state has been told is told as well.
            await watch.rings(worker)
            watch.look(worker, self._users)
            # Another listener may have come first: both are told the same changes from now on.
            self._watches.setdefault(name, watch)
        return self._watches[name]

    # The task

    async def _sample_for_all(self) -> None:
        loop = asyncio.get_running_loop()
        due = 0.0
        while True:
            began = loop.time()
            await self._sample(in_detail=began >= due)
            if began >= due:
                due = began + DETAIL_EVERY
            await asyncio.sleep(max(EVERY, 9 * (loop.time() - began)))

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Nobody is to look at a page that stands still: who listens comes again, and finds another task."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("the page's events have failed", exc_info=error)
            self.close()

    async def _sample(self, *, in_detail: bool) -> None:
        self._tell_briefs()
        heard = {listener.fabric for listener in self._listeners}
        for name in [name for name in self._watches if name not in heard]:
            del self._watches[name]
        workers = self._workers()
        for name, watch in list(self._watches.items()):
            if (worker := workers.get(name)) is None:
                del self._watches[name]
                continue
            growth = await watch.rings(worker)
            # It may have been removed meanwhile.
            if workers.get(name) is worker:
                if watch.is_due(worker) or in_detail:
                    await self._look_up(worker)
                    self._tell_changes(name, *watch.look(worker, self._users))
                if growth is not None and growth.vectors:
                    self._tell(_event("rings", _rings(growth)), name)
        self._tell_happenings()

    def _tell_changes(self, name: str, peers: Json, detail: Json) -> None:
        if peers:
            self._tell(_event("peers", peers), name)
        if detail:
            self._tell(_event("fabric", detail), name)

    def _tell_briefs(self) -> None:
        briefs = self._look_briefly()
        changed = [brief for name, brief in briefs.items() if self._briefs.get(name) != brief]
        gone = [name for name in self._briefs if name not in briefs]
        if changed or gone:
            self._briefs = briefs
            self._tell(_event("fabrics", {"changed": changed, "gone": gone}))

    def _tell_happenings(self) -> None:
        news = self._timeline.since(self._told)
        if news:
            self._told = self._timeline.number
            self._tell(_event("happened", {"happenings": news}, self._told))

    def _tell(self, event: bytes, fabric: str | None = None) -> None:
        for listener in self._listeners:
            if fabric is None or listener.fabric == fabric:
                listener.offer(event)

    def _look_briefly(self) -> dict[str, Json]:
        return {name: _brief(worker, self._rates.get(name)) for name, worker in sorted(self._workers().items())}

    async def _look_up(self, worker: Worker) -> None:
        """Looks up the names of users who are not known yet: in a thread, as a directory service may be asked."""
        there = () if worker.page is None else worker.page.occupants()
        unknown = {occupant.uid for occupant in there} - self._users.keys()
        if unknown:
            self._users |= await asyncio.to_thread(_names_of_users, unknown)


def _event(name: str, data: Json, number: int | None = None) -> bytes:
    # In JSON there are no line ends, and in ASCII nothing else that could be taken for one.
    told = json.dumps(data, separators=(",", ":"))
    numbered = "" if number is None else f"id: {number}\n"
    return f"{numbered}event: {name}\ndata: {told}\n\n".encode()


def _brief(worker: Worker, rates: Rates | None) -> Json:
    fabric, page = worker.fabric, worker.page
    return {
        "name": fabric.name,
        "state": worker.state.value,
        "failure": worker.failure[:LONGEST_FAILURE],
        "personality": fabric.personality,
        "doorbells": fabric.doorbells,
        "peers": 0 if page is None else len(page.occupants()),
        "limit": fabric.peers,
        "restarts": worker.restarts,
        "rate": None if rates is None else round(rates.doorbells, 1),
        "busy": None if rates is None else round(rates.busy, 3),
    }


def _peers(worker: Worker, users: Mapping[int, str]) -> dict[int, Json]:
    """Who is there, the switch included, by id."""
    if worker.page is None:
        return {}
    occupants, switch, links = worker.page.occupants(), worker.switch, _links(worker)
    worker.names.look(occupants, worker.nodename, switch)
    found: dict[int, Json] = {}
    for occupant in occupants:
        named = worker.names.of(occupant.peer)
        found[occupant.peer] = {
            "id": occupant.peer,
            "name": named.name,
            "kind": named.kind,
            "pid": occupant.pid,
            "uid": occupant.uid,
            "user": users.get(occupant.uid, str(occupant.uid)),
            "program": sanitised(program(occupant.pid), LONGEST),
            "joined": occupant.joined / 1e9,
            "link": links.get(occupant.peer),
        }
    if switch is not None:
        named = worker.names.of(switch)
        found[switch] = {"id": switch, "name": named.name, "kind": named.kind, "pid": worker.pid}
    return found


def _links(worker: Worker) -> dict[int, str]:
    """With genz, what the switch takes each port's link for."""
    if worker.fabric.personality != GENZ or worker.state_page is None:
        return {}
    try:
        state = worker.state_page.read()[0]
    except StateError:
        return {}
    return {port: state.get(f"port {port}", {}).get("link", "down") for port in range(1, worker.fabric.peers + 1)}


def _detail(worker: Worker) -> Json:
    """What else there is to be known of a fabric."""
    fabric, page = worker.fabric, worker.page
    ids = None if page is None else ids_of(fabric, page)
    return {
        "vectors": fabric.vectors,
        "ports": fabric.ports,
        "port_ids": ids[: fabric.peers] if ids is not None and fabric.ports == "sticky" else None,
        "faults": [] if page is None else [asdict(fault) for fault in look_at_faults(worker.faults, page)],
    }


def _rings(growth: Growth) -> Json:
    pairs, vectors = growth.pairs.most_common(PAIRS), growth.vectors.most_common(VECTORS)
    return {
        "pairs": [[src, dst, n] for (src, dst), n in pairs],
        "vectors": [[dst, vector, n] for (dst, vector), n in vectors],
        "total": growth.vectors.total(),
        "shown": sum(n for _, n in pairs),
    }


def _names_of_users(numbers: Iterable[int]) -> dict[int, str]:
    return {number: _name_of_user(number) for number in numbers}


def _name_of_user(number: int) -> str:
    try:
        return sanitised(pwd.getpwuid(number).pw_name, LONGEST)
    except KeyError:
        return str(number)
