"""The rpm."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.built import ROOT, build, rpm, run
from tests.needs import need

SPEC = ROOT / "packaging/rpm/famezd.spec"


def ask(*query: str) -> str:
    """What rpm says of it."""
    return run("rpm", "--query", *query, "--package", str(rpm()))


def test_two_builds_are_one(tmp_path: Path) -> None:
    again = build("rpm", tmp_path / "elsewhere")
    assert again.name == rpm().name
    assert again.read_bytes() == rpm().read_bytes()


def test_rpmlint_finds_nothing() -> None:
    rpmlint = str(need("rpmlint", "rpmlint"))
    said = run(rpmlint, "--rpmlintrc", str(SPEC.with_suffix(".rpmlintrc")), str(rpm()), str(SPEC))
    assert "0 errors, 0 warnings, 0 badness" in said


def test_it_has_what_the_debian_package_has() -> None:
    files = set(ask("--list").split())
    units = "/usr/lib/systemd/system"
    for file in (
        *(f"/usr/bin/{command}" for command in ("famezd", "famezctl", "famez-client", "famez-server")),
        *(f"{units}/{unit}" for unit in ("famezd.service", "famezd-http.socket", "famez-fabric@.service")),
        *("/usr/lib/sysusers.d/famezd.conf", "/usr/lib/tmpfiles.d/famezd.conf"),
        *("/usr/share/man/man8/famezd.8", "/usr/share/man/man5/famezd.yaml.5", "/usr/share/man/man1/famezctl.1"),
        "/usr/share/bash-completion/completions/famezctl",
        "/usr/share/famezd/schema/fabric.schema.json",
        "/usr/share/famezd/grafana/dashboards/famezd-overview.json",
        "/usr/share/famezd/prometheus/famezd.rules.yaml",
        "/usr/lib/systemd/catalog/famezd.catalog",
    ):
        assert {file, f"{file}.gz"} & files, file
    assert [
        name for name in files if re.fullmatch(r"/usr/lib/python3\.\d+/site-packages/famezd-.*/entry_points.txt", name)
    ]


def test_its_documentation_is_as_it_refers_to_itself() -> None:
    files = set(ask("--docfiles").split())
    (top,) = (Path(name).parent for name in files if name.endswith("/README.md"))
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    assert pages
    assert {f"{top}/docs/{page}" for page in pages} - files == set()
    assert {f"{top}/examples/{name}" for name in ("groups.conf", "famez-hub/famez_hub.py")} - files == set()


def test_configuration_files_are_kept() -> None:
    etc = {name for name in ask("--list").split() if name.startswith("/etc/") and name.endswith(".yaml")}
    assert etc
    assert set(ask("--configfiles").split()) == etc


def test_it_needs_what_the_project_needs() -> None:
    needed = dict(re.findall(r"^python3dist\(([\w-]+)\) >= (\S+)$", ask("--requires"), re.MULTILINE))
    project = re.findall(r'^    "([\w-]+)>=([\d.]+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    ours = {name.lower().replace("_", "-"): version for name, version in project}
    assert {name: ours.get(name) for name in needed} == {**needed, "pyyaml": "6.0"}


@pytest.mark.parametrize("script", ["POSTIN", "PREUN", "POSTUN"])
def test_its_scriptlets_are_shell(script: str) -> None:
    text = ask("--queryformat", f"%{{{script}}}")
    assert "systemctl" in text
    shellcheck = str(need("shellcheck", "shellcheck"))
    done = subprocess.run([shellcheck, "--shell=sh", "-"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
