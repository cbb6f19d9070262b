"""The pages in docs/ of which much is generated: what is written by hand is in `pages`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from pydantic import BaseModel

from docs.reference.examples import EXAMPLES
from docs.reference.series import series
from docs.reference.settings import Setting, sections
from famezd.config import FabricSettings, MainSettings
from famezd.supervisor.metrics.exposition import unit_of
from famezd.supervisor.metrics.fabrics import FABRIC
from famezd.supervisor.metrics.own import EXAMPLES as QUESTIONS
from famezd.supervisor.metrics.own import OwnCollector
from famezd.supervisor.status.view import ConfigView

PAGES = Path(__file__).parent / "pages"


def configuration() -> str:
    """docs/configuration.md."""
    return _filled(
        "configuration.md",
        {
            "EXAMPLES": lambda: "\n\n".join(f"`/etc/famez/{n}`:\n\n```yaml\n{t}```" for n, t in EXAMPLES.items()),
            "MAIN-SETTINGS": lambda: _settings(MainSettings),
            "FABRIC-SETTINGS": lambda: _settings(FabricSettings),
        },
    )


def metrics() -> str:
    """docs/metrics.md."""
    return _filled("metrics.md", {"METRICS": _metrics, "SERIES": series})


def _filled(name: str, fragments: dict[str, Callable[[], str]]) -> str:
    page = (PAGES / name).read_text()
    for fragment, made in fragments.items():
        page = page.replace(f"@{fragment}@", made())
    return f"<!-- Made by `make reference` from docs/reference/pages/{name}. -->\n\n{page}"


def _settings(model: type[BaseModel]) -> str:
    lines = []
    for section in sections(model):
        if section.key:
            lines += ["", f"### `{section.key}`", "", section.text]
        lines += ["", "| key | allowed | default | meaning |", "|---|---|---|---|"]
        lines += [_row(setting) for setting in section.settings]
    return "\n".join(lines).strip()


def _row(setting: Setting) -> str:
    examples = ", ".join(f"`{example}`" for example in setting.examples)
    meaning = f"{setting.text} Such as {examples}." if examples else setting.text
    cells = [f"`{setting.key}`", setting.allowed, f"`{setting.default}`", meaning]
    return f"| {' | '.join(map(_in_table, cells))} |"


def _in_table(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _metrics() -> str:
    lines = ["| metric | type | labels | unit | meaning | a question that it answers |", "|---|---|---|---|---|---|"]
    for family in FABRIC:
        lines.append(_metric(family.full_name, family.kind, family.labels, family.text, family.example))
    for metric in OwnCollector(lambda: ConfigView(successful=True, accepted=0.0, problems=())).collect():
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        labels = tuple(metric.samples[0].labels)
        lines.append(_metric(name, metric.type, labels, metric.documentation, QUESTIONS[metric.name]))
    return "\n".join(lines)


def _metric(name: str, kind: str, labels: Iterable[str], text: str, example: str) -> str:
    unit = unit_of(name.removesuffix("_total")) or "-"
    told = ", ".join(f"`{label}`" for label in labels) or "-"
    return f"| `{name}` | {kind} | {told} | {unit} | {text} | `{example}` |"
