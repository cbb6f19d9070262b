"""famezd as a unit of real systemds: one boot for each Debian release, in which all of tests/systemd/inside runs."""

from __future__ import annotations

import os

import pytest

from tests.systemd.container import run_inside
from tests.systemd.hugepages import huge_pages

RELEASES = os.environ.get("FAMEZD_RELEASES", "trixie").split()
"""Code names of the Debian releases to boot."""


@pytest.mark.timeout(1800)  # the first time on a machine, the tree is made
@pytest.mark.parametrize("release", RELEASES)
def test_systemd(release: str) -> None:
    with huge_pages():
        outcome = run_inside(release)
    assert outcome.passed, f"on {release}:\n{outcome.told}\nThe journal there:\n{outcome.journal}"
