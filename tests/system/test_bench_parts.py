"""Each benchmark still measures: one round, whose figures nobody looks at."""

import re
import resource
from collections.abc import Callable, Iterator

import pytest

from bench import hostile, mailbox, relay, resume, scrape
from bench.report import Comparison, Section, raise_limit


@pytest.fixture(autouse=True)
def many_descriptors() -> Iterator[None]:
    """Room for all that a benchmark opens, as where it is run."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    raise_limit()
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """As little of everything as there is something to measure in."""
    monkeypatch.setattr(hostile, "ROUND_TRIPS", 100)
    monkeypatch.setattr(hostile, "ATTACKS", hostile.ATTACKS[:2])
    monkeypatch.setattr(mailbox, "SECONDS", 0.05)
    monkeypatch.setattr(resume, "CROWDS", (2,))
    monkeypatch.setattr(scrape, "FABRICS", 2)
    monkeypatch.setattr(scrape, "WINDOW", 0.1)


PARTS = [relay.section, mailbox.section, resume.section, hostile.section, scrape.section]


@pytest.mark.parametrize("section", PARTS, ids=lambda section: section.__module__)
def test_a_part_measures(section: Callable[[int], Section]) -> None:
    """Every row of its tables has what was measured, and the page can be written of it."""
    measured = section(1)
    rows = [row for part in measured.parts if isinstance(part, Comparison) for row in part.rows]
    assert rows
    for row in rows:
        assert len(row.ours) == len(row.theirs) == 1
        assert row.ours[0] > 0
    assert re.match(r"## \w.*\n\n", measured.markdown())
