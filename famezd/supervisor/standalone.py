"""`python -m famezd.supervisor.standalone NAME key=value ...`: a worker that has no supervisor, but systemd itself.

What a supervisor does for its workers systemd does here, by famez-fabric@.service. Two things remain: what was accepted
last is kept for the next start, as `settings.<n>`, and at the end the fabric's files are removed, unless it restarts.
"""

from __future__ import annotations

import contextlib
import os
import re
import site
import sys
from collections.abc import Mapping, Sequence

from famezd.ark import NAME as ARK
from famezd.fabric import log
from famezd.fabric.handed import START_FAILED
from famezd.fabric.worker import open_worker
from famezd.notify import Manager, inherited

_SETTINGS = re.compile(r"settings\.(\d+)")


def recall(given: Mapping[str, Sequence[int]]) -> list[str] | None:
    """The arguments of the worker that goes on from `given`; None if there is no fabric to go on with."""
    newest = _newest(given)
    if newest is None or not any(map(ARK.fullmatch, given)):
        return None
    descriptor = given[f"settings.{newest}"][0]
    return os.fsdecode(os.pread(descriptor, os.fstat(descriptor).st_size, 0)).split("\0")


def keep(arguments: Sequence[str], given: Mapping[str, Sequence[int]], manager: Manager) -> None:
    """Keeps a worker's arguments for the next start, in place of those in `given`; raises OSError."""
    newest = _newest(given)
    descriptor = os.memfd_create("famezd-settings", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, os.fsencode("\0".join(arguments)))
        # Under a name of its own, so that at no time there is none.
        manager.store(f"settings.{0 if newest is None else newest + 1}", [descriptor])
    finally:
        os.close(descriptor)
    for name in filter(_SETTINGS.fullmatch, given):
        manager.forget(name)


def _newest(given: Mapping[str, Sequence[int]]) -> int | None:
    return max((int(found[1]) for found in map(_SETTINGS.fullmatch, given) if found), default=None)


def journal() -> log.Log:
    """Where it logs: its lines are read by people, in systemd's journal."""
    return log.Log(divider=" ")


def main() -> int:
    """Runs the worker that the arguments name; returns its exit status."""
    logger, arguments = journal(), sys.argv[1:]
    given = inherited()
    worker = open_worker(arguments, logger)
    if worker is None:
        return START_FAILED
    try:
        keep(arguments, given, Manager())
    except OSError as e:
        logger.say(log.ERROR, f"systemd does not keep the accepted configuration: {e.strerror}")
    with contextlib.suppress(KeyboardInterrupt):
        worker.run()
    if not _comes_back():
        worker.discard()
    return os.EX_OK


def _comes_back() -> bool:
    # What this imports a worker does without as long as it serves; nor does it know where that is installed.
    if sys.flags.no_site:
        site.main()
    import asyncio  # noqa: PLC0415

    from famezd.supervisor.job import is_restart  # noqa: PLC0415

    return asyncio.run(is_restart())


if __name__ == "__main__":
    sys.exit(main())
