"""The machine and the programs that figures are of."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from bench.report import Grid
from famezd import __version__
from tests.stock import stock_programs


def described() -> Grid:
    """What docs/performance.md says of the machine; with the stock programs built, if they were not."""
    release = platform.freedesktop_os_release()
    rows = [
        ["processors", f"{len(os.sched_getaffinity(0))} x {_processor()}"],
        ["memory", f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"],
        ["system", f"{release['PRETTY_NAME']}, Linux {platform.release()}"],
        ["Python", platform.python_version()],
        ["famezd", f"{__version__}, commit {_commit()}"],
        ["stock ivshmem-server", f"of Debian's {stock_programs().name}"],
        ["load when it began", f"{os.getloadavg()[0]:.2f} (average of a minute)"],
    ]
    return Grid("", ["", ""], rows)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def _commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
