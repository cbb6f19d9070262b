"""Peers of all kinds, used in one way: the library's, one that reads message by message, programs, and machines."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from famezd.client import ClientError, Doorbell, Peer
from famezd.fabric.settings import Settings
from famezd.mailbox import FileMemory, Memory
from famezd.protocol import REFUSAL
from tests.fabric.workers import Raw
from tests.qemu.machine import Machine
from tests.soak.service import PATIENCE, Wrong


class Refused(Exception):  # noqa: N818 (as it should be, where there is no room)
    """A newcomer was turned away."""


class Member(ABC):
    """A peer that has joined."""

    id: int
    exact = True
    """Whether it can tell how often it was rung."""
    reads = True
    """Whether it reads what it is sent."""
    whole = True
    """Whether it has read its set-up."""

    @abstractmethod
    def ring(self, dst: int, vector: int, rings: int) -> None:
        """Rings another, so often at once."""

    @abstractmethod
    def hear(self) -> Counter[int]:
        """How often it was rung since it was last asked, by vector."""

    @abstractmethod
    def knows(self) -> set[int] | None:
        """Whom it can ring, None where it cannot say."""

    @abstractmethod
    def ended(self) -> bool:
        """Whether its membership is over."""

    @abstractmethod
    def close(self) -> None:
        """It leaves, or whatever is left of it ends."""

    def kill(self) -> None:
        """It ends without notice, where it is a process."""
        self.close()

    @property
    def memory(self) -> Memory | None:
        """The mailbox, as it sees it."""
        return None

    def check(self) -> None:
        """Raises Wrong, or MachineError, if it is not well."""
        if self.ended():
            raise Wrong(f"{self} was disconnected{self.why}")

    why = ""
    """How it was, as far as it knows."""

    def __str__(self) -> str:
        return f"{type(self).__name__.lower()} {self.id}"


class Reader(Member):
    """One that reads message by message, and can leave off."""

    def __init__(self, settings: Settings, *, whole: bool = True) -> None:
        """`whole`: reads all of its set-up, and not only its id. Raises Refused."""
        self._raw = Raw(settings)
        self._vectors = settings.vectors
        self.reads = self.whole = whole
        self._ended = False
        try:
            self._greet()
            if whole:
                self.finish()
        except BaseException:
            self._raw.close()
            raise
        self.id = self._raw.id

    def _greet(self) -> None:
        while self._raw.client.peer is None:
            self._read()

    def finish(self) -> None:
        """Reads the rest of the set-up."""
        while len(self._raw.own) < self._vectors:
            self._read()
        self.reads = self.whole = True

    def _read(self) -> None:
        self._raw.connection.settimeout(PATIENCE)
        try:
            message = self._raw.read()
        except TimeoutError as e:
            raise Wrong(f"a newcomer's set-up stops after {self._raw.values}") from e
        if message is None:
            raise Wrong(f"a newcomer's connection ended after {self._raw.values}")
        if self._raw.values == [REFUSAL]:
            raise Refused
        self._raw.understand(message)

    def ring(self, dst: int, vector: int, rings: int) -> None:
        self._raw.ring(dst, vector, rings)

    def hear(self) -> Counter[int]:
        return Counter({v: n for v in range(len(self._raw.own)) if (n := self._raw.take(v))})

    def knows(self) -> set[int] | None:
        if not self._ended:
            self._raw.hear()
            self._ended = self._raw.ended()
        return {dst for dst in self._raw.peers if len(self._raw.bells(dst)) == self._vectors}

    def ended(self) -> bool:
        self.knows()
        return self._ended

    def say(self, data: bytes) -> None:
        """Sends the server something, which no peer may."""
        self._raw.connection.send(data)

    def close(self) -> None:
        self._raw.close()

    @property
    def memory(self) -> Memory | None:
        return FileMemory(self._raw.memory) if self.whole else None


class Library(Member):
    """One of the client library's."""

    def __init__(self, settings: Settings) -> None:
        """Raises Refused."""
        try:
            self._peer = Peer.join(settings.socket, timeout=PATIENCE)
        except ClientError as e:
            raise Refused(str(e)) from e
        self.id = self._peer.id
        self._vectors = settings.vectors
        self._rung: Counter[int] = Counter()

    def ring(self, dst: int, vector: int, rings: int) -> None:
        for _ in range(rings):
            self._peer.ring(dst, vector)

    def hear(self) -> Counter[int]:
        self._look()
        rung, self._rung = self._rung, Counter()
        return rung

    def _look(self) -> None:
        try:
            # There may be more than one look finds: what is told of others, and then doorbells.
            while events := self._peer.wait(0):
                self._rung.update({e.vector: e.rings for e in events if isinstance(e, Doorbell)})
        except ClientError as e:
            self.why = f": {e}"

    def knows(self) -> set[int] | None:
        self._look()
        # Whose announcement has come as a whole: a message for each vector.
        return {dst for dst in self._peer.peers if self._peer.vectors_of(dst) == self._vectors}

    def ended(self) -> bool:
        self._look()
        return self._peer.ended

    def close(self) -> None:
        self._peer.leave()

    @property
    def memory(self) -> Memory | None:
        return FileMemory(self._peer.memory)


class Program(Member):
    """A process of its own."""

    def __init__(self, settings: Settings) -> None:
        """Raises Refused."""
        command = [sys.executable, "-m", "tests.soak.program", settings.socket]
        # In a group of its own: Ctrl-C is for the soak, and would find this one in the midst of its imports, too.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
        )
        self._vectors = settings.vectors
        self._rung: Counter[int] = Counter()
        try:
            self.id = self._hello()
        except BaseException:
            self.kill()
            raise

    def _hello(self) -> int:
        hello = self._answer()
        if "refused" in hello:
            raise Refused(hello["refused"])
        return int(hello["id"])

    def ask(self, **command: object) -> dict[str, Any]:
        """Tells it something; what it answers."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as e:
            raise Wrong(f"{self} died, status {self._process.wait()}") from e
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answered = select.poll()
        answered.register(self._process.stdout, select.POLLIN)
        if not answered.poll(PATIENCE * 1000):
            raise Wrong(f"a host program, process {self._process.pid}, does not answer within {PATIENCE:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise Wrong(f"a host program died, status {self._process.wait()}")
        told: dict[str, Any] = json.loads(line)
        return told

    def ring(self, dst: int, vector: int, rings: int) -> None:
        self.ask(ring=[dst, vector, rings])

    def hear(self) -> Counter[int]:
        self._look()
        rung, self._rung = self._rung, Counter()
        return rung

    def _look(self) -> dict[str, Any]:
        told = self.ask(hear=True)
        self._rung.update({int(vector): n for vector, n in told["rung"].items()})
        return told

    def knows(self) -> set[int] | None:
        return {int(dst) for dst, vectors in self._look()["peers"].items() if vectors == self._vectors}

    def ended(self) -> bool:
        return bool(self._look()["ended"])

    def close(self) -> None:
        self._end(kill=False)

    def kill(self) -> None:
        self._end(kill=True)

    def _end(self, *, kill: bool) -> None:
        if kill:
            self._process.kill()
        self._process.communicate()


class Qemu(Member):
    """A machine."""

    exact = False

    def __init__(self, arguments: Sequence[str], directory: Path) -> None:
        self._machine = Machine(arguments, directory, patience=PATIENCE)
        try:
            self._machine.ready()
        except BaseException:
            self._machine.kill()
            raise
        self.id = self._machine.peer_id
        self.met: set[int] = set()
        """Whom it is known to be able to ring."""

    @property
    def pid(self) -> int:
        """Its process."""
        return self._machine.pid

    @property
    def patience(self) -> float:
        """Seconds that it may take to answer."""
        return self._machine.patience

    @patience.setter
    def patience(self, seconds: float) -> None:
        self._machine.patience = seconds

    def ring(self, dst: int, vector: int, rings: int) -> None:
        for _ in range(rings):
            self._machine.ring(dst, vector)

    def hear(self) -> Counter[int]:
        return Counter(dict.fromkeys(self._machine.take_interrupts(), 1))

    def knows(self) -> set[int] | None:
        return None

    def ended(self) -> bool:
        # QEMU tells nobody that its server has hung up.
        return False

    def check(self) -> None:
        if self._machine.peer_id != self.id:
            raise Wrong(f"{self} says that it is peer {self._machine.peer_id}")
        status = self._machine.qmp.execute("query-status")
        if not isinstance(status, dict) or status.get("status") != "prelaunch":
            raise Wrong(f"{self} says that it is {status}")

    def stand_still(self) -> None:
        """It is stopped for a moment, and goes on."""
        self._machine.stop()
        self._machine.cont()

    def close(self) -> None:
        """QEMU ends in its own way."""
        if self._machine.alive:
            self._machine.quit()
        self._end()

    def kill(self) -> None:
        self._machine.kill()
        self._end()

    def _end(self) -> None:
        self._machine.kill()
        self._machine.stderr_path.unlink(missing_ok=True)

    @property
    def memory(self) -> Memory | None:
        return _Bar(self._machine)


class _Bar:
    """The mailbox through a machine's device."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def read(self, at: int, size: int) -> bytes:
        return self._machine.memory_read(at, size)

    def write(self, at: int, data: bytes) -> None:
        self._machine.memory_write(at, data)

    def word(self, at: int) -> int:
        return int.from_bytes(self.read(at, 8), "little")

    def set_word(self, at: int, value: int) -> None:
        self.write(at, value.to_bytes(8, "little"))
