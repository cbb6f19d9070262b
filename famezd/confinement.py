"""Security modules, AppArmor and SELinux, which may forbid this process what owner, group and mode of a file permit.

Sources: apparmor(7), selinux(8), proc_pid_attr(5), capabilities(7).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

_ROOT = "/"
_APPARMOR, _SELINUX = "AppArmor", "SELinux"
_TELLS = {_APPARMOR: "journalctl -k -g DENIED", _SELINUX: "ausearch -m AVC -ts recent"}
"""What shows a denial, by module."""
_THERE = {_APPARMOR: "sys/module/apparmor/parameters/enabled", _SELINUX: "sys/fs/selinux/enforce"}
_FORBIDDING = " (enforce)", " (kill)", " (mixed)"
"""How AppArmor shows the modes of a profile in which it forbids anything."""
_FREE = "unconfined_"
"""How the types of SELinux begin to which it forbids next to nothing."""
_OVERRIDES, _READS = 1 << 1, 1 << 2
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""


class Confinement(NamedTuple):
    """What a security module has this process under."""

    module: str
    label: str
    """AppArmor's profile, or SELinux's context; "" where the process may not even know that."""

    def __str__(self) -> str:
        kind = "profile" if self.module == _APPARMOR else "context"
        return f"{self.module} forbids it to this process" + (f" ({kind} {self.label})" if self.label else "")

    @property
    def remedy(self) -> str:
        """What tells an administrator what to allow."""
        return f"`{_TELLS[self.module]}` tells what to allow"


def confinement(root: str = _ROOT) -> Confinement | None:
    """What confines this process, None if nothing that forbids anything; `root` is where proc and sys are."""
    try:
        label = _read(root, "proc/self/attr/current").rstrip("\0\n")
    except PermissionError:
        # It is open to everybody: who may not read it is confined. What is there can be asked all the same.
        there = [module for module, path in _THERE.items() if os.access(os.path.join(root, path), os.F_OK)]
        return Confinement(there[0], "") if there else None
    except (OSError, UnicodeDecodeError):
        return None
    if label.endswith(_FORBIDDING):
        return Confinement(_APPARMOR, label.rpartition(" (")[0])
    context = label.split(":")
    is_context = len(context) >= 3 and " " not in label and not context[2].startswith(_FREE)
    return Confinement(_SELINUX, label) if is_context and _enforces(root) else None


def _read(root: str, path: str) -> str:
    with open(os.path.join(root, path)) as file:
        return file.read()


def _enforces(root: str) -> bool:
    """Whether SELinux forbids anything, which is not to be seen in a container: taken for granted there."""
    try:
        return _read(root, _THERE[_SELINUX]).strip() != "0"
    except OSError:
        return True


def denial(error: OSError, path: str | os.PathLike[str], wanted: int, root: str = _ROOT) -> str:
    """Says which security module caused `error`, and what shows that; "" where it may be of another cause.

    `path` is what was not permitted, or is to be made, and `wanted` what was asked of it, as for access(2). For a file
    only EACCES is a module's answer: EPERM is that of chown(2), or about a file that nobody may change.
    """
    found = confinement(root) if error.errno == errno.EACCES else None
    path = os.path.abspath(path)
    if not os.path.lexists(path):
        path, wanted = os.path.dirname(path), os.W_OK | os.X_OK
    if found is None or not _permits(path, wanted):
        return ""
    return f"{found}, though owner, group and mode permit it; {found.remedy}"


def _permits(path: str, wanted: int) -> bool:
    """Whether owners, groups and modes let us: as the kernel says, in which SELinux has a say, or as they are."""
    if os.access(path, wanted, effective_ids=True):
        return True
    try:
        return all(_mode_permits(parent, os.X_OK) for parent in _parents(path)) and _mode_permits(path, wanted)
    except OSError:
        return False


def _parents(path: str) -> Iterator[str]:
    while (parent := os.path.dirname(path)) != path:
        yield parent
        path = parent


def _mode_permits(path: str, wanted: int) -> bool:
    found = os.stat(path)
    capabilities = _capabilities()
    if capabilities & _OVERRIDES or (capabilities & _READS and not wanted & os.W_OK):
        return True
    if "system.posix_acl_access" in os.listxattr(path):
        return False
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid == os.geteuid():
        mode >>= 6
    elif found.st_gid in {os.getegid(), *os.getgroups()}:
        mode >>= 3
    return not wanted & ~mode


def _capabilities() -> int:
    """The effective capabilities, as bits."""
    with open("/proc/self/status") as lines:
        return next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)
