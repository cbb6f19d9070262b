"""What processes have in memory, page by page."""

from __future__ import annotations

import mmap
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

PAGE = mmap.PAGESIZE
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) (\S+) (\d+)")
_PRESENT, _OF_FILE = 1 << 63, 1 << 61
"""Bits of a word of /proc/PID/pagemap: in memory, and a file's (which it may share) rather than its own."""

_Page = tuple[str, int, int]
"""Of a file: device, inode, offset."""


class Memory(NamedTuple):
    """Bytes that one process has in memory."""

    pss: int
    """Its proportional part, as the kernel has it (smaps_rollup); it is less where others use the same libraries."""
    alone: int
    """The same, if the processes that were looked at were all that there is on the machine."""
    own: int
    """What no other process can share: its heap, in the widest sense."""
    shared: int
    """The part that is shared memory: of `alone`, stats pages and mailboxes."""


def look(pids: Iterable[int]) -> dict[int, Memory]:
    """What these processes have, which belong together."""
    found = {pid: _pages(pid) for pid in pids}
    users: Counter[_Page] = Counter()
    for _, files in found.values():
        users.update(files)
    memories = {}
    for pid, (own, files) in found.items():
        parts = {page: PAGE / users[page] for page in files}
        shared = sum(part for page, part in parts.items() if page[0] == _shm_device())
        memories[pid] = Memory(rollup(pid)["Pss"], own + round(sum(parts.values())), own, round(shared))
    return memories


def rollup(pid: int) -> dict[str, int]:
    """/proc/PID/smaps_rollup in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}


def _pages(pid: int) -> tuple[int, set[_Page]]:
    """The bytes of its own, and the pages of files."""
    own, files = 0, set()
    with open(f"/proc/{pid}/pagemap", "rb") as pagemap:
        for start, end, offset, device, inode in _mappings(pid):
            pagemap.seek(start // PAGE * 8)
            words = array("Q")
            words.frombytes(pagemap.read((end - start) // PAGE * 8))
            for i, word in enumerate(words):
                if word & _PRESENT and word & _OF_FILE and inode:
                    files.add((device, inode, offset // PAGE + i))
                elif word & _PRESENT:
                    own += PAGE
    return own, files


def _mappings(pid: int) -> Iterator[tuple[int, int, int, str, int]]:
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if line.endswith(("[vdso]", "[vvar]", "[vsyscall]", "[vvar_vclock]")):
            continue
        if found := _MAPPING.match(line):
            yield int(found[1], 16), int(found[2], 16), int(found[3], 16), found[4], int(found[5])


def _shm_device() -> str:
    """Of memfds, as /proc/PID/maps names it: the kernel's own tmpfs, which is mounted nowhere."""
    return "00:01"
