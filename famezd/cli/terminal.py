"""What is shown on a terminal: colours, columns, and a screen that is drawn again and again.

Whoever makes a text paints it; the paint is taken off where it is printed, unless a terminal is there to show it.
Source for the sequences: ECMA-48, and console_codes(4).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TextIO

BOLD, RED, GREEN, YELLOW = "1", "31", "32", "33"

_PAINT = re.compile("\x1b\\[[0-9;]*m")
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
"""The other screen, no cursor, and lines that are too long are cut."""
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


class Painted(str):
    """A text that is as long as it looks, and knows its colour."""

    __slots__ = ("code",)

    def __new__(cls, text: str, code: str) -> Painted:
        """`code` is one of those above."""
        painted = super().__new__(cls, text)
        painted.code = code
        return painted

    code: str


def paint(text: str, code: str) -> str:
    """The text in a colour."""
    return f"\x1b[{code}m{text}\x1b[0m" if text else text


def is_screen(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether it is a terminal that does as it is told."""
    return environ.get("TERM", "") not in ("", "dumb") and stream.isatty()


def shows_colours(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether to paint: on such a terminal, unless NO_COLOR says not to (see no-color.org)."""
    return not environ.get("NO_COLOR") and is_screen(stream, environ)


def without_paint(text: str) -> str:
    """The text as it is."""
    return _PAINT.sub("", text)


def widest(text: str) -> int:
    """How wide a text's widest line is."""
    return max(map(len, without_paint(text).splitlines()), default=0)


def say(text: str) -> None:
    """Prints a text, painted where colours are shown."""
    print(text if shows_colours(sys.stdout) else without_paint(text))


def columns() -> int:
    """How wide a line may be: $COLUMNS, else the terminal's width, else 80."""
    return shutil.get_terminal_size().columns


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows of texts in columns, those in `right` aligned there; the first row is the heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = [_cell(text, width, right=i in right) for i, (text, width) in enumerate(zip(row, widths, strict=True))]
        return "  ".join(cells).rstrip()

    head, *others = map(line, rows)
    return "\n".join([paint(head, BOLD), *others])


def _cell(text: str, width: int, *, right: bool) -> str:
    aligned = text.rjust(width) if right else text.ljust(width)
    return aligned.replace(str(text), paint(str(text), text.code), 1) if isinstance(text, Painted) else aligned


class Screen:
    """A terminal's whole screen, drawn anew each time."""

    def __init__(self) -> None:
        self.shown = ""
        """What was drawn last."""

    def draw(self, text: str) -> None:
        """Shows the text, as much of it as there is room for."""
        self.shown = text if shows_colours(sys.stdout) else without_paint(text)
        lines, room = self.shown.splitlines(), shutil.get_terminal_size().lines
        if len(lines) > room:
            # What is left out may be what matters most.
            lines[room - 1 :] = [f"... {len(lines) - room + 1} more lines: there is no room for them here"]
        # Drawn over what is there, so that nothing flickers.
        sys.stdout.write(_HOME + "\n".join(line + _REST_OF_LINE for line in lines) + _REST_OF_SCREEN)
        sys.stdout.flush()


@contextmanager
def whole_screen() -> Iterator[Screen]:
    """Takes the terminal's screen over; at the end it is as it was, with what was drawn last below."""
    screen = Screen()
    # Whoever ends us so should find the terminal as it was, too.
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    # It is waited for by `resized`.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})
    sys.stdout.write(_ENTER)
    try:
        yield screen
    finally:
        sys.stdout.write(_LEAVE)
        if screen.shown:
            print(screen.shown)
        signal.signal(signal.SIGTERM, before)


def resized(seconds: float) -> bool:
    """Waits so long; returns at once, and whether it did, when the terminal that `whole_screen` took is resized."""
    return signal.sigtimedwait({signal.SIGWINCH}, seconds) is not None
