"""The ivshmem device of a machine, as sysfs shows it: trees of real files, mapped as the kernel's are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from famezd.client import ClientError, Doorbell, GuestPeer, Mailbox
from famezd.client.devicememory import DeviceMemory
from famezd.client.session import Session
from famezd.mailbox import FileMemory, Slots

ADDRESS = "0000:00:04.0"
PEERS, SERVER, VECTORS = 4, 5, 8
POSITION, DOORBELL = 2, 3
"""Registers of 32 bits."""


class Tree:
    """A machine's sysfs, with one ivshmem device at first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.device = self.add(ADDRESS)

    def add(self, address: str, *, vectors: int = VECTORS, position: int = 2) -> Path:
        device = self.path / "bus/pci/devices" / address
        device.mkdir(parents=True)
        for name, value in {"vendor": 0x1AF4, "device": 0x1110, "revision": 1}.items():
            (device / name).write_text(f"{value:#x}\n")
        (device / "enable").write_text("0\n")
        self.resources(device)
        (device / "resource0").write_bytes(bytes(POSITION * 4) + position.to_bytes(4, "little") + bytes(244))
        (device / "resource2").write_bytes(bytes(4096))
        config = bytearray(256)
        if vectors:
            # A capability of another kind comes first.
            config[0x34] = 0x50
            config[0x50:0x52] = bytes([0x01, 0x40])
            config[0x40:0x44] = bytes([0x11, 0x00]) + (vectors - 1).to_bytes(2, "little")
        (device / "config").write_bytes(config)
        return device

    def resources(self, device: Path, *, registers: int = 0xFEBF1000, memory: int = 4096) -> None:
        bars = [(registers, 256), (0xFEBF2000, 4096), (0xFE000000, memory)]
        rows = [f"{start:#018x} {start + size - 1:#018x} {0x40200:#018x}\n" for start, size in bars if size]
        (device / "resource").write_text("".join(rows + [f"{0:#018x} {0:#018x} {0:#018x}\n"] * 4))

    def lay_out(self) -> Slots:
        """Makes the shared memory a mailbox; returns what others see of it."""
        descriptor = os.open(self.device / "resource2", os.O_RDWR)
        self.opened = descriptor
        slots = Slots(FileMemory(descriptor))
        slots.lay_out(PEERS)
        slots.name(SERVER, "Z-switch", "FabricSwitch")
        slots.name(2, "", "Driverless QEMU")
        return slots

    def register(self, number: int) -> int:
        data = (self.device / "resource0").read_bytes()
        return int.from_bytes(data[4 * number : 4 * number + 4], "little")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.fixture
def slots(tree: Tree) -> Iterator[Slots]:
    yield tree.lay_out()
    os.close(tree.opened)


def opened(tree: Tree, address: str = "") -> GuestPeer:
    return GuestPeer.open(address, notice=lambda _: None, sysfs=tree.path)


def refused(tree: Tree, address: str = "") -> str:
    with pytest.raises(ClientError) as refusal:
        opened(tree, address)
    return str(refusal.value)


def test_it_rings_by_the_register_and_says_that_it_is_not_rung(tree: Tree) -> None:
    said: list[str] = []
    with GuestPeer.open(notice=said.append, sysfs=tree.path) as peer:
        assert (peer.id, peer.vectors, peer.peers, peer.memory_size, peer.polls) == (2, 0, None, 4096, True)
        assert (tree.device / "enable").read_text() == "1"
        peer.ring(0x1234, 7)
        assert tree.register(DOORBELL) == 0x12340007
        peer.ring(2, 0)
        assert tree.register(DOORBELL) == 0x20000
        with pytest.raises(ClientError, match="peer 3 has no vector 8; it has 0 to 7"):
            peer.ring(3, 8)
        with pytest.raises(ClientError, match="no peer 65536; there are: 0 to 65535"):
            peer.ring(65536, 0)
        assert peer.wait(0.0) == []
    assert (tree.device / "enable").read_text() == "0"
    assert said == [
        f"no IOMMU stands before {ADDRESS}, so there are no interrupts: no doorbell will be heard; those to others are "
        "rung (docs/virtual-machines.md)"
    ]


def test_messages_that_stand_for_it_are_its_events(tree: Tree, slots: Slots) -> None:
    slots.put(3, b"for us", 2)
    slots.put(4, b"for another", 1)
    with opened(tree) as peer:
        assert peer.peers == [1, 3, 4, 5]
        assert peer.wait() == [Doorbell(3, 1)]
        mailbox = Mailbox(peer)
        message = mailbox.receive(timeout=0.0)
        assert message is not None
        assert (message.src, message.text) == (3, "for us")
        assert (slots.pending(3), slots.pending(4)) == (False, True)
        assert mailbox.receive(timeout=0.0) is None
        assert slots.nodename(2) == "z02"
    assert (slots.nodename(2), slots.cclass(2)) == ("", "Driverless QEMU")


def test_a_silent_switch_is_no_peer(tree: Tree, slots: Slots) -> None:
    slots.clear(SERVER)
    with opened(tree) as peer:
        assert peer.peers == [1, 3, 4]
        with pytest.raises(ClientError, match="no peer 5; there are: 1, 3, 4"):
            peer.ring(5, 0)


def test_a_session_ends_at_once_though_it_polls(tree: Tree, slots: Slots) -> None:
    with Session(opened(tree)) as session:
        assert session.busy
        assert session.directory().words() == ["z02", "Z-switch", "switch", "all", "others"]
        assert slots.cclass(2) == "Debugger"
    assert slots.cclass(2) == "Driverless QEMU"


def test_memory_by_words(tree: Tree) -> None:
    with opened(tree) as peer:
        memory = peer.open_memory()
        assert isinstance(memory, DeviceMemory)
        memory.write(8, b"abcdefghijk")
        memory.set_word(24, 0x0102030405060708)
        assert memory.read(8, 11) == b"abcdefghijk"
        memory.write(8, b"xyz")
        assert memory.read(0, 24) == bytes(8) + b"xyzdefghijk" + bytes(5)
        assert memory.word(24) == 0x0102030405060708
        memory.close()
        assert memory.word(24) == 0x0102030405060708
    assert (tree.device / "resource2").read_bytes()[8:19] == b"xyzdefghijk"


def test_a_device_of_old_is_refused(tree: Tree) -> None:
    (tree.device / "revision").write_text("0x00\n")
    assert refused(tree) == (
        f"{ADDRESS} has revision 0: it is the `ivshmem` of QEMU before 2.6, whose protocol is another; start the "
        "machine with QEMU 2.6 or later and `-device ivshmem-doorbell,...`: `famezctl qemu FABRIC`"
    )


@pytest.mark.parametrize("position", [0xFFFFFFFF, 0x10000])
def test_a_device_without_an_id_is_on_no_fabric(tree: Tree, position: int) -> None:
    tree.add("0000:00:05.0", position=position)
    assert refused(tree, "00:05.0").startswith("0000:00:05.0 has no id: its server has not answered, or it has none; ")
    # It was let go of.
    assert (tree.device.parent / "0000:00:05.0/enable").read_text() == "0"


def test_no_device_and_several(tree: Tree) -> None:
    tree.add("0000:01:00.0")
    several = f"this machine has 2 ivshmem devices; say which: --pci ADDRESS, of {ADDRESS}, 0000:01:00.0"
    assert refused(tree) == several
    opened(tree, "01:00.0").leave()
    for device in tree.device.parent.iterdir():
        (device / "device").write_text("0x1000\n")
    assert refused(tree).startswith("this machine has no ivshmem device: `lspci -nn -d 1af4:1110` shows none; ")
    assert "is no ivshmem device but 1af4:1000; " in refused(tree, ADDRESS)


def test_a_machine_without_pci_has_none(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="this machine has no ivshmem device"):
        GuestPeer.open(notice=print, sysfs=tmp_path)


def test_what_cannot_be_mapped_is_refused(tree: Tree) -> None:
    tree.resources(tree.device, registers=0xFEBF1100)
    assert refused(tree) == f"the registers of {ADDRESS} begin within a page: this needs an IOMMU"
    (tree.device / "resource").write_text(f"{0:#018x} {0:#018x} {0:#018x}\n" * 7)
    assert refused(tree) == f"{ADDRESS} shares no memory: its BAR 2 is empty; look at the machine's log"


@pytest.mark.parametrize("config", [bytes(64), bytes(256), bytes(0x34) + b"\x40" + bytes(11) + b"\x01\x40" * 96])
def test_a_device_without_vectors_is_refused(tree: Tree, config: bytes) -> None:
    """Also where its list of capabilities has no end."""
    (tree.device / "config").write_bytes(config)
    assert refused(tree).startswith(f"{ADDRESS} has no interrupt vectors: it is an `ivshmem-plain`, ")


def test_too_few_vectors_for_messages_are_refused(tree: Tree, slots: Slots) -> None:
    tree.add("0000:00:05.0", vectors=SERVER)
    other = tree.device.parent / "0000:00:05.0"
    (other / "resource2").write_bytes((tree.device / "resource2").read_bytes())
    assert "has 5 vectors, and messages on this fabric need 6" in refused(tree, "00:05.0")


def test_what_fails_in_the_kernel_is_told(tree: Tree) -> None:
    (tree.device / "enable").unlink()
    (tree.device / "enable").mkdir()
    assert refused(tree) == f"cannot use {ADDRESS}: Is a directory; the kernel's log may say why: dmesg"


def behind_an_iommu(tree: Tree) -> None:
    (tree.path / "kernel/iommu_groups/7").mkdir(parents=True)
    (tree.device / "iommu_group").symlink_to(tree.path / "kernel/iommu_groups/7")


def test_a_driver_that_does_not_take_the_device(tree: Tree) -> None:
    behind_an_iommu(tree)
    (tree.path / "bus/pci/drivers/vfio-pci").mkdir(parents=True)
    assert refused(tree) == f"vfio-pci does not take {ADDRESS}; the kernel's log, `dmesg`, says why"
    assert (tree.path / "bus/pci/drivers_probe").read_text() == ADDRESS
    assert (tree.device / "driver_override").read_text() == "\n"


def test_a_driver_that_cannot_be_loaded(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    behind_an_iommu(tree)
    monkeypatch.setenv("PATH", str(tree.path))
    assert refused(tree) == (
        f"cannot load vfio-pci: no modprobe in PATH; as root: modprobe vfio-pci && "
        f"echo vfio-pci > {tree.device}/driver_override && echo {ADDRESS} > {tree.path}/bus/pci/drivers_probe"
    )


def test_a_device_that_is_taken_away_meanwhile(tree: Tree) -> None:
    with opened(tree):
        (tree.device / "enable").unlink()


def test_a_device_that_a_driver_has_is_left_to_it(tree: Tree) -> None:
    (tree.path / "bus/pci/drivers/other").mkdir(parents=True)
    (tree.device / "driver").symlink_to("../../drivers/other")
    assert refused(tree) == (
        f"{ADDRESS} is driven by other; if nobody needs it there, take it away and try again: "
        f"echo {ADDRESS} > {tree.device}/driver/unbind"
    )
