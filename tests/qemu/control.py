"""The two protocols by which a test drives QEMU: qtest (the bus, as a CPU sees it) and QMP (the process).

Both are lines of text over a stream socket, answered in order.
"""

import base64
import json
import select
import socket
import time
from collections.abc import Callable
from typing import NoReturn

# QEMU looks for the end of a line anew with every 4 KiB that it receives, so that the time of one
# long line grows with the square of its length.
_CHUNK = 64 << 10


class Lines:
    """Lines of text to and from a QEMU that may die or stand still.

    `patience` is how many seconds an answer may take. `explain` makes the exception to raise, from a
    few words on what went wrong and whether the connection is lost: who knows the process knows more.
    """

    def __init__(self, connection: socket.socket, patience: float, explain: Callable[[str, bool], Exception]) -> None:
        """Use `connection`, a connected stream socket, which remains the caller's to close."""
        self._connection = connection
        self.patience = patience
        self._explain = explain
        self._received = bytearray()

    def send(self, text: str) -> None:
        """Send `text`, one or more whole lines."""
        try:
            self._connection.settimeout(self.patience)
            self._connection.sendall(text.encode())
        except TimeoutError:
            # Half a line may have gone: nothing sent after it would be understood.
            self._connection.close()
            self._fail(f"it took no command for {self.patience} s", lost=False)
        except OSError as error:
            self._fail(f"sending it a command: {error}", lost=True)

    def receive(self) -> str:
        """Return the next line, without its end."""
        deadline = time.monotonic() + self.patience
        while b"\n" not in self._received:
            self._receive_some(deadline)
        line, _, rest = self._received.partition(b"\n")
        self._received = rest
        return line.decode().rstrip("\r")

    def _receive_some(self, deadline: float) -> None:
        try:
            self._connection.settimeout(max(deadline - time.monotonic(), 0.001))
            data = self._connection.recv(1 << 20)
        except TimeoutError:
            self._fail(f"it did not answer within {self.patience} s", lost=False)
        except OSError as error:
            self._fail(f"waiting for its answer: {error}", lost=True)
        if not data:
            self._fail("it closed the connection", lost=True)
        self._received += data

    def _fail(self, problem: str, *, lost: bool) -> NoReturn:
        raise self._explain(problem, lost)

    def pause(self, seconds: float) -> None:
        """Let `seconds` pass while nothing is to be received, less if QEMU dies."""
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        poll.poll(seconds * 1000)


class RefusedError(Exception):
    """QEMU refused a command: the test is wrong, not the machine."""


class Qtest:
    """The machine's ports and physical memory. Addresses and lengths are in bytes, numbers little-endian."""

    def __init__(self, lines: Lines) -> None:
        """Speak qtest over `lines`."""
        self._lines = lines
        self._owed = 0

    def commands(self, *commands: str) -> list[str]:
        """Run `commands` and return the values they answer.

        QEMU gets a few short commands in one piece and runs them in one go: none of its own events, such
        as a doorbell's arrival, comes in between. Raises RefusedError when QEMU refuses one.
        """
        # Answers may be left from commands that timed out while the machine stood still.
        stale = self._owed
        self._owed += len(commands)
        self._lines.send("".join(f"{command}\n" for command in commands))
        for _ in range(stale):
            self._answer()
        return [self._value(command) for command in commands]

    def _answer(self) -> str:
        answer = self._lines.receive()
        self._owed -= 1
        return answer

    def _value(self, command: str) -> str:
        status, _, value = self._answer().partition(" ")
        if status != "OK":
            problem = f"qtest command {command[:80]!r}: {status} {value}"
            raise RefusedError(problem)
        return value

    def outl(self, port: int, value: int) -> None:
        """Write 32 bits to I/O port `port`."""
        self.commands(f"outl {port:#x} {value:#x}")

    def inl(self, port: int) -> int:
        """Read 32 bits from I/O port `port`."""
        return int(self.commands(f"inl {port:#x}")[0], 16)

    def writel(self, address: int, value: int) -> None:
        """Write 32 bits, in one access."""
        self.commands(f"writel {address:#x} {value:#x}")

    def readl(self, address: int) -> int:
        """Read 32 bits, in one access."""
        return int(self.commands(f"readl {address:#x}")[0], 16)

    def write(self, address: int, data: bytes) -> None:
        """Write `data`, which other peers may see arrive piece by piece."""
        for start in range(0, len(data), _CHUNK):
            chunk = data[start : start + _CHUNK]
            text = base64.b64encode(chunk).decode()
            self.commands(f"b64write {address + start:#x} {len(chunk):#x} {text}")

    def read(self, address: int, length: int) -> bytes:
        """Read `length` bytes."""
        if not length:  # QEMU would abort
            return b""
        return base64.b64decode(self.commands(f"b64read {address:#x} {length:#x}")[0])

    def exchange(self, address: int, length: int) -> bytes:
        """Read `length` bytes and zero them, with nothing in between."""
        value, _ = self.commands(f"b64read {address:#x} {length:#x}", f"memset {address:#x} {length:#x} 0x00")
        return base64.b64decode(value)


class Qmp:
    """QEMU's own control protocol."""

    def __init__(self, lines: Lines) -> None:
        """Speak QMP over `lines`: wait for the greeting and answer it."""
        self._lines = lines
        self._lines.receive()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: object) -> object:
        """Run `command` and return what it returns; events that come first are dropped.

        Raises RefusedError when QEMU refuses it.
        """
        self._lines.send(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        while True:
            answer: dict[str, object] = json.loads(self._lines.receive())
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                problem = f"QMP command {command}: {answer['error']}"
                raise RefusedError(problem)
