"""The device without a driver: its registers and memory as sysfs shows them to root, and no interrupts."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from pathlib import Path

from famezd.client import pci
from famezd.client.devicememory import DeviceMemory
from famezd.client.peer import ClientError


class SysfsDevice:
    """An ivshmem device that is mapped from sysfs, until `close`."""

    bells: tuple[int, ...] = ()
    """It has no way to tell of interrupts."""
    request: int | None = None

    def __init__(self, function: pci.Function) -> None:
        """Raises ClientError, which says what to do, if it cannot be had."""
        pci.unused(function)
        with contextlib.ExitStack() as held:
            registers = _open(function, pci.REGISTERS, held)
            self.vectors = function.vectors
            if not self.vectors:
                raise pci.no_vectors(function)
            if function.resource(pci.REGISTERS).start % mmap.PAGESIZE:
                # What is mapped begins with a page, which others share then.
                raise ClientError(f"the registers of {function.address} begin within a page: this needs an IOMMU")
            self._enable(function, held)
            mapping = mmap.mmap(registers, function.resource(pci.REGISTERS).size)
            held.callback(mapping.close)
            self._registers = memoryview(mapping).cast("I")
            held.callback(self._registers.release)
            memory = _open(function, pci.MEMORY, held)
            self.memory = DeviceMemory(mmap.mmap(memory, function.resource(pci.MEMORY).size))
            held.callback(self.memory.release)
            self._held = held.pop_all()

    def position(self) -> int:
        """The IVPosition register."""
        return self._registers[pci.POSITION // 4]

    def ring(self, word: int) -> None:
        """Writes the Doorbell register."""
        self._registers[pci.DOORBELL // 4] = word

    def close(self) -> None:
        """Lets go of the device."""
        self._held.close()

    def _enable(self, function: pci.Function, held: contextlib.ExitStack) -> None:
        """Has the device answer at its addresses; the kernel counts who wants that."""
        enable = function.path / "enable"
        enable.write_text("1")
        held.callback(_disable, enable)


def _disable(enable: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        # The machine may have taken the device away meanwhile.
        enable.write_text("0")


def _open(function: pci.Function, bar: int, held: contextlib.ExitStack) -> int:
    """A BAR's file, locked: nothing else would keep two programs from taking each other's messages."""
    path = Path(function.path, f"resource{bar}")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_SYNC | os.O_CLOEXEC)
    except OSError as e:
        raise ClientError(f"cannot open {path}: {e.strerror}; without an IOMMU this needs root") from e
    held.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        raise pci.in_use(function, path) from e
    return descriptor
