"""A real QEMU with an ivshmem device and no guest: the test is its driver.

The CPU never runs (-S): registers, memory and PCI are reached through qtest, and QEMU's main loop, which
carries doorbells, runs all the same. So a machine starts in some 20 ms and needs no KVM.
"""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.needs import need
from tests.qemu.control import Lines, Qmp, Qtest
from tests.qemu.device import IvshmemDevice

_POLL = 0.0005  # seconds between two looks at the vectors' words
_RING_AGAIN = 0.1  # seconds after which a doorbell that did not arrive is taken for dropped
_REAPING = 5.0  # seconds that a process may take to end once it has been told to, or has hung up


class MachineError(Exception):
    """A machine did not do what a test asked of it."""


class MachineDiedError(MachineError):
    """QEMU ended, unasked; the text has its status and what it said on stderr."""


class MachineStuckError(MachineError):
    """QEMU lives but does not answer."""


class MissingInterruptsError(MachineError):
    """Interrupts that a test waited for did not come."""

    def __init__(self, name: str, missing: set[int], fired: set[int], timeout: float) -> None:
        """Tell which vectors are `missing` and which `fired` within `timeout` seconds."""
        super().__init__(
            f"{name}: no interrupt on vector {_listed(missing)} within {timeout} s; fired: {_listed(fired)}"
        )


class Machine:
    """A QEMU, started at once; ready for use within `with`, or after `ready()`.

    Starting and waiting are apart so that many can start side by side. Except where a method says
    otherwise, every use raises MachineDiedError when QEMU has died, and MachineStuckError when it does
    not answer within `patience` seconds. `with` ends by killing QEMU; it raises MachineDiedError when
    QEMU had died before without the test having asked for it or taken note by `wait_death`.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        directory: Path,
        *,
        descriptors: int | None = None,
        complete: bool = True,
        patience: float = 60.0,
    ) -> None:
        """Start QEMU with `arguments`, which give it its fabric, and keep its stderr in `directory`.

        `descriptors` limits how many descriptors it may have open; by default it inherits our limit.
        `complete` is whether being ready includes all bells of the set-up: False for a server that sends none.
        """
        self._complete = complete
        self._ending = False
        self._device: IvshmemDevice | None = None
        with (
            tempfile.NamedTemporaryFile(prefix="qemu-", suffix=".stderr", dir=directory, delete=False) as log,
            contextlib.ExitStack() as theirs,
        ):
            self.stderr_path = Path(log.name)
            qtest, far_qtest = socket.socketpair()
            qmp, far_qmp = socket.socketpair()
            theirs.enter_context(far_qtest)
            theirs.enter_context(far_qmp)
            self._process = subprocess.Popen(
                [*_limited(descriptors), *_command(far_qtest.fileno(), far_qmp.fileno()), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[far_qtest.fileno(), far_qmp.fileno()],
            )
        self._lines = Lines(qtest, patience, self._explain)
        self._qmp_lines = Lines(qmp, patience, self._explain)
        self._qtest = Qtest(self._lines)
        # A test that fails between start and `with` must leave no QEMU behind.
        self._discard = weakref.finalize(self, _discard, self._process, qtest, qmp)

    def ready(self) -> Self:
        """Wait until QEMU has its device and all bells of its set-up; return self.

        QEMU answers as soon as it has the shared memory; a doorbell rung before the bell came is lost.
        """
        if self._device is None:
            self._device = IvshmemDevice(self._qtest)
            if self._complete:
                self._wait_set_up(self._device)
        return self

    def _wait_set_up(self, device: IvshmemDevice) -> None:
        # A peer's own bells come last: when it hears itself, it can ring all whom the set-up named.
        deadline = time.monotonic() + self.patience
        while not device.hears_itself():
            if time.monotonic() > deadline:
                raise self._explain(f"it got no bells of its own within {self.patience} s", False)
            self._lines.pause(_POLL)

    def __enter__(self) -> Self:
        """Wait until the machine is ready."""
        try:
            return self.ready()
        except BaseException:
            self.kill()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill QEMU."""
        died = not self.alive and not self._ending
        self.kill()
        if died and kind is None:
            raise self._explain("it was found dead at the end of the test", True)

    # The process.

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether QEMU still runs, be it stopped."""
        return self._process.poll() is None

    @property
    def patience(self) -> float:
        """How many seconds QEMU may take to answer; may be changed at any time."""
        return self._lines.patience

    @patience.setter
    def patience(self, seconds: float) -> None:
        self._lines.patience = self._qmp_lines.patience = seconds

    @property
    def stderr(self) -> str:
        """What QEMU has said so far."""
        return self.stderr_path.read_text(errors="replace")

    @cached_property
    def qmp(self) -> Qmp:
        """QEMU's own control protocol."""
        return Qmp(self._qmp_lines)

    @property
    def open_descriptors(self) -> int:
        """How many descriptors QEMU has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def kill(self) -> None:
        """Kill QEMU (SIGKILL) and wait until it is gone; does no harm to a dead one."""
        self._ending = True
        self._discard()

    def stop(self) -> None:
        """Halt QEMU itself, not only its CPU (SIGSTOP), and wait until it stands still."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def cont(self) -> None:
        """Let a stopped QEMU go on (SIGCONT)."""
        self._process.send_signal(signal.SIGCONT)

    def quit(self) -> None:
        """Have QEMU end in its own way, by QMP, and wait until it is gone."""
        self._ending = True
        self.qmp.execute("quit")
        self.wait_death(self.patience)

    def wait_death(self, timeout: float) -> int:
        """Wait for QEMU to end, which the test expects; return its status, negative for a signal's number.

        Raises MachineStuckError when it still lives after `timeout` seconds.
        """
        self._ending = True
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            problem = f"{self._name} still lives after {timeout} s, where its end was expected"
            raise MachineStuckError(problem) from error

    # The device.

    @property
    def peer_id(self) -> int:
        """The machine's own peer id."""
        return self._ready_device.peer_id

    @property
    def vectors(self) -> int:
        """How many vectors its device has, whatever the fabric has."""
        return self._ready_device.vectors

    @property
    def memory_size(self) -> int:
        """The length of the shared memory, in bytes."""
        return self._ready_device.memory_size

    def ring(self, peer: int, vector: int) -> None:
        """Ring `peer` on `vector`. QEMU drops it in silence when it knows no such bell."""
        self._ready_device.ring(peer, vector)

    def memory_read(self, offset: int, length: int) -> bytes:
        """Read `length` bytes of the shared memory at `offset`; raises ValueError beyond its end."""
        return self._ready_device.memory_read(offset, length)

    def memory_write(self, offset: int, data: bytes) -> None:
        """Write `data` to the shared memory at `offset`; raises ValueError beyond its end."""
        self._ready_device.memory_write(offset, data)

    def interrupts(self) -> set[int]:
        """Return the vectors that fired since they were last taken or cleared.

        Every doorbell is seen that was in QEMU's eventfd when this was called: none is "still on its way".
        There is no count, as there is none in hardware: doorbells that wait together are one interrupt.
        To count, let each be taken before the next is rung.
        """
        return self._ready_device.interrupts()

    def take_interrupts(self) -> set[int]:
        """Return the vectors that fired and forget them, in one step, so that none is missed."""
        return self._ready_device.take_interrupts()

    def meet(self, other: "Machine", timeout: float = 5.0) -> None:
        """Wait until this machine has the bells of `other`, which joined later and was announced to it.

        Rings `other` on the last vector they both have, and again as long as nothing arrives: nothing else
        tells a guest what QEMU knows. Clears the interrupts of `other`. Raises MissingInterruptsError after
        `timeout` seconds.
        """
        vector = min(self.vectors, other.vectors) - 1
        deadline = time.monotonic() + timeout
        while True:
            self.ring(other.peer_id, vector)
            try:
                other.wait_interrupts({vector}, _RING_AGAIN)
            except MissingInterruptsError:
                if time.monotonic() > deadline:
                    raise
            else:
                return other.clear()

    def clear(self) -> None:
        """Forget the vectors that fired."""
        self._ready_device.take_interrupts()

    def wait_interrupts(self, expected: set[int], timeout: float = 5.0) -> set[int]:
        """Wait until all `expected` vectors have fired; return all that have, and keep them.

        Raises MissingInterruptsError, naming those that fired and those that did not, after `timeout`
        seconds, and MachineDiedError at once when QEMU dies.
        """
        deadline = time.monotonic() + timeout
        while not expected <= (fired := self.interrupts()):
            if time.monotonic() > deadline:
                raise MissingInterruptsError(self._name, expected - fired, fired, timeout)
            self._lines.pause(_POLL)
        return fired

    @property
    def _ready_device(self) -> IvshmemDevice:
        if self._device is None:
            problem = f"{self._name} was not waited for: use it within `with`, or call ready()"
            raise MachineError(problem)
        return self._device

    @property
    def _name(self) -> str:
        return f"QEMU (pid {self.pid})"

    def _explain(self, problem: str, lost: bool) -> MachineError:
        """Make the exception for `problem`; a QEMU whose connection is `lost` has died, or is about to."""
        if lost:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_REAPING)
        status = self._process.poll()
        said = f"its stderr:\n{self.stderr}"
        if status is None:
            return MachineStuckError(f"{self._name} lives, but {problem}; {said}")
        return MachineDiedError(f"{self._name} died ({_status(status)}): {problem}; {said}")


def _command(qtest: int, qmp: int) -> list[str]:
    """QEMU's command line up to its fabric, with the descriptors of its ends of the two protocols.

    Connected sockets, rather than paths for QEMU to listen on, leave nothing to wait for before the first
    command, and report QEMU's death at once. qtest as an object, since its option takes no such socket.
    """
    return [
        str(need("qemu-system-x86_64", "qemu-system-x86")),
        *("-accel", "tcg,tb-size=1", "-S", "-machine", "pc", "-m", "4"),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-chardev", f"socket,id=qtest,fd={qtest}"),
        *("-object", "qtest,id=qtest0,chardev=qtest,log=/dev/null"),
        *("-chardev", f"socket,id=qmp,fd={qmp}"),
        *("-mon", "chardev=qmp,mode=control"),
    ]


def _limited(descriptors: int | None) -> list[str]:
    """Return the words to put before a command so that it runs with a limit of `descriptors`.

    Both limits, the soft and the hard one: newer QEMUs raise their own soft limit to the hard one.
    """
    if descriptors is None:
        return []
    return [str(need("prlimit", "util-linux")), f"--nofile={descriptors}:{descriptors}"]


def _discard(process: subprocess.Popen[bytes], *connections: socket.socket) -> None:
    process.kill()
    process.wait(_REAPING)
    for connection in connections:
        connection.close()


def _status(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"


def _listed(vectors: set[int]) -> str:
    return ", ".join(map(str, sorted(vectors))) or "none"
