"""famez-server as a user starts it: a daemon, which has to be there when the command returns."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.daemon import BIN, PATIENCE


def run(program: str, *arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs a command that becomes a daemon, or fails, until it returns and nobody has its output open any more."""
    environment = {key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"} | environ
    return subprocess.run(
        [BIN / program, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE
    )


class Ended:
    """Waits for the end of a process that is no child of ours."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._pidfd)

    def signal(self, number: int) -> None:
        """Sends a signal."""
        signal.pidfd_send_signal(self._pidfd, number)

    def wait(self) -> None:
        """Returns when it has ended."""
        ready = select.select([self._pidfd], [], [], PATIENCE)[0]
        assert ready, f"process {self.pid} has not ended"

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return not select.select([self._pidfd], [], [], 0)[0]


class FamezServer:
    """A famez-server, from the start of `with` to its end, where it must stop cleanly and leave nothing behind."""

    def __init__(self, folder: Path, *options: str, vectors: int = 1) -> None:
        self.socket = folder / "server.sock"
        self.pid_file = folder / "server.pid"
        self.log = folder / "server.log"
        self.memory = Path("/dev/shm", f"famez-test-{uuid.uuid4().hex[:12]}")
        named: list[str | Path] = ["-S", self.socket, "-p", self.pid_file, "-L", self.log, "-n", str(vectors)]
        if "-m" not in options:
            named += ["-M", self.memory.name]
        self.options = [*named, *options]

    def __enter__(self) -> Self:
        done = run("famez-server", *self.options)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        self.process = Ended(int(self.pid_file.read_text()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.process:
            died = not self.process.alive
            if not died:
                self.process.signal(signal.SIGTERM)
                self.process.wait()
        if kind is None:
            assert not died, self.log.read_text()
            assert "Traceback" not in self.log.read_text()
            assert [path for path in (self.socket, self.pid_file, self.memory) if path.exists()] == []

    def qemu(self, vectors: int) -> list[str]:
        """QEMU's arguments for a peer."""
        return [
            *("-chardev", f"socket,path={self.socket},id=fabric"),
            *("-device", f"ivshmem-doorbell,chardev=fabric,vectors={vectors}"),
        ]
