"""The switch in real workers: whole conversations, through deaths and successions, and personalities that fail."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path

import pytest

from famezd.client import Mailbox, Message, Peer
from famezd.fabric.handed import START_FAILED, STATE
from famezd.fabric.settings import Settings
from famezd.mailbox import MappedMemory, Slots
from famezd.statepage import StatePage, Table
from tests.fabric import tracing
from tests.fabric.conftest import Start, settings
from tests.fabric.lineage import Lineage
from tests.fabric.workers import DEADLINE, GENZ, Worker

PEERS = 3
SWITCH = PEERS + 1
MISBEHAVED = "tests.fabric.misbehaved"
WRITE = "CTL-Write Space=0,PFMCID=400,PFMSID=27,CID={cid},SID=27,Tag={tag}"


def known(worker: Worker) -> Table:
    """What the switch knows, as the supervisor reads it."""
    page = StatePage.open(os.dup(worker.kept[STATE][0]))
    try:
        return page.read()[0]
    finally:
        page.close()


def await_known(worker: Worker, thing: str, **fields: str) -> None:
    worker.wait(lambda: known(worker).get(thing, {}).items() >= fields.items(), f"{thing} is {fields}")


@pytest.fixture
def lineage(folder: Path) -> Iterator[Callable[..., Lineage]]:
    """Starts a genz fabric; at the end its worker must be alive and stop cleanly."""
    with ExitStack() as stack:

        def start(**given: object) -> Lineage:
            started = Lineage(folder, settings(folder, **{"personality": GENZ, "peers": PEERS, **given}))
            stack.callback(started.close)
            return started

        yield start


class Guest:
    """A peer that speaks Gen-Z's texts."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.mailbox = Mailbox(peer)

    def say(self, text: str) -> None:
        self.mailbox.send(self.mailbox.switch, text, timeout=DEADLINE)

    def hear(self) -> str:
        message = self.mailbox.receive(timeout=DEADLINE)
        assert message is not None
        assert message.src == self.mailbox.switch
        return message.text

    def nothing_else(self) -> bool:
        return self.mailbox.receive(timeout=0) is None

    def close(self) -> None:
        self.mailbox.close()
        self.peer.leave()


def test_a_peer_is_configured(lineage: Callable[..., Lineage], doorbells: str) -> None:
    fabric = lineage(doorbells=doorbells)
    with closing(Guest(fabric.join())) as guest:
        guest.say("Link RFC TTC=100us!EZT=1")
        assert guest.hear() == WRITE.format(cid=100, tag=1) + "!EZT=2"
        guest.say("Standalone Acknowledgment Tag=1,Reason=OK!EZT=3")
        assert guest.hear() == "Link CTL Peer-Attribute!EZT=4"
        guest.say("Link CTL ACK C-Class=Debugger,CID0=100,SID0=27!EZT=5")
        await_known(fabric.worker, "port 1", link="configured", cid="100", sid="27", peer_cclass="Debugger")
        with closing(MappedMemory(guest.peer.memory)) as memory:
            assert Slots(memory).identity(1) == (100, 27)
            assert Slots(memory).identity(SWITCH) == (400, 27)
        guest.say("dump")
        assert guest.hear() == "1 of 3 ports in use; 1 z01 (Debugger) 100.27"
        assert guest.nothing_else()
    await_known(fabric.worker, "port 1", link="down")


def test_who_is_no_manager_asks_and_refuses(lineage: Callable[..., Lineage], doorbells: str) -> None:
    fabric = lineage(doorbells=doorbells, options="manager=false,sid=9")
    with closing(Guest(fabric.join())) as guest:
        assert guest.hear() == "Link CTL Peer-Attribute"
        guest.say("Link CTL ACK cclass=Debugger,CID0=0,SID0=0")
        await_known(fabric.worker, "port 1", link="up", peer_cclass="Debugger")
        guest.say("Link RFC TTC=100us")
        assert guest.hear() == "Link CTL NAK this switch is no fabric manager"
        guest.say("Link CTL Peer-Attribute")
        assert guest.hear() == "Link CTL ACK cclass=FabricSwitch,CID0=400,SID0=9"


@pytest.mark.parametrize("planned", [False, True], ids=["killed", "succeeded"])
def test_between_any_two_messages_another_worker_may_take_over(lineage: Callable[..., Lineage], planned: bool) -> None:
    fabric = lineage()

    def another() -> None:
        if planned:
            fabric.hand_over(fabric.settings, lambda: None)
        else:
            fabric.kill()
            fabric.succeed()

    with closing(Guest(fabric.join())) as guest, closing(Guest(fabric.join())) as other:
        guest.say("Link RFC TTC=100us")
        another()
        assert guest.hear() == WRITE.format(cid=100, tag=1)
        another()
        other.say("Link RFC TTC=100us")
        assert other.hear() == WRITE.format(cid=200, tag=2)
        guest.say("Standalone Acknowledgment Tag=1,Reason=OK")
        another()
        assert guest.hear() == "Link CTL Peer-Attribute"
        guest.say("Link CTL ACK cclass=Debugger,CID0=100,SID0=27")
        another()
        await_known(fabric.worker, "port 1", link="configured", peer_cclass="Debugger")
        await_known(fabric.worker, "tag 2", peer="2")
        other.say("Standalone Acknowledgment Tag=2,Reason=OK")
        assert other.hear() == "Link CTL Peer-Attribute"
        assert guest.nothing_else()


@pytest.mark.parametrize("message", ["Link RFC", "Standalone Acknowledgment"])
def test_a_kill_at_any_step_of_a_message_loses_no_conversation(lineage: Callable[..., Lineage], message: str) -> None:
    """Then the switch may say a thing twice, and never not at all; what it has said it knows."""
    fabric = lineage()
    for steps in count(1, 2):
        with closing(Guest(fabric.join())) as guest, closing(MappedMemory(guest.peer.memory)) as memory:
            talk = Talk(fabric, guest, Slots(memory))
            killed = talk.say("Link RFC TTC=100us", steps if message == "Link RFC" else 0)
            tag = talk.await_write()
            killed |= talk.say(f"Standalone Acknowledgment Tag={tag},Reason=OK", 0 if message == "Link RFC" else steps)
            await_known(fabric.worker, "port 1", link="configured", cid="100", sid="27")
            while (text := guest.hear()) != "Link CTL Peer-Attribute":
                assert text == WRITE.format(cid=100, tag=tag)
            assert not [thing for thing in known(fabric.worker) if thing.startswith("tag ")]
        await_known(fabric.worker, "port 1", link="down")
        if not killed:
            break
    assert steps > 20


class Talk:
    """A guest's messages, at a step of each of which the worker may be killed and succeeded."""

    def __init__(self, fabric: Lineage, guest: Guest, slots: Slots) -> None:
        self._fabric = fabric
        self._guest = guest
        self._slots = slots

    def say(self, text: str, steps: int) -> bool:
        """Sends a message, and has it dealt with; whether the worker was killed after so many steps of that."""
        self._slots.put(self._guest.peer.id, text.encode(), SWITCH)
        killed = bool(steps) and self._kill_after(steps)
        if not steps:
            self._guest.peer.ring(SWITCH, self._guest.peer.id)
        if killed:
            self._fabric.succeed()
        self._fabric.worker.wait(self._taken, "it is dealt with")
        self._fabric.worker.barrier()
        return killed

    def await_write(self) -> int:
        """Hears the CTL-Write that counts, and perhaps one before; returns its tag."""
        (tag,) = [int(thing.removeprefix("tag ")) for thing in known(self._fabric.worker) if thing.startswith("tag ")]
        while (write := self._guest.hear()) != WRITE.format(cid=100, tag=tag):
            assert write == WRITE.format(cid=100, tag=tag - 1)
        return tag

    def _taken(self) -> bool:
        return not self._slots.pending(self._guest.peer.id)

    def _kill_after(self, steps: int) -> bool:
        worker = self._fabric.worker
        with tracing.stopped(worker.pid):
            self._guest.peer.ring(SWITCH, self._guest.peer.id)
            turns = worker.totals["turns"]
            for _ in range(steps):
                if self._taken() and worker.totals["turns"] > turns:
                    return False
                tracing.to_system_call(worker.pid)
                worker.hear()
            self._fabric.kill()
        return True


def test_answers_that_wait_outlive_a_kill(lineage: Callable[..., Lineage]) -> None:
    fabric = lineage()
    with closing(Guest(fabric.join())) as guest:
        with closing(Guest(fabric.join())) as deaf:
            deaf.say("ping")
            for hops in (1, 3):
                guest.say(f"ping!EZT={hops}")
            fabric.kill()
            fabric.succeed()
        # Who never took its answer has left, so that the others have their turn.
        assert [guest.hear(), guest.hear()] == ["pong!EZT=2", "pong!EZT=4"]


def test_manager_and_subnet_change_while_it_serves(lineage: Callable[..., Lineage]) -> None:
    fabric = lineage()
    with closing(Guest(fabric.join())) as guest:
        guest.say("Link RFC TTC=1us")
        assert guest.hear() == WRITE.format(cid=100, tag=1)
        fabric.hand_over(fabric.settings._replace(options="manager=false,sid=5"), lambda: None)
        guest.say("Standalone Acknowledgment Tag=1,Reason=OK")
        assert guest.hear() == "Link CTL Peer-Attribute"
        guest.say("Link RFC TTC=1us")
        assert guest.hear() == "Link CTL NAK this switch is no fabric manager"
        assert guest.mailbox.names()[SWITCH] == ("Z-server", "FabricSwitch")


def test_an_ark_from_before_there_was_a_state_goes_on_with_an_empty_one(
    lineage: Callable[..., Lineage], folder: Path
) -> None:
    fabric = lineage()
    with closing(Guest(fabric.join())) as guest:
        guest.say("Link RFC TTC=1us")
        assert guest.hear() == WRITE.format(cid=100, tag=1)
        fabric.kill()
        fabric.worker._forget(STATE)
        fabric.succeed()
        await_known(fabric.worker, "port 1", link="up")
        guest.say("Standalone Acknowledgment Tag=1,Reason=OK")
        fabric.worker.await_log("Standalone Acknowledgment ignored")
        guest.say("ping")
        assert guest.hear() == "pong"


def test_a_fabric_that_begins_anew_knows_nothing_of_the_one_before(lineage: Callable[..., Lineage]) -> None:
    fabric = lineage()
    with closing(Guest(fabric.join())) as guest:
        guest.say("Link RFC TTC=1us")
        guest.hear()
        fabric.kill()
        fabric.settings = fabric.settings._replace(vectors=PEERS + 3)
        fabric.succeed()
        assert known(fabric.worker)["port 1"] == {"link": "down"}
        assert known(fabric.worker)["switch"]["next_tag"] == "1"


def test_tags_expire(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = start(personality=GENZ, peers=PEERS)
    with closing(Guest(worker.peer())) as guest:
        guest.say("Link RFC TTC=1us")
        guest.hear()
        worker.await_log("CTL-Write not acknowledged in time\tpeer=1 tag=1")
        guest.say("Standalone Acknowledgment Tag=1,Reason=OK")
        worker.await_log("Standalone Acknowledgment ignored\tpeer=1 tag=1")
        assert known(worker)["port 1"]["link"] == "up"


# Silent


def test_a_silent_switch_is_nobodys_peer(lineage: Callable[..., Lineage], doorbells: str, ports: str) -> None:
    fabric = lineage(silent=1, options="manager=false", doorbells=doorbells, ports=ports)
    with closing(Guest(fabric.join())) as one, closing(Guest(fabric.join())) as other:
        fabric.worker.wait(lambda: one.peer.wait(0) is not None and other.peer.id in one.peer.peers, "they know")
        assert SWITCH not in one.peer.peers
        assert one.mailbox.names().keys() == {1, 2}
        slots = Slots(one.mailbox._memory)
        slots.put(1, b"hello", 2)
        one.peer.ring(2, 1)
        assert other.mailbox.receive(timeout=DEADLINE) == Message(1, "hello")
        fabric.kill()
        fabric.succeed()
        slots.put(1, b"again", 2)
        one.peer.ring(2, 1)
        assert other.mailbox.receive(timeout=DEADLINE) == Message(1, "again")
    assert not any("port" not in thing and thing != "switch" for thing in known(fabric.worker))


def test_whether_it_is_silent_cannot_change_while_there_are_peers(start: Start, folder: Path) -> None:
    worker = start(personality=GENZ, peers=PEERS)
    worker.order("hold")
    worker.await_answer("hold")
    silent = settings(folder, personality=GENZ, peers=PEERS, silent=1)
    misfit = Worker(silent, folder, kept=worker.kept, orders=["wait"])
    assert misfit.ended() == START_FAILED
    assert "cannot succeed the worker that serves: genz.silent is true, was false" in misfit.log
    misfit.close()
    worker.order("carry on")


# Personalities that fail


@pytest.fixture
def plug_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers find the modules of these tests."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def failing(folder: Path, **given: object) -> Settings:
    return settings(folder, **{"peers": PEERS, "vectors": PEERS + 2, **given})


def test_a_personality_that_raises_hurts_only_that_message(plug_ins: None, folder: Path) -> None:
    with Worker(failing(folder, personality=f"{MISBEHAVED}:Raising"), folder) as worker:
        worker.check = lambda: None  # type: ignore[method-assign]  # which takes no failure at all
        guest, leaver = Guest(worker.peer()), Guest(worker.peer())
        guest.say("hello")
        assert guest.hear() == "hello"
        guest.say("message")
        worker.await_total("personality_errors", 1)
        worker.await_log('personality failed\tcall="message(1, \'message\')" error="ValueError: no message"')
        for n, text in enumerate(("tick", "state", "due"), 2):
            guest.say(text)
            assert guest.hear() == text
            worker.await_total("personality_errors", n)
        leaver.close()
        worker.await_total("left_hangup", 1)
        worker.await_total("personality_errors", 5)
        guest.say("hello again")
        assert guest.hear() == "hello again"
        await_known(worker, "echo", last="hello again")
        guest.close()


@pytest.mark.parametrize(
    ("personality", "why"),
    [
        (f"{MISBEHAVED}:Unmakable", "cannot be made: RuntimeError: out of order"),
        (f"{MISBEHAVED}:Misshapen", "with has_slots, first_id must be 1 and fixed_ids True"),
        (f"{MISBEHAVED}:Nothing", "has no attribute 'Nothing'"),
        (GENZ, "option sid must be an integer from 0 to 65535, not 'x'"),
    ],
)
def test_one_that_cannot_serve_is_a_clear_error(plug_ins: None, folder: Path, personality: str, why: str) -> None:
    worker = Worker(failing(folder, personality=personality, options="sid=x"), folder)
    assert worker.ended() == START_FAILED
    assert personality in worker.log
    assert why in worker.log
    assert "Traceback" not in worker.log
    worker.close()
