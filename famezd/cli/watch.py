"""`famezctl watch`: what goes on, again and again until Ctrl-C."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from famezd.cli.control import ControlError, get
from famezd.cli.render import show_status, show_traffic
from famezd.cli.terminal import RED, columns, is_screen, paint, resized, say, whole_screen

Look = Callable[[], dict[str, Any]]


def watch(control: Path, fabric: str | None, seconds: float, *, as_json: bool) -> int:
    """Shows all fabrics, or the peers of one, every so many seconds; returns the exit status when Ctrl-C ends it.

    Raises ControlError if famezd cannot be asked the first time; later it says so and goes on, as famezd may be
    restarting.
    """
    look: Look = Traffic(control, fabric).look if fabric else lambda: get(control, "/api/v1/status")
    show: Callable[[dict[str, Any]], str] = show_traffic if fabric else _status
    seen = look()
    try:
        with _output(seconds, as_json=as_json) as output:
            while True:
                output(json.dumps(seen) if as_json else show(seen))
                if _pause(seconds, as_json=as_json):
                    continue
                while (again := _look_again(look, output, as_json=as_json)) is None:
                    time.sleep(seconds)
                seen = again
    except KeyboardInterrupt:
        return 0


def _pause(seconds: float, *, as_json: bool) -> bool:
    """Waits for the next look, or until what was seen is to be shown anew, on a screen of another size."""
    if as_json or not is_screen(sys.stdout):
        time.sleep(seconds)
        return False
    return resized(seconds)


def _status(seen: dict[str, Any]) -> str:
    # A terminal's width may change meanwhile.
    return show_status(seen, columns() if sys.stdout.isatty() else None)


def _look_again(look: Look, output: Callable[[str], None], *, as_json: bool) -> dict[str, Any] | None:
    """What there is to be seen, None if famezd cannot be asked just now."""
    try:
        return look()
    except ControlError as e:
        output(json.dumps({"error": str(e)}) if as_json else paint(str(e), RED))
        return None


@contextmanager
def _output(seconds: float, *, as_json: bool) -> Iterator[Callable[[str], None]]:
    """Where to show it: on the whole screen of a terminal, else one after the other; JSON is always one a line."""
    if as_json:
        yield _line
    elif is_screen(sys.stdout):
        with whole_screen() as screen:
            yield lambda text: screen.draw(f"{_title(seconds)}; Ctrl-C ends it\n\n{text}")
    else:
        yield lambda text: _block(f"{_title(seconds)}\n\n{text}\n")


def _line(text: str) -> None:
    print(text, flush=True)


def _block(text: str) -> None:
    say(text)
    sys.stdout.flush()


def _title(seconds: float) -> str:
    return f"famezctl watch, every {seconds:g} s: {time.strftime('%H:%M:%S')}"


class Traffic:
    """Who rings on a fabric, and how much, since the look before."""

    def __init__(self, control: Path, fabric: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._control = control
        self._resource = f"/api/v1/fabrics/{quote(fabric, safe='')}"
        self._clock = clock
        self._before: tuple[float, Counter[int], Counter[int]] | None = None

    def look(self) -> dict[str, Any]:
        """The peers with their counts, and with rates if this is not the first look; raises ControlError."""
        return self.measured(get(self._control, f"{self._resource}/doorbells"))

    def measured(self, doorbells: dict[str, Any]) -> dict[str, Any]:
        """The same of what famezd answers."""
        now, before = self._clock(), self._before
        rang: Counter[int] = Counter()
        was_rung: Counter[int] = Counter()
        for pair in doorbells["pairs"]:
            rang[pair["src"]] += pair["count"]
        for vector in doorbells["vectors"]:
            was_rung[vector["dst"]] += vector["count"]
        self._before = now, rang, was_rung
        over = None if before is None else now - before[0]

        def a_second(count: int, former: int) -> float | None:
            # A peer that has another one's place counts from nothing.
            return max(0, count - former) / over if over else None

        _, rang_before, was_rung_before = before or self._before
        peers = [
            {
                "id": peer,
                "name": name,
                "rang": rang[peer],
                "was_rung": was_rung[peer],
                "rang_rate": a_second(rang[peer], rang_before[peer]),
                "was_rung_rate": a_second(was_rung[peer], was_rung_before[peer]),
            }
            for peer, name in ((int(text), name) for text, name in doorbells["names"].items())
        ]
        return {"fabric": doorbells["fabric"], "over": over, "peers": peers}
