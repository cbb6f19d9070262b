"""Doorbells from all to all on a fabric, by peers that notice if one is lost: host programs and real machines."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections import Counter
from contextlib import ExitStack
from functools import partial
from itertools import permutations
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.daemon import PATIENCE, eventually
from tests.qemu.machine import Machine
from tests.systemd.inside.unit import Unit

_OUTAGE = 30.0
"""Seconds that a doorbell may take: a watchdog's patience, a start, and a machine that is busy."""
_MORE = 20
"""Doorbells from anybody that a program hears before traffic is taken to flow."""
_IN_STEP = (1, 2, 3)
"""Vectors that machines are rung on by machines, each only after the last one was seen; programs ring them on 0."""


class Program:
    """A ringer, until the end of `with`, and the questions that it answers."""

    def __init__(self, socket: Path) -> None:
        command = [sys.executable, "-m", "tests.systemd.inside.ringer", str(socket)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._hello: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def hello(self) -> dict[str, Any]:
        """What it said when it had joined."""
        self._hello = self._hello or self._answer()
        return self._hello

    @property
    def id(self) -> int:
        """Its peer id."""
        return int(self.hello["id"])

    def ask(self, **command: object) -> dict[str, Any]:
        """Tells it something; its counts."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # that it has ended is told below
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def has_heard(self, doorbells: int) -> bool:
        """Whether it has heard so many, since it joined."""
        return bool(self.ask()["heard"] >= doorbells)

    def knows_all(self) -> bool:
        """Whether it has bells of all whom it is to ring."""
        return not self.ask()["unknown"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the program has ended with status {self._process.wait(PATIENCE)}: it is a peer no longer"
        told: dict[str, Any] = json.loads(line)
        return told


class Traffic:
    """All peers ring all others from the start of `with` until `settle`."""

    def __init__(self, unit: Unit, fabric: str, directory: Path, *, programs: int = 3, machines: int = 2) -> None:
        self._unit = unit
        self._fabric = fabric
        self._directory = directory
        self._n = programs, machines
        self._stack = ExitStack()
        self._resting = threading.Event()
        self._problem: BaseException | None = None
        self._by_machines: Counter[tuple[int, int]] = Counter()

    def __enter__(self) -> Self:
        with self._stack:
            programs, machines = self._n
            socket = self._unit.socket(self._fabric)
            self._programs = [self._stack.enter_context(Program(socket)) for _ in range(programs)]
            started = [
                Machine(self._unit.qemu(self._fabric), self._directory, patience=_OUTAGE) for _ in range(machines)
            ]
            self._machines = [self._stack.enter_context(machine) for machine in started]
            # Asked for once: a machine takes its orders from one thread at a time.
            self._names = {machine: machine.peer_id for machine in self._machines}
            self.ids = [*(program.id for program in self._programs), *self._names.values()]
            assert len(set(self.ids)) == sum(self._n)
            self._acquaint()
            self._thread = threading.Thread(target=self._ring_in_step)
            self._thread.start()
            self._stack.callback(self._rest)
            for program in self._programs:
                program.ask(ring=self._targets(program))
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def flows(self) -> None:
        """Waits until each program has heard more, and each machine has been rung by each."""
        programs = {program: program.ask()["heard"] for program in self._programs}
        machines = self._by_machines.copy()
        for program, heard in programs.items():
            eventually(partial(program.has_heard, heard + _MORE), "a program hears others", _OUTAGE)
        pairs = list(permutations(self._names.values(), 2))
        eventually(
            lambda: self._problem or all(self._by_machines[pair] > machines[pair] for pair in pairs),
            "machines ring each other",
            _OUTAGE,
        )
        self._check()

    def settle(self, *, exactly: bool = True) -> None:
        """Lets all rest; every doorbell has arrived and was counted.

        `exactly`: and none was delivered twice, which only a SIGKILL may cause.
        """
        self._rest()
        self._check()
        rung = Counter(self._by_machines)
        for program in self._programs:
            answer = program.ask(ring={})
            rung.update({(program.id, int(other)): n for other, n in answer["rung"].items()})
        for program in self._programs:
            expected = sum(n for (_, dst), n in rung.items() if dst == program.id)
            eventually(partial(program.has_heard, expected), f"{program.id} hears all {expected}")
        eventually(lambda: self._unit.pairs(self._fabric) - self._before == rung, f"what is counted becomes {rung}")
        for program in self._programs if exactly else ():
            assert program.ask()["heard"] == sum(n for (_, dst), n in rung.items() if dst == program.id)
        self._check_memory()

    def _targets(self, program: Program) -> dict[int, list[int]]:
        everywhere = list(range(program.hello["vectors"]))
        machines = set(self._names.values())
        return {other: [0] if other in machines else everywhere for other in self.ids if other != program.id}

    def _acquaint(self) -> None:
        """Waits until each knows each: with fresh ports the later ones are announced."""
        for one, other in permutations(self._machines, 2):
            one.meet(other)
        # Programs count from their first ring on.
        self._before = self._unit.pairs(self._fabric)
        for program in self._programs:
            program.ask(ring={other: [0] for other in self.ids if other != program.id})
            eventually(program.knows_all, f"{program.id} knows all")
        for program in self._programs:
            program.ask(ring={})

    def _ring_in_step(self) -> None:
        try:
            while not self._resting.is_set():
                for vector in _IN_STEP:
                    self._ring_round(vector)
        except BaseException as problem:  # noqa: BLE001 (it is raised where the test waits)
            self._problem = problem

    def _ring_round(self, vector: int) -> None:
        for (one, its), (other, others) in permutations(self._names.items(), 2):
            one.ring(others, vector)
            self._by_machines[its, others] += 1
            other.wait_interrupts({vector}, _OUTAGE)
            other.clear()
        for machine, its in self._names.items():
            for program in self._programs:
                machine.ring(program.id, vector)
                self._by_machines[its, program.id] += 1

    def _rest(self) -> None:
        self._resting.set()
        self._thread.join()

    def _check(self) -> None:
        if self._problem is not None:
            raise self._problem

    def _check_memory(self) -> None:
        """All still have the memory that is in the mailbox's file."""
        file = Path("/dev/shm", f"famez-{self._fabric}")
        assert {program.hello["memory"] for program in self._programs} == {file.stat().st_ino}
        place = self._machines[0].memory_size - 16
        for machine in self._machines:
            text = f"machine {machine.peer_id:8}".encode()
            machine.memory_write(place, text)
            assert {other.memory_read(place, 16) for other in self._machines} == {text}
            assert file.read_bytes()[-16:] == text
