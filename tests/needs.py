"""Programs and files that the tests use: found, or installed from the package that has them.

A test that skips itself for want of a program proves nothing, so these tests install what they lack.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

# What a user's PATH leaves out: the daemons that we test against live there.
_DAEMONS = ["/usr/local/sbin", "/usr/sbin", "/sbin"]
_APT = Path("/usr/bin/apt-get")


class MissingProgramError(Exception):
    """A program that a test calls is not there and cannot be installed."""

    def __init__(self, program: str, package: str, complaint: str) -> None:
        """Name `program` and `package`, the remedy, and what apt complained of."""
        super().__init__(
            f"{program} is missing, and installing package {package} did not bring it; "
            f"as root, run: apt-get install {package}\n{complaint}".rstrip()
        )


class MissingPackagesError(Exception):
    """Packages cannot be installed."""

    def __init__(self, packages: Iterable[str], complaint: str) -> None:
        """Name the packages, the remedy, and what apt complained of."""
        super().__init__(f"as root, run: apt-get install {' '.join(packages)}\n{complaint}".rstrip())


def need(program: str, package: str) -> Path:
    """Return the path of `program`, installing the Debian package that has it where it is missing.

    Installs by apt, as root or through `sudo -n`; may be called by several test processes at a time.
    Raises MissingProgramError, naming program and package, when that fails.
    """
    return _need(lambda: find(program), program, package)


def need_file(path: Path, package: str) -> Path:
    """Return `path`, which is no program, installing the package that has it in the same way."""
    return _need(lambda: path if path.exists() else None, str(path), package)


def need_packages(packages: Iterable[str]) -> None:
    """Install those of these packages that are not installed, in one go, in the same way.

    Raises MissingPackagesError, with what apt complained of, when that fails.
    """
    missing = [package for package in packages if not _installed(package)]
    if not missing:
        return
    with apt_alone():
        complaint = _install(*missing)
    if complaint:
        raise MissingPackagesError(missing, complaint)


def _installed(package: str) -> bool:
    query = ["dpkg-query", "--show", "--showformat", "${db:Status-Status}", package]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=False).stdout == "installed"
    except FileNotFoundError:  # no Debian
        return False


def _need(find: Callable[[], Path | None], what: str, package: str) -> Path:
    found = find()
    if found:
        return found
    complaint = ""
    with apt_alone():
        # Another process may have installed it while this one waited for its turn.
        if not find():
            complaint = _install(package)
    found = find()
    if not found:
        raise MissingProgramError(what, package, complaint)
    return found


def find(program: str) -> Path | None:
    """Return the path of a program, where there is one."""
    path = shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *_DAEMONS]))
    return Path(path) if path else None


@contextlib.contextmanager
def apt_alone() -> Iterator[None]:
    """Hold the lock that everything takes which installs for these tests.

    The lock is on apt-get itself: every user can open it, and there is no file to make or to leave behind.
    """
    if not _APT.exists():
        yield
        return
    with _APT.open("rb") as apt:
        fcntl.flock(apt, fcntl.LOCK_EX)
        yield


def _install(*packages: str) -> str:
    """Install `packages`; return what apt complained of, or nothing."""
    install = ["-o", "DPkg::Lock::Timeout=300", "install", "--no-install-recommends", *packages]
    complaint = _apt_get(install)
    if complaint:
        # The lists may be absent, as in containers, or name versions that the mirror no longer has.
        complaint = _apt_get(["update"]) or _apt_get(install)
    return complaint


def _apt_get(arguments: list[str]) -> str:
    """Run apt-get as root; return its output when it failed, or nothing."""
    command = ["env", "DEBIAN_FRONTEND=noninteractive", str(_APT), "-q", "-y", *arguments]
    if os.geteuid() != 0:
        command = ["sudo", "-n", *command]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    except FileNotFoundError as missing:  # neither root nor sudo
        return str(missing)
    return f"{' '.join(command)}:\n{done.stdout}" if done.returncode else ""


if __name__ == "__main__":
    print(need(*sys.argv[1:3]))
