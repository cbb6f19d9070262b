"""How a virtual machine is put on a fabric."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from famezd.config import Fabric, personality_class
from famezd.errors import FamezError

_QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
"""Of what libvirt passes on to QEMU as it stands: https://libvirt.org/drvqemu.html#pass-through-of-arbitrary-qemu-commands"""
_ELEMENT_NAME = re.compile(r"[A-Za-z0-9_.-]+")


class NoPortSocketError(FamezError):
    """A port has no socket of its own, or there is no such port."""


class NotInXmlError(FamezError):
    """A domain's XML cannot say what was asked for."""


def qemu_arguments(fabric: Fabric, port: int | None = None) -> list[str]:
    """QEMU's arguments for one ivshmem-doorbell device on `fabric`, at `port` if that has a socket of its own.

    A comma in the path is doubled, as QEMU wants it. Raises NoPortSocketError.
    """
    path = str(_socket(fabric, port)).replace(",", ",,")
    identity = f"famez-{fabric.name}".replace(".", "-")
    return [
        "-chardev",
        f"socket,path={path},id={identity}",
        "-device",
        f"ivshmem-doorbell,chardev={identity},vectors={fabric.vectors}",
    ]


def libvirt_element(fabric: Fabric, port: int | None = None, name: str | None = None) -> str:
    """The element of a libvirt domain's devices that is such a device, called `name` (famez-FABRIC by default).

    libvirt 3.1 or later knows it: https://libvirt.org/formatdomain.html#shared-memory-device. It can be attached to a
    domain that runs, and libvirt's AppArmor profiles allow its socket. Raises NoPortSocketError and NotInXmlError.
    """
    name = f"famez-{fabric.name}" if name is None else name
    if not _ELEMENT_NAME.fullmatch(name) or name in (".", ".."):
        raise NotInXmlError(f"a device's name is letters, digits, '_', '.' and '-', not {name!r}")
    children = [
        ("model", {"type": "ivshmem-doorbell"}),
        ("server", {"path": _in_xml(_socket(fabric, port))}),
        # Without it libvirt gives the device one vector.
        ("msi", {"vectors": str(fabric.vectors), "ioeventfd": "on"}),
    ]
    return _written("shmem", {"name": name}, children)


def libvirt_commandline(fabric: Fabric, port: int | None = None) -> str:
    """The same as QEMU's arguments, for domains in which libvirt does not know the device: a child of <domain>.

    It brings its namespace along, so it can be pasted as it is. Raises NoPortSocketError and NotInXmlError.
    """
    _in_xml(_socket(fabric, port))
    children = [("qemu:arg", {"value": argument}) for argument in qemu_arguments(fabric, port)]
    return _written("qemu:commandline", {"xmlns:qemu": _QEMU_NAMESPACE}, children)


def _written(tag: str, attributes: Mapping[str, str], children: Iterable[tuple[str, Mapping[str, str]]]) -> str:
    # The supervisor imports this module, and is hardly ever asked for XML.
    import xml.etree.ElementTree as ET  # noqa: PLC0415

    element = ET.Element(tag, dict(attributes))
    for child, its_own in children:
        ET.SubElement(element, child, dict(its_own))
    ET.indent(element)
    return ET.tostring(element, encoding="unicode")


def _in_xml(path: Path) -> str:
    # XML 1.0 has no way to write most control characters.
    if re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", str(path)):
        raise NotInXmlError(f"XML cannot say the socket's path {str(path)!r}: give the fabric another one by `socket:`")
    return str(path)


def _socket(fabric: Fabric, port: int | None) -> Path:
    return fabric.socket.path if port is None else _port_socket(fabric, port)


def _port_socket(fabric: Fabric, port: int) -> Path:
    first = personality_class(fabric.personality).first_id
    if not first <= port < first + fabric.peers:
        raise NoPortSocketError(
            f"fabric {fabric.name} has no port {port}: its ports are {first} to {first + fabric.peers - 1}"
        )
    pin = fabric.pins.get(port)
    if pin is None or pin.path is None:
        whose = f"; it is kept for user {pin.user}, at the fabric's own socket" if pin is not None else ""
        raise NoPortSocketError(
            f"port {port} of fabric {fabric.name} has no socket of its own{whose}; give it one by "
            f"`pins: {{{port}: {{socket: true}}}}` in {fabric.name}.yaml, and reload"
        )
    return pin.path
