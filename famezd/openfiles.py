"""The limit of open files: how many descriptors a process may have, and what a user's processes may have in flight."""

from __future__ import annotations

import re
import resource
from pathlib import Path

_CAP_SYS_ADMIN, _CAP_SYS_RESOURCE = 21, 24
"""Bits of capabilities; see capability.h of Linux."""


def hard_limit() -> int | None:
    """This process's hard limit, which those that it starts have, too; None for none."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return None if hard == resource.RLIM_INFINITY else hard


def in_flight_limit() -> int | None:
    """How many descriptors all of our user's processes together may have in flight, None for any number.

    The kernel compares them with the limit of open files, unless the sender is privileged: see ETOOMANYREFS in unix(7).
    """
    held = re.search(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    exempt = 1 << _CAP_SYS_ADMIN | 1 << _CAP_SYS_RESOURCE
    return None if held is not None and int(held[1], 16) & exempt else hard_limit()
