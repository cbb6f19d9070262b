"""What to do where a file cannot be made because of the file system that it would be on, or of the unit that we are in.

Sources for what units do to the file system: systemd.exec(5); for how a mount tells its origin, proc_pid_mountinfo(5).
"""

from __future__ import annotations

import errno
import os
import stat

from famezd.unit import own_unit

_HOMES = ("/home", "/root", "/run/user")
"""What ProtectHome= is about."""
_PRIVATE = "/systemd-private-"
"""What the directories are called that PrivateTmp= puts in the place of /tmp and /var/tmp."""


def remedy(number: int | None, path: str) -> str | None:
    """What to do where `path` cannot be made, by the error's number; None where that is no matter of file systems."""
    folder = os.path.dirname(path)
    if number == errno.ENOSPC:
        return "free space or inodes there; `df -h` and `df -i` tell which"
    if number == errno.EROFS:
        ours = f", or have the unit let us write there: {_drop_in(f'ReadWritePaths={folder}')}" if _is_service() else ""
        return f"have that file system mounted writable{ours}"
    if number == errno.EACCES and (home := _hidden_home(path)):
        return f"the unit hides {home} (ProtectHome=): {_drop_in('ProtectHome=tmpfs', f'BindPaths={folder}')}"
    return None


def invisible(path: str, mounts: str = "/proc/self/mountinfo") -> str | None:
    """Why nobody would find what is made at `path`, and what to do; None if it is found there."""
    path = os.path.abspath(path)
    with open(mounts) as lines:
        fields = [line.split() for line in lines]
    # The last one of those that are mounted on one place is the one that is seen.
    over = [(len(point), root) for _, _, _, root, point, *_ in fields if os.path.commonpath((point, path)) == point]
    if not over or _PRIVATE not in max(reversed(over), key=lambda mount: mount[0])[1]:
        return None
    top = "/var/tmp" if path.startswith("/var/tmp/") else "/tmp"  # noqa: S108 (told, not used)
    why = f"the unit has a {top} of its own (PrivateTmp=), where nobody would find it"
    return f"{why}: choose another path, or {_drop_in('PrivateTmp=no', f'ReadWritePaths={top}')}"


def _is_service() -> bool:
    """Whether we are a service, and not but started by somebody whose session is one."""
    unit = own_unit()
    return unit is not None and not unit[0].startswith("user@")


def _drop_in(*lines: str) -> str:
    name, is_users = own_unit() or ("famezd.service", False)
    return f"`systemctl {'--user ' * is_users}edit {name}`, with [Service] and {' and '.join(lines)}, and restart it"


def _hidden_home(path: str) -> str | None:
    """The directory of homes over `path` that is hidden from us: systemd mounts one over it that nobody may enter."""
    for home in _HOMES:
        if path.startswith(f"{home}/") and stat.S_IMODE(os.stat(home).st_mode) == 0:
            return home
    return None
