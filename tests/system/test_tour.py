"""docs/tour.md, played: what it says is typed, and the screens show what it shows."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tests.daemon import BIN, Famezd
from tests.terminal import Terminal

TOUR = Path(__file__).parents[2] / "docs" / "tour.md"
_BLOCK = re.compile(r"^```console (\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TYPED = re.compile(r"(\$|z\d\d>) (.*)")
_PROMPT = re.compile(r"\$|z\d\d>")
# What differs from one walk to the next:
VARIES = {r"\d\d:\d\d:\d\d\.\d{3}": "TIME", r"\d+\.\d{3}(?= ms|/)": "MS", r"taken (at once|after \d+ ms)": "TAKEN"}


class Block(NamedTuple):
    terminal: str
    lines: list[str]


def blocks() -> Iterator[Block]:
    for terminal, text in _BLOCK.findall(TOUR.read_text()):
        yield Block(terminal, text.splitlines())


class Walk:
    """One terminal of the tour, and all that it has shown so far."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._shown = ["$"]

    def play(self, lines: list[str]) -> None:
        """Types what follows a prompt, as soon as that is there; waits until all lines are shown."""
        for line in lines:
            if typed := _TYPED.fullmatch(line):
                self._show(typed[1])
                self._terminal.type(typed[2])
            self._show(line)
        self._terminal.expect_all(self._shown, VARIES)

    def _show(self, line: str) -> None:
        # A prompt is where the next line goes, be it typed or told by others.
        if _PROMPT.fullmatch(self._shown[-1]):
            self._shown.pop()
        self._shown.append(line)
        if _PROMPT.fullmatch(line):
            self._terminal.expect_all(self._shown, VARIES)


def test_the_tour(tmp_path: Path) -> None:
    environ = {"PS1": "$ ", "PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(tmp_path), "XDG_STATE_HOME": ""}
    with Famezd(tmp_path, {"lab": {"personality": "genz"}}), ExitStack() as stack:
        walks: dict[str, Walk] = {}
        for terminal, lines in blocks():
            if terminal not in walks:
                shell = Terminal(tmp_path, ["bash", "--norc", "--noprofile"], environ)
                walks[terminal] = Walk(stack.enter_context(shell))
            walks[terminal].play(lines)
    assert walks.keys() == {"first", "second"}
    assert (tmp_path / ".local/state/famezd/client_history").exists()
