"""From what the configuration says of a fabric to what its worker is told."""

from collections.abc import Iterable
from functools import cache

from famezd.config import Fabric, personality_class, personality_reference
from famezd.escapes import joined
from famezd.fabric.pins import Pins
from famezd.fabric.settings import Settings
from famezd.switch.personality import Personality


def worker_settings(fabric: Fabric, faults: str = "") -> Settings:
    """The worker's settings: plain values, users and groups as numbers.

    `faults` are the rules that are in force, which the fabric's file alone does not tell.
    """
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
        faults=faults,
        pins=str(_pins(fabric)),
        port_sockets=next((str(pin.path.parent) for pin in fabric.pins.values() if pin.path is not None), ""),
        silent=int(fabric.silent),
        options=joined(fabric.personality_options, ","),
    )


def misfits(awaited: Fabric, served: Fabric, settings: Settings) -> list[str]:
    """What of `awaited` does not fit a fabric that is `served` with these settings: a phrase for each."""
    mine, fixed = worker_settings(awaited), settings.fixed
    if awaited.personality != served.personality:
        # By the names that people gave them; workers know but where they are implemented.
        mine, fixed = mine._replace(personality=awaited.personality), fixed | {"personality": served.personality}
    return mine.misfits(fixed)


def _pins(fabric: Fabric) -> Pins:
    users = {port: uid for port, pin in fabric.pins.items() if (uid := pin.uid) is not None}
    return Pins(users, frozenset(port for port, pin in fabric.pins.items() if pin.path is not None))


@cache
def personality(name: str) -> type[Personality]:
    """A personality's class, loaded once: to look through what is installed takes too long for every look."""
    return personality_class(name)


def _list(identities: Iterable[int]) -> str:
    """Each once, so that an order that means nothing makes no difference."""
    return ",".join(map(str, sorted(set(identities))))


def _number(identity: int | None) -> int:
    """-1 leaves it as it is, as in chown(2)."""
    return -1 if identity is None else identity
