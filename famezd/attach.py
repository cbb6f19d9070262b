"""How a virtual machine is put on a fabric."""

from __future__ import annotations

from pathlib import Path

from famezd.config import Fabric
from famezd.errors import FamezError


class NoPortSocketError(FamezError):
    """A port has no socket of its own."""


def qemu_arguments(fabric: Fabric, port: int | None = None) -> list[str]:
    """QEMU's arguments for one ivshmem-doorbell device on `fabric`, at `port` if that has a socket of its own.

    A comma in the path is doubled, as QEMU wants it. Raises NoPortSocketError.
    """
    path = str(fabric.socket.path if port is None else _port_socket(fabric, port)).replace(",", ",,")
    identity = f"famez-{fabric.name}".replace(".", "-")
    return [
        "-chardev",
        f"socket,path={path},id={identity}",
        "-device",
        f"ivshmem-doorbell,chardev={identity},vectors={fabric.vectors}",
    ]


def _port_socket(fabric: Fabric, port: int) -> Path:
    pin = fabric.pins.get(port)
    if pin is None or pin.path is None:
        whose = f"; it is kept for user {pin.user}, at the fabric's own socket" if pin is not None else ""
        raise NoPortSocketError(
            f"port {port} of fabric {fabric.name} has no socket of its own{whose}; give it one by "
            f"`pins: {{{port}: {{socket: true}}}}` in {fabric.name}.yaml, and reload"
        )
    return pin.path
