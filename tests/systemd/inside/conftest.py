"""What an administrator does once."""

from __future__ import annotations

import pytest

from tests.systemd.inside.unit import HTTP, systemctl


@pytest.fixture(scope="session", autouse=True)
def _enabled() -> None:
    systemctl("enable", HTTP)
