"""The files of settings as plain data for JSON: what is wrong in them, and what may stand there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from famezd.config import DEFAULT_CONFIG, FABRICS, Config, ConfigError, Problem, fabric_schema, load, main_schema

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
"""What pydantic writes."""


def main_file(file: Path) -> Path:
    """The famezd.yaml that is meant by `file`, which may be a file in fabrics.d beside it."""
    return file.absolute().parent.parent / DEFAULT_CONFIG.name if file.absolute().parent.name == FABRICS else file


def schemas() -> dict[str, dict[str, object]]:
    """The JSON Schemas: `main` of famezd.yaml, `fabric` of a file in fabrics.d."""
    return {name: {"$schema": _DIALECT, **made()} for name, made in (("main", main_schema), ("fabric", fabric_schema))}


def report(path: Path, check: Callable[[Path], Config] = load) -> dict[str, object]:
    """The fabrics that the famezd.yaml at `path` defines, or all mistakes; `check` reads it, or raises ConfigError."""
    fabrics: list[str] = []
    mistakes: Sequence[Problem] = ()
    try:
        fabrics += check(path).fabrics
    except ConfigError as e:
        mistakes = e.problems
    problems = [
        {
            "file": str(problem.path),
            "line": problem.line,
            "column": problem.column,
            "key": problem.key,
            "message": problem.message,
            "text": str(problem),
        }
        for problem in mistakes
    ]
    return {"file": str(path), "fabrics": fabrics, "problems": problems}
