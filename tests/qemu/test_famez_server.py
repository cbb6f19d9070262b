"""famez-server in the place of QEMU's own server: real machines, and QEMU's own client, notice no difference."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import permutations, product
from pathlib import Path

import pytest

from famezd.fabric.settings import Settings
from famezd.mailbox import BUFFER_AT, SLOT_SIZE
from tests.fabric.workers import Raw
from tests.famez_server import FamezServer
from tests.qemu.machine import Machine
from tests.stock.client import StockClient
from tests.stock.server import StockServer

VECTORS = 3


def raw(socket: Path) -> Raw:
    """A peer that has read its set-up."""
    client = Raw(Settings("test", str(socket), "", 0, vectors=VECTORS))
    try:
        return client.set_up()
    except BaseException:
        client.close()
        raise


def hear(client: Raw, messages: int) -> None:
    """Reads so many messages."""
    for _ in range(messages):
        message = client.read()
        assert message is not None
        client.understand(message)


def comings_and_goings(socket: Path) -> dict[str, list[int]]:
    """What each of three peers is told, number by number, of whom the second leaves before the third comes."""
    with ExitStack() as stack:
        first = stack.enter_context(closing(raw(socket)))
        second = stack.enter_context(closing(raw(socket)))
        hear(first, VECTORS)
        second.close()
        hear(first, 1)
        third = stack.enter_context(closing(raw(socket)))
        hear(first, VECTORS)
        assert os.fstat(first.memory).st_size == 8192
        # What one rings the other has.
        for ringer, rung in permutations((first, third)):
            for vector in range(VECTORS):
                ringer.ring(rung.id, vector)
                assert [rung.take(v) for v in range(VECTORS)] == [int(v == vector) for v in range(VECTORS)]
        return {"first": first.values, "second": second.values, "third": third.values}


def test_peers_are_told_what_the_stock_server_tells(tmp_path: Path) -> None:
    with StockServer(tmp_path, vectors=VECTORS, size=8192) as stock:
        expected = comings_and_goings(stock.socket)
    # 0 is the version, -1 the memory.
    assert expected["first"] == [0, 0, -1, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2]
    with FamezServer(tmp_path, "-l", "5000", vectors=VECTORS) as server:
        assert comings_and_goings(server.socket) == expected


@pytest.mark.parametrize("memory", ["-M", "-m"])
def test_machines_ring_each_other_and_share_memory(tmp_path: Path, memory: str) -> None:
    folder = tmp_path / "memory"
    folder.mkdir()
    options = ["-m", str(folder)] if memory == "-m" else []
    with FamezServer(tmp_path, "-l", "1M", *options, vectors=VECTORS) as server, ExitStack() as stack:
        started = [Machine(server.qemu(VECTORS), tmp_path) for _ in range(3)]
        three = [stack.enter_context(machine) for machine in started]
        assert sorted(machine.peer_id for machine in three) == [0, 1, 2]
        for one, other in permutations(three, 2):
            one.meet(other)
        for (ringer, rung), vector in product(permutations(three, 2), range(VECTORS)):
            ringer.ring(rung.peer_id, vector)
            assert rung.wait_interrupts({vector}) == {vector}
            assert [machine.take_interrupts() for machine in three if machine is not rung] == [set()] * 2
            rung.clear()
        three[0].memory_write(123, b"from the first")
        assert [machine.memory_read(123, 14) for machine in three] == [b"from the first"] * 3
        assert three[0].memory_size == 1 << 20
        if memory == "-M":
            assert server.memory.read_bytes()[123:137] == b"from the first"
        # The file that they share has no name.
        assert list(folder.iterdir()) == []
        three[1].kill()
        with Machine(server.qemu(VECTORS), tmp_path) as fourth:
            assert fourth.peer_id == 3
            for one, other in permutations((three[0], three[2], fourth), 2):
                one.meet(other)


def test_the_stock_client_meets_machines_that_come_and_go(tmp_path: Path) -> None:
    with FamezServer(tmp_path, vectors=VECTORS) as server, StockClient(server.socket) as stock:
        stock.expect("shm_fd")
        for peer in (1, 2):
            with Machine(server.qemu(VECTORS), tmp_path) as machine:
                assert machine.peer_id == peer
                for _ in range(VECTORS):
                    stock.expect(f") for peer id {peer}\n")
                stock.command(f"int {peer} 2")
                machine.wait_interrupts({2})
                machine.ring(0, 1)
                stock.expect("receive notification from peer_id=0 vector=1")
            stock.expect(f"delete peer id = {peer}\n")


@pytest.fixture
def genz(tmp_path: Path) -> Iterator[FamezServer]:
    with FamezServer(tmp_path, "--personality", "genz", "--nClients", "4", vectors=16) as server:
        yield server


def test_the_genz_switch_answers_a_machine_whose_id_comes_back(genz: FamezServer, tmp_path: Path) -> None:
    switch = 5
    with Machine(genz.qemu(16), tmp_path):
        for _ in range(6):
            with Machine(genz.qemu(16), tmp_path) as machine:
                assert machine.peer_id == 2
                own, text = 2 * SLOT_SIZE, b"ping"
                machine.memory_write(own + BUFFER_AT, text + b"\0")
                machine.memory_write(own + 64, len(text).to_bytes(8, "little"))
                machine.ring(switch, 2)
                machine.wait_interrupts({switch})
                assert machine.memory_read(switch * SLOT_SIZE + BUFFER_AT, 5) == b"pong\0"
                machine.memory_write(switch * SLOT_SIZE + 64, bytes(8))


def test_without_recycling_ids_that_were_seen_to_depart_do_not_come_back(tmp_path: Path) -> None:
    options = ("--personality", "genz", "--nClients", "3", "--norecycle")
    with FamezServer(tmp_path, *options, vectors=16) as server, Machine(server.qemu(16), tmp_path) as witness:
        assert witness.peer_id == 1
        for expected in (2, 3):
            with Machine(server.qemu(16), tmp_path) as machine:
                assert machine.peer_id == expected
        refused = Machine(server.qemu(16), tmp_path)
        assert refused.wait_death(10) == 1
        assert "version -1" in refused.stderr
