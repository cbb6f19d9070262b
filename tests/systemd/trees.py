"""Debian systems to boot, one directory tree for each release, made once a machine.

They live outside the repository, in ${FAMEZD_CACHE:-$HOME/.cache/famezd}/systemd, keyed by the release and by what is
installed in them; remove that directory to make them anew. Making one takes about three minutes, apt and the network;
booting one takes neither. Each is a proof that famezd's package installs on that Debian as it comes: it was installed
there before anything else.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.built import ROOT, deb
from tests.needs import need

PACKAGES = (
    "dbus",
    "procps",
    "python3-pytest",
    "python3-pytest-timeout",
    "qemu-system-x86",
    "systemd",
    "systemd-sysv",
    "util-linux",
)
"""What the tests inside need; what famezd needs comes with its package."""
_CONTROL = ROOT / "packaging/debian/control"
_APT_GET = ("apt-get", "-q", "-y", "--no-install-recommends")
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
            run(*as_root(), "mv", "-T", str(_make(release, cache, deb())), str(made))
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


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("FAMEZD_CACHE") or Path(home, "famezd"), "systemd").resolve()


def _key(release: str) -> str:
    """What tells a tree from one with other contents: how it is made, and what famezd's package needs."""
    told = [release, platform.machine(), _CONTROL.read_text(), Path(__file__).read_text()]
    return hashlib.sha256("\0".join(told).encode()).hexdigest()[:12]


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def _make(release: str, cache: Path, package: Path) -> Path:
    """Make a tree in a directory of its own under `cache`, and return that."""
    debootstrap = need("debootstrap", "debootstrap")
    # Not TemporaryDirectory, which could not remove what is root's; what is left over goes with the next start.
    unfinished = Path(tempfile.mkdtemp(prefix=f"unfinished.{release}.", dir=cache))
    unfinished.chmod(0o755)
    run(*as_root(), str(debootstrap), "--variant=minbase", release, str(unfinished), *_mirror())
    chroot = [*as_root(), "chroot", str(unfinished)]
    # As on anybody's Debian: apt finds what the package needs. It goes again, for what is tested then is a newer one.
    run(*as_root(), "cp", str(package), f"{unfinished}/tmp/famezd.deb")
    run(*chroot, *_APT_GET, "install", "/tmp/famezd.deb")
    run(*chroot, *_APT_GET, "purge", "famezd")
    run(*chroot, *_APT_GET, "install", *PACKAGES)
    # A system that was copied would find out on its first boot that it is new, and take its time.
    run(*chroot, "sh", "-c", "rm /tmp/famezd.deb && apt-get clean && systemd-machine-id-setup")
    return unfinished


def _mirror() -> list[str]:
    """The Debian archive that this machine uses; nothing, for debootstrap's own choice, where it uses none."""
    if shutil.which("apt-get") is None:
        return []
    archives = run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").split()
    return [uri for uri in archives if _ARCHIVE.search(uri)][:1]
