"""Debian systems to boot, one directory tree for each release, made once a machine.

They live outside the repository, in ${FAMEZD_CACHE:-$HOME/.cache/famezd}/systemd, keyed by the release and by what is
installed in them; remove that directory to make them anew. Making one takes about three minutes, apt and the network;
booting one takes neither.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.needs import need

ROOT = Path(__file__).parents[2]
"""The repository."""
VENV = Path("/opt/famezd")
"""Where famezd and all that it needs are in a tree."""
PACKAGES = (
    "dbus",
    "procps",
    "python3",
    "python3-venv",
    "qemu-system-x86",
    "systemd",
    "systemd-sysv",
    "util-linux",
)
_TEST_TOOLS = ("pytest", "pytest-timeout")
_OLDEST_GLIBC, _NEWEST_GLIBC = 5, 36
"""What wheels may be made for: from the oldest that there is a tag for, glibc 2.5, to that of the oldest release."""
_ALIASES = ("manylinux1", "manylinux2010", "manylinux2014")
_ARCHIVE = re.compile(r"/debian/?$")


class TreeError(AssertionError):
    """A tree cannot be made: no test that boots it can pass."""


def tree(release: str) -> Path:
    """Return the tree of a Debian release, by its code name; make it if it is not there.

    Raises TreeError, with what the failing command said.
    """
    cache = _cache()
    made = cache / f"{release}-{_key(release)}"
    if made.exists():
        return made
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(cache / f"{release}.lock"):
        # Another process may have made it while this one waited.
        if not made.exists():
            for unfinished in cache.glob(f"unfinished.{release}.*"):
                run(*as_root(), "rm", "-rf", str(unfinished))
            with tempfile.TemporaryDirectory(prefix="famezd-wheels-") as wheels:
                unfinished = _make(release, cache, Path(wheels))
            run(*as_root(), "mv", "-T", str(unfinished), str(made))
    return made


def as_root() -> list[str]:
    """The words to put before a command that only root may run."""
    return [] if os.geteuid() == 0 else ["sudo", "-n"]


def run(*command: str) -> str:
    """Run a command; return what it printed. Raises TreeError, with all that it said, if it fails."""
    environ = os.environ | {"LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd="/", env=environ
    )
    if done.returncode != 0:
        raise TreeError(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def pip(*arguments: str) -> None:
    """Run pip, that of this Python, as this machine has it configured. Raises TreeError if it fails."""
    run(sys.executable, "-m", "pip", "-q", *arguments)


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("FAMEZD_CACHE") or Path(home, "famezd"), "systemd").resolve()


def _key(release: str) -> str:
    """What tells a tree from one with other contents: this file is all that decides how it is made."""
    told = [release, platform.machine(), *_requirements(), Path(__file__).read_text()]
    return hashlib.sha256("\0".join(told).encode()).hexdigest()[:12]


def _requirements() -> list[str]:
    """What famezd needs, and the tests that run inside."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tools = [r for r in project["optional-dependencies"]["dev"] if re.split(r"[<>=~! ]", r)[0] in _TEST_TOOLS]
    return [*project["dependencies"], *tools]


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def _make(release: str, cache: Path, wheels: Path) -> Path:
    """Make a tree in a directory of its own under `cache`, and return that."""
    debootstrap = need("debootstrap", "debootstrap")
    # Not TemporaryDirectory, which could not remove what is root's; what is left over goes with the next start.
    unfinished = Path(tempfile.mkdtemp(prefix=f"unfinished.{release}.", dir=cache))
    unfinished.chmod(0o755)
    options = ["--variant=minbase", f"--include={','.join(PACKAGES)}"]
    run(*as_root(), str(debootstrap), *options, release, str(unfinished), *_mirror())
    chroot = [*as_root(), "chroot", str(unfinished)]
    version = run(*chroot, "python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()
    _download(wheels, version)
    run(*as_root(), "cp", "-r", str(wheels), f"{unfinished}/opt/wheels")
    run(*chroot, "python3", "-m", "venv", str(VENV))
    offline = ["--no-index", "--find-links", "/opt/wheels"]
    run(*chroot, str(VENV / "bin/pip"), "install", *offline, *_requirements())
    # A system that was copied would find out on its first boot that it is new, and take its time.
    run(*chroot, "sh", "-c", "rm -rf /opt/wheels /var/cache/apt/archives/*.deb && systemd-machine-id-setup")
    return unfinished


def _mirror() -> list[str]:
    """The Debian archive that this machine uses; nothing, for debootstrap's own choice, where it uses none."""
    if shutil.which("apt-get") is None:
        return []
    archives = run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").split()
    return [uri for uri in archives if _ARCHIVE.search(uri)][:1]


def _download(wheels: Path, version: str) -> None:
    """Collect wheels for a tree's Python, as this machine's pip is configured; the tree's own pip needs no network."""
    with tempfile.TemporaryDirectory(prefix="famezd-wheels-") as ours:
        # Some exist as sources only, which pip builds only for the Python that it runs in. They are pure Python.
        pip("wheel", "--wheel-dir", ours, *_requirements())
        abi = "cp" + version.replace(".", "")
        machine = platform.machine()
        tags = [f"manylinux_2_{minor}_{machine}" for minor in range(_OLDEST_GLIBC, _NEWEST_GLIBC + 1)]
        tags += [f"{alias}_{machine}" for alias in _ALIASES]
        target = ["--python-version", version, "--implementation", "cp", "--abi", abi, "--abi", "abi3", "--abi", "none"]
        target += [f"--platform={tag}" for tag in tags]
        links = ["--find-links", ours]
        pip("download", "--dest", str(wheels), "--only-binary=:all:", *links, *target, *_requirements())
