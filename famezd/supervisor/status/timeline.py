"""What has happened to fabrics lately: joins, leaves, refusals, resumes, faults, reloads; for who watches the page."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

KEPT = 200
"""Happenings that are kept; of what is older the log knows."""
LONGEST = 300
"""Characters of a text."""

Happening = dict[str, Any]
"""`number` (counted from 1), `at` (seconds of the real-time clock), `fabric` ("" for all), `kind`, `text`, `peer`."""

_KINDS = {
    "peer joined": "join",
    "peer left": "leave",
    "peer refused": "refusal",
    "fabric resumed": "resume",
    "worker died": "death",
    "worker succeeded": "succession",
    "fault rule": "fault",
    "configuration reloaded": "reload",
}
"""By what a line of the log begins with. Of the other lines those that warn are warnings."""


_ELSEWHERE = {"peer", "name", "pid", "uid", "peers"}
"""Fields that are shown beside the text, or with the peer."""


class Timeline:
    """The last happenings of all fabrics."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.number = 0
        """Of the last."""
        self._clock = clock
        self._kept: deque[Happening] = deque(maxlen=KEPT)

    def hear(self, fabric: str, level: str, event: str, fields: Mapping[str, str]) -> None:
        """Takes what is logged of a fabric, if it is worth to be told."""
        kind = next((kind for begins, kind in _KINDS.items() if event.startswith(begins)), "")
        kind = kind or ("warning" if level in ("warning", "error") else "")
        if not kind:
            return
        self.number += 1
        told = {key: value for key, value in fields.items() if key not in _ELSEWHERE}
        text = " ".join([event, *(f"{key}={value}" for key, value in told.items())])
        happening = {"number": self.number, "at": self._clock(), "fabric": fabric, "kind": kind, "text": text[:LONGEST]}
        if "peer" in fields:
            happening |= {"peer": fields["peer"][:LONGEST], "name": fields.get("name", "")[:LONGEST]}
        self._kept.append(happening)

    def since(self, number: int) -> list[Happening]:
        """Those after this number, as far as they are kept."""
        return [happening for happening in self._kept if happening["number"] > number]
