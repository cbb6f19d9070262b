"""In which order the tests run, by one process or by several: `make test`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.built import shared

_HERE = Path(__file__).parent
_LONG = ("systemd/test_systemd.py", "guest/test_guest.py")
"""What takes longest: begun first where several processes run tests, so that all end at about the same time."""


def pytest_configure() -> None:
    """Have the directory of this test run made by the process that starts the others."""
    shared()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What tests single modules comes early, so that what it finds is found early."""
    several = "PYTEST_XDIST_WORKER" in os.environ
    items.sort(key=lambda item: _turn(item.path.relative_to(_HERE), several=several))


def _turn(module: Path, *, several: bool) -> int:
    if str(module) in _LONG:
        return 0 if several else 3
    return 1 if module.parts[0] == "unit" else 2
