"""Real machines are called as QEMU was told, and get their ports again."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
from collections.abc import Set
from contextlib import ExitStack
from pathlib import Path

from famezd.mailbox import SLOT_SIZE
from tests.daemon import Famezd, eventually
from tests.qemu.machine import Machine

FABRIC = "lab"
PINNED = {"personality": "genz", "peers": 6, "vectors": 16, "pins": {n: {"socket": True} for n in (2, 3, 5)}}


def info(famezd: Famezd) -> set[tuple[str, ...]]:
    """Peer, name and kind, as /metrics has them."""
    return set(famezd.metrics("famez_peer_info", "peer", "name", "kind"))


def await_info(famezd: Famezd, expected: Set[tuple[str, ...]]) -> None:
    """Waits until that is so: a command line is not waited for for long."""
    eventually(lambda: info(famezd) == expected, f"the peers are {expected}")


def test_machines_are_called_as_qemu_was_told(tmp_path: Path) -> None:
    options = [[], ["-name", "web"], ["-name", "guest=data base,,1,debug-threads=on,process=other"], ["-name", "web"]]
    with Famezd(tmp_path, {FABRIC: {"peers": 5, "vectors": 4}}) as famezd, ExitStack() as stack:
        for option in options:
            stack.enter_context(Machine([*famezd.qemu(FABRIC), *option], tmp_path))
        stack.enter_context(famezd.join(FABRIC))
        expected = {
            ("0", "0", "qemu"),
            ("1", "web", "qemu"),
            ("2", "data base,1", "qemu"),
            ("3", "web~3", "qemu"),
            ("4", "4", "host"),
        }
        await_info(famezd, expected)
        peers = famezd.ctl("peers", FABRIC).stdout.splitlines()
        assert peers[2].split()[:3] == ["1", "web", "qemu"]
        assert "peer=1" in (line := next(line for line in famezd.log.read_text().splitlines() if "name=web" in line))
        assert "peer joined" in line
        assert famezd.ctl("kick", FABRIC, "web~3").stdout == "peer 3 web~3 was disconnected\n"


def test_a_driver_in_the_guest_names_its_machine(tmp_path: Path) -> None:
    with (
        Famezd(tmp_path, {FABRIC: {"personality": "genz", "peers": 4, "vectors": 16}}) as famezd,
        Machine([*famezd.qemu(FABRIC), "-name", "web"], tmp_path) as machine,
    ):
        switch = ("5", "Z-switch", "switch")
        await_info(famezd, {("1", "web", "qemu"), switch})
        machine.memory_write(machine.peer_id * SLOT_SIZE, b"node1.1\0")
        assert info(famezd) == {("1", "node1.1", "qemu"), switch}


def test_machines_get_their_ports_again_in_whatever_order_they_start(tmp_path: Path) -> None:
    with Famezd(tmp_path, {FABRIC: PINNED}) as famezd:
        command = {port: shlex.split(famezd.ctl("qemu", FABRIC, "--port", str(port)).stdout) for port in (2, 3, 5)}
        order, switch = random.Random(0), ("7", "Z-switch", "switch")
        for _ in range(4):
            ports = order.sample(sorted(command), 3)
            with ExitStack() as stack:
                ordinary = stack.enter_context(Machine(famezd.qemu(FABRIC), tmp_path))
                machines = {p: Machine([*command[p], "-name", f"vm{p}"], tmp_path) for p in ports}
                for machine in machines.values():
                    stack.enter_context(machine)
                assert {p: m.peer_id for p, m in machines.items()} == {p: p for p in ports}
                assert ordinary.peer_id == 1
                await_info(famezd, {("1", "1", "qemu"), switch} | {(str(p), f"vm{p}", "qemu") for p in ports})
                # One is killed and started again beside the others.
                victim = ports[0]
                machines[victim].kill()
                again = stack.enter_context(Machine(command[victim], tmp_path))
                assert again.peer_id == victim
                again.ring(machines[ports[1]].peer_id, victim)
                machines[ports[1]].wait_interrupts({victim})
                late = Machine(command[victim], tmp_path)
                assert late.wait_death(10) == 1
                assert "version -1" in late.stderr
        assert famezd.metrics("famez_refusals_total", "reason")["pinned",] == 4


def test_a_port_of_a_user_is_its_machines(tmp_path: Path) -> None:
    fabric = {"peers": 4, "vectors": 4, "pins": {2: {"user": os.getuid()}}}
    with Famezd(tmp_path, {FABRIC: fabric}) as famezd:
        for _ in range(3):
            with Machine(famezd.qemu(FABRIC), tmp_path) as first, Machine(famezd.qemu(FABRIC), tmp_path) as second:
                assert (first.peer_id, second.peer_id) == (2, 0)


def test_a_ports_socket_survives_its_worker(tmp_path: Path) -> None:
    with Famezd(tmp_path, {FABRIC: PINNED}) as famezd, Machine(famezd.qemu(FABRIC), tmp_path) as ordinary:
        command = shlex.split(famezd.ctl("qemu", FABRIC, "--port", "5").stdout)
        for _ in range(3):
            with Machine(command, tmp_path) as pinned:
                assert pinned.peer_id == 5
                os.kill(json.loads(famezd.ctl("--json", "status").stdout)["fabrics"][0]["pid"], signal.SIGKILL)
                # The next one comes while nobody serves.
                pinned.kill()
                with Machine(command, tmp_path) as again:
                    assert again.peer_id == 5
                    again.ring(ordinary.peer_id, 5)
                    ordinary.wait_interrupts({5})
                    ordinary.clear()
        eventually(lambda: famezd.metrics("famez_worker_restarts_total")[()] == 3, "all were replaced")
