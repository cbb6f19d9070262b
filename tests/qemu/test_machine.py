"""The rig tells the truth: real machines on QEMU's own ivshmem-server."""

import gc
import os
import resource
import signal
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from tests.qemu.control import RefusedError
from tests.qemu.device import NoDeviceError
from tests.qemu.machine import (
    Machine,
    MachineDiedError,
    MachineError,
    MachineStuckError,
    MissingInterruptsError,
)
from tests.stock.server import StockServer

VECTORS = 4
MEMORY = 1 << 20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StockServer]:
    with StockServer(tmp_path, vectors=VECTORS, size=MEMORY) as server:
        yield server


@pytest.fixture
def machine(server: StockServer, tmp_path: Path) -> Iterator[Machine]:
    with Machine(server.arguments(VECTORS), tmp_path) as machine:
        yield machine


@pytest.fixture
def pair(server: StockServer, machine: Machine, tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    with Machine(server.arguments(VECTORS), tmp_path) as other:
        machine.meet(other)
        yield machine, other


def test_each_rings_each_on_each_vector(pair: tuple[Machine, Machine]) -> None:
    for ringer, rung, vector in product(pair, pair, range(VECTORS)):
        ringer.ring(rung.peer_id, vector)
        assert rung.wait_interrupts({vector}) == {vector}
        # Nobody else heard anything, and what was taken is gone.
        assert [machine.take_interrupts() for machine in pair if machine is not rung] == [set()]
        assert rung.take_interrupts() == {vector}
        assert rung.interrupts() == set()


def test_peers_have_ids_vectors_and_memory_of_the_fabric(pair: tuple[Machine, Machine]) -> None:
    assert [machine.peer_id for machine in pair] == [0, 1]
    assert [machine.vectors for machine in pair] == [VECTORS, VECTORS]
    assert [machine.memory_size for machine in pair] == [MEMORY, MEMORY]


@pytest.mark.parametrize("offset", [0, 1, 4095, MEMORY - 300_000])
def test_both_see_what_either_writes(pair: tuple[Machine, Machine], offset: int) -> None:
    data = os.urandom(300_000)
    for writer, reader in (pair, reversed(pair)):
        writer.memory_write(offset, data)
        assert reader.memory_read(offset, len(data)) == data
        data = bytes(reversed(data))


def test_memory_ends_where_it_ends(machine: Machine) -> None:
    assert machine.memory_read(MEMORY, 0) == b""
    for offset, length in [(-1, 1), (MEMORY, 1), (MEMORY - 1, 2)]:
        with pytest.raises(ValueError, match="not within"):
            machine.memory_read(offset, length)
        with pytest.raises(ValueError, match="not within"):
            machine.memory_write(offset, bytes(length))


@pytest.mark.parametrize("size", [4096, 256 << 20])
@pytest.mark.parametrize("vectors", [1, 16, 64])
def test_other_sizes_and_numbers_of_vectors(tmp_path: Path, size: int, vectors: int) -> None:
    with (
        StockServer(tmp_path, vectors=vectors, size=size) as server,
        Machine(server.arguments(vectors), tmp_path) as machine,
    ):
        machine.memory_write(size - 8, b"the end.")
        assert (machine.memory_size, machine.memory_read(size - 8, 8)) == (size, b"the end.")
        for vector in range(vectors):
            machine.ring(machine.peer_id, vector)
        assert machine.wait_interrupts(set(range(vectors))) == set(range(vectors))


def test_a_doorbell_that_was_rung_is_seen_without_waiting(pair: tuple[Machine, Machine]) -> None:
    ringer, rung = pair
    number = rung.peer_id
    for turn in range(2000):
        ringer.ring(number, turn % VECTORS)
        assert rung.take_interrupts() == {turn % VECTORS}


def test_doorbells_that_wait_together_are_one_interrupt(pair: tuple[Machine, Machine]) -> None:
    ringer, rung = pair
    rung.stop()
    for vector in (1, 1, 1, 3):
        ringer.ring(1, vector)
    rung.cont()
    assert rung.take_interrupts() == {1, 3}
    assert rung.take_interrupts() == set()


def test_an_unknown_bell_is_dropped(pair: tuple[Machine, Machine]) -> None:
    pair[0].ring(1, VECTORS)
    pair[0].ring(7, 0)
    assert [machine.interrupts() for machine in pair] == [set(), set()]


def test_one_killed_leaves_the_other_alive(server: StockServer, pair: tuple[Machine, Machine]) -> None:
    survivor, victim = pair
    victim.memory_write(0, b"last words")
    victim.kill()
    assert not victim.alive
    survivor.ring(0, 2)
    assert survivor.wait_interrupts({2}) == {2}
    assert survivor.memory_read(0, 10) == b"last words"
    assert survivor.alive
    assert server.alive


def test_a_machine_joins_when_others_have_gone(pair: tuple[Machine, Machine], server: StockServer) -> None:
    pair[1].kill()
    with Machine(server.arguments(VECTORS), pair[0].stderr_path.parent) as third:
        assert third.peer_id == 2
        pair[0].meet(third)
        pair[0].ring(2, 0)
        assert third.wait_interrupts({0}) == {0}


def test_what_did_not_arrive_is_named(machine: Machine) -> None:
    machine.ring(0, 1)
    with pytest.raises(MissingInterruptsError, match=r"no interrupt on vector 0, 2 within .*; fired: 1"):
        machine.wait_interrupts({0, 1, 2}, timeout=0.05)
    assert machine.interrupts() == {1}


def test_a_death_is_noticed_at_once(server: StockServer, tmp_path: Path) -> None:
    start = time.monotonic()
    with Machine(server.arguments(VECTORS), tmp_path) as machine:
        os.kill(machine.pid, signal.SIGSEGV)
        with pytest.raises(MachineDiedError, match=r"died \(signal SIGSEGV\)"):
            machine.wait_interrupts({0}, timeout=60)
        assert machine.wait_death(0) == -signal.SIGSEGV
    assert time.monotonic() - start < 10


def test_an_unnoticed_death_fails_the_test(server: StockServer, tmp_path: Path) -> None:
    with (  # noqa: PT012 (the end of the block is what raises)
        pytest.raises(MachineDiedError, match="at the end of the test"),
        Machine(server.arguments(VECTORS), tmp_path) as machine,
    ):
        os.kill(machine.pid, signal.SIGABRT)
        os.waitid(os.P_PID, machine.pid, os.WEXITED | os.WNOWAIT)


def test_a_failure_to_start_has_qemus_own_words(tmp_path: Path) -> None:
    arguments = StockServer(tmp_path, vectors=1).arguments(1)  # which nobody started
    with pytest.raises(MachineDiedError, match="Failed to connect"), Machine(arguments, tmp_path):
        pass


def test_a_machine_needs_the_device(tmp_path: Path) -> None:
    with pytest.raises(NoDeviceError), Machine([], tmp_path):
        pass


def test_a_machine_without_bells_is_ready_when_that_is_expected(tmp_path: Path) -> None:
    with StockServer(tmp_path, vectors=0) as server:
        with pytest.raises(MachineStuckError, match="no bells"):
            Machine(server.arguments(VECTORS), tmp_path, patience=2.0).__enter__()
        with Machine(server.arguments(VECTORS), tmp_path, complete=False) as machine:
            machine.ring(machine.peer_id, 0)
            assert machine.interrupts() == set()


def test_a_stopped_machine_is_stuck_and_then_goes_on(machine: Machine) -> None:
    patience, machine.patience = machine.patience, 0.05
    machine.stop()
    for _ in range(3):
        with pytest.raises(MachineStuckError, match="did not answer"):
            machine.ring(0, 3)
    assert machine.alive
    machine.patience = patience
    machine.cont()
    assert machine.peer_id == 0
    assert machine.interrupts() == {3}


def test_a_stopped_machine_can_be_killed(machine: Machine) -> None:
    machine.stop()
    machine.kill()
    assert not machine.alive


def test_a_machine_that_nobody_keeps_is_gone(server: StockServer, tmp_path: Path) -> None:
    pid = Machine(server.arguments(VECTORS), tmp_path).pid
    gc.collect()
    assert not Path(f"/proc/{pid}").exists()


def test_quit_ends_the_machine_its_own_way(machine: Machine) -> None:
    machine.quit()
    assert machine.wait_death(0) == 0


def test_an_end_that_does_not_come(machine: Machine) -> None:
    with pytest.raises(MachineStuckError, match="still lives"):
        machine.wait_death(0.01)


def test_machines_start_side_by_side(server: StockServer, tmp_path: Path) -> None:
    machines = [Machine(server.arguments(VECTORS), tmp_path) for _ in range(4)]
    with pytest.raises(MachineError, match="not waited for"):
        machines[0].ring(0, 0)
    for machine in machines:
        machine.ready()
    assert {machine.peer_id for machine in machines} == {0, 1, 2, 3}
    for one, other in product(machines, machines):
        one.meet(other)
    for machine in machines:
        machine.kill()


def test_a_limit_of_descriptors_holds(server: StockServer, tmp_path: Path) -> None:
    # A bell too many costs QEMU its life: the number arrives without its descriptor, and is misread.
    limit = 32
    with Machine(server.arguments(VECTORS), tmp_path, descriptors=limit) as machine:
        assert resource.prlimit(machine.pid, resource.RLIMIT_NOFILE) == (limit, limit)
        assert machine.open_descriptors <= limit
        others = [Machine(server.arguments(VECTORS), tmp_path) for _ in range(5)]
        assert machine.wait_death(10) in (-signal.SIGABRT, -signal.SIGSEGV)
        for other in others:
            other.kill()


def test_a_command_that_qemu_refuses(machine: Machine) -> None:
    with pytest.raises(RefusedError, match="no_such_command"):
        machine.qmp.execute("no_such_command")
    # And it goes on after that. No CPU runs, and none has yet: doorbells arrive all the same.
    status = machine.qmp.execute("query-status")
    assert isinstance(status, dict)
    assert status["status"] == "prelaunch"
