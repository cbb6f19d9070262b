"""QEMU's own ivshmem-server, run for a test."""

import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.stock import stock_programs

_LISTENING = "00010000"  # __SO_ACCEPTCON, as /proc/net/unix prints it
_START = 60.0  # seconds
_LOOK_AGAIN = 0.002  # seconds


class StockServerError(Exception):
    """The stock server did not start, or died while a test relied on it."""


class StockServer:
    """A stock ivshmem-server, from the start of `with` to its end, where it must still live."""

    def __init__(self, directory: Path, *, vectors: int, size: int = 1 << 20, verbose: bool = True) -> None:
        """Serve shared memory of `size` bytes and `vectors` vectors a peer on a socket in `directory`.

        To be `verbose`, for whoever looks for what went wrong, takes it some time.
        """
        self.socket = directory / "stock.sock"
        self._log = directory / "stock.log"
        program = stock_programs() / "ivshmem-server"
        # -m: memory without a name, which therefore cannot outlive the test.
        options = ["-S", str(self.socket), "-m", "/dev/shm", "-l", str(size), "-n", str(vectors)]
        self._command = [str(program), "-F", *(["-v"] if verbose else []), *options]

    def arguments(self, vectors: int) -> list[str]:
        """QEMU's arguments for a peer with `vectors` vectors."""
        return [
            *("-chardev", f"socket,path={self.socket},id=fabric"),
            *("-device", f"ivshmem-doorbell,chardev=fabric,vectors={vectors}"),
        ]

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still serves."""
        return self._process.poll() is None

    def __enter__(self) -> Self:
        """Start the server and wait until it listens."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + _START
        while not self._listens():
            if not self.alive or time.monotonic() > deadline:
                self._stop()
                raise StockServerError(f"the stock server does not listen:\n{self._log.read_text()}")
            time.sleep(_LOOK_AGAIN)  # it tells nobody when it listens
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the server. Raises StockServerError when it had ended before."""
        died = not self.alive
        self._stop()
        if died and kind is None:
            raise StockServerError(f"the stock server died:\n{self._log.read_text()}")

    def _stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self.socket.unlink(missing_ok=True)  # as killed as it is, it leaves that behind

    def _listens(self) -> bool:
        # Not by a connection: a client that hangs up early can end this server.
        sockets = (line.split() for line in Path("/proc/net/unix").read_text().splitlines())
        return any(fields[-1] == str(self.socket) and fields[3] == _LISTENING for fields in sockets)
