"""A QEMU that boots Debian's Linux, with famezd's client inside, and is asked what to run there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.guest.archive import Archive
from tests.guest.kernel import SITE, GuestError, compile_in_place, system
from tests.needs import need
from tests.qemu.control import Lines, Qmp
from tests.terminal import HEIGHT, WIDTH

# Linux would try its timer for some moments only, and on a busy machine panic; what has no dot is environment for the
# first process, before which nothing random is there that Python could take its seed from.
_LINUX = f"console=ttyS0 panic=-1 no_timer_check intel_iommu=on PYTHONPATH=/{SITE} PYTHONHASHSEED=0"
PATIENCE = 600.0
"""Seconds that anything in a guest may take: its processor is emulated, on a machine that may have others to run."""
LOOK = 0.05
CLIENT = ("python3", "-c", "import sys; from famezd.cli.entry import famez_client; sys.exit(famez_client())")
IOMMU = ("-device", "intel-iommu,intremap=on")


class Done(NamedTuple):
    """A program that has ended."""

    status: int
    out: str
    err: str


def first_files(directory: Path) -> Path:
    """Write the whole of a guest's file system into `directory`: the base, famezd and the first process."""
    package = Path(__file__).parents[2] / "famezd"
    tree = directory / "tree"
    ours = tree / SITE / "famezd"
    shutil.copytree(package, ours, ignore=shutil.ignore_patterns("__pycache__"))
    compile_in_place(ours)
    archive = directory / "famezd.cpio"
    with Archive(archive) as written:
        for name in ("proc", "sys", "dev", "tmp"):
            written.add_directory(name)
        written.add_tree(tree)
        written.add_program("init", Path(__file__).with_name("inside").joinpath("init.py").read_bytes())
    whole = directory / "initramfs"
    with whole.open("wb") as file:
        for archived in (system().base, archive):
            file.write(archived.read_bytes())
    return whole


class Guest:
    """A machine that boots within `with`, and is killed at its end.

    `ready` waits for Linux, so that several can boot side by side before it.
    """

    def __init__(self, name: str, directory: Path, initramfs: Path, arguments: Sequence[str]) -> None:
        """`arguments` give it its devices; its folder needs a short name, for sockets."""
        self.name = name
        self._directory = directory
        self.terminal = directory / f"{name}.terminal"
        """The socket of the line that is the guest's terminal."""
        self._log = directory / f"{name}.log"
        self._command = [
            *(str(need("qemu-system-x86_64", "qemu-system-x86")), "-name", name),
            *(
                "-machine",
                "q35",
                "-accel",
                "tcg,tb-size=128",
                "-m",
                "384",
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
            ),
            *("-kernel", str(system().kernel), "-initrd", str(initramfs)),
            *("-append", _LINUX),
            *("-no-reboot", "-serial", f"file:{self._log}"),
            *("-serial", "chardev:control", "-serial", f"unix:{self.terminal},server=on,wait=off"),
            *arguments,
        ]

    def __enter__(self) -> Self:
        self._control, far_control = socket.socketpair()
        self._monitor, far_monitor = socket.socketpair()
        self._unread = b""
        with far_control, far_monitor, (self._directory / f"{self.name}.stderr").open("wb") as stderr:
            theirs = {"control": far_control.fileno(), "monitor": far_monitor.fileno()}
            lines = [word for line, fd in theirs.items() for word in ("-chardev", f"socket,id={line},fd={fd}")]
            self._process = subprocess.Popen(
                [*self._command, *lines, "-mon", "chardev=monitor,mode=control"],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                pass_fds=list(theirs.values()),
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        died = self._process.poll() is not None
        self._process.kill()
        self._process.wait()
        self._control.close()
        self._monitor.close()
        if died and kind is None:
            raise self._explain("QEMU had died")

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._process.pid

    @cached_property
    def qmp(self) -> Qmp:
        """QEMU's own control protocol."""
        return Qmp(Lines(self._monitor, PATIENCE, lambda problem, _: self._explain(problem)))

    def ready(self) -> Self:
        """Wait until Linux runs and can be asked."""
        deadline = time.monotonic() + PATIENCE
        while self._line(deadline) != b"ready":
            pass
        return self

    def run(self, *argv: str, stdin: str = "", user: int = 0) -> Done:
        """Run a program to its end."""
        return self.start(*argv, stdin=stdin, user=user).wait()

    def client(self, *arguments: str, stdin: str = "", user: int = 0) -> Done:
        """Run famez-client on the device."""
        return self.run(*CLIENT, *arguments, stdin=stdin, user=user)

    def start(self, *argv: str, stdin: str = "", user: int = 0) -> Program:
        """Start a program."""
        return Program(self, self.ask("start", argv, stdin, user))

    def show(self, *argv: str) -> Program:
        """Start a program on the terminal."""
        return Program(self, self.ask("show", argv, HEIGHT, WIDTH))

    def python(self, code: str) -> str:
        """Run a Python program, which must succeed; return what it printed."""
        done = self.run("python3", "-c", code)
        assert (done.status, done.err) == (0, ""), done
        return done.out

    def ask(self, *question: object) -> Any:
        """Ask the guest's first process."""
        self._control.sendall(json.dumps(question).encode() + b"\n")
        answer = json.loads(self._line(time.monotonic() + PATIENCE))
        if "error" in answer:
            raise GuestError(f"{self.name}: {question}: {answer['error']}")
        return answer["answer"]

    def _line(self, deadline: float) -> bytes:
        while b"\n" not in self._unread:
            self._control.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                received = self._control.recv(1 << 16)
            except TimeoutError:
                raise self._explain("the guest does not answer") from None
            if not received:
                raise self._explain("QEMU has hung up")
            self._unread += received
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _explain(self, problem: str) -> GuestError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(LOOK)
        said = (self._directory / f"{self.name}.stderr").read_text(errors="replace")
        printed = self._log.read_text(errors="replace") if self._log.exists() else ""
        return GuestError(f"{self.name}: {problem}; QEMU said:\n{said}\nLinux said:\n{printed[-4000:]}")


class Program:
    """A program that runs in a guest."""

    def __init__(self, guest: Guest, number: int) -> None:
        self._guest = guest
        self._number = number

    def look(self) -> tuple[int | None, str, str]:
        """Its exit status, None while it runs, and what it has printed on standard output and error."""
        told = self._guest.ask("look", self._number)
        return told["status"], told["out"], told["err"]

    def signal(self, name: str) -> None:
        """Send it a signal, by its name."""
        self._guest.ask("signal", self._number, name)

    def wait(self) -> Done:
        """Wait for its end."""
        deadline = time.monotonic() + PATIENCE
        while True:
            status, out, err = self.look()
            if status is not None:
                return Done(status, out, err)
            assert time.monotonic() < deadline, f"it still runs; so far: {out}{err}"
            time.sleep(LOOK)

    def await_output(self, text: str) -> None:
        """Wait until it has printed this on standard output."""
        deadline = time.monotonic() + PATIENCE
        while text not in (seen := self.look())[1]:
            assert seen[0] is None, f"no {text!r} in {seen}"
            assert time.monotonic() < deadline, f"no {text!r} in {seen}"
            time.sleep(LOOK)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder whose name is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="fg", dir=os.environ.get("TMPDIR", "/tmp")) as name:
        yield Path(name)
