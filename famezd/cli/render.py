"""What famezd answers, as text for people; see docs/famezctl.md for what it answers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any

from famezd.cli.matrix import name_of
from famezd.cli.terminal import BOLD, GREEN, RED, YELLOW, Painted, paint, table, widest

_HEALTH = {"ok": GREEN, "warning": YELLOW, "down": RED}
_STEPS = {
    "added": ("added", GREEN),
    "removed": ("removed", RED),
    "changed": ("changed in place, its peers notice nothing", GREEN),
    "waits": ("waits", YELLOW),
    "retried": ("tried again", YELLOW),
}
_STATUS = (
    ("FABRIC", "name"),
    ("STATE", "state"),
    ("PERSONALITY", "personality"),
    ("DOORBELLS", "doorbells"),
    ("PORTS", "ports"),
    ("PEERS", "peers"),
    ("VECTORS", "vectors"),
    ("RUNG", "rung"),
    ("RUNG/S", "rate"),
    ("RESTARTS", "restarts"),
    ("HEALTH", "health"),
    ("SOCKET", "socket"),
)
_LESS_NEEDED = ("socket", "vectors", "ports", "doorbells", "personality")
"""Columns of the status that are left out where there is no room, the first first."""


def show_status(answer: dict[str, Any], width: int | None = None) -> str:
    """All fabrics, one line each, and then what there is to say of them; `width` is how wide the lines may be."""
    fabrics = [
        fabric
        | {
            "peers": f"{fabric['peers']}/{fabric['peers_limit']}",
            "rate": "-" if fabric["rates"] is None else rate(fabric["rates"]["doorbells"]),
            "health": Painted(fabric["health"], _HEALTH[fabric["health"]]),
        }
        for fabric in answer["fabrics"]
    ]
    notes = [paint(f"fabric {f['name']} is not served: {f['failure']}", RED) for f in fabrics if f["failure"]]
    notes += [_waits(f["name"], "; ".join(f["waiting"])) for f in fabrics if f["waiting"]]
    notes += [f"fabric {f['name']}: {remark}" for f in fabrics for remark in f["remarks"]]
    notes += [paint(f"configuration refused: {why}", RED) for why in answer["configuration"]["problems"]]
    notes += [paint(answer["http"]["remark"], YELLOW)] if answer["http"]["remark"] else []
    over = [f["rates"]["over"] for f in fabrics if f["rates"] is not None]
    notes += [f"RUNG/S: doorbells a second, over the last {max(over):.0f} s"] if over else []
    drawn = _status_table(fabrics, _STATUS)
    for n in range(1, len(_LESS_NEEDED) + 1):
        if width is None or widest(drawn) <= width:
            break
        drawn = _status_table(fabrics, [column for column in _STATUS if column[1] not in _LESS_NEEDED[:n]])
    return "\n".join([drawn, *notes])


def _status_table(fabrics: Sequence[dict[str, Any]], columns: Sequence[tuple[str, str]]) -> str:
    rows = [[_text(fabric[key]) for _, key in columns] for fabric in fabrics]
    right = [i for i, (_, key) in enumerate(columns) if key in ("rung", "rate", "restarts")]
    return table([[head for head, _ in columns], *rows], right)


def rate(a_second: float) -> str:
    """A rate, with a fraction where that matters."""
    return f"{a_second:.1f}" if 0 < a_second < 100 else f"{a_second:.0f}"


def _text(value: Any) -> str:  # noqa: ANN401
    return value if isinstance(value, str) else str(value)


def _waits(fabric: str, why: str) -> str:
    return f"fabric {fabric} waits for `famezctl restart {fabric}`, which disconnects its peers: {why}"


def show_reload(answer: dict[str, Any]) -> str:
    """What a reload did."""
    lines = [f"{done}: {', '.join(answer[done])}" for done in ("added", "removed", "changed") if answer[done]]
    lines += [f"fabric {name} had {n} peers, who were disconnected" for name, n in answer["disconnected"].items()]
    lines += [_waits(name, why) for name, why in answer["waiting"].items()]
    lines += [paint(f"fabric {name} failed: {why}", RED) for name, why in answer["failed"].items()]
    return "\n".join(lines) or "nothing has changed"


def show_diff(answer: dict[str, Any]) -> str:
    """What a reload would do."""
    lines = [paint("famezd.yaml: changed", GREEN), *_settings(answer["main"])] if answer["main"] else []
    for name, step in answer["fabrics"].items():
        text, colour = _STEPS[step["does"]]
        lines += [paint(f"fabric {name}: {text}{_consequence(name, step)}", colour), *_settings(step["settings"])]
    return "\n".join(lines) or "a reload would change nothing"


def _consequence(name: str, step: dict[str, Any]) -> str:
    who = ", ".join(name_of(peer["id"], peer["name"]) for peer in step["peers"])
    if step["does"] == "waits":
        why = "; ".join(step["disconnects"])
        return f" for `famezctl restart {name}`, which disconnects peers {who}: {why}"
    if who:
        return f", and refused as long as there are peers: {who}; `famezctl reload --force` disconnects them"
    return ""


def _settings(changes: dict[str, Any]) -> Iterable[str]:
    width = max(map(len, changes), default=0)
    for key, change in changes.items():
        yield f"  {key.ljust(width)}  {_written(change['old'])} -> {_written(change['new'])}"


def _written(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def show_check(answer: dict[str, Any]) -> str:
    """What is right with the files of settings; what is wrong is no answer but an error."""
    fabrics = answer["fabrics"]
    return f"{answer['file']}: {len(fabrics)} fabrics, no mistakes" + (f": {', '.join(fabrics)}" if fabrics else "")


def show_restart(answer: dict[str, Any]) -> str:
    """How a fabric was restarted."""
    took = f"restarted; nobody served for {answer['pause'] * 1e3:.1f} ms"
    if answer["why"]:
        return f"{took}; {answer['disconnected']} peers were disconnected: {answer['why']}"
    return took


def show_kick(answer: dict[str, Any]) -> str:
    """Who was disconnected."""
    return f"peer {name_of(answer['kicked'], answer['name'])} was disconnected"


def show_faults(answer: dict[str, Any]) -> str:
    """Fault rules, and what they did."""
    rows = [
        [str(f["id"]), f["rule"], "file" if f["configured"] else "famezctl", str(f["seen"]), str(f["struck"])]
        for f in answer["faults"]
    ]
    return table([("ID", "RULE", "FROM", "SEEN", "STRUCK"), *rows])


def show_cleared(answer: dict[str, Any]) -> str:
    """Which fault rules are gone."""
    return "cleared: " + (", ".join(map(str, answer["cleared"])) or "none")


def show_peers(answer: dict[str, Any]) -> str:
    """Who is on a fabric."""
    now = time.time()
    keys = ("id", "name", "kind", "program", "pid", "uid", "since")
    peers = [p | {"program": p["program"] or "-", "since": duration(now - p["joined"])} for p in answer["peers"]]
    if answer["switch"] is not None:
        peers.append(answer["switch"] | {"program": "-", "since": "-"})
    return table([[key.upper() for key in keys], *([str(peer[key]) for key in keys] for peer in peers)])


def show_traffic(answer: dict[str, Any]) -> str:
    """What the peers of a fabric do, as `famezd.cli.watch` works it out."""
    rows = [
        [
            name_of(peer["id"], peer["name"]),
            str(peer["rang"]),
            "-" if peer["rang_rate"] is None else rate(peer["rang_rate"]),
            str(peer["was_rung"]),
            "-" if peer["was_rung_rate"] is None else rate(peer["was_rung_rate"]),
        ]
        for peer in answer["peers"]
    ]
    head = ("PEER", "RANG", "RANG/S", "WAS RUNG", "WAS RUNG/S")
    over = "" if answer["over"] is None else f"; rates over the last {answer['over']:.1f} s"
    title = paint(f"fabric {answer['fabric']}: {len(rows)} peers{over}", BOLD)
    return title + "\n" + table([head, *rows], range(1, len(head)))


def duration(seconds: float) -> str:
    """A time, in its largest unit."""
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    for n, unit in ((days, "d"), (hours, "h"), (minutes, "min")):
        if n >= 1:
            return f"{int(n)} {unit}"
    return f"{max(0, int(seconds))} s"
