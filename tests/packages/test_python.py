"""Wheel and sdist, and famezd from a wheel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import famezd
from tests import daemon
from tests.built import ROOT, run, sdist
from tests.daemon import Famezd
from tests.needs import need


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, as `python -m build` makes it of the sdist."""
    work = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist()) as archive:
        archive.extractall(work, filter="data")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", str(work), str(next(work.iterdir())))
    return next(work.glob("famezd-*.whl"))


def test_the_sdist_is_all_that_is_in_the_repository() -> None:
    git = str(need("git", "git"))
    tracked = set(run(git, "-C", str(ROOT), "ls-files", "--cached", "--deduplicate").splitlines())
    with tarfile.open(sdist()) as archive:
        packed = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert {name for name in tracked if (ROOT / name).exists()} - packed == set()


def test_the_wheel_is_the_program_and_its_entry_points(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        entry_points = archive.read(f"famezd-{famezd.__version__}.dist-info/entry_points.txt").decode()
    ours = [*(ROOT / "famezd").rglob("*.py"), *(ROOT / "famezd/page").iterdir(), ROOT / "famezd/py.typed"]
    assert packed == {str(path.relative_to(ROOT)) for path in ours}
    for line in ("famezctl = famezd.cli.entry:famezctl", "genz = famezd.switch.genz:Genz"):
        assert line in entry_points


def test_pipx_installs_one_that_serves(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipx = need("pipx", "pipx")
    places = {"PIPX_HOME": str(tmp_path / "pipx"), "PIPX_BIN_DIR": str(tmp_path / "bin")}
    done = subprocess.run(
        [pipx, "install", "--python", sys.executable, wheel],
        env=os.environ | places,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    commands = sorted(path.name for path in (tmp_path / "bin").iterdir())
    assert commands == ["famez-client", "famez-server", "famezctl", "famezd"]
    monkeypatch.setattr(daemon, "BIN", tmp_path / "bin")
    directory = tmp_path / "fabrics"
    directory.mkdir()
    with Famezd(directory, {"lab": {"personality": "genz", "peers": 4}}) as installed:
        status = installed.ctl("status")
        assert status.returncode == 0, status.stderr
        ping = run(str(tmp_path / "bin/famez-client"), "-S", str(installed.socket("lab")), "ping", "-c1", "switch")
        assert "1 received" in ping


def test_all_packages_are_of_one_version() -> None:
    changelog = (ROOT / "packaging/debian/changelog").read_text()
    spec = (ROOT / "packaging/rpm/famezd.spec").read_text()
    found = [re.search(r"famezd \((.*)-\d+\)", changelog), re.search(r"^Version: +(.*)$", spec, re.MULTILINE)]
    assert [match and match[1] for match in found] == [famezd.__version__] * 2
    assert f"famezd-{famezd.__version__}.tar.gz" == sdist().name
