"""Real machines on real fabrics: everything reaches whom it is for, and nobody else."""

from __future__ import annotations

import json
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import permutations, product
from pathlib import Path

import pytest

from famezd.mailbox import BUFFER_AT, SLOT_SIZE
from tests.daemon import Famezd, eventually
from tests.qemu.machine import Machine

FABRIC = "lab"
VECTORS = 4
KINDS = list(product(("relayed", "direct"), ("sticky", "fresh")))
ROUNDS = 30


@contextmanager
def machines(famezd: Famezd, directory: Path, n: int) -> Iterator[list[Machine]]:
    """`n` machines, started side by side with the arguments that famezd printed."""
    with ExitStack() as stack:
        started = [Machine(famezd.qemu(FABRIC), directory) for _ in range(n)]
        yield [stack.enter_context(machine) for machine in started]


def acquaint(some: Sequence[Machine]) -> None:
    """Waits until each knows each: with fresh ports the later ones are announced."""
    for one, other in permutations(some, 2):
        one.meet(other)


@pytest.mark.parametrize(("doorbells", "ports"), KINDS)
def test_every_doorbell_lands_on_its_vector_and_nowhere_else(tmp_path: Path, doorbells: str, ports: str) -> None:
    fabric = {"peers": 4, "vectors": VECTORS, "doorbells": doorbells, "ports": ports}
    with Famezd(tmp_path, {FABRIC: fabric}) as famezd, machines(famezd, tmp_path, 4) as four:
        assert sorted(machine.peer_id for machine in four) == [0, 1, 2, 3]
        acquaint(four)
        pairs, vectors = famezd.pairs(FABRIC), famezd.vectors(FABRIC)
        for (ringer, rung), vector in product(permutations(four, 2), range(VECTORS)):
            ringer.ring(rung.peer_id, vector)
            assert rung.wait_interrupts({vector}) == {vector}
            assert [machine.take_interrupts() for machine in four if machine is not rung] == [set()] * 3
            rung.clear()
            pairs[ringer.peer_id, rung.peer_id] += 1
            vectors[rung.peer_id, vector] += 1
        if doorbells == "relayed":
            assert famezd.pairs(FABRIC) == pairs
            assert famezd.vectors(FABRIC) == vectors
        else:
            # Nobody but the receivers sees them, and nothing is made up.
            assert famezd.pairs(FABRIC) == famezd.vectors(FABRIC) == Counter()


def test_bursts_are_counted_exactly(tmp_path: Path) -> None:
    with Famezd(tmp_path, {FABRIC: {"peers": 3, "vectors": VECTORS}}) as famezd, machines(famezd, tmp_path, 3) as three:
        expected: Counter[tuple[int, int]] = Counter()
        for ringer, rung in permutations(three, 2):
            burst = 50 + 10 * ringer.peer_id + rung.peer_id
            for i in range(burst):
                ringer.ring(rung.peer_id, i % VECTORS)
            expected[ringer.peer_id, rung.peer_id] = burst
        eventually(lambda: famezd.pairs(FABRIC).total() >= expected.total(), "all doorbells are counted")
        assert famezd.pairs(FABRIC) == expected
        for machine in three:
            machine.wait_interrupts(set(range(VECTORS)))


@pytest.mark.parametrize(("doorbells", "ports"), KINDS)
def test_all_see_the_same_memory(tmp_path: Path, doorbells: str, ports: str) -> None:
    fabric = {"peers": 4, "vectors": 1, "doorbells": doorbells, "ports": ports}
    with Famezd(tmp_path, {FABRIC: fabric}) as famezd, machines(famezd, tmp_path, 4) as four:
        for i, machine in enumerate(four):
            machine.memory_write(i * 1_000_003, f"machine {i}".encode())
        seen = {tuple(m.memory_read(i * 1_000_003, 9) for i in range(4)) for m in four}
        assert seen == {tuple(f"machine {i}".encode() for i in range(4))}


def test_a_machine_that_finds_no_port_is_told_so_and_ends(tmp_path: Path) -> None:
    with Famezd(tmp_path, {FABRIC: {"peers": 2, "vectors": 1}}) as famezd, machines(famezd, tmp_path, 2):
        late = Machine(famezd.qemu(FABRIC), tmp_path)
        assert late.wait_death(10) == 1
        assert "version -1" in late.stderr
        assert famezd.metrics("famez_refusals_total", "fabric", "reason")[FABRIC, "full"] == 1


def test_a_machine_with_too_low_a_limit_is_refused_before_it_dies_of_it(tmp_path: Path) -> None:
    fabric = {"peers": 10, "vectors": 16}
    with Famezd(tmp_path, {FABRIC: fabric}) as famezd, machines(famezd, tmp_path, 2) as two:
        low = Machine(famezd.qemu(FABRIC), tmp_path, descriptors=128)
        assert low.wait_death(10) == 1
        assert famezd.metrics("famez_refusals_total", "fabric", "reason")[FABRIC, "own_limit"] == 1
        assert "start it with a higher limit of open files" in famezd.log.read_text()
        two[0].ring(two[1].peer_id, 3)
        two[1].wait_interrupts({3})


def test_the_genz_switch_answers_a_machine(tmp_path: Path) -> None:
    fabric = {"personality": "genz", "peers": 4, "vectors": 16}
    with Famezd(tmp_path, {FABRIC: fabric}) as famezd, machines(famezd, tmp_path, 2) as two:
        switch = 5
        for machine in two:
            own, text = machine.peer_id * SLOT_SIZE, b"ping!EZT=7"
            machine.memory_write(own + BUFFER_AT, text + b"\0")
            machine.memory_write(own + 64, len(text).to_bytes(8, "little"))
            machine.ring(switch, machine.peer_id)
            machine.wait_interrupts({switch})
            answer = machine.memory_read(switch * SLOT_SIZE + BUFFER_AT, 11)
            assert answer == b"pong!EZT=8\0"
            assert machine.memory_read(own + 64, 8) == bytes(8)
            machine.memory_write(switch * SLOT_SIZE + 64, bytes(8))
        ids = [machine.peer_id for machine in two]
        expected = {(i, switch): 1 for i in ids} | {(switch, i): 1 for i in ids}
        assert famezd.pairs(FABRIC) == expected


CROWDED = {
    "genz": {"personality": "genz", "peers": 14, "vectors": 16},
    "plain sticky": {"peers": 14, "vectors": VECTORS, "doorbells": "direct"},
    "plain fresh": {"peers": 14, "vectors": VECTORS, "doorbells": "direct", "ports": "fresh"},
}


@pytest.mark.parametrize("kind", CROWDED)
def test_kills_and_replacements_disturb_nobody(tmp_path: Path, kind: str) -> None:
    """All ports are taken; each round one machine is killed and replaced; one is stopped for ten rounds."""
    order = random.Random(kind)
    fabric = CROWDED[kind]
    with Famezd(tmp_path, {FABRIC: fabric}) as famezd, ExitStack() as stack:
        crowd = stack.enter_context(machines(famezd, tmp_path, 14))
        acquaint(crowd)
        # Asked for once: a machine that is stopped does not answer.
        ids = {machine: machine.peer_id for machine in crowd}
        stopped = crowd[order.randrange(14)]
        for turn in range(ROUNDS):
            if turn == 10:
                stopped.clear()
                stopped.stop()
            if turn == 20:
                stopped.cont()
                # It was rung by everybody, and its interrupts waited for it.
                stopped.wait_interrupts({turn_ % VECTORS for turn_ in range(10, 20)})
                stopped.clear()
                acquaint_newly(stopped, crowd)
            awake = [m for m in crowd if m is not stopped or not 10 <= turn < 20]
            victim = order.choice([m for m in awake if m is not stopped])
            victim.kill()
            crowd.remove(victim)
            del ids[victim]
            newcomer = stack.enter_context(Machine(famezd.qemu(FABRIC), tmp_path))
            crowd.append(newcomer)
            ids[newcomer] = newcomer.peer_id
            awake = [m for m in awake if m is not victim]
            acquaint_newly(newcomer, awake)
            awake.append(newcomer)
            ring_all(awake, ids, turn % VECTORS)
        assert all(machine.alive for machine in crowd)
        assert famezd.metrics("famez_refusals_total", "reason").total() == 0


def acquaint_newly(one: Machine, others: Sequence[Machine]) -> None:
    """Waits until `one` and the others know each other."""
    for other in others:
        if other is not one:
            one.meet(other)
            other.meet(one)


def ring_all(awake: Sequence[Machine], ids: Mapping[Machine, int], vector: int) -> None:
    """Each that is awake rings each, and each that is awake is interrupted on just that vector."""
    for machine in awake:
        machine.clear()
    for ringer, (rung, peer) in product(awake, ids.items()):
        if ringer is not rung:
            ringer.ring(peer, vector)
    for machine in awake:
        assert machine.wait_interrupts({vector}) == {vector}


@pytest.mark.parametrize("kind", CROWDED)
def test_machines_outlive_the_worker(tmp_path: Path, kind: str) -> None:
    """The worker is killed again and again, while everybody rings; nobody dies, and no doorbell is lost."""
    with (
        Famezd(tmp_path, {FABRIC: CROWDED[kind]}) as famezd,
        machines(famezd, tmp_path, 8) as crowd,
        ExitStack() as stack,
    ):
        acquaint(crowd)
        ids = {machine: machine.peer_id for machine in crowd}
        for turn in range(5):
            pid = json.loads(famezd.ctl("--json", "status").stdout)["fabrics"][0]["pid"]
            os.kill(pid, signal.SIGKILL)
            ring_all(crowd, ids, turn % VECTORS)
            newcomer = stack.enter_context(Machine(famezd.qemu(FABRIC), tmp_path))
            acquaint_newly(newcomer, crowd)
            crowd.append(newcomer)
            ids[newcomer] = newcomer.peer_id
            ring_all(crowd, ids, turn % VECTORS)
        assert famezd.metrics("famez_worker_restarts_total")[()] == 5
        assert famezd.metrics("famez_leaves_total").total() == 0
