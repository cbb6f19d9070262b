"""What the processes of a service import: they keep it for as long as they serve."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from famezd.interpreter import launch

PYTHONS = {
    "array", "collections", "contextlib", "copyreg", "ctypes", "encodings", "enum", "errno", "fcntl", "functools",
    "genericpath", "heapq", "importlib", "itertools", "keyword", "math", "mmap", "operator", "os", "posixpath",
    "re", "reprlib", "resource", "select", "selectors", "signal", "site", "socket", "stat", "struct", "termios",
    "types", "typing", "zlib",
}  # fmt: skip
"""All that a worker imports of Python's own modules."""
OF_SOME_PYTHONS = {"unicodedata", "warnings"}
"""What others of Python's modules import in some of its versions."""
WORKER = "import famezd.fabric.worker, famezd.switch.plain, famezd.switch.genz"


def imported(code: str, *options: str) -> set[str]:
    """The modules that a Python has when it has run this; without those that it starts with, and private ones."""
    told = "import sys; before = set(sys.modules); {}; print(*set(sys.modules) - before)"
    done = subprocess.run(
        [sys.executable, *options, "-c", told.format(code)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | launch("")[1],
        cwd="/",
    )
    return {name for name in done.stdout.split() if not name.startswith("_")}


def test_a_worker_imports_this_of_pythons_modules_and_no_more() -> None:
    found = {name.partition(".")[0] for name in imported(WORKER, "-S", "-P")}
    assert found - OF_SOME_PYTHONS == PYTHONS | {"famezd", "sdnotify"}


def test_a_worker_imports_nothing_of_the_supervisors_or_of_a_clients() -> None:
    ours = {name.split(".")[1] for name in imported(WORKER, "-S", "-P") if name.startswith("famezd.")}
    assert not ours & {"config", "supervisor", "client", "cli"}


def test_the_supervisor_imports_nothing_that_only_a_worker_or_few_users_need() -> None:
    found = imported("import famezd.cli.famezd")
    assert not {name for name in found if name.startswith(("famezd.client", "famezd.cli.standalone"))}
    assert not found & {f"famezd.fabric.{name}" for name in ("worker", "fabric", "relay", "ledger", "wiring")}
    assert not found & {
        "bcrypt",
        "ctypes",
        "daemon",
        "difflib",
        "libvirt",
        "lockfile",
        "prompt_toolkit",
        "xml.etree.ElementTree",
    }


def test_a_worker_finds_its_modules_where_we_do_and_not_where_it_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "famezd").mkdir()
    (tmp_path / "socket.py").write_text("raise SystemExit(99)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    command, needed = launch("famezd.fabric")
    done = subprocess.run(
        [*command, "lab", "vectors=many"],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env=os.environ | needed,
        cwd=tmp_path,
    )
    assert done.returncode == 78, done.stderr
    assert "vectors" in done.stderr


def test_pythons_own_modules_come_before_what_is_installed() -> None:
    first = launch("famezd.fabric")[1]["PYTHONPATH"].split(os.pathsep)[0]
    assert Path(first, "socket.py").exists()


def test_a_folder_that_no_path_can_name_is_found_by_python_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("famezd.__file__", "/opt/a:b/famezd/__init__.py")
    command, needed = launch("famezd.fabric")
    assert "-S" not in command
    assert needed == {}
