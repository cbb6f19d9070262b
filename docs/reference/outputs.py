"""What is generated, and where it goes."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic.json_schema import JsonSchemaValue

from docs.reference.completions import completions
from docs.reference.grafana.board import FABRIC, OVERVIEW
from docs.reference.grafana.fabric import fabric
from docs.reference.grafana.overview import overview
from docs.reference.manpages import man_pages
from docs.reference.markdown import configuration, metrics
from famezd.config import fabric_schema, main_schema
from famezd.supervisor.events import catalog

ROOT = Path(__file__).parents[2]


def outputs() -> dict[str, str]:
    """The texts of all files, by their paths below the root of the repository."""
    schemas = {"famezd": main_schema(), "fabric": fabric_schema()}
    return {
        **{f"packaging/man/{name}": text for name, text in man_pages().items()},
        **{f"packaging/completions/{name}": text for name, text in completions().items()},
        **{f"packaging/schema/{name}.schema.json": _json(schema) for name, schema in schemas.items()},
        f"packaging/grafana/dashboards/{OVERVIEW}.json": overview(),
        f"packaging/grafana/dashboards/{FABRIC}.json": fabric(),
        "packaging/journal/famezd.catalog": catalog(),
        "docs/configuration.md": configuration(),
        "docs/metrics.md": metrics(),
    }


def _json(schema: JsonSchemaValue) -> str:
    return json.dumps(schema, indent=2) + "\n"
