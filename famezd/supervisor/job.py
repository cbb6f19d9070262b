"""Whether famezd is to come back: SIGTERM does not say so, but systemd's job does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from famezd.unit import own_unit

BOOTED = Path("/run/systemd/system")
"""Is there where systemd is the init system; see sd_booted(3)."""
_ANSWERS_WITHIN = 5.0


def comes_back(jobs: str, unit: str) -> bool:
    """Whether the table of `systemctl list-jobs` (job, unit, type, state) has a job that will start the unit.

    That is a restart, or a start that waits for the stop to be over.
    """
    rows = [line.split() for line in jobs.splitlines()]
    return any(row[1] == unit and row[2] in ("restart", "start") for row in rows if len(row) >= 4)


async def is_restart() -> bool:
    """Whether systemd stops this service only to start it again.

    Where that cannot be asked it is taken for one: then nothing is lost, and systemd itself lets go of what it keeps.
    """
    ours = own_unit()
    if ours is None or not BOOTED.exists():
        return False
    name, is_users = ours
    try:
        asked = await asyncio.create_subprocess_exec(
            "systemctl",
            "--user" if is_users else "--system",
            "list-jobs",
            "--no-legend",
            "--plain",
            "--no-pager",
            name,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        jobs, complaint = await asyncio.wait_for(asked.communicate(), _ANSWERS_WITHIN)
        if asked.returncode == 0:
            return comes_back(jobs.decode(), name)
        why = complaint.decode().strip()
    except (OSError, TimeoutError) as e:
        why = str(e) or f"no answer within {_ANSWERS_WITHIN:g} s"
    structlog.get_logger().warning(
        "systemd does not say whether this is a restart: what the fabrics have in /dev/shm is left there", error=why
    )
    return True
