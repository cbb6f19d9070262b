"""A control group of its own for each container.

A container's systemd takes the group that it was started in for the root of all groups, and makes and removes what is
below it. Two that are started in the same group at the same time would remove each other's.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.systemd.trees import as_root, run

_MOUNTS = Path("/sys/fs/cgroup")
_ENTER = 'while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs" || exit; shift; done; shift; exec "$@"'


@contextmanager
def own_group() -> Iterator[list[str]]:
    """Words to put before a command, as root, that has a group of its own until the end of `with`."""
    groups = [str(group / f"famezd-test-{os.getpid()}-{threading.get_native_id()}") for group in _groups()]
    run(*as_root(), "mkdir", *groups)
    try:
        yield ["sh", "-c", _ENTER, "sh", *groups, "--"]
    finally:
        # All that was in them has ended; what cannot be removed is empty, and in nobody's way.
        remove = ["find", *groups, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]
        subprocess.run([*as_root(), *remove], stderr=subprocess.DEVNULL, check=False)


def _groups() -> list[Path]:
    """The groups that this process is in, of the hierarchies by which systemd keeps processes apart."""
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, kind, path = line.split(":", 2)
        places = {"": (_MOUNTS / "unified", _MOUNTS), "name=systemd": (_MOUNTS / "systemd",)}.get(kind, ())
        for place in places:
            if (place / "cgroup.procs").exists():
                found.append(place / path.lstrip("/"))
                break
    return found
