"""Huge pages of the kernel, which all containers share."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.systemd.trees import as_root, run

NUMBER = Path("/proc/sys/vm/nr_hugepages")


@contextmanager
def huge_pages(pages: int) -> Iterator[None]:
    """Has the kernel set so many more aside until the end of `with`, if it has any.

    What it gives depends on its memory; where it gives none the test that needs them says so.
    """
    if not NUMBER.exists():
        yield
        return
    _add(pages)
    try:
        yield
    finally:
        _add(-pages)


def _add(pages: int) -> None:
    # Not back to what it was, and one after the other: others do the same.
    with NUMBER.open() as number:
        fcntl.flock(number, fcntl.LOCK_EX)
        run(*as_root(), "sh", "-c", f"echo {int(number.read()) + pages} > {NUMBER}")
