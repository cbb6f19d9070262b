"""The soak itself, on a real famezd: that it is content with an honest one, and with no other."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import pytest

from famezd.fabric.settings import Settings
from famezd.protocol import Batch, Descriptor, Outbox, PeerId, announcement, setup
from tests.descendants import children
from tests.fabric.conftest import descriptors  # noqa: F401 (a fixture)
from tests.qemu.machine import MachineError
from tests.soak.actions import KINDS_OF_ACTIONS, rounds
from tests.soak.model import Kind, Rule
from tests.soak.peers import Library, Program, Qemu, Reader
from tests.soak.service import Wrong, until
from tests.soak.world import Fabric, World

KINDS: Mapping[str, Kind] = {
    "sticky": Kind("relayed", "sticky", "plain", 4, 2),
    "fresh": Kind("relayed", "fresh", "genz", 4, 6, "memfd"),
}


@pytest.fixture
def world() -> Iterator[World]:
    """A famezd with two fabrics, of three peers each."""
    with tempfile.TemporaryDirectory(prefix="fz") as folder:
        world = World(Path(folder), KINDS)
        try:
            world.start()
            for fabric in world.fabrics.values():
                for how in ("reader", "library", "reader"):
                    fabric.join(how)
            yield world
        finally:
            world.close()


def ring(fabric: Fabric, rings: int = 3) -> None:
    """The first member rings the second."""
    src, dst = list(fabric.members.values())[:2]
    fabric.ring(src, dst.id, 1, rings)


def soak(*arguments: str) -> list[str]:
    """The command."""
    return [sys.executable, "-m", "tests.soak", *arguments]


@pytest.mark.timeout(900)
def test_a_very_short_soak_finds_nothing() -> None:
    done = subprocess.run(soak("--hours", "0.005", "--seed", "7"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d+ actions in \d+ s, \d+ times all was compared", done.stdout, re.M)
    assert not list(Path(tempfile.gettempdir()).glob("famezd-soak-7-*"))


@pytest.mark.parametrize(
    ("variable", "value", "example"),
    [
        *(("HOURS", value, "1 or 0.2") for value in ("inf", "nan", "abc", "", "0", "-1")),
        ("SEED", "1.5", "42"),
    ],
)
def test_what_is_no_number_is_refused(variable: str, value: str, example: str) -> None:
    done = subprocess.run(soak(f"--{variable.lower()}={value}"), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{variable} must be a number such as {example}, not {value!r}" in done.stderr


@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_soak_that_is_interrupted_leaves_nothing_behind(number: int) -> None:
    # Tests that run in the background of a shell ignore SIGINT, and so would their children.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{heed}; import sys; from tests.soak.__main__ import main; sys.exit(main(['--seed', '8']))"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        directory = Path(process.stdout.readline().split()[-1])
        # Until it is in the midst of it.
        assert "actions" in process.stdout.readline()
        started = children(process.pid)
        process.send_signal(number)
        process.stdout.read()
    assert process.returncode == 130
    assert started
    assert not [pid for pid in started if Path("/proc", str(pid)).exists()]
    assert not directory.exists()
    assert not list(Path("/dev/shm").glob(f"famez-soak-{process.pid}-*"))


def test_an_honest_famezd_agrees_with_its_models(world: World) -> None:
    for fabric in world.fabrics.values():
        ring(fabric)
    world.check()


def test_a_port_is_rung_as_an_empty_one_only_when_its_peer_is_seen_to_be_gone(world: World) -> None:
    fabric = world.fabrics["sticky"]
    src, _, leaver = fabric.members.values()
    worker = world.service.pids()["sticky"]
    world.service.signal(worker, signal.SIGSTOP)
    fabric.part(leaver)
    # A doorbell that a worker sees together with the hang-up is passed on to who leaves, and not dropped.
    waker = threading.Timer(0.3, world.service.signal, (worker, signal.SIGCONT))
    waker.start()
    fabric.ring(src, leaver.id, 0, 5)
    waker.join()
    world.check()


def test_what_is_held_up_for_a_machine_is_waited_for(world: World) -> None:
    fabric = world.fabrics["sticky"]
    fabric.join("qemu")
    slow, fast, *_ = fabric.members.values()
    machine = next(member for member in fabric.members.values() if isinstance(member, Qemu))
    world.change_rules(fabric, (Rule(slow.id, machine.id, "delay"),))
    for src in (slow, fast):
        fabric.ring(src, machine.id, 0, 1)
    # The machine tells no more than that it was rung on that vector.
    world.check()
    # The rule's 20 ms, and some more: nothing tells that nothing else comes.
    time.sleep(0.1)
    world.check()


def test_a_famezd_that_loses_doorbells_is_caught(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.soak.service.PATIENCE", 2.0)
    # A rule that the model is not told of.
    world.service.must("fault", "add", "sticky", "*", "*", "--drop", "1")
    ring(world.fabrics["sticky"])
    with pytest.raises(Wrong, match=r"on sticky doorbells arrive; missing by peer and vector: {1: Counter\({1: 3}\)}"):
        world.check()


def test_a_famezd_that_doubles_doorbells_is_caught(world: World) -> None:
    world.service.must("fault", "add", "fresh", "*", "*", "--duplicate", "1")
    ring(world.fabrics["fresh"])
    with pytest.raises(Wrong, match="fabric fresh: peer 2 was rung 6 times on vector 1, not 3"):
        world.check()


@pytest.mark.parametrize("kind", [Library, Program])
def test_a_peer_is_known_when_its_whole_announcement_has_come(kind: type[Library | Program]) -> None:
    bells = [Descriptor(os.eventfd(0)) for _ in range(3)]
    memory = Descriptor(os.memfd_create("soak"))
    with tempfile.TemporaryDirectory(prefix="fz") as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/s")
        listener.listen()
        connections: list[socket.socket] = []

        def tell(batches: Iterable[Batch], most: int = 100) -> None:
            outbox.extend(batches)
            outbox.flush(lambda words, fds: int(bool(socket.send_fds(connections[0], [words[:8]], fds[:1]))), most)

        def welcome() -> None:
            connections.append(listener.accept()[0])
            tell(setup(PeerId(1), memory, [], bells))

        outbox, server = Outbox(), threading.Thread(target=welcome)
        server.start()
        member = kind(Settings("fresh", f"{folder}/s", "", 0, vectors=3))
        server.join()
        tell([announcement(PeerId(2), bells)], 2)
        assert [member.knows(), member.knows()] == [set(), set()]
        tell([])
        until(lambda: member.knows() == {2}, "it knows peer 2")
        member.close()
        connections[0].close()
    for descriptor in (memory, *bells):
        os.close(descriptor)


def test_a_doorbell_of_which_the_model_knows_nothing_is_caught(world: World) -> None:
    fabric = world.fabrics["sticky"]
    fabric.members[0].ring(2, 0, 1)
    with pytest.raises(Wrong, match="fabric sticky: peer 2 was rung 1 times on vector 0, not 0"):
        world.check()


def test_counters_that_do_not_outlive_famezd_are_caught(world: World) -> None:
    ring(world.fabrics["fresh"])
    world.check()
    world.service._forget("fresh.stats")
    world.died()
    world.service.crash()
    # Without its counters the fabric cannot be gone on with, and its peers are disconnected.
    with pytest.raises(Wrong, match=r"fabric fresh: reader 1 was disconnected"):
        world.check()


def test_a_peer_that_is_kicked_unasked_is_caught(world: World) -> None:
    world.service.must("kick", "sticky", "1")
    with pytest.raises(Wrong, match="fabric sticky: library 1 was disconnected"):
        world.check()


def test_a_peer_that_is_there_unasked_is_caught(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.soak.service.PATIENCE", 2.0)
    fabric = world.fabrics["fresh"]
    stranger = Reader(fabric.settings)
    try:
        with pytest.raises(Wrong, match=r"reader 1 knows \{2, 3, 5\}, not \{2, 3, 4, 5\}"):
            world.check()
    finally:
        stranger.close()


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_machine_that_hangs_or_dies_is_caught(world: World, number: int) -> None:
    fabric = world.fabrics["fresh"]
    fabric.join("qemu")
    machine = next(member for member in fabric.members.values() if isinstance(member, Qemu))
    world.check()
    machine.patience = 2.0
    os.kill(machine.pid, number)
    how = "lives, but it did not answer within 2.0 s" if number == signal.SIGSTOP else "died .signal SIGKILL."
    with pytest.raises(MachineError, match=how):
        world.check()


def test_a_famezd_that_is_dead_is_caught(world: World) -> None:
    os.kill(world.service.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while world.service.alive():
        assert time.monotonic() < deadline
    with pytest.raises(Wrong, match="famezd is dead"):
        world.check()


def test_what_famezd_leaves_behind_is_caught(world: World) -> None:
    (world.service.runtime / "left").touch()
    for fabric, member in list(world.everybody()):
        fabric.part(member)
    with pytest.raises(Wrong, match=r"famezd has stopped and left behind: .*/run/left"):
        world.service.end()


def test_the_same_seed_makes_the_same_sequence_of_actions() -> None:
    one, same, other = (list(islice(rounds(random.Random(seed)), 4)) for seed in (5, 5, 6))
    assert one == same != other
    assert set(one[0]) == KINDS_OF_ACTIONS.keys() - {"hang a worker"}
