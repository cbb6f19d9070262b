"""What is in the file system, to see what a package leaves behind.

`python -m tests.systemd.inside.leftovers FILE` writes the names down.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

BEFORE = Path("/srv/results/before")
"""What was there before famezd was ever installed."""
# The kernel's, systemd's, the tests' own, and what apt and the journal write of every package.
_NOT_OURS = {
    *("/dev/pts", "/proc", "/run/systemd", "/srv", "/sys", "/tmp"),
    *("/var/cache", "/var/lib/apt", "/var/lib/systemd/linger", "/var/log", "/var/tmp"),
}
_OF_DPKG = "/var/lib/dpkg"


def leftovers() -> set[str]:
    """What is there now and was not, or is called as something of famezd's is."""
    before = set(BEFORE.read_text().splitlines())
    return {name for name in names() if name not in before or "famez" in name}


def names() -> Iterator[str]:
    """The names of all files and directories that a package could leave."""
    for directory, directories, files in os.walk("/"):
        directories[:] = [name for name in directories if os.path.join(directory, name) not in _NOT_OURS]
        for name in directories + files:
            path = os.path.join(directory, name)
            # dpkg's own files are written anew, and called otherwise.
            if not path.startswith(_OF_DPKG) or "famez" in name:
                yield path


if __name__ == "__main__":
    Path(sys.argv[1]).write_text("\n".join(names()))
