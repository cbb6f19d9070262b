#!/usr/bin/python3
"""The guest's first process: it makes a small Linux system, and does what the test asks for.

Asked over the second serial line, in lines of JSON, each answered by one. The first serial line is the kernel's, the
third a terminal.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import signal
import struct
import subprocess
import termios
import tty
from pathlib import Path
from typing import Any

CONTROL, TERMINAL = "/dev/ttyS1", "/dev/ttyS2"
MOUNTS = (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp"))


def boot() -> None:
    """Mounts what programs expect."""
    for kind, at in MOUNTS:
        Path(at).mkdir(exist_ok=True)
        mount(kind, at)
    os.environ |= {"PATH": "/usr/bin", "HOME": "/tmp", "LC_ALL": "C.UTF-8"}


def mount(kind: str, at: str) -> None:
    """Mounts a file system that is in no device."""
    # Only here: no other process of the guest needs it, and it takes long to import.
    import ctypes  # noqa: PLC0415

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(kind.encode(), at.encode(), kind.encode(), 0, None):
        raise OSError(ctypes.get_errno(), f"cannot mount {at}")


class Programs:
    """What was started here; each is known by its number."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, argv: list[str], stdin: str, user: int) -> int:
        """Starts a program whose output is kept."""
        number = next(self._numbers)
        Path(f"/tmp/{number}.in").write_text(stdin)
        with (
            open(f"/tmp/{number}.in", "rb") as given,
            open(f"/tmp/{number}.out", "wb") as out,
            open(f"/tmp/{number}.err", "wb") as err,
        ):
            self._running[number] = subprocess.Popen(argv, stdin=given, stdout=out, stderr=err, user=user or None)
        return number

    def show(self, argv: list[str], rows: int, columns: int) -> int:
        """Starts a program on the terminal."""
        number = next(self._numbers)
        line = os.open(TERMINAL, os.O_RDWR | os.O_NOCTTY)
        fcntl.ioctl(line, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

        def own() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 1)

        environ = os.environ | {"TERM": "screen"}
        streams: dict[str, Any] = {"stdin": line, "stdout": line, "stderr": line}
        # There is but one thread here.
        self._running[number] = subprocess.Popen(argv, preexec_fn=own, env=environ, **streams)  # noqa: PLW1509
        os.close(line)
        return number

    def look(self, number: int) -> dict[str, Any]:
        """What a program has printed, and its exit status, None while it runs."""
        status = self._running[number].poll()
        said = {name: Path(f"/tmp/{number}.{name}") for name in ("out", "err")}
        text = {name: path.read_text(errors="replace") if path.exists() else "" for name, path in said.items()}
        return {"status": status, **text}

    def signal(self, number: int, name: str) -> None:
        """Sends it a signal."""
        self._running[number].send_signal(signal.Signals[name])


def main() -> None:
    """Serves the test for good."""
    boot()
    programs = Programs()
    with open(CONTROL, "r+b", buffering=0) as line:
        tty.setraw(line.fileno())
        line.write(b"\nready\n")
        unread = b""
        while True:
            unread += line.read(4096)
            *whole, unread = unread.split(b"\n")
            for question in whole:
                name, *arguments = json.loads(question)
                try:
                    answer = {"answer": getattr(programs, name)(*arguments)}
                except Exception as e:  # noqa: BLE001 (whatever it is, it is the test's to judge)
                    answer = {"error": f"{type(e).__name__}: {e}"}
                line.write(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
