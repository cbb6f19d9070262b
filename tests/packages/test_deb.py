"""The Debian package. What it does is tested where systemd runs: tests/systemd/inside/scenario_package.py."""

from __future__ import annotations

import re
from pathlib import Path

from tests.built import ROOT, build, deb, run
from tests.needs import need

BUNDLED = "/usr/lib/famezd/python3.11/"


def files() -> set[str]:
    """The files in it."""
    listed = run("dpkg-deb", "--contents", str(deb()))
    return {line.split()[5].removeprefix(".") for line in listed.splitlines() if line.startswith("-")}


def control(field: str) -> str:
    """A field of its control file."""
    return run("dpkg-deb", "--field", str(deb()), field).strip()


def installed_from(directory: str, pattern: str, to: str) -> set[str]:
    """Where the files of a directory of the repository are to be."""
    found = {f"{to}/{path.name}" for path in (ROOT / directory).glob(pattern)}
    assert found, f"nothing in {directory} is called {pattern}"
    return found


def test_two_builds_are_one(tmp_path: Path) -> None:
    again = build("deb", tmp_path / "another")
    assert again.name == deb().name
    assert again.read_bytes() == deb().read_bytes()


def test_lintian_finds_nothing() -> None:
    lintian = str(need("lintian", "lintian"))
    assert run(lintian, "--fail-on", "error,warning,info", "--allow-root", str(deb())) == ""


def test_each_override_has_a_reason() -> None:
    lines = (ROOT / "packaging/debian/famezd.lintian-overrides").read_text().splitlines()
    for reason, override in zip(["", *lines], lines, strict=False):
        assert override.startswith("#") or reason.startswith("#"), override


def test_all_is_where_debian_has_it() -> None:
    units = "/usr/lib/systemd/system"
    expected = {
        *(f"/usr/bin/{command}" for command in ("famezd", "famezctl", "famez-client", "famez-server")),
        *(f"{units}/{unit}" for unit in ("famezd.service", "famezd-http.socket", "famez-fabric@.service")),
        *("/usr/lib/sysusers.d/famezd.conf", "/usr/lib/tmpfiles.d/famezd.conf"),
        *installed_from("packaging/completions/bash", "*", "/usr/share/bash-completion/completions"),
        *installed_from("packaging/completions/zsh", "*", "/usr/share/zsh/vendor-completions"),
        *installed_from("packaging/completions/fish", "*", "/usr/share/fish/vendor_completions.d"),
        *installed_from("packaging/schema", "*", "/usr/share/famezd/schema"),
        *installed_from("packaging/grafana/dashboards", "*", "/usr/share/famezd/grafana/dashboards"),
        *installed_from("packaging/prometheus", "*", "/usr/share/famezd/prometheus"),
        *installed_from("packaging/journal", "*", "/usr/lib/systemd/catalog"),
        *installed_from("famezd/page", "*", "/usr/lib/python3/dist-packages/famezd/page"),
        *installed_from("docs", "*.md", "/usr/share/doc/famezd/docs"),
        *installed_from("docs/images", "*", "/usr/share/doc/famezd/docs/images"),
        *installed_from("systemd/examples", "*", "/usr/share/doc/famezd/examples"),
        *(f"{man}.gz" for n in "158" for man in installed_from("packaging/man", f"*.{n}", f"/usr/share/man/man{n}")),
        "/usr/share/doc/famezd/changelog.gz",
    }
    assert expected - files() == set()


def test_configuration_files_are_conffiles() -> None:
    listed = run("dpkg-deb", "--info", str(deb()), "conffiles").split()
    assert set(listed) == {name for name in files() if name.startswith("/etc/")}
    assert {"/etc/famez/famezd.yaml", "/etc/famez/fabrics.d/lab.yaml", "/etc/apparmor.d/abstractions/famezd"} < set(
        listed
    )


def test_personalities_are_found_by_entry_points() -> None:
    assert [
        name for name in files() if re.fullmatch(r"/usr/lib/python3/dist-packages/famezd-.*/entry_points.txt", name)
    ]


def test_what_is_bundled_is_what_is_pinned() -> None:
    pinned = re.findall(r"^([a-z-]+)==(\S+)", (ROOT / "packaging/debian/bundled.txt").read_text(), re.MULTILINE)
    expected = {f"{BUNDLED}{name.replace('-', '_')}-{version}.dist-info/METADATA" for name, version in pinned}
    assert {name for name in files() if name.endswith("METADATA") and name.startswith(BUNDLED)} == expected
    assert "python3-pydantic (>= 2.10) | python3 (<< 3.12)" in control("Depends")
    text = (ROOT / "packaging/debian/copyright").read_text()
    assert [name for name, _ in pinned if f"Files: debian/bundled/{name.replace('-', '_')}-*.whl" not in text] == []


def test_its_dependencies_are_those_of_the_project() -> None:
    """But for where Debian calls them otherwise."""
    called = {"prompt_toolkit": "prompt-toolkit", "python-daemon": "daemon", "pyyaml": "yaml"}
    project = (ROOT / "pyproject.toml").read_text()
    needed = re.search(r"^dependencies = \[\n(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    assert needed is not None
    for name, version in re.findall(r'"([\w-]+)>=([\d.]+)"', needed[1]):
        lower = name.lower()
        assert f"python3-{called.get(lower, lower)} (>= {version})" in control("Depends")
