"""A host program on a fabric that rings others all the time, and counts what it rang and what it heard.

    python -m tests.systemd.inside.ringer SOCKET

It reads commands, lines of JSON, and answers each with its counts. `ring`: vectors to ring, by peer id, from now on, as
soon as those peers are known; an empty one lets it rest. It ends with its standard input, and fails when its
membership is ended.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections import Counter

from famezd.client import Doorbell, Peer

PAUSE = 0.005
"""Seconds between two rounds of ringing."""


def main() -> None:
    """Joins, rings and counts."""
    with Peer.join(sys.argv[1]) as peer:
        answer(id=peer.id, vectors=peer.vectors, memory=os.fstat(peer.memory).st_ino)
        rung: Counter[int] = Counter()
        heard: Counter[int] = Counter()
        targets: dict[int, list[int]] = {}
        poll = select.poll()
        poll.register(peer, select.POLLIN)
        poll.register(sys.stdin, select.POLLIN)
        due = 0.0
        while True:
            ready = dict(poll.poll(max(0.0, due - time.monotonic()) * 1000 if targets else None))
            heard.update({e.vector: e.rings for e in peer.wait(0) if isinstance(e, Doorbell)})
            if sys.stdin.fileno() in ready:
                line = sys.stdin.readline()
                if not line:
                    return
                told = json.loads(line)
                if "ring" in told:
                    targets = {int(other): vectors for other, vectors in told["ring"].items()}
                answer(rung=rung, heard=heard.total(), unknown=sorted(set(targets) - set(peer.peers)))
            if time.monotonic() >= due:
                due = time.monotonic() + PAUSE
                for other in targets.keys() & set(peer.peers):
                    peer.ring(other, targets[other][rung[other] % len(targets[other])])
                    rung[other] += 1


def answer(**fields: object) -> None:
    """Writes a line."""
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    main()
