"""docs/metrics.md: what it lists is what a running famezd exports, with the same types, labels, units and words."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from famezd.supervisor.metrics.exposition import unit_of
from tests.daemon import OPEN_METRICS, Famezd

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
ROW = r"^\| `((?:famez|process)_\w+)` \| (\w+) \| (.*?) \| (.*?) \| (.*?) \| `(.*)` \|$"

Row = tuple[str, str, str, str]
"""Type, labels, unit and meaning of a metric."""


def rows() -> list[tuple[str, ...]]:
    """The rows of the page's table of metrics."""
    return re.findall(ROW, PAGE.read_text(), re.MULTILINE)


def listed() -> dict[str, Row]:
    """The page's metrics, by name."""
    return {
        name: (kind, " ".join(sorted(re.findall(r"`(\w+)`", labels))), unit.replace("-", ""), text)
        for name, kind, labels, unit, text, _ in rows()
    }


def exported(famezd: Famezd) -> dict[str, Row]:
    """The same of what famezd answers to who asks for OpenMetrics, which alone has units; each has a sample."""
    families = {}
    text = famezd.scrape(OPEN_METRICS)
    for family in text_string_to_metric_families(text):  # type: ignore[no-untyped-call]
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = sorted(family.samples[0].labels)
        # The library knows none of its own.
        unit = family.unit or unit_of(family.name) if name.startswith("process") else family.unit
        families[name] = (family.type, " ".join(labels), unit, family.documentation)
    return families


def test_every_metric_is_listed_as_it_is(tmp_path: Path) -> None:
    lab = {"personality": "genz", "peers": 4, "vectors": 16, "faults": [{"src": 1, "dst": 2, "drop": 0.5}]}
    with Famezd(tmp_path, {"lab": lab}) as famezd, famezd.join("lab") as peer:
        peer.ring(5, 0)
        found = exported(famezd)
        for name in found:
            if name.startswith("famez_config_last_reload"):
                # The library writes no units.
                kind, labels, _, text = found[name]
                found[name] = kind, labels, unit_of(name), text
        assert listed() == found


def test_every_question_is_about_its_metric() -> None:
    for name, *_, example in rows():
        assert name in example or f"{name}_" in example, f"{name}: {example}"


def test_every_metric_in_the_docs_is_one() -> None:
    named: set[str] = set()
    for page in (*PAGE.parent.glob("*.md"), PAGE.parents[1] / "README.md"):
        named |= set(re.findall(r"(?<!:)\bfamez_[a-z_]+[a-z]\b(?!\.)", page.read_text()))
    series = {f"{name}_{part}" for name in listed() for part in ("bucket", "sum", "count")}
    assert named - set(listed()) - series - {"famez_hub"} == set()
