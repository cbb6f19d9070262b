"""The units as they are in the repository; how they run is tested in tests/systemd."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.needs import need

UNITS = Path(__file__).parents[2] / "systemd"
SERVICES = ("famezd.service", "famez-fabric@.service")
MOST_EXPOSED = 0.7


@pytest.mark.parametrize("unit", SERVICES)
def test_a_service_is_hardly_exposed(unit: str) -> None:
    command: list[str | Path] = [
        need("systemd-analyze", "systemd"),
        "security",
        "--offline=yes",
        "--no-pager",
        UNITS / unit,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= MOST_EXPOSED, done.stdout


def test_both_services_forbid_the_same() -> None:
    def forbidden(unit: str) -> list[str]:
        text = (UNITS / unit).read_text().partition("\nNoNewPrivileges=yes\n")[2].partition("\n[Install]")[0]
        assert "MemoryDenyWriteExecute=yes" in text
        return [line for line in text.splitlines() if line and not line.startswith("#")]

    one, other = map(forbidden, SERVICES)
    assert one == other


def test_no_service_waits_for_dbus() -> None:
    """D-Bus is asked for the job that stops a service; were it stopped first, it could not be."""
    for unit in SERVICES:
        assert "dbus" not in (UNITS / unit).read_text()
