"""A peer of a fabric that is a program in a machine, which is on it by its ivshmem device.

The machine is the peer, and stays it when the program ends. A guest is told less than a host program: nothing of joins
and departures, or that the fabric has ended, and of the others only what stands in the mailbox.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from famezd.client import pci
from famezd.client.devicememory import DeviceMemory
from famezd.client.mailbox import LOOK_AGAIN
from famezd.client.peer import ClientError, Doorbell, Event
from famezd.client.sysfsdevice import SysfsDevice
from famezd.client.vfio import VfioDevice
from famezd.mailbox import SLOT_SIZE, MailboxError, Slots

_IDS: Final = 1 << 16
_NAMES: Final = 64
"""Bytes of a slot's names, with which it begins."""


class Device(Protocol):
    """An ivshmem device as a program has it."""

    memory: DeviceMemory
    vectors: int
    """How many it has."""

    @property
    def bells(self) -> Sequence[int]:
        """What is readable when it interrupts, by vector; empty if nothing tells."""

    @property
    def request(self) -> int | None:
        """What is readable when the machine wants to take it away; None if nothing tells."""

    def position(self) -> int:
        """The IVPosition register."""

    def ring(self, word: int) -> None:
        """Writes the Doorbell register."""

    def close(self) -> None:
        """Lets go of it."""


class GuestPeer:
    """A machine's membership, made by `open` and let go by `leave` or the end of a `with` block.

    What differs from a `Peer`: `peers` are all ports of a genz fabric, occupied or not, and None on another; all peers
    are taken to have as many vectors as this one's device.
    """

    def __init__(self, device: Device, address: str) -> None:
        """Raises ClientError if the device is on no fabric; it is this object's if not."""
        self._device = device
        self.where = address
        """The device's PCI address."""
        self.id = _checked(device.position(), address)
        self.ended = False
        self.rung: Counter[int] = Counter()
        self._slots = _slots(device.memory)
        self._server = 0
        if self._slots is not None:
            self._server = self._slots.server
            _check_vectors(device.vectors, self._server, address)
            self._names = device.memory.read(self.id * SLOT_SIZE, _NAMES)
        self._epoll = select.epoll()
        self._vector = {bell: vector for vector, bell in enumerate(device.bells)}
        for descriptor in (*self._vector, *(() if device.request is None else (device.request,))):
            self._epoll.register(descriptor, select.EPOLLIN)
        if self._vector:
            self._ring_anew()

    @classmethod
    def open(cls, address: str = "", *, notice: Callable[[str], object], sysfs: Path = pci.SYSFS) -> GuestPeer:
        """Takes the ivshmem device at a PCI address, or the only one, by vfio-pci.

        Where no IOMMU stands before it, by sysfs and without interrupts, of which `notice` is told in words. Raises
        ClientError if there is no such device, it cannot be used, or is on no fabric.
        """
        function = pci.find(address, sysfs)
        try:
            device: Device = SysfsDevice(function) if function.group is None else VfioDevice(function)
        except OSError as e:
            raise ClientError(
                f"cannot use {function.address}: {e.strerror}; the kernel's log may say why: dmesg"
            ) from e
        try:
            peer = cls(device, function.address)
        except BaseException:
            device.close()
            raise
        if not device.bells:
            notice(_without_interrupts(peer))
        return peer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self.leave()

    @property
    def vectors(self) -> int:
        """How many vectors this peer can be rung on: none without interrupts."""
        return len(self._device.bells)

    @property
    def peers(self) -> list[int] | None:
        """The ids that can be rung, without its own: all ports; None without a mailbox, which would tell."""
        if self._slots is None:
            return None
        # A switch that is silent has no name, and is no peer.
        last = self._server if self._slots.cclass(self._server) else self._server - 1
        return [peer for peer in range(1, last + 1) if peer != self.id]

    @property
    def memory_size(self) -> int:
        """Bytes of shared memory, which a machine sees unchanged."""
        return self._device.memory.size

    @property
    def polls(self) -> bool:
        """Whether there are no interrupts, and `wait` looks at the mailbox itself."""
        return not self._vector

    def open_memory(self) -> DeviceMemory:
        """Access to the shared memory, until `leave`."""
        return self._device.memory

    def bells(self, peer: int) -> list[int]:
        """For this peer, the eventfds of its vectors; others are rung by the device's register."""
        self.vectors_of(peer)
        return list(self._device.bells) if peer == self.id else []

    def vectors_of(self, peer: int) -> int:
        """How many vectors a peer is taken to have; raises ClientError if there is no such peer."""
        known = self.peers
        if peer != self.id and not (0 <= peer < _IDS if known is None else peer in known):
            there = ", ".join(map(str, known or ())) or "none" if known is not None else f"0 to {_IDS - 1}"
            raise ClientError(f"no peer {peer}; there are: {there}")
        return self._device.vectors

    def fileno(self) -> int:
        """A descriptor that is readable when there is something for `wait` to return, unless it `polls`."""
        return self._epoll.fileno()

    def ring(self, peer: int, vector: int = 0) -> None:
        """Rings `peer` on `vector`; raises ClientError if there can be no such peer or vector.

        Nothing tells whether somebody is there.
        """
        vectors = self.vectors_of(peer)
        if not 0 <= vector < vectors:
            raise ClientError(f"peer {peer} has no vector {vector}; it has 0 to {vectors - 1}")
        self._device.ring(peer << 16 | vector)

    def wait(self, timeout: float | None = None) -> list[Event]:
        """What has happened: at least one event, or none after `timeout` seconds (None: for ever, 0: does not wait).

        Without interrupts the events are those that stand for messages. Raises ClientError if the machine wants to
        take the device away.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            events = self._look(left) if self.polls else self._interrupts(left)
            if events or (deadline is not None and time.monotonic() >= deadline):
                return events

    def leave(self) -> None:
        """Gives the machine's slot the names that it had, and the device back."""
        if self._slots is not None:
            self._device.memory.write(self.id * SLOT_SIZE, self._names)
        self._epoll.close()
        self._device.close()

    def _interrupts(self, timeout: float | None) -> list[Event]:
        events: list[Event] = []
        for descriptor, _ in self._epoll.poll(timeout):
            if descriptor == self._device.request:
                self.ended = True
                raise ClientError(f"the machine takes {self.where} away")
            with contextlib.suppress(BlockingIOError):
                vector, rings = self._vector[descriptor], os.eventfd_read(descriptor)
                events.append(Doorbell(vector, rings))
                self.rung[vector] += rings
        return events

    def _look(self, timeout: float | None) -> list[Event]:
        """The messages that stand for us, as the doorbells that we did not hear; sleeps once if there are none."""
        events: list[Event] = [Doorbell(slot, 1) for slot in self._standing()]
        if not events:
            time.sleep(LOOK_AGAIN if timeout is None else min(LOOK_AGAIN, timeout))
        return events

    def _standing(self) -> list[int]:
        """The slots in which a message stands for us, as far as its sender has noted whom it is for."""
        slots = self._slots
        if slots is None:
            return []
        others = range(1, self._server + 1)
        return [slot for slot in others if slots.pending(slot) and slots.responder(slot) == self.id]

    def _ring_anew(self) -> None:
        """Has the messages that came before there were interrupts be found: their doorbells are lost."""
        for slot in self._standing():
            os.eventfd_write(self._device.bells[slot], 1)


def _checked(position: int, address: str) -> int:
    if position >= _IDS:
        raise ClientError(
            f"{address} has no id: its server has not answered, or it has none; is famezd running on the host? "
            f"`famezctl peers` there shows who has joined"
        )
    return position


def _slots(memory: DeviceMemory) -> Slots | None:
    slots = Slots(memory)
    try:
        slots.check(memory.size)
    except MailboxError:
        return None
    return slots


def _check_vectors(vectors: int, server: int, address: str) -> None:
    if vectors <= server:
        raise ClientError(
            f"{address} has {vectors} vectors, and messages on this fabric need {server + 1}, one for each id: "
            f"give the machine's device vectors={server + 1}; `famezctl qemu FABRIC` prints it"
        )


def _without_interrupts(peer: GuestPeer) -> str:
    how = (
        "no doorbell will be heard; those to others are rung"
        if peer.peers is None
        else "the mailbox is looked at again and again instead"
    )
    return f"no IOMMU stands before {peer.where}, so there are no interrupts: {how} (docs/virtual-machines.md)"
