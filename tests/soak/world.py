"""A real famezd and its fabrics with their peers, each beside its model; and the comparison of the two."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from famezd.cli.control import get
from famezd.fabric.settings import Settings
from famezd.mailbox import Slots
from famezd.switch.messenger import TAKE_WITHIN
from tests.qemu.machine import MachineError
from tests.soak.model import Counters, Kind, Model, Rule
from tests.soak.peers import Library, Member, Program, Qemu, Reader, Refused
from tests.soak.sampling import Sample, await_stillness, take
from tests.soak.service import Metrics, Soaked, Wrong, counter, given_up, remove, traces, until

SCRATCH, SCRATCH_SIZE = 60 << 10, 64
"""A part of the mailbox that is nobody's slot."""
_RING_AGAIN, _TRIES = 0.5, 500
"""Seconds after which a machine rings again whom it may not know yet, and how often at most."""
STEADY = "steady"
"""How the names begin of fabrics whose workers live as long as famezd does."""
KINDS: Mapping[str, Kind] = {
    "rsg": Kind("relayed", "sticky", "genz", 6, 8),
    "rsp": Kind("relayed", "sticky", "plain", 6, 4),
    "rfg": Kind("relayed", "fresh", "genz", 6, 8, "memfd"),
    "rfp": Kind("relayed", "fresh", "plain", 5, 3),
    "dsg": Kind("direct", "sticky", "genz", 5, 7, "memfd"),
    "dsp": Kind("direct", "sticky", "plain", 5, 4),
    "dfg": Kind("direct", "fresh", "genz", 5, 8),
    "dfp": Kind("direct", "fresh", "plain", 6, 2),
    f"{STEADY}-rsg": Kind("relayed", "sticky", "genz", 5, 8),
    f"{STEADY}-rfp": Kind("relayed", "fresh", "plain", 5, 4, "memfd"),
}
"""The fabrics that there are from the start to the end."""


class Fabric:
    """One fabric, real and modelled."""

    def __init__(self, name: str, kind: Kind, service: Soaked) -> None:
        self.name = name
        self.kind = kind
        self.model = Model(kind)
        self.members: dict[int, Member] = {}
        """In the order of their joins."""
        self._service = service
        self._scratch = bytes(SCRATCH_SIZE)
        self._arguments: list[str] = []
        self._stopped_at = 0
        where = str(service.socket(name))
        self.settings = Settings(name, where, "", 0, vectors=kind.vectors, peers=kind.peers)
        self.hung = 0
        """How many workers were stopped until famezd gave them up, of which its log has not told yet."""
        self.settled = True
        """Whether nothing has come or gone since the worker was last seen to have dealt with all."""

    # Who is there

    def join(self, how: str) -> str:
        """A newcomer of a class comes; returns what became of it."""
        expected = self.model.room()
        self.settled = False
        try:
            member = self._newcomer(how)
        except Refused:
            self._must(self.model.refuse(self.model.turned_away()))
            return "is refused"
        self.members[member.id] = member
        self._must(self.model.join(member.id, exact=member.exact))
        if expected is False:
            raise Wrong(f"{member} was taken in, where there was no room")
        if isinstance(member, Qemu):
            member.met = set(self.members)
        return f"is {member}"

    def _newcomer(self, how: str) -> Member:
        if how == "qemu":
            self._arguments = self._arguments or self._service.ask(f"fabrics/{self.name}/qemu")["arguments"]
            return Qemu(self._arguments, self._service.config.parent)
        if how == "half":
            return Reader(self.settings, whole=False)
        kinds: dict[str, Callable[[Settings], Member]] = {"reader": Reader, "library": Library, "program": Program}
        return kinds[how](self.settings)

    def part(self, member: Member, *, reason: str = "hangup", kill: bool = False) -> None:
        """A member leaves."""
        self.settled = False
        del self.members[member.id]
        self.model.leave(member.id, reason)
        if kill:
            member.kill()
        else:
            member.close()

    def expel(self, member: Member, reason: str) -> None:
        """A member's membership is ended by famezd, as it should see."""
        if not isinstance(member, Qemu):
            until(member.ended, f"the membership of {member} on {self.name} ends: {reason}")
        self.part(member, reason=reason)

    # Doorbells

    def ring(self, src: Member, dst: int, vector: int, rings: int) -> None:
        """A member rings another, which it has to know first."""
        self.acquaint(src, dst)
        if self.model.is_empty(dst):
            # Until the worker has seen that nobody is there any more, who has left is rung.
            self.settle()
        self.model.ring(src.id, dst, vector, rings)
        src.ring(dst, vector, rings)

    def acquaint(self, src: Member, dst: int) -> None:
        """Waits until `src` knows `dst`; with fresh ports it hears of who came later a little later."""
        if self.kind.sticky or dst == self.kind.switch:
            return
        if isinstance(src, Qemu):
            if dst not in src.met:
                self._meet(src, self.members[dst])
            return
        until(lambda: dst in (src.knows() or ()), f"{src} knows peer {dst}")

    def acquainted(self, src: Member, dst: Member) -> bool:
        """Whether `src` knows `dst` already."""
        if self.kind.sticky:
            return True
        return dst.id in (src.met if isinstance(src, Qemu) else src.knows() or ())

    def _meet(self, src: Qemu, dst: Member) -> None:
        """A machine rings another peer until that hears it: nothing else tells what QEMU knows."""
        # What was on its way before is not to be taken for this.
        before, tries = self._before(dst, 0), 0
        counted = self._counted(src, dst)
        while self.hear(dst)[0] <= before:
            src.ring(dst.id, 0, 1)
            tries += 1
            if tries > _TRIES:
                raise Wrong(f"{dst} on {self.name} never hears {src}, which rang it {tries} times")
            with suppress(Wrong):
                until(lambda: self.hear(dst)[0] > before, "it hears", patience=_RING_AGAIN)
        src.met.add(dst.id)
        self._service.settle(self.name)
        # QEMU drops those for which it has no bell yet.
        if self.kind.relayed:
            arrived = self._counted(src, dst) - counted
        else:
            arrived = self.hear(dst)[0] - before if dst.exact else 1
        self.model.ring(src.id, dst.id, 0, arrived)

    def _counted(self, src: Member, dst: Member) -> int:
        """How often one has rung another, as famezd has it, with what others with these ids may have; direct, 0."""
        if not self.kind.relayed:
            return 0
        pairs = counter(self._service.samples(), "famez_doorbells_total", self.name, "src", "dst")
        return int(pairs[str(src.id), str(dst.id)])

    def hear(self, member: Member) -> Counter[int]:
        """Asks a member what it was rung; returns all that it has said since all agreed."""
        self.model.hear(member.id, member.hear())
        return self.model.members[member.id].got

    def arrive(self) -> None:
        """Waits until all that was rung has arrived."""

        def arrived() -> bool:
            for peer in self.model.missing():
                self.hear(self.members[peer])
            return not self.model.missing()

        def missing() -> str:
            return f"on {self.name} doorbells arrive; missing by peer and vector: {self.model.missing()}"

        until(arrived, missing)

    def ring_blocked(self, src: Member, blocker: Program) -> bool:
        """A member rings one that has made its eventfds block; returns whether that one was thrown out.

        It is spared within a minute of another one: then the worker does not wait for such eventfds.
        """
        self.model.ring(src.id, blocker.id, 0)
        src.ring(blocker.id, 0, 1)
        self._service.settle(self.name)
        expelled = bool(blocker.ask(is_expelled=True)["expelled"])
        self.part(blocker, reason="stalled" if expelled else "hangup", kill=True)
        return expelled

    # The mailbox

    def send(self, src: Member, dst: Member, text: bytes) -> None:
        """A member writes a message into its slot, and rings another, which reads it: as it was written."""
        assert src.memory is not None
        assert dst.memory is not None
        self.acquaint(src, dst.id)
        slots = Slots(src.memory)
        lost = self.model.lost_messages
        before = self._before(dst, src.id)
        through = self.model.ring(src.id, dst.id, src.id, message=True)
        slots.put(src.id, text, dst.id)
        src.ring(dst.id, src.id, 1)
        if through:
            self._await_more(dst, src.id, before)
            if (found := Slots(dst.memory).take(src.id)) != text:
                raise Wrong(f"{dst} on {self.name} finds {found!r} as the message of {src}, which wrote {text!r}")
        elif self.model.lost_messages > lost:
            until(lambda: not slots.pending(src.id), f"the message of {src} to {dst} on {self.name} is lost on purpose")
        else:
            # Its doorbell alone is lost: it would stand there for ever.
            self.arrive()
            self._service.settle(self.name)
            slots.acknowledge(src.id)

    def ping(self, member: Member) -> None:
        """A member asks the switch, and takes its answer."""
        switch = self.kind.switch
        assert member.memory is not None
        assert switch is not None
        slots, began = Slots(member.memory), time.monotonic()
        before = self._before(member, switch)
        self.model.ring(member.id, switch, member.id)
        self.model.ring(switch, member.id, switch)
        slots.put(member.id, b"ping", switch)
        member.ring(switch, member.id, 1)
        self._await_more(member, switch, before)
        until(lambda: not slots.pending(member.id), f"the switch of {self.name} acknowledges what {member} asked")
        answer = slots.take(switch)
        # The switch takes back what is not taken in time.
        if answer != b"pong" and (answer is not None or time.monotonic() - began < TAKE_WITHIN):
            raise Wrong(f"the switch of {self.name} answers {answer!r} to the ping of {member}")

    def _before(self, dst: Member, vector: int) -> int:
        """How often a member was rung on a vector so far, or, a machine, found to have been; nothing is on its way."""
        self.arrive()
        return self.hear(dst)[vector]

    def _await_more(self, dst: Member, vector: int, before: int) -> None:
        until(lambda: self.hear(dst)[vector] > before, f"{dst} on {self.name} is rung on {vector}")

    def scribble(self, member: Member, data: bytes) -> None:
        """A member writes to the part of the mailbox that is nobody's."""
        assert member.memory is not None
        member.memory.write(SCRATCH, data)
        self._scratch = data

    def check_memory(self) -> None:
        """All see the same."""
        for member in self.members.values():
            if member.memory is not None and (found := member.memory.read(SCRATCH, SCRATCH_SIZE)) != self._scratch:
                raise Wrong(f"{member} on {self.name} finds {found!r} in the mailbox, not {self._scratch!r}")

    # Agreement

    def settle(self) -> None:
        """The worker has dealt with all that came and went."""
        if not self.settled:
            self._settle()

    def _settle(self) -> None:
        self._service.settle(self.name)
        self.settled = True
        self.model.settle()

    def agree(self) -> None:
        """Waits until nothing is under way, and checks that what was rung has arrived, and nothing else."""
        self.arrive()
        self._settle()
        if self.model.delays():
            # A machine that was rung twice has all that it can tell when the first doorbell is there.
            with self._service.page(self.name) as page:
                until(lambda: not page.held(), f"the rules of {self.name} hold up no doorbell")
        for member in self.members.values():
            if member.reads or member.whole:
                self.hear(member)
        self._must(self.model.agree())
        for member in self.members.values():
            self._check(member)
        self.check_memory()

    def _check(self, member: Member) -> None:
        try:
            member.check()
        except (Wrong, MachineError) as e:
            raise Wrong(f"fabric {self.name}: {e}") from e
        if not member.reads:
            return
        expected = set(self.model.known_by(member.id))
        until(lambda: member.knows() in (None, expected), lambda: f"{member} knows {expected}, not {member.knows()}")

    def _must(self, wrong: list[str]) -> None:
        if wrong:
            raise Wrong("\n".join(f"fabric {self.name}: {line}" for line in wrong))

    def compare(self, metrics: Metrics, rules: list[dict[str, Any]]) -> list[str]:
        """What of the counters differs from the model."""
        return [f"fabric {self.name}: {line}" for line in self.model.check(self._counters(metrics, rules))]

    def _counters(self, metrics: Metrics, rules: list[dict[str, Any]]) -> Counters:
        def of(name: str, *labels: str) -> dict[Any, int]:
            return {
                tuple(map(int, key)) if labels[0] in ("src", "dst") else key[0]: n
                for key, n in counter(metrics, name, self.name, *labels).items()
            }

        def total(name: str) -> int:
            return sum(counter(metrics, name, self.name).values())

        peers = self._service.ask(f"fabrics/{self.name}/peers")["peers"]
        return Counters(
            peers=frozenset(peer["id"] for peer in peers),
            pairs=of("famez_doorbells_total", "src", "dst"),
            vectors=of("famez_doorbell_vectors_total", "dst", "vector"),
            joins=total("famez_joins_total"),
            leaves=of("famez_leaves_total", "reason"),
            refusals=of("famez_refusals_total", "reason"),
            dropped=total("famez_doorbells_dropped_total"),
            faults=of("famez_faults_total", "kind"),
            rules=[(rule["seen"], rule["struck"]) for rule in rules],
            deaths=total("famez_worker_restarts_total"),
        )


class World:
    """All of it."""

    def __init__(self, directory: Path, kinds: Mapping[str, Kind] = KINDS) -> None:
        self.directory = directory
        self.service = Soaked(directory, kinds)
        self.fabrics = {name: Fabric(name, kind, self.service) for name, kind in kinds.items()}
        self.listeners: list[Any] = []
        """Connections that read the page's stream of events."""

    def start(self) -> None:
        """Starts famezd."""
        os.chmod(self.directory, 0o755)
        self.service.start()

    def everybody(self) -> Iterator[tuple[Fabric, Member]]:
        """All peers of all fabrics."""
        for fabric in self.fabrics.values():
            for member in fabric.members.values():
                yield fabric, member

    def change_rules(self, fabric: Fabric, rules: tuple[Rule, ...]) -> None:
        """Writes a fabric's file with other rules, and reloads, once all that was rung before has arrived."""
        fabric.agree()
        self.service.define(fabric.name, fabric.kind, rules)
        self.service.must("reload")
        fabric.model.change_rules(rules)

    def add(self, name: str, kind: Kind) -> Fabric:
        """A fabric is added by a reload."""
        self.service.define(name, kind)
        self.service.must("reload")
        self.fabrics[name] = Fabric(name, kind, self.service)
        return self.fabrics[name]

    def remove(self, name: str) -> None:
        """A fabric is removed by a reload, with whoever is on it."""
        fabric = self.fabrics.pop(name)
        self.service.file(name).unlink()
        self.service.mailboxes.pop(name, None)
        if fabric.members and self.service.ctl("reload").returncode == 0:
            raise Wrong(f"a reload removed fabric {name}, which has peers, without --force")
        self.service.must("reload", "--force")
        for member in list(fabric.members.values()):
            fabric.expel(member, "its fabric was removed")

    def died(self) -> None:
        """Another famezd goes on: what it counts since its start begins anew, and workers were killed."""
        for fabric in self.fabrics.values():
            fabric.model.disturb()
            fabric.model.deaths = fabric.hung = 0
        for listener in self.listeners:
            listener.close()
        self.listeners.clear()

    def check(self) -> None:
        """All is as the models say; raises Wrong where it is not."""
        if not self.service.alive():
            raise Wrong("famezd is dead")
        self.service.await_served()
        self._read_log()
        for fabric in self.fabrics.values():
            fabric.agree()
        metrics = self.service.samples()
        while self._read_log():
            metrics = self.service.samples()
        if wrong := [line for fabric in self.fabrics.values() for line in self._compare(fabric, metrics)]:
            raise Wrong("\n".join(wrong))
        self._check_verbs()

    def _read_log(self) -> bool:
        """Looks for errors of famezd's own; whether a worker was killed because the machine was too busy."""
        slow = self.service.slow
        said = self.service.news()
        if found := traces(said):
            raise Wrong("famezd's log tells of an error of its own:\n" + "\n".join(found))
        for name in given_up(said):
            if (fabric := self.fabrics.get(name)) is None:
                continue
            if fabric.hung:
                fabric.hung -= 1
                continue
            self.service.slow += 1
            fabric.model.disturb()
            fabric.model.deaths += 1
            until(partial(self._counts_deaths, fabric), f"the death of {name}'s worker is counted")
            self.service.await_served(name)
        return self.service.slow > slow

    def _counts_deaths(self, fabric: Fabric) -> bool:
        counted = counter(self.service.samples(), "famez_worker_restarts_total", fabric.name)
        return counted.total() >= fabric.model.deaths

    def _compare(self, fabric: Fabric, metrics: Metrics) -> list[str]:
        rules = self.service.ask(f"fabrics/{fabric.name}/faults")["faults"] if fabric.model.rules else []
        return fabric.compare(metrics, rules)

    def _check_verbs(self) -> None:
        """`famezctl status` and `peers` say the same."""
        status = json.loads(self.service.must("--json", "status"))
        names = {fabric["name"] for fabric in status["fabrics"]}
        if names != self.fabrics.keys() or status["unready"]:
            raise Wrong(f"famezctl status has fabrics {sorted(names)}, unready {status['unready']}")

    def rest(self) -> None:
        """Waits until famezd has let go of whoever asked it something."""
        for fabric in self.fabrics:
            self.service.settle(fabric)
        await_stillness(self.service.pid)

    def sample(self) -> dict[tuple[str, int], Sample]:
        """What the processes and files amount to in the midst of it; of who dies meanwhile, nothing."""
        with suppress(OSError):
            return take(self.service, [pid for pid in self.service.pids().values() if pid])
        return {}

    def told(self) -> str:
        """Who is there, as famezd and as the models tell it; for people."""
        lines = []
        for name, fabric in self.fabrics.items():
            peers = get(self.service.runtime / "control.sock", f"/api/v1/fabrics/{name}/peers")["peers"]
            members = [f"{member} ({'ended' if member.ended() else 'there'})" for member in fabric.members.values()]
            lines.append(f"{name}: {[peer['id'] for peer in peers]}; {', '.join(members)}")
        return "\n".join(lines)

    def close(self) -> None:
        """Ends every process, and removes all files."""
        for listener in self.listeners:
            listener.close()
        for fabric in self.fabrics.values():
            for member in fabric.members.values():
                with suppress(Exception):
                    member.kill()
        self.service.discard()

    def discard(self) -> None:
        """Removes the directory, with journal and log."""
        remove(self.directory)
