"""What to do where a file cannot be made or opened because of where it is, who we are, or which unit's.

Sources for what units do to the file system: systemd.exec(5); for how a mount tells its origin, proc_pid_mountinfo(5).
"""

from __future__ import annotations

import errno
import os
import stat

from famezd.confinement import denial
from famezd.unit import own_unit

_HOMES = ("/home", "/root", "/run/user")
"""What ProtectHome= is about."""
_PRIVATE = "/systemd-private-"
"""What the directories are called that PrivateTmp= puts in the place of /tmp and /var/tmp."""


def remedy(
    error: OSError, otherwise: str, path: str | os.PathLike[str] | None = None, wanted: int = os.R_OK | os.W_OK
) -> str:
    """What to do after `error`: about the file system, about what forbids us `path`, or `otherwise`.

    `wanted` is what was asked of the path, as for access(2).
    """
    if error.errno == errno.ENOSPC:
        return "free space or inodes there; `df -h` and `df -i` tell which"
    if error.errno == errno.EROFS:
        return f"have that file system mounted writable{_or_drop_in(path)}"
    if path is None:
        return otherwise
    return _hidden(error, os.fspath(path)) or denial(error, path, wanted) or otherwise


def invisible(path: str, mounts: str = "/proc/self/mountinfo") -> str | None:
    """Why nobody would find what is made at `path`, and what to do; None if it is found there."""
    path = os.path.abspath(path)
    # In the names of mounts there may be any bytes.
    with open(mounts, errors="surrogateescape") as lines:
        fields = [line.split() for line in lines]
    # The last one of those that are mounted on one place is the one that is seen.
    over = [(len(point), root) for _, _, _, root, point, *_ in fields if os.path.commonpath((point, path)) == point]
    if not over or _PRIVATE not in max(reversed(over), key=lambda mount: mount[0])[1]:
        return None
    top = "/var/tmp" if path.startswith("/var/tmp/") else "/tmp"  # noqa: S108 (told, not used)
    why = f"the unit has a {top} of its own (PrivateTmp=), where nobody would find it"
    return f"{why}: choose another path, or {_drop_in('PrivateTmp=no', f'ReadWritePaths={top}')}"


def _or_drop_in(path: str | os.PathLike[str] | None) -> str:
    unit = own_unit()
    if path is None or unit is None or unit[0].startswith("user@"):
        # Started by somebody whose session is a unit, at most.
        return ""
    return f", or have the unit let us write there: {_drop_in(f'ReadWritePaths={os.path.dirname(path)}')}"


def _drop_in(*lines: str) -> str:
    name, is_users = own_unit() or ("famezd.service", False)
    return f"`systemctl {'--user ' * is_users}edit {name}`, with [Service] and {' and '.join(lines)}, and restart it"


def _hidden(error: OSError, path: str) -> str:
    """What to do where the unit hides the homes, over which systemd mounts what nobody may enter; "" elsewhere."""
    for home in _HOMES:
        if error.errno == errno.EACCES and path.startswith(f"{home}/") and stat.S_IMODE(os.stat(home).st_mode) == 0:
            lines = "ProtectHome=tmpfs", f"BindPaths={os.path.dirname(path)}"
            return f"the unit hides {home} (ProtectHome=): {_drop_in(*lines)}"
    return ""
