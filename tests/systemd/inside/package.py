"""famezd's Debian package, as an administrator has it."""

from __future__ import annotations

from tests.systemd.inside.unit import run

THIS, NEXT = "/srv/packages/this.deb", "/srv/packages/next.deb"
"""The package, and that of the next version."""
_PATIENCE = 120.0


def install(package: str) -> str:
    """Installs a package, or upgrades or goes back to it; what apt said. Changed configuration stays as it is."""
    return apt_get("install", "--allow-downgrades", "--reinstall", "-oDpkg::Options::=--force-confold", package)


def apt_get(*arguments: str) -> str:
    """Runs apt-get; all that it said. It has to succeed."""
    done = run("apt-get", "-q", "-y", *arguments, patience=_PATIENCE)
    assert done.returncode == 0, f"apt-get {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr
