"""The pages in docs/ of which much is generated: what is written by hand is in `pages`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client.core import Metric
from pydantic import BaseModel

from docs.reference.examples import EXAMPLES
from docs.reference.settings import Setting, sections
from famezd.config import FabricSettings, MainSettings
from famezd.supervisor.metrics import FabricCollector
from famezd.supervisor.view import ConfigView

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
    return _filled("metrics.md", {"METRICS": _metrics})


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
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for metric in _families():
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        labels = ", ".join(f"`{label}`" for label in getattr(metric, "_labelnames", ())) or "-"
        lines.append(f"| `{name}` | {metric.type} | {labels} | {metric.documentation} |")
    return "\n".join(lines)


def _families() -> Iterator[Metric]:
    """What is exported of no fabric at all."""
    return FabricCollector(list, lambda: ConfigView(successful=True, accepted=0.0, problems=())).collect()
