"""The configuration that was accepted last: what a famezd goes on with if the one in the files is wrong."""

from __future__ import annotations

from pathlib import Path

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from famezd import kinds
from famezd.config import Config, ConfigError, Fabric, load
from famezd.openfiles import hard_limit
from famezd.supervisor.faults import FaultTable
from famezd.supervisor.store import Store


class Accepted(BaseModel):
    """A configuration, and how far it is in force."""

    model_config = ConfigDict(frozen=True)

    config: Config
    served: dict[str, Fabric] = {}
    """Fabrics that are served as they were before, until somebody restarts them: what changed would end them."""

    faults: dict[str, FaultTable] = {}
    """The fault rules that are in force on fabrics that have, or had, any."""

    accounts: dict[str, int] = {}
    """Numbers of the users and groups that it names, as `famezd.kinds.ACCOUNTS` has them: they may go."""

    def fabric(self, name: str) -> Fabric:
        """A fabric as it is to be served."""
        return self.served.get(name, self.config.fabrics[name])


class _Accounts(BaseModel):
    """The part of it that has to be known before the rest can be checked."""

    accounts: dict[str, int] = {}


def keep(accepted: Accepted, store: Store) -> None:
    """Hands it to the next famezd."""
    store.keep_config(accepted.model_copy(update={"accounts": kinds.ACCOUNTS}).model_dump_json())


def recall(store: Store) -> Accepted | None:
    """What the famezd before this one kept, None if it kept nothing that can be used."""
    text = store.config
    if text is None:
        return None
    try:
        with kinds.recalled(_Accounts.model_validate_json(text).accounts):
            return Accepted.model_validate_json(text).model_copy(update={"accounts": {}})
    except ValidationError as e:
        structlog.get_logger().warning("the configuration that was accepted last cannot be used any more", error=str(e))
        return None


def at_start(path: Path, store: Store) -> tuple[Accepted, ConfigError | None]:
    """What to serve, and what is wrong with the files if it is not what they say.

    Raises ConfigError if they are wrong, and nothing was accepted before.
    """
    former = recall(store)
    try:
        config = load(path, limit=hard_limit())
    except ConfigError as e:
        if former is None:
            raise
        return former, e
    if former is None:
        return Accepted(config=config), None
    # Somebody was told that these wait to be restarted, and then famezd died: they wait still.
    waiting = {
        name: fabric
        for name, fabric in former.served.items()
        if name in config.fabrics and config.fabrics[name] == former.config.fabrics.get(name)
    }
    faults = {name: table for name, table in former.faults.items() if name in config.fabrics}
    return Accepted(config=config, served=waiting, faults=faults), None
