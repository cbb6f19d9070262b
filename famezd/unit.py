"""Which unit of systemd's this process is of."""

from __future__ import annotations

import re

_UNIT = re.compile(r"/([^/]+\.service)(?:/|$)")


def unit(cgroups: str) -> tuple[str, bool] | None:
    """The service unit that a process is of, by its /proc/<pid>/cgroup, and whether it is a user's; None if of none.

    The innermost one counts: a user's services are within that of the user's manager.
    """
    for line in cgroups.splitlines():
        # 0::/user.slice/user-1000.slice/user@1000.service/app.slice/famezd.service
        if units := _UNIT.findall(line.rpartition(":")[2]):
            return units[-1], units[-1] != units[0] and units[0].startswith("user@")
    return None


def own_unit() -> tuple[str, bool] | None:
    """The service unit that this process is of, and whether it is a user's; None if of none."""
    with open("/proc/self/cgroup") as cgroups:
        return unit(cgroups.read())
