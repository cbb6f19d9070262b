"""Fault rules between real machines."""

from __future__ import annotations

from pathlib import Path

from famezd.mailbox import BUFFER_AT, SLOT_SIZE
from tests.daemon import Famezd, eventually
from tests.qemu.machine import Machine

GENZ = {"personality": "genz", "peers": 4, "vectors": 16}
BUFLEN = 64


def put(machine: Machine, text: bytes) -> None:
    """Writes a message into the machine's own slot."""
    own = machine.peer_id * SLOT_SIZE
    machine.memory_write(own + BUFFER_AT, text + b"\0")
    machine.memory_write(own + BUFLEN, len(text).to_bytes(8, "little"))


def text(machine: Machine, slot: int, length: int) -> bytes:
    return machine.memory_read(slot * SLOT_SIZE + BUFFER_AT, length)


def is_taken(machine: Machine) -> bool:
    """Whether the message in the machine's own slot was acknowledged."""
    return machine.memory_read(machine.peer_id * SLOT_SIZE + BUFLEN, 8) == bytes(8)


def struck(famezd: Famezd, kind: str) -> int:
    return famezd.metrics("famez_faults_total", "kind")[kind,]


def add(famezd: Famezd, *rule: str) -> None:
    assert famezd.ctl("fault", "add", "lab", *rule).returncode == 0


def test_machines_meet_the_faults_that_are_asked_for(tmp_path: Path) -> None:
    with (
        Famezd(tmp_path, {"lab": GENZ | {"faults": [{"src": 1, "dst": 2, "vector": 7, "block": True}]}}) as famezd,
        Machine(famezd.qemu("lab"), tmp_path) as one,
        Machine(famezd.qemu("lab"), tmp_path) as other,
    ):
        assert (one.peer_id, other.peer_id) == (1, 2)
        one.ring(2, 7)
        eventually(lambda: struck(famezd, "block") == 1, "it is lost")
        # A later one arrives, and nothing else.
        one.ring(2, 8)
        assert other.wait_interrupts({8}) == {8}
        other.clear()

        add(famezd, "2", "1", "--vector", "9", "--delay", "50ms")
        add(famezd, "2", "1", "--vector", "10", "--delay", "60s")
        other.ring(1, 10)
        eventually(lambda: struck(famezd, "delay") == 1, "it is held up")
        other.ring(1, 9)
        other.ring(1, 11)
        assert one.wait_interrupts({9, 11}) == {9, 11}
        assert famezd.ctl("fault", "clear", "lab").returncode == 0
        one.wait_interrupts({9, 10, 11})
        one.clear()
        assert struck(famezd, "delay") == 2

        add(famezd, "1", "2", "--message", "--drop", "1")
        put(one, b"lost")
        one.ring(2, 1)
        eventually(lambda: is_taken(one), "it seems to be taken")
        assert other.interrupts() == set()
        add(famezd, "2", "1", "--corrupt", "1")
        put(other, b"not as it was")
        other.ring(1, 2)
        one.wait_interrupts({2})
        assert text(one, 2, 13) != b"not as it was"
        assert text(one, 2, 14)[13:] == b"\0"
        assert not is_taken(other)
        assert struck(famezd, "drop") == struck(famezd, "corrupt") == 1
