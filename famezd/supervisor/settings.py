"""From what the configuration says of a fabric to what its worker is told."""

from collections.abc import Iterable

from famezd.config import Fabric, personality_reference
from famezd.escapes import joined
from famezd.fabric.settings import Settings


def worker_settings(fabric: Fabric) -> Settings:
    """The worker's settings: plain values, users and groups as numbers."""
    socket, mailbox, access = fabric.socket, fabric.mailbox, fabric.access
    return Settings(
        name=fabric.name,
        socket=str(socket.path),
        memory=mailbox.name if mailbox.file is None else str(mailbox.file),
        size=mailbox.size,
        personality=personality_reference(fabric.personality),
        peers=fabric.peers,
        vectors=fabric.vectors,
        doorbells=fabric.doorbells,
        ports=fabric.ports,
        backing=mailbox.backing,
        memory_uid=_number(mailbox.uid),
        memory_gid=_number(mailbox.gid),
        memory_mode=mailbox.mode,
        socket_uid=_number(socket.uid),
        socket_gid=_number(socket.gid),
        socket_mode=socket.mode,
        users=_list(access.user_ids),
        groups=_list(access.group_ids),
        peers_per_user=access.peers_per_user or 0,
        silent=int(fabric.silent),
        options=joined(fabric.personality_options, ","),
    )


def _list(identities: Iterable[int]) -> str:
    """Each once, so that an order that means nothing makes no difference."""
    return ",".join(map(str, sorted(set(identities))))


def _number(identity: int | None) -> int:
    """-1 leaves it as it is, as in chown(2)."""
    return -1 if identity is None else identity
