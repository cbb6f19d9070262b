"""Personalities that do what they should not; a worker loads them as it does any plug-in."""

from __future__ import annotations

import time

from famezd.switch.personality import Fabric, Messaging, State


class Raising(Messaging):
    """Raises where a message tells it to, and echoes all others."""

    def __init__(self, fabric: Fabric) -> None:
        super().__init__(fabric)
        self.told = ""

    def state(self) -> State:
        if self.told == "state":
            raise ValueError("no state")
        return {"echo": {"last": self.told}}

    def message(self, src: int, text: str) -> None:
        self.told = text
        if text == "message":
            raise ValueError("no message")
        if text == "tick":
            self.due = time.monotonic()
        if text == "due":
            self.due = "soon"  # type: ignore[assignment]
        self.fabric.send(src, text)

    def left(self, peer: int) -> None:
        raise ValueError("nobody leaves me")

    def tick(self, now: float) -> None:
        raise ValueError("no time")


class Unmakable(Messaging):
    """Cannot be made."""

    def __init__(self, fabric: Fabric) -> None:
        super().__init__(fabric)
        raise RuntimeError("out of order")


class Misshapen(Messaging):
    """Says of itself what cannot be."""

    first_id = 0
