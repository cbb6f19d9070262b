"""A terminal with somebody at its keys: tmux, which also says what the screen shows."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.needs import need

PATIENCE = 60.0
"""Seconds until something that the screen should show is taken for missing."""
LOOK = 0.02
WIDTH, HEIGHT = 140, 50


class Terminal:
    """One terminal, in which a program runs until the end of the `with` block."""

    def __init__(
        self, directory: Path, command: Sequence[str | Path], environ: Mapping[str, str], patience: float = PATIENCE
    ) -> None:
        """The program starts in `directory`, with `environ` added to its environment."""
        self._patience = patience
        self._tmux = [
            str(need("tmux", "tmux")),
            "-S",
            str(directory / f"tmux-{time.monotonic_ns()}"),
            "-f",
            "/dev/null",
        ]
        self._directory = directory
        # Who runs the tests may have a width of its own to hand on.
        own = ["env", "-u", "COLUMNS", "-u", "LINES", *(f"{key}={value}" for key, value in environ.items())]
        self._program = shlex.join([*own, *map(str, command)])

    def __enter__(self) -> Self:
        size = ["-x", str(WIDTH), "-y", str(HEIGHT)]
        self._run("new-session", "-d", *size, "-c", str(self._directory), self._program)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Only the server on our own socket; the program gets a hang-up, as from a terminal that is closed.
        self._run("kill-server")

    def type(self, text: str) -> None:
        """Types a line."""
        self.keys(text)
        self.press("Enter")

    def keys(self, text: str) -> None:
        """Types, and leaves the line as it is."""
        self._run("send-keys", "-l", "--", text)

    def press(self, *keys: str) -> None:
        """Presses keys by tmux's names, such as C-c or Tab."""
        self._run("send-keys", *keys)

    def resize(self, width: int) -> None:
        """Makes it so many characters wide."""
        self._run("resize-window", "-x", str(width), "-y", str(HEIGHT))

    def screen(self) -> list[str]:
        """The lines that it shows and has shown, those below the last one left out."""
        return self._run("capture-pane", "-p", "-S", "-").rstrip().splitlines()

    def expect(self, *lines: str) -> None:
        """Waits until these are its last lines."""
        self._await(lambda seen: seen[-len(lines) :] == list(lines), lines)

    def expect_all(self, lines: Sequence[str], same: Mapping[str, str]) -> None:
        """Waits until it has shown these lines and nothing else, where what matches a pattern in `same` is the same."""

        def normal(seen: Sequence[str]) -> list[str]:
            text = "\n".join(seen)
            for pattern, instead in same.items():
                text = re.sub(pattern, instead, text)
            return text.splitlines()

        self._await(lambda seen: normal(seen) == normal(lines), lines)

    def _await(self, true: Callable[[list[str]], bool], lines: Sequence[str]) -> None:
        deadline = time.monotonic() + self._patience
        while not true(seen := self.screen()):
            shown, expected = "\n".join(seen), "\n".join(lines)
            assert time.monotonic() < deadline, f"the screen shows:\n{shown}\n--- instead of:\n{expected}"
            time.sleep(LOOK)

    def _run(self, *arguments: str) -> str:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("TMUX")}
        done = subprocess.run(
            [*self._tmux, *arguments], env=environ | {"LC_ALL": "C.UTF-8"}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"tmux {arguments[0]}: {done.stderr}"
        return done.stdout
