"""The Gen-Z switch, over a real mailbox: peers write into their slots and ring it, and it answers."""

import os
import time
from collections.abc import Iterator

import pytest

from famezd.mailbox import MAX_TEXT, Backing, FileMemory, MappedMemory, Memory, Slots, open_backing, slots_size
from famezd.switch import genz
from famezd.switch.genz import Genz

PEERS = 14
SWITCH = PEERS + 1


class Fabric:
    """A fabric's worker as its switch sees it: what the switch rang and logged."""

    def __init__(self, memory: Memory, peers: int = PEERS) -> None:
        self.peers = peers
        self.vectors = 16
        self.switch = peers + 1
        self.memory = memory
        self.rung: list[tuple[int, int]] = []
        self.logged: list[tuple[str, dict[str, object]]] = []

    def ring(self, peer: int, vector: int) -> None:
        self.rung.append((peer, vector))

    def log(self, event: str, **fields: object) -> None:
        self.logged.append((event, fields))


class Rig:
    """A switch, its fabric, and the mailbox as the peers map it."""

    def __init__(self, descriptor: int) -> None:
        self.fabric = Fabric(FileMemory(descriptor))
        self.mapped = MappedMemory(descriptor)
        self.size = os.fstat(descriptor).st_size
        self.mapped.write(0, b"\xff" * self.size)
        self.slots = Slots(self.mapped)
        self.switch = Genz(self.fabric)
        self.switch.started()

    def send(self, peer: int, text: bytes, rings: int = 1) -> None:
        """A peer sends the switch a message."""
        self.slots.put(peer, text, SWITCH)
        self.switch.doorbell(peer, peer, rings)

    def take(self) -> bytes | None:
        """Whoever the switch's message is for takes it."""
        return self.slots.take(SWITCH)

    def tick(self) -> None:
        """Time goes on until the switch wants to look again."""
        assert self.switch.due is not None
        self.switch.due = None
        self.switch.tick(time.monotonic())

    def answers(self) -> list[bytes]:
        """What the switch says until it has nothing more to say."""
        said = []
        while (text := self.take()) is not None:
            said.append(text)
            self.tick()
        assert self.switch.due is None
        return said


@pytest.fixture
def rig() -> Iterator[Rig]:
    memory = open_backing(Backing("memfd", "test", slots_size(PEERS)))
    rig = Rig(memory.descriptor)
    yield rig
    rig.mapped.close()
    os.close(memory.descriptor)


# The slots


def test_the_switch_lays_the_mailbox_out_and_takes_the_last_slot(rig: Rig) -> None:
    rig.slots.check(slots_size(PEERS))
    assert (rig.slots.peers, rig.slots.server) == (PEERS, SWITCH)
    assert (rig.slots.nodename(SWITCH), rig.slots.cclass(SWITCH)) == ("Z-switch", "FabricSwitch")
    for peer in range(1, PEERS + 1):
        assert (rig.slots.nodename(peer), rig.slots.cclass(peer)) == ("", "")
        assert rig.mapped.word(peer * 512 + 72) == peer
    assert rig.switch.due is None
    assert not rig.fabric.rung


def test_a_newcomer_gets_an_empty_slot_as_a_driverless_qemu(rig: Rig) -> None:
    rig.slots.name(3, "before", "before")
    rig.slots.put(3, b"before", 2)
    rig.switch.joined(3)
    assert (rig.slots.nodename(3), rig.slots.cclass(3)) == ("", "Driverless QEMU")
    assert not rig.slots.pending(3)
    assert rig.mapped.word(3 * 512 + 72) == 3


def test_a_leavers_slot_keeps_nothing_but_its_id(rig: Rig) -> None:
    rig.switch.joined(3)
    rig.slots.name(3, "host.3", "FAME-Zadapter")
    rig.switch.left(3)
    assert rig.mapped.read(3 * 512, 512) == bytes(72) + (3).to_bytes(8, "little") + bytes(432)


# Requests


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (b"ping", b"pong"),
        (b"ping!EZT=1", b"pong!EZT=2"),
        (b"ping !EZT=41", b"pong!EZT=42"),
        (b"ping!EZT=999999999", b"pong!EZT=1000000000"),
        (b"ping\0junk", b"pong"),
        (b"dump", b"0 of 14 ports in use"),
        (b"dump!EZT=7", b"0 of 14 ports in use!EZT=8"),
    ],
)
def test_a_request_is_answered_on_the_vector_of_the_switch(rig: Rig, sent: bytes, answered: bytes) -> None:
    rig.send(3, sent)
    assert not rig.slots.pending(3), "its message is acknowledged"
    assert rig.fabric.rung == [(3, SWITCH)]
    assert rig.slots.responder(SWITCH) == 3
    assert rig.answers() == [answered]
    assert not rig.fabric.logged


@pytest.mark.parametrize(
    "text",
    [
        *(b"hello", b"pong", b"Ping", b"!EZT=1"),
        *(b"ping!EZT=", b"ping!EZT=x", b"ping!EZT=-1", b"ping!EZT=1234567890"),
        # Digits, but not ours.
        *("ping!EZT=\u0663".encode(), "ping!EZT=\u00b2".encode()),
    ],
)
def test_other_text_is_acknowledged_and_not_answered(rig: Rig, text: bytes) -> None:
    rig.send(3, text)
    assert not rig.slots.pending(3)
    assert not rig.slots.pending(SWITCH)
    assert not rig.fabric.rung


def test_a_dump_shows_the_ports_in_use_to_the_asker_and_the_log(rig: Rig) -> None:
    for peer in (2, 5):
        rig.switch.joined(peer)
    rig.slots.name(5, "host.5", "FAME-Zadapter")
    rig.send(5, b"dump")
    assert rig.answers() == [b"2 of 14 ports in use; 2 - (Driverless QEMU); 5 host.5 (FAME-Zadapter)"]
    assert rig.fabric.logged == [
        ("port", {"peer": 2, "nodename": "", "cclass": "Driverless QEMU"}),
        ("port", {"peer": 5, "nodename": "host.5", "cclass": "FAME-Zadapter"}),
    ]


@pytest.mark.parametrize("name", ["x" * 31, "\u00e4" * 15, "\u20ac" * 10])
def test_a_dump_that_is_too_long_for_a_message_is_cut_between_ports(rig: Rig, name: str) -> None:
    for peer in range(1, PEERS + 1):
        rig.slots.name(peer, name, name)
    rig.send(1, b"dump!EZT=999999999")
    (answer,) = rig.answers()
    assert len(answer) <= MAX_TEXT
    assert answer.decode().endswith(f"({name}); ...!EZT=1000000000")
    assert len(rig.fabric.logged) == PEERS


def test_a_dump_of_names_that_are_no_text_fits_too(rig: Rig) -> None:
    for peer in range(1, PEERS + 1):
        rig.mapped.write(peer * 512, b"\xff" * 64)
    rig.send(1, b"dump!EZT=999999999")
    (answer,) = rig.answers()
    assert len(answer) <= MAX_TEXT


# What peers do wrong


@pytest.mark.parametrize("vector", [0, SWITCH, SWITCH + 1, 63])
def test_a_vector_that_is_no_peers_is_not_heard(rig: Rig, vector: int) -> None:
    for slot in (0, SWITCH):
        # As a guest can write it.
        rig.slots.put(slot, b"ping", SWITCH)
    before = rig.mapped.read(0, rig.size)
    rig.switch.doorbell(3, vector, 1)
    assert rig.mapped.read(0, rig.size) == before
    assert not rig.fabric.logged


def test_a_doorbell_without_a_message_is_not_answered(rig: Rig) -> None:
    rig.switch.doorbell(3, 3, 1)
    rig.send(3, b"ping")
    rig.switch.doorbell(3, 3, 5)
    assert rig.answers() == [b"pong"]
    assert not rig.fabric.logged


def test_a_message_is_known_by_its_slot_where_the_ringer_is_not(rig: Rig) -> None:
    rig.slots.put(4, b"ping", SWITCH)
    rig.switch.doorbell(None, 4, 1)
    assert rig.fabric.rung == [(4, SWITCH)]


@pytest.mark.parametrize("length", [MAX_TEXT + 1, 2**64 - 1])
def test_a_length_beyond_the_buffer_is_logged_and_acknowledged(rig: Rig, length: int) -> None:
    rig.mapped.set_word(3 * 512 + 64, length)
    rig.switch.doorbell(3, 3, 1)
    ((event, fields),) = rig.fabric.logged
    assert (event, fields["peer"]) == ("message malformed", 3)
    assert str(length) in str(fields["error"])
    assert not rig.slots.pending(3)
    assert not rig.fabric.rung


def test_bytes_that_are_no_text_are_logged_and_acknowledged(rig: Rig) -> None:
    rig.send(3, b"ping\xff")
    assert rig.fabric.logged == [("message malformed", {"peer": 3, "error": "it is no UTF-8"})]
    assert not rig.slots.pending(3)
    assert not rig.fabric.rung


# The queue


def test_answers_wait_until_the_one_before_is_acknowledged(rig: Rig) -> None:
    rig.send(1, b"ping!EZT=1")
    rig.send(2, b"ping!EZT=2")
    assert rig.fabric.rung == [(1, SWITCH)]
    rig.tick()
    assert rig.fabric.rung == [(1, SWITCH)], "not yet acknowledged"
    assert rig.take() == b"pong!EZT=2"
    rig.tick()
    assert rig.fabric.rung == [(1, SWITCH), (2, SWITCH)]
    assert rig.slots.responder(SWITCH) == 2
    assert rig.answers() == [b"pong!EZT=3"]


def test_the_switch_looks_again_only_while_a_message_stands(rig: Rig) -> None:
    assert rig.switch.due is None
    rig.send(1, b"ping")
    due = rig.switch.due
    assert due is not None
    assert 0 < due - time.monotonic() < 0.1
    rig.take()
    rig.tick()
    assert rig.switch.due is None


def test_a_peer_that_takes_nothing_is_owed_few_messages(rig: Rig) -> None:
    for n in range(10):
        rig.send(1, f"ping!EZT={n}".encode())
    assert rig.fabric.logged == [("message not sent: the peer takes none", {"peer": 1})] * (10 - 1 - genz.QUEUED)
    rig.send(2, b"ping")
    assert rig.answers() == [*(f"pong!EZT={n + 1}".encode() for n in range(1 + genz.QUEUED)), b"pong"]


def test_a_message_not_taken_in_time_is_overwritten_by_the_next(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(genz, "TAKE_WITHIN", 0.0)
    rig.send(1, b"ping!EZT=1")
    assert rig.fabric.logged == [("message not taken in time", {"peer": 1})]
    rig.send(2, b"ping!EZT=2")
    assert rig.fabric.rung == [(1, SWITCH), (2, SWITCH)]
    assert rig.take() == b"pong!EZT=3"


def test_a_leaver_is_sent_nothing_more_and_holds_nobody_up(rig: Rig) -> None:
    for peer in (1, 2, 1, 3):
        rig.send(peer, b"ping!EZT=%d" % peer)
    rig.switch.left(1)
    assert rig.fabric.rung == [(1, SWITCH), (2, SWITCH)]
    assert rig.answers() == [b"pong!EZT=3", b"pong!EZT=4"]
    assert rig.fabric.rung == [(1, SWITCH), (2, SWITCH), (3, SWITCH)]


def test_a_leaver_for_whom_nothing_stands_does_not_disturb_the_one_who_is_waited_for(rig: Rig) -> None:
    rig.send(1, b"ping")
    rig.send(2, b"ping")
    rig.switch.left(2)
    assert rig.fabric.rung == [(1, SWITCH)]
    assert rig.answers() == [b"pong"]
    assert rig.fabric.rung == [(1, SWITCH)]


def test_when_the_last_one_waited_for_leaves_there_is_nothing_to_look_for(rig: Rig) -> None:
    rig.send(1, b"ping")
    rig.switch.left(1)
    assert rig.switch.due is None
    assert not rig.slots.pending(SWITCH)


# Going on after a kill


def test_a_message_stands_until_its_answer_is_there(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    standing = []
    monkeypatch.setattr(rig.fabric, "ring", lambda *_: standing.append(rig.slots.pending(1)))
    rig.send(1, b"ping")
    assert standing == [True]
    assert not rig.slots.pending(1)


def test_whoever_has_not_taken_its_answer_is_rung_again_by_a_successor(rig: Rig) -> None:
    rig.send(2, b"ping")
    successor = Genz(rig.fabric)
    successor.resumed([2, 3])
    assert rig.fabric.rung == [(2, SWITCH)] * 2
    rig.switch = successor
    assert rig.answers() == [b"pong"]


def test_a_successor_rings_nobody_where_nothing_stands(rig: Rig) -> None:
    rig.send(2, b"ping")
    rig.answers()
    Genz(rig.fabric).resumed([2, 3])
    assert rig.fabric.rung == [(2, SWITCH)]


# What it asks of a fabric


@pytest.mark.parametrize(
    ("peers", "vectors", "wrong"),
    [
        (14, 16, []),
        (62, 64, []),
        (62, 63, ["vectors"]),
        (1, 2, ["vectors"]),
        (63, 65, ["peers"]),
        (63, 1, ["peers", "vectors"]),
    ],
)
def test_a_fabric_has_a_slot_and_a_vector_for_each_peer(peers: int, vectors: int, wrong: list[str]) -> None:
    mistakes = Genz.mistakes(peers, vectors)
    assert list(mistakes) == wrong
    if "peers" in wrong:
        assert mistakes["peers"] == f"personality genz takes at most 62, not {peers}"
    if "vectors" in wrong:
        assert mistakes["vectors"].endswith(f"needs at least {peers + 2} (peers + 2), not {vectors}")


def test_the_switch_is_a_peer_on_a_fabric_whose_ids_begin_at_one() -> None:
    assert (Genz.first_id, Genz.is_peer, Genz.fixed_ids) == (1, True, True)
    assert Genz.mailbox_size(14) == 8192
