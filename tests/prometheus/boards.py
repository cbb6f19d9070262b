"""The committed dashboards, read as Grafana reads them: their panels, and what these ask Prometheus."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GRAFANA = Path(__file__).parents[2] / "packaging" / "grafana"
FILES = sorted((GRAFANA / "dashboards").glob("*.json"))
BOARDS: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text()) for path in FILES}


@dataclass(frozen=True)
class Asked:
    """One query of one panel."""

    board: str
    panel: str
    ref: str
    expr: str
    instant: bool
    nothing: str
    """What the panel says where there is no data."""

    def with_values(self, **variables: str) -> str:
        """The query as Grafana sends it, with these values of its variables."""
        known = {"__rate_interval": "8s", "__range": "60s", **variables}
        return re.sub(r"\$(\w+)", lambda found: known.get(found[1], found[0]), self.expr)


def panels(board: str) -> list[dict[str, Any]]:
    """A dashboard's panels, without the headings between them."""
    return [panel for panel in BOARDS[board]["panels"] if panel["type"] != "row"]


def asked() -> list[Asked]:
    """All queries of all panels."""
    return [
        Asked(
            board,
            panel["title"],
            target["refId"],
            target["expr"],
            bool(target["instant"]),
            panel["fieldConfig"]["defaults"].get("noValue", ""),
        )
        for board in BOARDS
        for panel in panels(board)
        for target in panel["targets"]
    ]


def query(board: str, panel: str, ref: str = "A") -> Asked:
    """One of them."""
    (found,) = [a for a in asked() if (a.board, a.panel, a.ref) == (board, panel, ref)]
    return found
