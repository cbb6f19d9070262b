"""famezd's packages, built of the repository as it is, and a Debian package that looks like the next version's."""

from __future__ import annotations

import atexit
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The repository."""
NEXT_VERSION = "99.0"
"""The version of the famezd that tests upgrade to."""

_MADE = (".git", ".venv", ".hypothesis", ".*_cache", "*.egg-info", "build", "dist", "run")
_SHARED = "FAMEZD_TEST_RUN"
"""The variable that tells who is started by a test run of its directory."""


class BuildError(AssertionError):
    """What the tests are for cannot be built."""


def sdist() -> Path:
    """The sdist, built once in a test run."""
    return _once("sdist", _sdist)


def deb() -> Path:
    """The package, built once in a test run as `make deb` does it."""
    return _once("deb", lambda into: build("deb", into))


def rpm() -> Path:
    """The package as rpm, built once in a test run as `make rpm` does it."""
    return _once("rpm", lambda into: build("rpm", into))


def next_deb() -> Path:
    """The same package under another version, with other versions of the fabrics that come with it."""
    return _once("next", _next_deb)


def build(kind: str, directory: Path) -> Path:
    """Builds the deb or the rpm below `directory`, which is all that differs from another build."""
    run(str(ROOT / f"packaging/{kind}.sh"), str(sdist()), str(directory / "build"), str(directory / "dist"))
    return next((directory / "dist").glob(f"famezd*.{kind}"))


def _sdist(into: Path) -> Path:
    # Of a copy: setuptools writes notes beside what it packs, where programs that other tests run read them.
    copy = into / "famezd"
    shutil.copytree(ROOT, copy, ignore=_not_packed)
    run(sys.executable, "-m", "build", "--sdist", "--outdir", str(into), str(copy))
    return next(into.glob("famezd-*.tar.gz"))


def _not_packed(directory: str, names: list[str]) -> set[str]:
    """What to leave out of a copy of the repository: what commands have made in it."""
    ignored = [*_MADE, "__pycache__"] if Path(directory) == ROOT else ["__pycache__"]
    return shutil.ignore_patterns(*ignored)(directory, names)


def _next_deb(into: Path) -> Path:
    tree = into / "famezd"
    run("dpkg-deb", "--raw-extract", str(deb()), str(tree))
    _replace(tree / "DEBIAN/control", r"Version: .*", f"Version: {NEXT_VERSION}-1")
    package = tree / "usr/lib/python3/dist-packages/famezd/__init__.py"
    _replace(package, r'__version__ = ".*"', f'__version__ = "{NEXT_VERSION}"')
    for fabric in (tree / "etc/famez/fabrics.d").iterdir():
        _replace(fabric, r"\Z", "# Of the next version.\n")
    run("dpkg-deb", "--root-owner-group", "--build", str(tree), str(into))
    return next(into.glob("famezd_*.deb"))


def _replace(file: Path, pattern: str, text: str) -> None:
    replaced, times = re.subn(pattern, text, file.read_text())
    assert times == 1, f"{file} has {times} times {pattern}"
    file.write_text(replaced)


def _once(name: str, make: Callable[[Path], Path]) -> Path:
    """What `make` makes in the directory that it is given: made by who asks first, for all processes of a test run."""
    with (shared() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = shared() / f"{name}.made"
        if not made.is_symlink():
            made.symlink_to(make(Path(tempfile.mkdtemp(prefix=f"{name}-", dir=shared()))))
        return made.resolve()


@cache
def shared() -> Path:
    """The directory of a test run, which all its processes share: the first makes it, and removes it when it ends."""
    if _SHARED not in os.environ:
        os.environ[_SHARED] = tempfile.mkdtemp(prefix="famezd-built-")
        atexit.register(shutil.rmtree, os.environ[_SHARED], ignore_errors=True)
    return Path(os.environ[_SHARED])


def run(*command: str) -> str:
    """Runs a command; all that it said. Raises BuildError with that if it fails."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        raise BuildError(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}")
    return done.stdout
