"""docs/metrics.md: what it lists is what a running famezd exports, with the same types, labels and words."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.daemon import Famezd

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
ROW = r"^\| `(famez_\w+)` \| (\w+) \| (.*?) \| (.*) \|$"

Row = tuple[str, str, str]


def listed() -> dict[str, Row]:
    """Type, labels and meaning of each metric of the page."""
    rows = re.findall(ROW, PAGE.read_text(), re.MULTILINE)
    return {name: (kind, " ".join(re.findall(r"`(\w+)`", labels)), text) for name, kind, labels, text in rows}


def exported(famezd: Famezd) -> dict[str, Row]:
    """The same of what famezd answers; each has a sample."""
    families = {}
    for family in text_string_to_metric_families(famezd.scrape()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {" ".join(sample.labels) for sample in family.samples if sample.name == name}
        (only,) = labels
        families[name] = (family.type, only, family.documentation)
    return families


def test_every_metric_is_listed_as_it_is(tmp_path: Path) -> None:
    lab = {"personality": "genz", "peers": 4, "vectors": 16}
    with Famezd(tmp_path, {"lab": lab}) as famezd, famezd.join("lab") as peer:
        peer.ring(5, 0)
        assert {name: (kind, sorted(labels.split()), text) for name, (kind, labels, text) in listed().items()} == {
            name: (kind, sorted(labels.split()), text) for name, (kind, labels, text) in exported(famezd).items()
        }


def test_every_metric_in_the_docs_is_one() -> None:
    named = set()
    for page in (*PAGE.parent.glob("*.md"), PAGE.parents[1] / "README.md"):
        named |= set(re.findall(r"\bfamez_[a-z_]+[a-z]\b(?!\.)", page.read_text()))
    assert named - set(listed()) - {"famez_hub"} == set()
