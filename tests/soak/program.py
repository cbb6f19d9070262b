"""A host program on a fabric that does what it is told, and can be killed: `python -m tests.soak.program SOCKET`.

It reads commands, a line of JSON each, and answers each with one: `ring` (peer, vector, rings), `hear`, `block`, by
which it makes the eventfds that it receives on block, and fills them, as no honest peer does, or
`is_expelled`: whether its membership is over. It ends with its input.
"""

from __future__ import annotations

import json
import os
import select
import sys
from collections import Counter
from typing import Any

from famezd.client import ClientError, Doorbell, Peer
from tests.soak.service import PATIENCE

FULL = (1 << 64) - 2
"""The most that an eventfd holds."""


def main() -> None:
    """Joins, and obeys."""
    try:
        peer = Peer.join(sys.argv[1], timeout=PATIENCE)
    except ClientError as e:
        answer(refused=str(e))
        return
    with peer:
        answer(id=peer.id)
        for line in sys.stdin:
            answer(**obey(peer, json.loads(line)))


def obey(peer: Peer, command: dict[str, Any]) -> dict[str, Any]:
    """Does what it is told; what there is to say of it."""
    if "ring" in command:
        dst, vector, rings = command["ring"]
        os.eventfd_write(peer.bells(dst)[vector], rings)
    if "block" in command:
        for bell in peer.bells(peer.id):
            os.set_blocking(bell, True)
            os.eventfd_write(bell, FULL)
    if "is_expelled" in command:
        hung_up = select.poll()
        # Not by reading: that would empty its eventfds.
        hung_up.register(peer._connection, select.POLLRDHUP)
        return {"expelled": bool(hung_up.poll(0))}
    return hear(peer) if "hear" in command else {}


def hear(peer: Peer) -> dict[str, Any]:
    """Who is there, and what it was rung since it was last asked."""
    rung: Counter[int] = Counter()
    try:
        # There may be more than one look finds: what is told of others, and then doorbells.
        while events := peer.wait(0):
            rung.update({event.vector: event.rings for event in events if isinstance(event, Doorbell)})
    except ClientError:
        pass
    return {"rung": rung, "peers": {other: peer.vectors_of(other) for other in peer.peers}, "ended": peer.ended}


def answer(**fields: object) -> None:
    """Writes a line."""
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    main()
