"""What the kernel shows of AppArmor and SELinux, in its own form; tests/guest asks a kernel that has AppArmor."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from famezd.confinement import Confinement, confinement, denial
from famezd.remedies import remedy
from tests.unit.users import unprivileged

DENIED = PermissionError(errno.EACCES, "Permission denied")
CONTEXT = "system_u:system_r:svirt_t:s0:c12,c345"
APPARMOR = Confinement("AppArmor", "famez")
SELINUX = Confinement("SELinux", CONTEXT)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc" / "self" / "attr").mkdir(parents=True)
    return tmp_path


def show(root: Path, label: str, enforce: str | None = None) -> str:
    """Has the kernel show a label, and whether SELinux enforces; returns where."""
    (root / "proc" / "self" / "attr" / "current").write_text(label)
    if enforce is not None:
        (root / "sys" / "fs" / "selinux").mkdir(parents=True)
        (root / "sys" / "fs" / "selinux" / "enforce").write_text(enforce)
    return str(root)


@pytest.mark.parametrize(
    ("label", "found"),
    [
        ("famez (enforce)\n", APPARMOR),
        ("famez (kill)\n", APPARMOR),
        ("/usr/bin/famez (odd) name (enforce)\n", Confinement("AppArmor", "/usr/bin/famez (odd) name")),
        (":lxd:famez//&unconfined (mixed)\n", Confinement("AppArmor", ":lxd:famez//&unconfined")),
        ("famez (complain)\n", None),
        ("unconfined\n", None),
        (f"{CONTEXT}\0", SELINUX),
        ("u:r:famezd_t\0", Confinement("SELinux", "u:r:famezd_t")),
        ("unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023\0", None),
        ("system_u:system_r:unconfined_service_t:s0\0", None),
        ("kernel\0", None),
        ("_\0", None),
        ("", None),
    ],
)
def test_what_confines_a_process_is_known_by_its_label(root: Path, label: str, found: Confinement | None) -> None:
    assert confinement(show(root, label)) == found


@pytest.mark.parametrize(("enforce", "found"), [("1", SELINUX), ("0", None)])
def test_selinux_forbids_nothing_where_it_is_permissive(root: Path, enforce: str, found: Confinement | None) -> None:
    assert confinement(show(root, f"{CONTEXT}\0", enforce)) == found


def test_without_a_security_module_nothing_is_shown(tmp_path: Path) -> None:
    assert confinement(str(tmp_path)) is None


def test_a_denial_names_the_module_and_what_shows_it(root: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.touch()
    told = denial(DENIED, there, os.W_OK, show(root, "famez (enforce)\n"))
    assert told == (
        "AppArmor forbids it to this process (profile famez), though owner, group and mode permit it;"
        " `journalctl -k -g DENIED` tells what to allow"
    )
    told = denial(DENIED, tmp_path / "to be made", os.W_OK, show(root, f"{CONTEXT}\0"))
    assert told == (
        f"SELinux forbids it to this process (context {CONTEXT}), though owner, group and mode permit it;"
        " `ausearch -m AVC -ts recent` tells what to allow"
    )


def test_other_errors_are_no_denials(root: Path, tmp_path: Path) -> None:
    shown = show(root, "famez (enforce)\n")
    assert denial(PermissionError(errno.EPERM, "Operation not permitted"), tmp_path, os.W_OK, shown) == ""
    assert denial(FileNotFoundError(errno.ENOENT, "No such file"), tmp_path / "not" / "there", os.W_OK, shown) == ""
    assert denial(DENIED, tmp_path, os.R_OK, show(root, "unconfined\n")) == ""


@pytest.mark.parametrize(
    ("path", "wanted", "by_module"),
    [
        ("/etc/passwd", os.R_OK, True),
        ("/etc/passwd", os.W_OK, False),
        ("/etc/shadow", os.R_OK, False),
        ("/tmp/to be made", os.W_OK, True),
        ("/etc/to be made", os.W_OK, False),
    ],
)
def test_what_owner_group_or_mode_forbid_is_no_modules_denial(path: str, wanted: int, by_module: bool) -> None:
    with TemporaryDirectory() as directory:
        # pytest's own directories are for ours alone.
        Path(directory).chmod(0o755)
        (Path(directory) / "proc" / "self" / "attr").mkdir(parents=True)
        shown = show(Path(directory), "famez (enforce)\n")
        with unprivileged():
            assert bool(denial(DENIED, path, wanted, shown)) == by_module


def test_who_may_not_even_know_its_label_is_confined() -> None:
    with TemporaryDirectory() as directory:
        root = Path(directory)
        root.chmod(0o755)
        (root / "proc" / "self" / "attr").mkdir(parents=True)
        (root / "proc" / "self" / "attr" / "current").touch(mode=0)
        (root / "sys" / "module" / "apparmor" / "parameters").mkdir(parents=True)
        (root / "sys" / "module" / "apparmor" / "parameters" / "enabled").touch(mode=0)
        with unprivileged():
            told = denial(DENIED, "/etc/passwd", os.R_OK, directory)
        assert told.startswith("AppArmor forbids it to this process, though owner, group and mode permit it; ")


def test_a_remedy_is_the_file_systems_the_modules_or_the_usual_one(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert remedy(full, "usual", tmp_path) == "free space or inodes there; `df -h` and `df -i` tell which"
    # Nothing confines the tests.
    assert remedy(DENIED, "usual", tmp_path) == "usual"
