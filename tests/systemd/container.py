"""A container in which a real systemd is PID 1, famezd is installed, and tests of ours run as a unit."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.built import ROOT, deb, next_deb
from tests.needs import need
from tests.systemd.cgroups import own_group
from tests.systemd.trees import as_root, tree

LONGEST = 1200.0
"""Seconds after which a container is taken for hanging."""
_INSIDE = "/srv/famezd"


class Outcome(NamedTuple):
    """How the tests inside ended."""

    passed: bool
    told: str
    """What pytest printed; where it did not come to that, what the container did."""
    journal: str


def run_inside(release: str, *selection: str) -> Outcome:
    """Boot the Debian `release`, run the tests of tests/systemd/inside in it, and power off.

    `selection` are arguments for pytest. The system is a throw-away one: nothing that it writes outlives it.
    """
    system = tree(release)
    with tempfile.TemporaryDirectory(prefix="famezd-systemd-") as work:
        directory = Path(work)
        packages, results = directory / "packages", directory / "results"
        packages.mkdir()
        results.mkdir()
        shutil.copy(deb(), packages / "this.deb")
        shutil.copy(next_deb(), packages / "next.deb")
        (results / "selection").write_text(f'SELECTION="{shlex.join(selection)}"\n')
        with own_group() as enter:
            status, console = _boot(system, directory, enter)
        told, journal = ((results / name) for name in ("output", "journal"))
        return Outcome(
            passed=status == 0 and (results / "passed").exists(),
            told=told.read_text() if told.exists() else f"systemd-nspawn: status {status}\n{console}",
            journal=journal.read_text() if journal.exists() else "",
        )


def _boot(system: Path, directory: Path, enter: Sequence[str]) -> tuple[int, str]:
    """Boot, by a command that begins with `enter`; return the exit status, and what came on the console."""
    command = [
        *as_root(),
        *enter,
        str(need("systemd-nspawn", "systemd-container")),
        *("--quiet", "--boot", "--register=no", "--keep-unit", "--console=pipe"),
        # Memory over the cached tree, and a network of its own that has nothing but loopback.
        *(f"--directory={system}", "--volatile=overlay", "--private-network"),
        *(f"--bind-ro={ROOT / name}:{_INSIDE}/{name}" for name in ("tests", "etc", "pyproject.toml")),
        f"--bind-ro={directory / 'packages'}:/srv/packages",
        f"--bind={directory / 'results'}:/srv/results",
        f"--bind-ro={ROOT}/systemd:{_INSIDE}/systemd",
        f"--bind-ro={Path(__file__).with_name('scenarios.service')}:/usr/lib/systemd/system/scenarios.service",
        "systemd.unit=scenarios.service",
        "systemd.show_status=no",
    ]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as container:
        try:
            console, _ = container.communicate(timeout=LONGEST)
        except BaseException:
            # Its systemd goes with it.
            container.kill()
            raise
    return container.returncode, console
