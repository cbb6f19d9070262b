"""What `famezctl watch FABRIC` works out, and how terminals are spoken to."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest

from famezd.cli.render import show_traffic
from famezd.cli.terminal import RED, Painted, Screen, paint, shows_colours, table, without_paint
from famezd.cli.watch import Traffic


def seen(rung: int, names: dict[str, str]) -> dict[str, Any]:
    pairs = [{"src": 1, "dst": 2, "count": rung}, {"src": 1, "dst": 3, "count": 1}]
    vectors = [{"dst": 2, "vector": 0, "count": rung}, {"dst": 2, "vector": 1, "count": 0}]
    return {"fabric": "lab", "names": names, "pairs": pairs, "vectors": vectors}


def test_rates_are_from_one_look_to_the_next() -> None:
    times = iter([100.0, 102.0, 104.0])
    traffic = Traffic(Path("control.sock"), "lab", lambda: next(times))
    first = traffic.measured(seen(10, {"1": "web", "2": "2"}))
    assert first["over"] is None
    assert [(p["id"], p["rang"], p["was_rung"], p["rang_rate"]) for p in first["peers"]] == [
        (1, 11, 0, None),
        (2, 0, 10, None),
    ]
    second = traffic.measured(seen(40, {"1": "web", "2": "2"}))
    assert second["over"] == 2.0
    assert [(p["rang_rate"], p["was_rung_rate"]) for p in second["peers"]] == [(15.0, 0.0), (0.0, 15.0)]
    lines = without_paint(show_traffic(second)).splitlines()
    assert lines == [
        "fabric lab: 2 peers; rates over the last 2.0 s",
        "PEER   RANG  RANG/S  WAS RUNG  WAS RUNG/S",
        "1 web    41    15.0         0           0",
        "2         0       0        40        15.0",
    ]
    # Another has the place, and counts from nothing.
    third = traffic.measured(seen(0, {"1": "web"}))
    assert [(p["rang"], p["rang_rate"]) for p in third["peers"]] == [(1, 0.0)]


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environ", "shows"),
    [
        (Tty(), {"TERM": "xterm"}, True),
        (Tty(), {"TERM": "xterm", "NO_COLOR": ""}, True),
        (Tty(), {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (Tty(), {"TERM": "dumb"}, False),
        (Tty(), {}, False),
        (io.StringIO(), {"TERM": "xterm"}, False),
    ],
)
def test_colours_are_for_terminals_that_want_them(stream: io.StringIO, environ: dict[str, str], shows: bool) -> None:
    assert shows_colours(stream, environ) is shows


def test_paint_takes_no_room() -> None:
    drawn = table([("A", "B"), (Painted("x", RED), "y"), ("long", "z")])
    assert paint("x", RED) in drawn
    assert without_paint(drawn).splitlines() == ["A     B", "x     y", "long  z"]


@pytest.mark.parametrize(
    ("room", "shown"), [("5", "0\n1\n2\n3\n4"), ("4", "0\n1\n2\n... 2 more lines: there is no room for them here")]
)
def test_a_screen_says_what_it_has_no_room_for(
    room: str, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LINES", room)
    monkeypatch.setenv("COLUMNS", "80")
    screen = Screen()
    screen.draw("0\n1\n2\n3\n4")
    assert re.sub("\x1b\\[[0-9]*[HJK]", "", capsys.readouterr().out) == shown
    assert screen.shown == "0\n1\n2\n3\n4", "at the end there is room for all"
