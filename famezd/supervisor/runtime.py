"""The runtime directory: there, and used by one famezd only."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from famezd.config import Config
from famezd.errors import FamezError
from famezd.fabric.listener import credentials, identity, unlink
from famezd.remedies import remedy


class RuntimeDirectoryError(FamezError):
    """The runtime directory cannot be used."""


@contextmanager
def runtime_directory(config: Config) -> Iterator[None]:
    """Makes the directory, and makes sure that no other famezd uses it; raises RuntimeDirectoryError."""
    path = config.runtime_directory
    try:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        lock = _lock(config)
    except OSError as e:
        where = f" ({e.filename})" if e.filename not in (None, str(path)) else ""
        other = f"set runtime_directory to one that user id {os.geteuid()} can write to"
        about = remedy(e, "", e.filename or path)
        todo = f"{about}, or {other}" if about else other
        raise RuntimeDirectoryError(f"cannot use the runtime directory {path}: {e.strerror}{where}; {todo}") from e
    try:
        yield
    finally:
        unlink(str(config.lock_file), _identity(lock))
        os.close(lock)


def _lock(config: Config) -> int:
    """Opens and locks the lock file, which only we may open: anybody who can open a file can lock it."""
    path = str(config.lock_file)
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            os.close(lock)
            raise RuntimeDirectoryError(
                f"another famezd uses the runtime directory {config.runtime_directory}{_owner(config.control_socket)}; "
                f"stop it, or set another runtime_directory"
            ) from e
        if _identity(lock) == identity(path):
            return lock
        # Its last owner has removed it meanwhile.
        os.close(lock)


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _owner(control: Path) -> str:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        probe.connect(str(control))
        return f" (process {credentials(probe).pid})"
    return ""
