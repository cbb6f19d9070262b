"""The genz personality in a real worker: the mailbox, and the switch that answers in it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, closing

import pytest

from famezd.client import Doorbell, Mailbox, Message, NotTakenError, Peer
from famezd.mailbox import BUFFER_AT, MAX_TEXT, SLOT_SIZE, MailboxError, MappedMemory, Slots
from tests.fabric.conftest import Start
from tests.fabric.workers import DEADLINE, GENZ, Worker

PEERS = 5
SWITCH = 6
_BUFLEN = 64

Joined = tuple[Peer, Mailbox]
Join = Callable[[], Joined]


@pytest.fixture
def worker(start: Start, doorbells: str) -> Worker:
    return start(doorbells=doorbells, personality=GENZ, peers=PEERS)


@pytest.fixture
def join(worker: Worker) -> Join:
    """Joins a peer of the library's, with its mailbox; both are closed with the test."""
    stack = ExitStack()
    # Closed by the worker's end at the latest, which every peer sees.
    worker.at_end(stack.close)

    def joined() -> Joined:
        peer = stack.enter_context(worker.peer())
        return peer, stack.enter_context(closing(Mailbox(peer)))

    return joined


def write(peer: Peer, text: bytes, *, length: int | None = None) -> None:
    """Writes into the peer's own slot as it is told to, and rings the switch."""
    with closing(MappedMemory(peer.memory)) as memory:
        memory.write(peer.id * SLOT_SIZE + BUFFER_AT, text)
        memory.set_word(peer.id * SLOT_SIZE + _BUFLEN, len(text) if length is None else length)
    peer.ring(SWITCH, peer.id)


def await_taken(worker: Worker, peer: Peer) -> None:
    """Waits until the message in the peer's slot is acknowledged."""
    with closing(MappedMemory(peer.memory)) as memory:
        slots = Slots(memory)
        worker.wait(lambda: not slots.pending(peer.id), "the message is acknowledged")


def test_layout(worker: Worker, join: Join) -> None:
    newcomer = worker.join()
    with closing(MappedMemory(newcomer.memory)) as memory:
        slots = Slots(memory)
        assert os.fstat(newcomer.memory).st_size == worker.settings.size
        assert [memory.word(at) for at in (0, 8, 16, 24, 32)] == [512, 128, PEERS, PEERS + 2, SWITCH]
        assert [memory.word(slot * 512 + 72) for slot in range(1, SWITCH + 1)] == [1, 2, 3, 4, 5, 6]
        assert (slots.nodename(SWITCH), slots.cclass(SWITCH)) == ("Z-switch", "FabricSwitch")
        assert (slots.nodename(1), slots.cclass(1)) == ("", "Driverless QEMU")
        assert all(not slots.cclass(slot) for slot in range(2, SWITCH))
        peer, mailbox = join()
        assert mailbox.names() == {
            1: ("", "Driverless QEMU"),
            2: ("z02", "Debugger"),
            SWITCH: ("Z-switch", "FabricSwitch"),
        }
        slots.put(2, b"never sent", 1)
        peer.leave()
        worker.await_total("left_hangup", 1)
        worker.barrier()
        assert memory.read(2 * 512, 512) == bytes(72) + (2).to_bytes(8, "little") + bytes(432)


def test_switch_answers_ping(worker: Worker, join: Join) -> None:
    (peer, mailbox), (_, other) = join(), join()
    assert mailbox.switch == SWITCH
    for _ in range(20):
        assert mailbox.ping(SWITCH) < 5
    assert other.ping(other.find("switch")) < 5
    assert peer.wait(0.0) == []


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("ping", "pong"),
        ("ping!EZT=4", "pong!EZT=5"),
        ("ping !EZT=4", "pong!EZT=5"),
        ("ping!EZT=", None),
        ("ping!EZT=-1", None),
        ("ping!EZT=\N{SUPERSCRIPT TWO}", None),
        ("ping!EZT=9999999999", None),
        ("PING", None),
        ("what is this", None),
        ("x" * MAX_TEXT, None),
        ("dump", "1 of 5 ports in use; 1 z01 (Debugger)"),
        ("dump!EZT=7", "1 of 5 ports in use; 1 z01 (Debugger)!EZT=8"),
    ],
)
def test_replies(worker: Worker, join: Join, text: str, reply: str | None) -> None:
    _, mailbox = join()
    mailbox.send(SWITCH, text)
    if reply is not None:
        assert mailbox.receive(timeout=DEADLINE) == Message(SWITCH, reply)
    mailbox.send(SWITCH, "ping")
    assert mailbox.receive(timeout=DEADLINE) == Message(SWITCH, "pong"), "and nothing before"


def test_dump_fits_into_a_message(start: Start, doorbells: str) -> None:
    worker = start(doorbells=doorbells, personality=GENZ, peers=14)
    with ExitStack() as stack:
        peers = [stack.enter_context(worker.peer()) for _ in range(14)]
        names = [f"{i:x}" * 31 for i in range(14)]
        boxes = [stack.enter_context(closing(Mailbox(p, nodename=n))) for p, n in zip(peers, names, strict=True)]
        boxes[3].send(15, "dump!EZT=999999999")
        reply = boxes[3].receive(timeout=DEADLINE)
        assert reply is not None
        assert reply.text.startswith(f"14 of 14 ports in use; 1 {'0' * 31} (Debugger)")
        assert reply.text.endswith("; ...!EZT=1000000000")
        assert len(reply.text) <= MAX_TEXT
    for name in names:
        worker.await_log(f"nodename={name}")


@pytest.mark.parametrize("length", [MAX_TEXT + 1, 512, 1 << 20, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_malformed_length(worker: Worker, join: Join, length: int) -> None:
    peer, mailbox = join()
    write(peer, b"ping\0", length=length)
    await_taken(worker, peer)
    mailbox.ping(SWITCH)
    worker.await_log("message malformed\tpeer=1")


@pytest.mark.parametrize("text", [b"\xff\xfe\xfd", b"ping\xc3", b"\x00", b"p\0ing", b"\n<0>ping\x1b[2J\n"])
def test_malformed_text(worker: Worker, join: Join, text: bytes) -> None:
    peer, mailbox = join()
    write(peer, text)
    await_taken(worker, peer)
    mailbox.ping(SWITCH)
    assert "<0>" not in worker.log


def test_ring_without_a_message(worker: Worker, join: Join) -> None:
    peer, mailbox = join()
    for vector in range(PEERS + 2):
        peer.ring(SWITCH, vector)
    mailbox.ping(SWITCH)
    assert peer.wait(0.0) == []


def test_globals_that_a_peer_overwrites_hurt_only_the_peers(worker: Worker, join: Join) -> None:
    peer, mailbox = join()
    with closing(MappedMemory(peer.memory)) as memory:
        memory.write(0, b"\xff" * worker.settings.size)
        memory.set_word(peer.id * SLOT_SIZE + _BUFLEN, 0)
        memory.set_word(SWITCH * SLOT_SIZE + _BUFLEN, 0)
    mailbox.send(SWITCH, "ping")
    assert mailbox.receive(timeout=DEADLINE) == Message(SWITCH, "pong")
    mailbox.send(SWITCH, "dump")
    assert mailbox.receive(timeout=DEADLINE)


def test_peer_that_does_not_acknowledge_stops_nobody_for_long(worker: Worker, join: Join) -> None:
    (deaf, _), (_, mailbox) = join(), join()
    write(deaf, b"ping")
    await_taken(worker, deaf)
    assert deaf.wait(DEADLINE) == [Doorbell(SWITCH, 1)]
    mailbox.ping(SWITCH, timeout=DEADLINE)
    worker.await_log("message not taken in time\tpeer=1")
    mailbox.ping(SWITCH, timeout=DEADLINE)
    assert worker.log.count("not taken in time") == 1, "it has had its turn"


def test_departure_of_who_does_not_acknowledge_ends_the_wait(worker: Worker, join: Join) -> None:
    (deaf, _), (_, mailbox) = join(), join()
    for _ in range(4):
        write(deaf, b"ping")
        await_taken(worker, deaf)
    deaf.leave()
    mailbox.ping(SWITCH, timeout=DEADLINE)
    assert "not taken in time" not in worker.log


def test_messages_for_who_takes_none_are_bounded(worker: Worker, join: Join) -> None:
    (deaf, _), (_, mailbox) = join(), join()
    for _ in range(12):
        write(deaf, b"ping")
        await_taken(worker, deaf)
    worker.await_log("message not sent: the peer takes none\tpeer=1")
    deaf.leave()
    mailbox.ping(SWITCH)


def test_peers_write_to_each_other(worker: Worker, join: Join) -> None:
    (first, one), (second, two), (third, three) = join(), join(), join()
    # Sent and taken by one thread: the receiver takes what already stands there.
    for text in ("hello", "x" * MAX_TEXT, "gr\N{LATIN SMALL LETTER U WITH DIAERESIS}\N{LATIN SMALL LETTER SHARP S}e"):
        with pytest.raises(NotTakenError):
            one.send(second.id, text, timeout=0.01)
        assert two.receive(timeout=DEADLINE) == Message(first.id, text)
    assert third.wait(0.0) == []
    assert three.receive(timeout=0) is None
    with pytest.raises(MailboxError, match="383"):
        one.send(second.id, "x" * (MAX_TEXT + 1))
    one.ping(SWITCH)
    assert worker.left == 0


def test_peer_that_takes_no_message_is_named(join: Join) -> None:
    (_, one), (second, _) = join(), join()
    with pytest.raises(NotTakenError, match=f"the message to peer {second.id} was not acknowledged"):
        one.send(second.id, "first", timeout=0.02)
    with pytest.raises(NotTakenError, match=f"an earlier message to peer {second.id}"):
        one.send(SWITCH, "ping", timeout=0.02)


def test_destinations(join: Join) -> None:
    (first, one), (second, _) = join(), join()
    assert [one.find(name) for name in ("switch", "server", "Z-switch", "6", "z02", "2")] == [6, 6, 6, 6, 2, 2]
    assert (first.id, second.id) == (1, 2)
    with pytest.raises(
        Exception, match=r"no peer 'z03' \(did you mean z02\?\); there are: 1 \(z01\), 2 \(z02\), 6 \(Z-switch\)"
    ):
        one.find("z03")
