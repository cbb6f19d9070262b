"""What is done to a world: each action does it, tells the model, and says in a few words what it was.

All that is chosen is chosen by the random numbers of one seed and by what the model knows, never by the time that
something took, or by what was observed: so the same seed makes the same sequence of actions.
"""

from __future__ import annotations

import random
import signal
import socket
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.soak.model import Kind, Rule
from tests.soak.peers import Member, Program, Qemu, Reader
from tests.soak.service import PATIENCE, Wrong, until
from tests.soak.world import KINDS, SCRATCH_SIZE, STEADY, Fabric, World

Action = Callable[["Actions"], str]
ROUND = 300
"""About so many actions are in a round, in which each kind comes as often as `KINDS_OF_ACTIONS` says."""
EXTRAS = 3
"""Fabrics at most that come and go."""
MACHINES = 8
"""Machines at most at once: each takes some 50 MB."""
_SAMPLES = ("metrics", "healthz", "readyz", "api/v1/status", "")
_EFFECTS = ("drop", "block", "duplicate", "delay", "message")
_BROKEN = ("peers: many\n", "peers: [", "vectors: 16\nvectors: 16\n", "faults: [{src: 99, drop: 1}]\n", "{}{}")


class Nothing(Exception):  # noqa: N818 (no error: the action needs what is not there)
    """There is nobody to do it to."""


class Actions:
    """Everything that is done, by one sequence of random numbers."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.service = world.service
        self.random = random.Random(seed)
        self._added = 0

    # Who is chosen

    def fabric(self, accept: Callable[[Fabric], object] = lambda _: True) -> Fabric:
        """One of the fabrics that will do; raises Nothing if none does."""
        fitting = [fabric for fabric in self.world.fabrics.values() if accept(fabric)]
        if not fitting:
            raise Nothing
        return self.random.choice(fitting)

    def member(self, fabric: Fabric, accept: Callable[[Member], object] = lambda _: True) -> Member:
        """One of the members that will do; raises Nothing if none does."""
        fitting = [member for member in fabric.members.values() if accept(member)]
        if not fitting:
            raise Nothing
        return self.random.choice(fitting)

    def somebody(self, accept: Callable[[Member], object] = lambda _: True) -> tuple[Fabric, Member]:
        """One of all members that will do, and its fabric."""
        fitting = [(fabric, member) for fabric, member in self.world.everybody() if accept(member)]
        if not fitting:
            raise Nothing
        return self.random.choice(fitting)

    def _target(self, fabric: Fabric, src: Member) -> int:
        """Whom `src` rings: another member, or where ids are ports perhaps an empty one."""
        if fabric.kind.sticky and not fabric.model.delays() and self.random.random() < 0.1:
            halves = {member.id for member in fabric.members.values() if not member.whole}
            return self.random.choice([port for port in fabric.kind.ids if port != src.id and port not in halves])
        return self.member(fabric, lambda m: m is not src and m.whole).id

    # Coming and going

    def join(self, how: str) -> str:
        fabric = self.fabric()
        return f"a {how} joins {fabric.name}: it {fabric.join(how)}"

    def join_machine(self) -> str:
        if sum(isinstance(member, Qemu) for _, member in self.world.everybody()) >= MACHINES:
            raise Nothing
        # QEMU does not survive to be turned away.
        fabric = self.fabric(lambda f: f.model.room() is True)
        return f"a machine joins {fabric.name}: it {fabric.join('qemu')}"

    def leave(self) -> str:
        fabric, member = self.somebody()
        fabric.part(member)
        return f"{member} leaves {fabric.name}"

    def kill_peer(self) -> str:
        fabric, member = self.somebody(lambda m: isinstance(m, Program | Qemu))
        fabric.part(member, kill=True)
        return f"{member} of {fabric.name} is killed"

    def kick(self) -> str:
        fabric, member = self.somebody(lambda m: m.whole)
        fabric.settle()
        self.service.await_served(fabric.name)
        done = self.service.ctl("kick", fabric.name, str(member.id))
        if done.returncode and "does not answer" not in done.stderr:
            raise Wrong(f"famezctl kick {fabric.name} {member.id} says: {done.stderr}")
        fabric.expel(member, "kicked")
        return f"{member} is kicked from {fabric.name}"

    def overfill(self) -> str:
        fabric = self.fabric()
        said = [fabric.join("reader")]
        while said[-1] != "is refused":
            said.append(fabric.join("reader"))
        return f"{len(said) - 1} readers fill {fabric.name}, one more {said[-1]}"

    # Doorbells and messages

    def ring(self, most: int = 1) -> str:
        fabric, src = self.somebody(lambda m: m.whole and m.reads)
        dst, vector = self._target(fabric, src), self.random.randrange(fabric.kind.vectors)
        rings = self.random.randint(1, most)
        fabric.ring(src, dst, vector, rings)
        return f"{src} rings {dst} of {fabric.name} on {vector}, {rings} times"

    def storm(self) -> str:
        """Everybody rings everybody whom it can, on all vectors, a little."""
        fabric = self.fabric(lambda f: len(f.members) > 1)
        whole = [member for member in fabric.members.values() if member.whole]
        for src in whole:
            for dst in whole if src.reads else ():
                if src is not dst:
                    fabric.ring(src, dst.id, self.random.randrange(fabric.kind.vectors), self.random.randint(1, 20))
        return f"all {len(whole)} of {fabric.name} ring all"

    def send(self) -> str:
        """A message through the mailbox: it is there to be read, as it was written, when the doorbell comes."""
        fabric = self.fabric(lambda f: f.kind.genz and len(f.members) > 1)
        src = self.member(fabric, lambda m: m.memory and m.reads)
        dst = self.member(fabric, lambda m: m.memory and m is not src)
        text = self.random.randbytes(self.random.randint(1, 150)).hex().encode()
        fabric.arrive()
        fabric.send(src, dst, text)
        return f"{src} sends {dst} of {fabric.name} {len(text)} bytes"

    def ping(self) -> str:
        """The switch is asked, and answers."""
        fabric = self.fabric(lambda f: f.kind.genz)
        member = self.member(fabric, lambda m: m.memory)
        fabric.ping(member)
        return f"{member} pings the switch of {fabric.name}"

    def scribble(self) -> str:
        fabric, member = self.somebody(lambda m: m.memory)
        fabric.scribble(member, self.random.randbytes(SCRATCH_SIZE))
        fabric.check_memory()
        return f"{member} writes to the mailbox of {fabric.name}, and all read it"

    # Who is slow, or means harm

    def stop_reading(self) -> str:
        fabric, member = self.somebody(lambda m: isinstance(m, Reader) and m.reads)
        member.reads = False
        return f"{member} of {fabric.name} does not read any more"

    def read_again(self) -> str:
        fabric, member = self.somebody(lambda m: isinstance(m, Reader) and not m.reads)
        assert isinstance(member, Reader)
        member.finish()
        return f"{member} of {fabric.name} reads again"

    def say_something(self) -> str:
        """A peer sends the server bytes, which no peer may."""
        fabric, member = self.somebody(lambda m: isinstance(m, Reader))
        assert isinstance(member, Reader)
        fabric.settle()
        member.say(self.random.randbytes(self.random.randint(1, 64)))
        fabric.expel(member, "bytes")
        return f"{member} of {fabric.name} says something, and is thrown out"

    def block(self) -> str:
        """A peer makes its eventfds block and fills them: who rings it is not to suffer, and it is thrown out."""
        fabric = self.fabric(lambda f: f.kind.relayed and f.model.room() is True and f.members and not f.model.rules)
        src = self.member(fabric, lambda m: m.whole and m.reads)
        fabric.agree()
        before = set(fabric.members)
        fabric.join("program")
        blocker = next(member for peer, member in fabric.members.items() if peer not in before)
        assert isinstance(blocker, Program)
        fabric.acquaint(src, blocker.id)
        fabric.arrive()
        blocker.hear()
        blocker.ask(block=True)
        became = "is thrown out" if fabric.ring_blocked(src, blocker) else "is spared"
        return f"{blocker} of {fabric.name} blocks, is rung by {src}, and {became}"

    def stand_still(self) -> str:
        fabric, member = self.somebody(lambda m: isinstance(m, Qemu))
        assert isinstance(member, Qemu)
        member.stand_still()
        return f"{member} of {fabric.name} stands still for a moment"

    # Workers and famezd

    def kill_worker(self) -> str:
        """A worker is killed, while it may be busy; it is waited for later, when it is needed."""
        fabric = self._mortal()
        pid = self.service.await_served(fabric.name)[fabric.name]
        fabric.settle()
        rung = self._burst(fabric)
        fabric.model.disturb()
        fabric.model.deaths += 1
        self.service.signal(pid, signal.SIGKILL)
        until(lambda: self.service.pids()[fabric.name] != pid, f"famezd notices that worker {pid} died")
        rung += self._burst(fabric)
        return f"the worker of {fabric.name} is killed, with {rung} doorbells on their way"

    def pause_worker(self) -> str:
        """A worker stands still, but not for so long that famezd gives it up."""
        fabric = self._mortal()
        pid = self.service.await_served(fabric.name)[fabric.name]
        fabric.settle()
        fabric.model.disturb()
        self.service.signal(pid, signal.SIGSTOP)
        try:
            rung = self._burst(fabric)
        finally:
            self.service.signal(pid, signal.SIGCONT)
        return f"the worker of {fabric.name} stands still for a moment, with {rung} doorbells on their way"

    def hang_worker(self) -> str:
        """A worker stands still until famezd kills it."""
        fabric = self._mortal()
        pid = self.service.await_served(fabric.name)[fabric.name]
        fabric.settle()
        fabric.model.disturb()
        fabric.model.deaths += 1
        fabric.hung += 1
        self.service.signal(pid, signal.SIGSTOP)
        rung = self._burst(fabric)
        until(lambda: self.service.pids()[fabric.name] not in (0, pid), f"famezd replaces worker {pid}, which hangs")
        return f"the worker of {fabric.name} hangs, with {rung} doorbells on their way, and is replaced"

    def restart(self) -> str:
        fabric = self._mortal()
        self.service.await_served(fabric.name)
        fabric.settle()
        rung = self._burst(fabric)
        self.service.must("restart", fabric.name)
        return f"{fabric.name} is restarted, with {rung} doorbells on their way"

    def crash(self) -> str:
        """The supervisor dies, and its workers with it; another one goes on with what the manager kept."""
        for fabric in self.world.fabrics.values():
            fabric.settle()
        rung = sum(self._burst(fabric) for fabric in self.world.fabrics.values())
        number = self.random.choice((signal.SIGKILL, signal.SIGABRT))
        self.world.died()
        self.service.crash(number)
        return f"famezd dies of {number.name}, with {rung} doorbells on their way, and is started again"

    def _mortal(self) -> Fabric:
        return self.fabric(lambda f: not f.name.startswith(STEADY))

    def _burst(self, fabric: Fabric) -> int:
        """Some members ring others whom they know; returns how often."""
        rung = 0
        able = [m for m in fabric.members.values() if m.whole and m.reads and not isinstance(m, Program)]
        for _ in range(self.random.randint(0, 12) if able else 0):
            src, rings = self.random.choice(able), self.random.randint(1, 50 if fabric.kind.relayed else 5)
            others = [m for m in fabric.members.values() if m.whole and m is not src and fabric.acquainted(src, m)]
            if others:
                vector = self.random.randrange(fabric.kind.vectors)
                rings = min(rings, 3) if isinstance(src, Qemu) else rings
                fabric.ring(src, self.random.choice(others).id, vector, rings)
                rung += rings
        return rung

    # Configuration

    def change_rules(self) -> str:
        """Fault rules are changed by a reload, on a fabric where ids are ports and doorbells pass famezd."""
        fabric = self.fabric(lambda f: f.kind.relayed and f.kind.sticky)
        ids = list(fabric.kind.ids)
        pairs = [self.random.sample(ids, 2) for _ in range(self.random.randint(0, 4))]
        effects = _EFFECTS if fabric.kind.genz else _EFFECTS[:-1]
        drawn = [Rule(src, dst, self.random.choice(effects)) for src, dst in pairs]
        kept = [rule for rule in fabric.model.rules if self.random.random() < 0.5]
        rules = tuple(dict.fromkeys([*kept, *drawn]))
        self.world.change_rules(fabric, rules)
        return f"the rules of {fabric.name} are {[tuple(rule) for rule in rules]}"

    def change_settings(self) -> str:
        """A setting is changed in place, by another worker."""
        fabric = self._mortal()
        most = self.random.randint(20, 60)
        fabric.agree()
        access = {"peers_per_user": most}
        self.service.define(fabric.name, fabric.kind, fabric.model.rules, access=access)
        said = self.service.must("reload")
        return f"a reload gives {fabric.name} access {access}: {' '.join(said.split())}"

    def break_configuration(self) -> str:
        """A mistake changes nothing."""
        fabric = self.fabric()
        file = self.service.file(fabric.name)
        before, pids = file.read_text(), self.service.await_served()
        try:
            file.write_text(self.random.choice(_BROKEN))
            done = self.service.ctl("reload")
        finally:
            file.write_text(before)
        if done.returncode == 0 or str(file) not in done.stdout + done.stderr:
            raise Wrong(f"a reload with a broken {file} says, status {done.returncode}: {done.stdout}{done.stderr}")
        if (now := self.service.pids()) != pids:
            raise Wrong(f"a reload that was refused changed workers: {pids} became {now}")
        self.service.must("reload")
        return f"a broken file of {fabric.name} is refused"

    def add_fabric(self) -> str:
        extras = [name for name in self.world.fabrics if name not in KINDS]
        if len(extras) >= EXTRAS:
            raise Nothing
        self._added += 1
        kind = Kind(
            self.random.choice(("relayed", "direct")),
            self.random.choice(("sticky", "fresh")),
            self.random.choice(("genz", "plain")),
            self.random.randint(2, 4),
            self.random.randint(6, 8),
            self.random.choice(("shm", "memfd")),
        )
        fabric = self.world.add(f"extra-{self._added}", kind)
        return f"fabric {fabric.name} is added: {tuple(kind)}"

    def remove_fabric(self) -> str:
        fabric = self.fabric(lambda f: f.name not in KINDS)
        there = len(fabric.members)
        self.world.remove(fabric.name)
        return f"fabric {fabric.name} is removed, with {there} peers"

    # Who looks

    def scrape(self) -> str:
        self.service.await_served()
        what = self.random.choice(_SAMPLES)
        if not self.service.fetch(what):
            raise Wrong(f"GET /{what} answers nothing")
        return f"GET /{what}"

    def listen(self) -> str:
        """The page's stream, which is then read no more."""
        host, port = self.service.url.removeprefix("http://").split(":")
        listener = socket.create_connection((host, int(port)), PATIENCE)
        self.world.listeners.append(listener)
        fabric = self.random.choice([*self.world.fabrics])
        listener.sendall(f"GET /api/v1/events?fabric={fabric} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        if not listener.recv(1 << 16).startswith(b"HTTP/1.1 200 "):
            raise Wrong("the page's stream of events is refused")
        for old in self.world.listeners[:-3]:
            old.close()
        del self.world.listeners[:-3]
        return f"somebody looks at the page of {fabric}"


class Often(NamedTuple):
    """A kind of action."""

    action: Action
    times: float
    """How often in a round, on average."""


KINDS_OF_ACTIONS: dict[str, Often] = {
    "ring": Often(Actions.ring, 60),
    "ring a lot": Often(lambda a: a.ring(1000), 25),
    "storm": Often(Actions.storm, 10),
    "send": Often(Actions.send, 25),
    "ping": Often(Actions.ping, 12),
    "write": Often(Actions.scribble, 8),
    "join, reader": Often(lambda a: a.join("reader"), 40),
    "join, library": Often(lambda a: a.join("library"), 24),
    "join, program": Often(lambda a: a.join("program"), 8),
    "join, machine": Often(Actions.join_machine, 10),
    "join, half": Often(lambda a: a.join("half"), 3),
    "overfill": Often(Actions.overfill, 2),
    "leave": Often(Actions.leave, 32),
    "kill a peer": Often(Actions.kill_peer, 8),
    "kick": Often(Actions.kick, 3),
    "stop reading": Often(Actions.stop_reading, 5),
    "read again": Often(Actions.read_again, 5),
    "send bytes": Often(Actions.say_something, 2),
    "block": Often(Actions.block, 1),
    "stop a machine": Often(Actions.stand_still, 3),
    "kill a worker": Often(Actions.kill_worker, 6),
    "stop a worker": Often(Actions.pause_worker, 3),
    "hang a worker": Often(Actions.hang_worker, 0.1),
    "restart": Often(Actions.restart, 3),
    "crash": Often(Actions.crash, 0.07),
    "fault rules": Often(Actions.change_rules, 4),
    "settings": Often(Actions.change_settings, 2),
    "broken file": Often(Actions.break_configuration, 1),
    "add a fabric": Often(Actions.add_fabric, 1),
    "remove a fabric": Often(Actions.remove_fabric, 1),
    "scrape": Often(Actions.scrape, 10),
    "look at the page": Often(Actions.listen, 3),
}


def rounds(chance: random.Random) -> Iterator[list[str]]:
    """Rounds of actions, in random order; the first one is short, and has each kind that does not take long."""
    soon = {kind: often.times for kind, often in KINDS_OF_ACTIONS.items() if kind != "hang a worker"}
    first = [kind for kind, times in soon.items() for _ in range(min(4, 1 + int(times) // 8))]
    chance.shuffle(first)
    # There must be somebody to do things to.
    joins = [f"join, {how}" for how in ("reader", "library", "machine", "program", "reader", "library", "machine")]
    yield [*joins * 2, *first]
    while True:
        deck = []
        for kind, often in KINDS_OF_ACTIONS.items():
            whole, rest = divmod(often.times, 1)
            deck += [kind] * (int(whole) + (chance.random() < rest))
        chance.shuffle(deck)
        yield deck
