"""A PCI device driven from user space, by Linux's vfio: its registers and memory, and its interrupts as eventfds.

Source of the numbers and structures: linux/vfio.h, and Documentation/driver-api/vfio.rst.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import struct
from pathlib import Path
from typing import Final

from famezd.client import pci
from famezd.client.devicememory import DeviceMemory
from famezd.client.peer import ClientError

_DEV: Final = Path("/dev/vfio")
_TYPE1: Final = 1
_VIABLE: Final = 1

# Requests: _IO(';', 100 + n)
_SET_IOMMU: Final = 0x3B66
_GROUP_GET_STATUS, _GROUP_SET_CONTAINER, _GROUP_GET_DEVICE_FD = 0x3B67, 0x3B68, 0x3B6A
_GET_REGION_INFO, _GET_IRQ_INFO, _SET_IRQS = 0x3B6C, 0x3B6D, 0x3B6E

_CONFIG_REGION: Final = 7
_MSIX_IRQ, _REQUEST_IRQ = 2, 4
_DATA_NONE, _DATA_EVENTFD, _ACTION_TRIGGER = 1 << 0, 1 << 2, 1 << 5

_COMMAND: Final = 4
"""Offset of PCI's command register."""
_BUS_MASTER: Final = 1 << 2


class VfioDevice:
    """An ivshmem device that vfio-pci drives for us, until `close`."""

    def __init__(self, function: pci.Function) -> None:
        """Raises ClientError, which says what to do, if it cannot be had."""
        with contextlib.ExitStack() as held:
            if pci.bind(function):
                held.callback(pci.unbind, function)
            self._fd = _open(function, held)
            self._registers = self._region(pci.REGISTERS)[0]
            vectors = self._vectors()
            if not vectors:
                raise pci.no_vectors(function)
            offset, size = self._region(pci.MEMORY)
            mapping = mmap.mmap(self._fd, size, offset=offset)
            self.memory = DeviceMemory(mapping)
            held.callback(self.memory.release)
            self.bells = [_eventfd(held) for _ in range(vectors)]
            """What is readable when the device interrupts, by vector."""
            self.request = _eventfd(held)
            """What is readable when the machine wants to take the device away."""
            self._trigger(_MSIX_IRQ, self.bells)
            held.callback(self._silence, _MSIX_IRQ)
            self._trigger(_REQUEST_IRQ, [self.request])
            held.callback(self._silence, _REQUEST_IRQ)
            self._become_master()
            self.vectors = vectors
            self._held = held.pop_all()

    def position(self) -> int:
        """The IVPosition register."""
        return int.from_bytes(os.pread(self._fd, 4, self._registers + pci.POSITION), "little")

    def ring(self, word: int) -> None:
        """Writes the Doorbell register."""
        os.pwrite(self._fd, word.to_bytes(4, "little"), self._registers + pci.DOORBELL)

    def close(self) -> None:
        """Gives the device back, to nobody if nobody had it."""
        self._held.close()

    def _region(self, index: int) -> tuple[int, int]:
        """Offset in the device's file, and size, of a region."""
        info = struct.pack("4I2Q", 32, 0, index, 0, 0, 0)
        _, _, _, _, size, offset = struct.unpack("4I2Q", fcntl.ioctl(self._fd, _GET_REGION_INFO, info))
        return offset, size

    def _vectors(self) -> int:
        info = struct.pack("4I", 16, 0, _MSIX_IRQ, 0)
        count: int = struct.unpack("4I", fcntl.ioctl(self._fd, _GET_IRQ_INFO, info))[3]
        return count

    def _trigger(self, index: int, eventfds: list[int]) -> None:
        """Has the interrupts of an index write to eventfds."""
        _set_irqs(self._fd, _DATA_EVENTFD, index, struct.pack(f"{len(eventfds)}i", *eventfds), len(eventfds))

    def _silence(self, index: int) -> None:
        try:
            _set_irqs(self._fd, _DATA_NONE, index, b"", 0)
        except OSError as e:
            # The machine may take the device away at that moment, and its interrupts with it.
            if e.errno != errno.ENODEV:
                raise

    def _become_master(self) -> None:
        """Lets the device write to the machine's memory, as interrupts of MSI-X are; vfio begins without."""
        at = self._region(_CONFIG_REGION)[0] + _COMMAND
        command = int.from_bytes(os.pread(self._fd, 2, at), "little")
        os.pwrite(self._fd, (command | _BUS_MASTER).to_bytes(2, "little"), at)


def _set_irqs(device: int, data: int, index: int, payload: bytes, count: int) -> None:
    header = struct.pack("5I", 20 + len(payload), data | _ACTION_TRIGGER, index, 0, count)
    # Of what cannot be changed ioctl takes 1024 bytes at most, which are too few for 2048 vectors.
    fcntl.ioctl(device, _SET_IRQS, bytearray(header + payload))


def _eventfd(held: contextlib.ExitStack) -> int:
    descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    held.callback(os.close, descriptor)
    return descriptor


def _open(function: pci.Function, held: contextlib.ExitStack) -> int:
    """The device's descriptor; it, its group's and its container's are closed with `held`."""
    container = _open_file(function, _DEV / "vfio", held)
    group = _open_file(function, _DEV / str(function.group), held)
    flags = struct.unpack("2I", fcntl.ioctl(group, _GROUP_GET_STATUS, struct.pack("2I", 8, 0)))[1]
    if not flags & _VIABLE:
        raise _not_viable(function)
    fcntl.ioctl(group, _GROUP_SET_CONTAINER, struct.pack("i", container))
    _set_iommu(function, container)
    device: int = fcntl.ioctl(group, _GROUP_GET_DEVICE_FD, bytearray(function.address.encode() + b"\0"))
    held.callback(os.close, device)
    return device


def _open_file(function: pci.Function, path: Path, held: contextlib.ExitStack) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as e:
        if e.errno == errno.EBUSY:
            raise pci.in_use(function, path) from e
        raise ClientError(f"cannot open {path}: {e.strerror}; run as root, or have root give you that file") from e
    held.callback(os.close, descriptor)
    return descriptor


def _set_iommu(function: pci.Function, container: int) -> None:
    try:
        fcntl.ioctl(container, _SET_IOMMU, _TYPE1)
    except PermissionError as e:
        raise ClientError(
            f"the IOMMU before {function.address} does not remap interrupts; give the machine "
            f"`-device intel-iommu,intremap=on` and, with KVM, `-machine q35,kernel-irqchip=split`"
        ) from e
    except OSError as e:
        raise ClientError(f"cannot use the IOMMU: {e.strerror}; as root: modprobe vfio_iommu_type1") from e


def _not_viable(function: pci.Function) -> ClientError:
    group = function.path / "iommu_group/devices"
    others = [pci.Function(path.name, function.bus) for path in sorted(group.glob("*"))]
    driven = [f"{other.address} ({other.driver})" for other in others if other.driver not in (None, pci.VFIO_PCI)]
    return ClientError(
        f"{function.address} shares its IOMMU group with devices that drivers have: {', '.join(driven)}; "
        f"put it into a slot of its own, such as a pcie-root-port"
    )
