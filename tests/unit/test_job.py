"""Whether famezd is to come back, read from what systemd and the kernel say."""

import pytest

from famezd.supervisor.job import comes_back
from famezd.unit import unit


@pytest.mark.parametrize(
    ("cgroups", "expected"),
    [
        ("0::/system.slice/famezd.service\n", ("famezd.service", False)),
        ("0::/system.slice/system-famez.slice/famezd@x.service/main\n", ("famezd@x.service", False)),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/famezd.service\n", ("famezd.service", True)),
        ("12:pids:/\n1:name=systemd:/system.slice/famezd.service\n", ("famezd.service", False)),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", None),
        ("0::/\n", None),
        ("", None),
    ],
)
def test_the_unit_is_the_innermost_service(cgroups: str, expected: tuple[str, bool] | None) -> None:
    assert unit(cgroups) == expected


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        ("404 famezd.service restart running\n", True),
        ("459 famezd.service stop running\n", False),
        ("683 famezd.service start waiting\n", True),
        ("404 other.service restart running\n459 famezd.service stop running\n", False),
        ("", False),
        ("No jobs running.\n", False),
    ],
)
def test_a_restart_or_a_start_that_waits_brings_it_back(jobs: str, expected: bool) -> None:
    assert comes_back(jobs, "famezd.service") is expected
