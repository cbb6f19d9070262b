"""famezd as a unit of real systemds: one boot for each Debian release, in which all of tests/systemd/inside runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.systemd.container import Outcome, run_inside
from tests.systemd.hugepages import huge_pages

RELEASES = os.environ.get("FAMEZD_RELEASES", "trixie").split()
"""Code names of the Debian releases to boot."""
HUGE_PAGES = 8
"""As many as the tests inside one use at once, and more."""


@pytest.fixture(scope="module")
def booted() -> Iterator[dict[str, Future[Outcome]]]:
    """All releases, side by side: most of the time tests wait, and trees are fetched."""
    with huge_pages(HUGE_PAGES * len(RELEASES)), ThreadPoolExecutor() as threads:
        yield {release: threads.submit(run_inside, release) for release in RELEASES}


@pytest.mark.timeout(1800)  # the first time on a machine, the trees are made
@pytest.mark.parametrize("release", RELEASES)
def test_systemd(release: str, booted: dict[str, Future[Outcome]]) -> None:
    outcome = booted[release].result()
    assert outcome.passed, f"on {release}:\n{outcome.told}\nThe journal there:\n{outcome.journal}"
