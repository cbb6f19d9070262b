"""docs/troubleshooting.md: what it says that QEMU says is what QEMU says."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import PATIENCE, Famezd
from tests.needs import need

TOLD = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text()
NO_GUEST = ["-machine", "q35", "-m", "64", "-display", "none", "-monitor", "none", "-serial", "none", "-S"]


@pytest.fixture(scope="module")
def famezd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Famezd]:
    with Famezd(tmp_path_factory.mktemp("famezd"), {"lab": {"peers": 1}}) as famezd:
        yield famezd


def complaint(*arguments: str) -> str:
    """What QEMU says as it fails."""
    qemu = [str(need("qemu-system-x86_64", "qemu-system-x86")), *NO_GUEST, *arguments]
    done = subprocess.run(qemu, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 1
    return done.stderr


def assert_told(said: str, symptom: str) -> None:
    """That the page has `symptom`, in which ... stands for anything, and that it was said."""
    assert f"| `{symptom}` |" in TOLD
    assert re.search(re.escape(symptom).replace(re.escape("..."), ".*"), said), said


def test_no_socket(famezd: Famezd) -> None:
    arguments = [argument.replace("lab.sock", "lob.sock") for argument in famezd.qemu("lab")]
    assert_told(complaint(*arguments), "Failed to connect to '...': No such file or directory")


def test_refused(famezd: Famezd) -> None:
    with famezd.join("lab"):
        assert_told(complaint(*famezd.qemu("lab")), "server sent version -1, expecting 0")
    assert "peer refused: all 1 ports are taken" in famezd.log.read_text()


def test_twice(famezd: Famezd) -> None:
    assert_told(complaint(*famezd.qemu("lab"), *famezd.qemu("lab")), "Duplicate ID 'famez-lab' for chardev")
