"""famezd --fabric: from one fabric's file to the worker that serves it, in the same process."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from famezd.attach import qemu_arguments
from famezd.cli.entry import CONFIG_WRONG
from famezd.config import ConfigError, load_standalone
from famezd.fabric import log
from famezd.interpreter import launch
from famezd.notify import inherited
from famezd.supervisor.faults import FaultTable
from famezd.supervisor.settings import worker_settings
from famezd.supervisor.standalone import journal, recall


def check(path: Path, name: str) -> int:
    """Prints what a machine on the fabric needs, or every mistake in its file; returns the exit status."""
    try:
        fabric = load_standalone(path, name)
    except ConfigError as e:
        print(e, file=sys.stderr)
        return CONFIG_WRONG
    print(f"fabric {name}: no mistakes")
    print(f"  socket   {fabric.socket.path}")
    print(f"  QEMU     {shlex.join(qemu_arguments(fabric))}")
    return os.EX_OK


def become_worker(path: Path, name: str) -> int:
    """Turns this process into the fabric's worker; returns an exit status if there is a mistake in the fabric's file.

    A fabric that is to be gone on with is served as it was in spite of a mistake, which is logged.
    """
    given = inherited()
    try:
        arguments = _arguments(path, name, given)
    except ConfigError as e:
        print(e, file=sys.stderr)
        return CONFIG_WRONG
    for descriptors in given.values():
        for descriptor in descriptors:
            os.set_inheritable(descriptor, True)
    # Another program: a worker has no use for what it took to read the file.
    command, needed = launch("famezd.supervisor.standalone")
    return os.execve(command[0], [*command, *arguments], {**os.environ, **needed})  # noqa: S606


def _arguments(path: Path, name: str, given: Mapping[str, Sequence[int]]) -> list[str]:
    try:
        fabric = load_standalone(path, name)
    except ConfigError as e:
        accepted = recall(given)
        if accepted is None:
            raise
        for problem in e.problems:
            journal().say(log.ERROR, "configuration refused, the one before it is served", problem=str(problem))
        return accepted
    return worker_settings(fabric, FaultTable().fitting(fabric).text).arguments()
