"""Debian's Linux for virtual machines, and what the guests' file system is made of that does not change with famezd.

Both are kept outside the repository, in ${FAMEZD_CACHE:-$HOME/.cache/famezd}/guest, keyed by what they are made from;
remove that directory to make them anew. Making them takes half a minute, apt and the network.
"""

from __future__ import annotations

import compileall
import fcntl
import hashlib
import lzma
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from tests.guest.archive import Archive
from tests.needs import apt_alone, need

MODULES = ("vfio-pci", "vfio_iommu_type1", "uio_pci_generic")
"""What guests can load, with what these depend on."""
_PACKAGE = f"linux-image-cloud-{'arm64' if platform.machine() == 'aarch64' else 'amd64'}"
_LIBRARIES = ("prompt_toolkit", "wcwidth")
"""What famez-client imports that is not Python's own."""
_LEFT_OUT = (
    "site-packages",
    "test*",
    "idlelib",
    "tkinter",
    "_tkinter.*",
    "_test*",
    "ensurepip",
    "lib2to3",
    "distutils",
)
SITE = "usr/lib/famezd"
"""Where guests find what is not Python's own."""
_PYTHON = f"usr/lib/python{sys.version_info[0]}.{sys.version_info[1]}"


class GuestError(AssertionError):
    """A guest cannot be made, or does not do what a test asks of it."""


class System(NamedTuple):
    """What guests boot."""

    kernel: Path
    base: Path
    """The unchanging part of their file system, an archive."""


def system() -> System:
    """Return Debian's newest kernel for clouds, and the base of a file system; make what is not there.

    Raises GuestError, with what the failing command said.
    """
    cache = _cache()
    made = cache / _key()
    if not made.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Another process may have made it while this one waited.
            if not made.exists():
                with tempfile.TemporaryDirectory(prefix="unfinished.", dir=cache) as unfinished:
                    _make(Path(unfinished))
                    shutil.copytree(unfinished, made.with_suffix(".new"), dirs_exist_ok=True)
                    made.with_suffix(".new").rename(made)
    return System(made / "vmlinuz", made / "base.cpio")


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("FAMEZD_CACHE") or Path(home, "famezd"), "guest").resolve()


def _key() -> str:
    """What tells a base from one with other contents."""
    told = [platform.machine(), sys.version, *(distribution(name).version for name in _LIBRARIES)]
    told += [path.read_text() for path in (Path(__file__), Path(__file__).with_name("archive.py"))]
    return hashlib.sha256("\0".join(told).encode()).hexdigest()[:12]


def _run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd=cwd, env=_ENVIRON
    )
    if done.returncode != 0:
        raise GuestError(f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


_ENVIRON = os.environ | {"LC_ALL": "C.UTF-8"}


def _make(directory: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="famezd-guest-") as scratch:
        root = Path(scratch, "root")
        kernel = _unpack(_download(Path(scratch)), Path(scratch, "package"))
        shutil.copyfile(kernel, directory / "vmlinuz")
        _install_modules(kernel, root)
        _install_python(root)
        for program in (need("modprobe", "kmod"), Path(sys.executable).resolve()):
            install_program(program, root / "usr/bin" / program.name, root)
        (root / "usr/bin/python3").symlink_to(Path(sys.executable).resolve().name)
        with Archive(directory / "base.cpio") as archive:
            archive.add_tree(root)


def _download(scratch: Path) -> Path:
    """Fetch the package of the newest kernel; apt's lists may be absent, or name one that the mirror has no more."""
    try:
        name = _newest()
        _run("apt-get", "-q", "download", name, cwd=scratch)
    except GuestError:
        with apt_alone():
            _run(*([] if os.geteuid() == 0 else ["sudo", "-n"]), "apt-get", "-q", "update")
        name = _newest()
        _run("apt-get", "-q", "download", name, cwd=scratch)
    return next(scratch.glob(f"{name}_*.deb"))


def _newest() -> str:
    depends = _run("apt-cache", "show", "--no-all-versions", _PACKAGE)
    found = re.search(r"^Depends: (linux-image-\S+)", depends, re.MULTILINE)
    if found is None:
        raise GuestError(f"apt knows no kernel by {_PACKAGE}; guests need Debian's")
    return found[1]


def _unpack(package: Path, directory: Path) -> Path:
    _run("dpkg-deb", "-x", package, directory)
    return next(directory.glob("boot/vmlinuz-*"))


def _install_modules(kernel: Path, root: Path) -> None:
    """Copy the modules that guests load, and those that they depend on."""
    release = kernel.name.removeprefix("vmlinuz-")
    [theirs] = kernel.parents[1].glob(f"**/modules/{release}")
    known = {_module_name(path): path for path in theirs.rglob("*.ko*")}
    ours = root / "lib/modules" / release
    ours.mkdir(parents=True)
    for name in _with_dependencies(known, MODULES):
        (ours / f"{name}.ko").write_bytes(_module(known[name]))
    for told in theirs.glob("modules.*"):
        shutil.copy(told, ours)
    _run(need("depmod", "kmod"), "-b", root, release)


def _with_dependencies(known: dict[str, Path], names: Iterable[str]) -> set[str]:
    found: set[str] = set()
    left = [name.replace("-", "_") for name in names]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            depends = re.search(rb"\0depends=([^\0]*)\0", _module(known[name]))
            left += [other.replace("-", "_") for other in depends[1].decode().split(",") if other] if depends else []
    return found


def _module_name(path: Path) -> str:
    return path.name.partition(".")[0].replace("-", "_")


def _module(path: Path) -> bytes:
    """A kernel module, which newer Debians compress."""
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def _install_python(root: Path) -> None:
    """Copy what this Python imports, compiled: the guest's processor is emulated, and compiles slowly."""
    library = Path(sysconfig.get_path("stdlib"))
    target = root / _PYTHON
    left_out = shutil.ignore_patterns(*_LEFT_OUT, "config-*", "__pycache__", "*.a")
    shutil.copytree(library, target, ignore=left_out, symlinks=True)
    for extension in target.rglob("*.so"):
        for needed in _libraries(extension):
            _install_library(needed, root)
    for name in _LIBRARIES:
        spec = find_spec(name)
        assert spec is not None
        assert spec.submodule_search_locations is not None
        [package] = spec.submodule_search_locations
        shutil.copytree(package, root / SITE / name, ignore=shutil.ignore_patterns("__pycache__"))
    compile_in_place(root / "usr/lib")


def compile_in_place(tree: Path) -> None:
    """Have a tree of Python's files hold their compiled forms instead."""
    compileall.compile_dir(tree, quiet=2, legacy=True, stripdir=str(tree), optimize=0)
    for source in tree.rglob("*.py"):
        if source.with_suffix(".pyc").exists():
            source.unlink()


def install_program(program: Path, target: Path, root: Path) -> None:
    """Copy a program to `target` in the tree at `root`, with the libraries that it needs."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(program.resolve(), target)
    for needed in _libraries(program):
        _install_library(needed, root)


def _install_library(library: Path, root: Path) -> None:
    """Put a library where the dynamic linker looks; the linker itself where programs name it."""
    target = root / str(library).lstrip("/") if "ld-linux" in library.name else root / "usr/lib" / library.name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library.resolve(), target)


def _libraries(program: Path) -> Iterator[Path]:
    for found in re.finditer(r"(?:=> |^\s*)(/\S+) \(0x", _run("ldd", program), re.MULTILINE):
        yield Path(found[1])
