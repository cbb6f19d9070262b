"""What to do where a file cannot be made or opened because of where it is, or of who we are."""

from __future__ import annotations

import errno
import os

from famezd.confinement import denial

_REMEDIES = {
    errno.ENOSPC: "free space or inodes there; `df -h` and `df -i` tell which",
    errno.EROFS: "have that file system mounted writable; in a unit ReadWritePaths= may be what is missing",
}


def remedy(
    error: OSError, otherwise: str, path: str | os.PathLike[str] | None = None, wanted: int = os.R_OK | os.W_OK
) -> str:
    """What to do after `error`: about the file system, about a security module that forbids `path`, or `otherwise`.

    `wanted` is what was asked of the path, as for access(2).
    """
    about = _REMEDIES.get(error.errno or 0, "")
    if not about and path is not None:
        about = denial(error, path, wanted)
    return about or otherwise
