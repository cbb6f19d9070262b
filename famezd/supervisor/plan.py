"""What a reload does to each fabric: decided in one place, for the reload itself and for who asks before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from famezd.config import FABRICS, Config, Fabric, Problem
from famezd.supervisor.faults import FaultTable
from famezd.supervisor.settings import misfits
from famezd.supervisor.worker import State, Worker

ADDED, REMOVED, CHANGED, WAITS, RETRIED = "added", "removed", "changed", "waits", "retried"
"""What happens to a fabric: changed is at once, and peers notice nothing; waits is until somebody restarts it."""

NAMED = 10
"""Peers whom a message lists."""

Settings = dict[str, Any]
"""Values by dotted keys."""


@dataclass(frozen=True)
class Present:
    """A peer that is on a fabric."""

    id: int
    name: str

    def __str__(self) -> str:
        return str(self.id) if self.name == str(self.id) else f"{self.id} {self.name}"


@dataclass(frozen=True)
class Setting:
    """A setting that has another value; None also where it is not there."""

    old: object
    new: object


@dataclass(frozen=True)
class Step:
    """What a reload would do to one fabric."""

    does: str
    """One of ADDED, REMOVED, CHANGED, WAITS, RETRIED."""
    settings: dict[str, Setting] = field(default_factory=dict)
    """What is other than what is in force, by dotted keys."""
    disconnects: tuple[str, ...] = ()
    """With WAITS: which of it would disconnect the peers, a phrase each."""
    peers: tuple[Present, ...] = ()
    """With REMOVED and WAITS: who is on the fabric."""


@dataclass(frozen=True)
class Difference:
    """What a reload would do."""

    main: dict[str, Setting]
    """What is other in famezd.yaml."""
    fabrics: dict[str, Step]
    """By name; of those that stay as they are there is nothing."""


def present(worker: Worker) -> tuple[Present, ...]:
    """Who is on a fabric, served or not."""
    occupants = [] if worker.page is None else worker.page.occupants()
    worker.names.look(occupants, worker.nodename, worker.switch)
    return tuple(Present(occupant.peer, worker.names.of(occupant.peer).name) for occupant in occupants)


def disconnecting(worker: Worker, fabric: Fabric) -> list[str]:
    """What of a fabric's new settings would disconnect its peers, a phrase each; nothing where nobody is on it."""
    return misfits(fabric, worker.fabric, worker.settings) if worker.has_peers else []


def is_as_it_was(worker: Worker, fabric: Fabric) -> bool:
    """Whether there is nothing to be done so that the fabric is served as `fabric` defines it."""
    same = fabric == worker.fabric and worker.faults.fitting(fabric) == worker.faults
    return same and worker.state is not State.FAILED


def removals(path: Path, workers: Mapping[str, Worker], config: Config) -> Iterator[Problem]:
    """Yield a problem for each fabric that would be removed while peers are on it; `path` is that of famezd.yaml."""
    for name in sorted(workers.keys() - config.fabrics.keys()):
        if peers := present(workers[name]):
            why = (
                f"has been removed, and there are peers on fabric {name}: {listed(peers)}; stop them or put the file"
                " back, or have them disconnected by `famezctl reload --force`"
            )
            yield Problem(path.parent / FABRICS / f"{name}.yaml", 1, 1, "", why)


def listed(peers: tuple[Present, ...]) -> str:
    """The peers as a message has them, the first ones if there are many."""
    more = f" and {len(peers) - NAMED} more" if len(peers) > NAMED else ""
    return ", ".join(map(str, peers[:NAMED])) + more


def difference(former: Config, workers: Mapping[str, Worker], config: Config) -> Difference:
    """What a reload of `config` would do where `former` and these workers are in force."""
    names = sorted(workers.keys() | config.fabrics.keys())
    steps = {name: _step(workers.get(name), config.fabrics.get(name)) for name in names}
    main = _changes(_flat(former, {"fabrics"}), _flat(config, {"fabrics"}))
    return Difference(main, {name: step for name, step in steps.items() if step is not None})


def _step(worker: Worker | None, fabric: Fabric | None) -> Step | None:
    """What happens to a fabric, None if nothing does."""
    if worker is None:
        return Step(ADDED)
    if fabric is None:
        return Step(REMOVED, peers=present(worker))
    if is_as_it_was(worker, fabric):
        return None
    changes = _changes(_settings(worker.fabric, worker.faults), _settings(fabric, worker.faults.fitting(fabric)))
    if why := disconnecting(worker, fabric):
        return Step(WAITS, changes, tuple(why), present(worker))
    return Step(CHANGED if changes else RETRIED, changes)


def _settings(fabric: Fabric, faults: FaultTable) -> Settings:
    """A fabric's settings, with the rules of its file that are in force."""
    rules = [rule.settings.model_dump(mode="json", exclude_defaults=True) for rule in faults.rules if rule.configured]
    return _flat(fabric, {"name"}) | {"faults": rules}


def _flat(model: BaseModel, exclude: set[str]) -> Settings:
    return dict(_leaves(model.model_dump(mode="json", exclude=exclude), ""))


def _leaves(values: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{key}.")
        else:
            # As a file has it.
            yield f"{above}{key}", f"{value:04o}" if key == "mode" else value


def _changes(old: Settings, new: Settings) -> dict[str, Setting]:
    keys = [*old, *(key for key in new if key not in old)]
    return {key: Setting(old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}
