"""In which order the tests run, by one process or by several: `make test`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.built import shared

_HERE = Path(__file__).parent
_LONG = ("systemd", "guest")
"""What takes as long as half of all others: begun first where several processes run tests."""


def pytest_configure() -> None:
    """Have the directory of this test run made by the process that starts the others."""
    shared()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of single modules first: what they find is found early."""
    order = ["unit", *_LONG] if "PYTEST_XDIST_WORKER" not in os.environ else [*_LONG, "unit"]
    places = {name: place for place, name in enumerate(order)}
    items.sort(key=lambda item: places.get(item.path.relative_to(_HERE).parts[0], len(places)))
