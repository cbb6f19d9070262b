"""virt-install understands what docs/virtual-machines.md tells it, and makes of it what famezctl libvirt prints."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

from tests.daemon import Famezd
from tests.needs import need

PAGE = Path(__file__).parents[2] / "docs" / "virtual-machines.md"


def test_the_line_in_the_document_gives_a_domain_the_device(tmp_path: Path) -> None:
    block = re.search(r"^    (virt-install (?:.*\\\n)*.*)$", PAGE.read_text(), re.MULTILINE)
    assert block is not None
    _, *words = shlex.split(block[1].replace("\\\n", ""))
    # libvirt's own driver for tests takes domains and runs nothing. It is Debian's program, and wants Debian's Python.
    dry = ["--connect", "test:///default", "--dry-run", "--print-xml", "1"]
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    (tmp_path / "debian.iso").touch()
    command = [str(need("virt-install", "virtinst")), *words, *dry]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = ET.fromstring(done.stdout).find("devices/shmem")
    assert made is not None
    with Famezd(tmp_path, {"lab": {"personality": "genz"}}) as famezd:
        printed = ET.fromstring(famezd.ctl("libvirt", "lab").stdout)
        path = str(famezd.socket("lab"))
    assert told(made) == told(printed, path)


def told(shmem: ET.Element, path: str = "") -> list[tuple[str, dict[str, str]]]:
    """What an element says, with the system's socket in the place of the one at `path`."""
    return [
        (part.tag, {key: "/run/famez/lab.sock" if value == path else value for key, value in part.attrib.items()})
        for part in sorted(shmem.iter(), key=lambda part: part.tag)
    ]
