"""The page's files: what is shipped is what was made, and asks nobody else."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "famezd" / "page"


def test_the_library_is_what_its_readme_says() -> None:
    found = hashlib.sha256((PAGE / "d3.js").read_bytes()).hexdigest()
    assert f"{found}  famezd/page/d3.js" in (ROOT / "packaging/page/README.md").read_text()


def test_the_licences_are_those_of_the_locked_versions() -> None:
    packages = json.loads((ROOT / "packaging/page/package-lock.json").read_text())["packages"]
    licences = (PAGE / "d3.LICENSE").read_text()
    shipped = {name.removeprefix("node_modules/"): told for name, told in packages.items() if "dev" not in told}
    shipped.pop("")
    assert len(shipped) > 5
    for name, told in shipped.items():
        assert f"{name} {told['version']}\n" in licences
        assert told["license"] == "ISC"


def test_nothing_is_inline_and_nothing_is_asked_elsewhere() -> None:
    html = (PAGE / "index.html").read_text()
    assert re.findall(r"<style|<script(?![^>]* src=)|\son\w+=|\sstyle=", html) == []
    for address in re.findall(r'(?:src|href)="([^"]*)"', html):
        assert address.startswith("#") or (ROOT / "famezd" / address).is_file()
    for file in PAGE.glob("*.[jc]s*"):
        if file.name != "d3.js":
            found = re.findall(r"innerHTML|insertAdjacentHTML|document\.write|\beval\(|https?://", file.read_text())
            assert found == [], file.name
        for module in re.findall(r'from "\./([^"]*)"', file.read_text()):
            assert (PAGE / module).is_file()
