"""QEMU's own ivshmem-client, at its prompt."""

import os
import pty
import select
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.stock import stock_programs

_PROMPT = "cmd> "


class StockClient:
    """A stock ivshmem-client that has joined a fabric, from the start of `with` to its end.

    It is killed there: it has no other end than Ctrl-C.
    """

    def __init__(self, socket: Path) -> None:
        self._command = [str(stock_programs() / "ivshmem-client"), "-v", "-S", str(socket)]
        self._seen = ""

    def __enter__(self) -> Self:
        # A terminal: into a pipe it would print when its buffer is full, if ever.
        self._terminal, theirs = pty.openpty()
        self._process = subprocess.Popen(self._command, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)

    def expect(self, text: str, patience: float = 60.0) -> str:
        """Waits until it has printed `text`; returns all that came since the last call, up to there."""
        deadline = time.monotonic() + patience
        while text not in self._seen:
            left = deadline - time.monotonic()
            ready = left > 0 and select.select([self._terminal], [], [], left)[0]
            assert ready, f"the stock client has not printed {text!r}, but:\n{self._seen}"
            self._seen += os.read(self._terminal, 65536).decode().replace("\r\n", "\n")
        before, _, self._seen = self._seen.partition(text)
        return before + text

    def command(self, line: str) -> str:
        """Types a line; returns what it answers."""
        os.write(self._terminal, line.encode() + b"\n")
        self.expect(line + "\n")
        return self.expect(_PROMPT)
