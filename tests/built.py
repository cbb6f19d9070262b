"""famezd's packages, built of the repository as it is, and a Debian package that looks like the next version's."""

from __future__ import annotations

import atexit
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The repository."""
NEXT_VERSION = "99.0"
"""The version of the famezd that tests upgrade to."""


class BuildError(AssertionError):
    """What the tests are for cannot be built."""


@cache
def sdist() -> Path:
    """The sdist, built once in a test run."""
    into = _directory("sdist")
    run(sys.executable, "-m", "build", "--sdist", "--outdir", str(into), str(ROOT))
    return next(into.glob("famezd-*.tar.gz"))


@cache
def deb() -> Path:
    """The package, built once in a test run as `make deb` does it."""
    return build("deb", _directory("deb"))


@cache
def rpm() -> Path:
    """The package as rpm, built once in a test run as `make rpm` does it."""
    return build("rpm", _directory("rpm"))


def build(kind: str, directory: Path) -> Path:
    """Builds the deb or the rpm below `directory`, which is all that differs from another build."""
    run(str(ROOT / f"packaging/{kind}.sh"), str(sdist()), str(directory / "build"), str(directory / "dist"))
    return next((directory / "dist").glob(f"famezd*.{kind}"))


@cache
def next_deb() -> Path:
    """The same package under another version, with other versions of the fabrics that come with it."""
    into = _directory("next")
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


def _directory(name: str) -> Path:
    """A directory for this test run."""
    directory = Path(tempfile.mkdtemp(prefix=f"famezd-{name}-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def run(*command: str) -> str:
    """Runs a command; all that it said. Raises BuildError with that if it fails."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        raise BuildError(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}")
    return done.stdout
