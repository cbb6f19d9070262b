"""The ivshmem device of the machine that this runs in: which it is, and whether it can be used.

Sources: QEMU's docs/specs/ivshmem-spec.rst for the device; Linux's Documentation/ABI/testing/sysfs-bus-pci and
Documentation/PCI/sysfs-pci.rst for the files; the PCI Local Bus Specification 3.0, 6.7 and 6.8.2, for capabilities.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

from famezd.client.peer import ClientError

SYSFS: Final = Path("/sys")
IVSHMEM: Final = (0x1AF4, 0x1110)
"""Vendor and device id."""
REGISTERS, MEMORY = 0, 2
"""The BARs of the device's registers, and of the shared memory."""
POSITION, DOORBELL = 8, 12
"""Offsets of the two registers, which have 32 bits."""
VFIO_PCI: Final = "vfio-pci"
LSPCI: Final = "`lspci -nn -d 1af4:1110`"
_ADDRESS = re.compile(r"([0-9a-f]{4,}:)?([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])", re.IGNORECASE)
_CAPABILITIES, _MSI_X = 0x34, 0x11
_UNPRIVILEGED: Final = 64
"""Bytes of a device's configuration space that everybody may read."""


class Resource(NamedTuple):
    """Where a BAR is in the machine's memory."""

    start: int
    size: int
    """Bytes, 0 if the device has no such BAR."""


class Function(NamedTuple):
    """A PCI function."""

    address: str
    bus: Path
    """The bus's directory in sysfs."""

    @property
    def path(self) -> Path:
        """Its own directory there."""
        return self.bus / "devices" / self.address

    def number(self, name: str) -> int:
        """A number that sysfs tells, such as `revision`."""
        return int((self.path / name).read_text(), 16)

    @property
    def ids(self) -> tuple[int, int]:
        """Vendor and device."""
        return self.number("vendor"), self.number("device")

    @property
    def driver(self) -> str | None:
        """The kernel's driver that has it."""
        return _link(self.path / "driver")

    @property
    def group(self) -> str | None:
        """Its IOMMU group, None where no IOMMU stands before it."""
        return _link(self.path / "iommu_group")

    def resource(self, bar: int) -> Resource:
        """Where a BAR is."""
        start, end, _ = (int(word, 16) for word in (self.path / "resource").read_text().splitlines()[bar].split())
        return Resource(start, end + 1 - start if end else 0)

    @property
    def vectors(self) -> int:
        """How many MSI-X vectors it has; only root can know."""
        config = (self.path / "config").read_bytes()
        at = config[_CAPABILITIES]
        seen: set[int] = set()
        while _UNPRIVILEGED <= at < len(config) - 3 and at not in seen:
            seen.add(at)
            if config[at] == _MSI_X:
                return (int.from_bytes(config[at + 2 : at + 4], "little") & 0x7FF) + 1
            at = config[at + 1] & ~3
        return 0


def find(address: str, sysfs: Path = SYSFS) -> Function:
    """The ivshmem device at an address, or, for "", the only one; checked that it is one that can be used.

    Raises ClientError if there is none, or several, or it is of a kind or age that will not do.
    """
    bus = sysfs / "bus/pci"
    function = _at(address, bus) if address else _only(bus)
    if function.number("revision") == 0:
        raise ClientError(
            f"{function.address} has revision 0: it is the `ivshmem` of QEMU before 2.6, whose protocol is another; "
            f"start the machine with QEMU 2.6 or later and `-device ivshmem-doorbell,...`: `famezctl qemu FABRIC`"
        )
    if not function.resource(MEMORY).size:
        raise ClientError(f"{function.address} shares no memory: its BAR 2 is empty; look at the machine's log")
    return function


def no_vectors(function: Function) -> ClientError:
    """What to say of a device that cannot be rung."""
    return ClientError(
        f"{function.address} has no interrupt vectors: it is an `ivshmem-plain`, which has no doorbells either; "
        f"start the machine with `-device ivshmem-doorbell,vectors=16,...`: `famezctl qemu FABRIC` prints it"
    )


def bind(function: Function) -> bool:
    """Has vfio-pci drive a device that nobody drives; returns whether it was not so before.

    Raises ClientError, with the commands that would do it, if it cannot be done from here.
    """
    driver = function.driver
    if driver == VFIO_PCI:
        return False
    unused(function)
    try:
        if not (function.bus / "drivers" / VFIO_PCI).exists():
            _load(function)
        (function.path / "driver_override").write_text(VFIO_PCI)
        (function.bus / "drivers_probe").write_text(function.address)
    except OSError as e:
        raise ClientError(f"{VFIO_PCI} does not drive {function.address}: {e.strerror}; {_commands(function)}") from e
    if function.driver != VFIO_PCI:
        unbind(function)
        raise ClientError(f"{VFIO_PCI} does not take {function.address}; the kernel's log, `dmesg`, says why")
    return True


def unbind(function: Function) -> None:
    """Undoes what `bind` did."""
    with contextlib.suppress(FileNotFoundError):
        # The machine may have taken it away meanwhile.
        (function.path / "driver_override").write_text("\n")
        (function.path / "driver" / "unbind").write_text(function.address)


def unused(function: Function) -> None:
    """Raises ClientError if a driver has a device: it may be using it, so it is not for us to take."""
    if function.driver is not None:
        raise ClientError(
            f"{function.address} is driven by {function.driver}; if nobody needs it there, take it away and try again: "
            f"echo {function.address} > {function.path}/driver/unbind"
        )


def in_use(function: Function, path: Path) -> ClientError:
    """What to say where a file that only one may have open is in use: by whom, as far as can be seen."""
    pids = ", ".join(map(str, holders(path)))
    who = f"process {pids}" if pids else "another process"
    return ClientError(f"{function.address} is in use by {who}; a device serves one program at a time: end that one")


def holders(path: Path) -> list[int]:
    """The processes, other than this one, that have a file open, as far as they can be seen."""
    real = os.path.realpath(path)
    found = set()
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(descriptor) == real:
                found.add(int(descriptor.parts[2]))
        except OSError:
            # It has gone, or is not ours to see.
            continue
    return sorted(found - {os.getpid()})


def _link(path: Path) -> str | None:
    try:
        return path.readlink().name
    except OSError:
        return None


def _at(address: str, bus: Path) -> Function:
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise ClientError(f"{address!r} is no PCI address, such as 0000:00:04.0; {LSPCI} lists the right ones")
    function = Function(f"{found[1] or '0000:'}{found[2]}".lower(), bus)
    if not function.path.exists():
        raise ClientError(f"there is no PCI device {function.address}; {LSPCI} lists the right ones")
    if function.ids != IVSHMEM:
        vendor, device = function.ids
        raise ClientError(
            f"{function.address} is no ivshmem device but {vendor:04x}:{device:04x}; {LSPCI} lists the right ones"
        )
    return function


def _only(bus: Path) -> Function:
    functions = [Function(path.name, bus) for path in sorted((bus / "devices").glob("*"))]
    found = [function for function in functions if function.ids == IVSHMEM]
    if not found:
        raise ClientError(
            f"this machine has no ivshmem device: {LSPCI} shows none; on the host, `famezctl attach DOMAIN FABRIC` or "
            f"`famezctl qemu FABRIC` puts a machine on a fabric; a client on the host itself names it by -f FABRIC"
        )
    if len(found) > 1:
        addresses = ", ".join(function.address for function in found)
        raise ClientError(f"this machine has {len(found)} ivshmem devices; say which: --pci ADDRESS, of {addresses}")
    return found[0]


def _load(function: Function) -> None:
    try:
        done = subprocess.run(["modprobe", VFIO_PCI], capture_output=True, text=True, check=False)  # noqa: S607
    except FileNotFoundError as e:
        raise ClientError(f"cannot load {VFIO_PCI}: no modprobe in PATH; {_commands(function)}") from e
    if done.returncode:
        raise ClientError(f"cannot load {VFIO_PCI}: {done.stderr.strip()}; {_commands(function)}")


def _commands(function: Function) -> str:
    return (
        f"as root: modprobe {VFIO_PCI} && echo {VFIO_PCI} > {function.path}/driver_override && "
        f"echo {function.address} > {function.bus}/drivers_probe"
    )
