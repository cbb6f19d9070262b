"""How a virtual machine is put on a fabric."""

from __future__ import annotations

from famezd.config import Fabric


def qemu_arguments(fabric: Fabric) -> list[str]:
    """QEMU's arguments for one ivshmem-doorbell device on `fabric`.

    A comma in the path is doubled, as QEMU wants it.
    """
    path = str(fabric.socket.path).replace(",", ",,")
    identity = f"famez-{fabric.name}".replace(".", "-")
    return [
        "-chardev",
        f"socket,path={path},id={identity}",
        "-device",
        f"ivshmem-doorbell,chardev={identity},vectors={fabric.vectors}",
    ]
