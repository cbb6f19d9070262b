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


def launch(module: str) -> tuple[list[str], dict[str, str]]:
    """The command that runs a module of ours, and what it has to find in its environment.

    Python's own modules come first, then where ours are and what a worker imports besides, then where else this process
    was told to look for modules: a personality may be there. One that is not has done what `site` does after all, see
    `famezd.fabric.worker.load_personality`.
    """
    standard = Path(os.__file__).parent
    others = (Path(imported.__file__ or "").parents[1] for imported in (famezd, sdnotify))
    needed = list(map(str, (standard, standard / "lib-dynload", *others)))
    if any(os.pathsep in path for path in needed):
        # There is no way to say that.
        return [sys.executable, "-P", "-m", module], {}
    told = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    path = os.pathsep.join(dict.fromkeys([*needed, *told]))
    return [sys.executable, "-S", "-P", "-m", module], {"PYTHONPATH": path}
