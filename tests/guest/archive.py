"""The archives that Linux unpacks as its first file system: cpio, in the format `newc`.

Source: Documentation/driver-api/early-userspace/buffer-format.rst in Linux.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

_MAGIC = b"070701"
_LAST = "TRAILER!!!"


class Archive:
    """An archive that is written; several after one another are unpacked one over the other."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._inode = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            self._add(_LAST, 0, b"")

    def add_tree(self, tree: Path, at: str = "") -> None:
        """Adds what is in a directory, under `at`; all of it belongs to root in the guest."""
        for directory, names, files in os.walk(tree):
            inside = Path(at) / Path(directory).relative_to(tree)
            self.add_directory(str(inside))
            for name in [*files, *(name for name in names if Path(directory, name).is_symlink())]:
                path = Path(directory, name)
                content = os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
                self._add(str(inside / name), path.lstat().st_mode, content)

    def add_directory(self, name: str) -> None:
        """Adds a directory."""
        self._add(name, stat.S_IFDIR | 0o755, b"")

    def add_program(self, name: str, content: bytes) -> None:
        """Adds a file that can be run."""
        self._add(name, stat.S_IFREG | 0o755, content)

    def _add(self, name: str, mode: int, content: bytes) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        # inode, mode, uid, gid, nlink, mtime, size, device, and device that it is, length of the name, no checksum
        fields = [self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0]
        self._pad(_MAGIC + b"".join(b"%08x" % field for field in fields) + encoded)
        self._pad(content)

    def _pad(self, data: bytes) -> None:
        self._file.write(data + bytes(-len(data) % 4))
