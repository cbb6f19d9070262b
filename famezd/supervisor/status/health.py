"""Whether every fabric serves: the one judgement that `/readyz`, `famezctl status` and systemd's status line tell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from famezd.config import Fabric
from famezd.supervisor.worker import State


class Served(Protocol):
    """A fabric's worker, or a view of it."""

    @property
    def fabric(self) -> Fabric:
        """Which it is."""

    @property
    def state(self) -> State:
        """What its worker is doing."""

    @property
    def failure(self) -> str:
        """Why it failed, if it has."""


_WHY = {
    State.STARTING: "starting: its worker is not ready yet",
    State.WAITING: "waiting: its worker died, and is started again",
    State.STOPPING: "stopping",
    State.STOPPED: "stopped",
}


def unready(fabrics: Iterable[Served]) -> dict[str, str]:
    """Those that do not serve, by name: their state, and after a colon why; nothing if all do."""
    return {served.fabric.name: _why(served) for served in fabrics if served.state is not State.SERVING}


def _why(served: Served) -> str:
    return f"failed: {served.failure}" if served.state is State.FAILED else _WHY[served.state]
