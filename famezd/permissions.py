"""Owner, group and mode of a file that others open: given without a moment in which it is open to more than it should.

Source for the order of the calls: chown(2) and chmod(2) are two calls, and whoever opens a file between them keeps it.
"""

from __future__ import annotations

import os
import stat

OURS = 0o600
"""With what mode to make a file: nobody else may open it until its owner and group are right."""


def as_made(path: str, uid: int, gid: int) -> tuple[int, int]:
    """Owner and group that a file at `path` has if we make it and give it these, of which -1 leaves them as made."""
    folder = os.stat(os.path.dirname(path))
    inherited = folder.st_gid if folder.st_mode & stat.S_ISGID else os.getegid()
    return os.geteuid() if uid < 0 else uid, inherited if gid < 0 else gid


def give(descriptor: int, uid: int, gid: int, mode: int) -> None:
    """Gives an open file (O_PATH will do) its owner, group and mode; -1 leaves owner or group as it is.

    On the way it is open to nobody who was not let in before, and to nobody who will not be: its mode is first what the
    old and the new have in common. Raises OSError where that is not ours to do; then it is open to fewer than before.
    """
    found = os.fstat(descriptor)
    old = stat.S_IMODE(found.st_mode)
    # By this name also where the descriptor is but a place in the file system, which fchmod does not take.
    path = f"/proc/self/fd/{descriptor}"
    if uid not in (-1, found.st_uid) or gid not in (-1, found.st_gid):
        if old & mode != old:
            os.chmod(path, old & mode)
        os.chown(path, uid, gid)
        old &= mode
    if old != mode:
        os.chmod(path, mode)
