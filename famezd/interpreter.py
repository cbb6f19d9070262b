"""How Python is started for a worker: with what this process knows already, instead of looking it up anew.

`site` looks through all that is installed for what it finds modules by. What it imports for that, and what it makes of
an editable installation, each worker would keep: up to a tenth of its memory, and some milliseconds of its start.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import sdnotify

import famezd


def command(module: str) -> list[str]:
    """The command that runs a module of ours, with `environment` in its environment."""
    # A personality that is somebody else's does all the same what site does, see `famezd.fabric.worker`.
    return [sys.executable, "-S", "-P", "-m", module]


def environment() -> dict[str, str]:
    """Where it finds all that a worker imports; Python's own modules come first.

    Where else we were told to look for modules, it does, too: a personality may be there.
    """
    standard = Path(os.__file__).parent
    others = (Path(module.__file__ or "").parents[1] for module in (famezd, sdnotify))
    needed = map(str, (standard, standard / "lib-dynload", *others))
    told = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys([*needed, *told]))}
