"""The mailbox's traffic, seen by a bystander.

Nothing tells a bystander of a message, so this looks again and again. A message that comes and goes between two looks
is seen only by the text that it leaves behind, and not at all if that is what stood there before.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

from famezd.client.directory import Directory
from famezd.client.results import Traced
from famezd.mailbox import Slots, Standing


class _Seen(NamedTuple):
    standing: Standing
    told: bool
    """Whether what stands there was reported: a text without a length may be one that is just being written."""


class Trace:
    """What has changed in the slots since the last look; what stands there at first is old."""

    def __init__(self, slots: Slots, last: int) -> None:
        """Looks at slots 1 to `last`."""
        self._slots = slots
        self._last = last
        self._seen = [_Seen(standing, told=True) for standing in slots.standing(last)]

    def look(self, directory: Directory) -> Iterator[Traced]:
        """What has changed, from one read of the whole mailbox."""
        now = time.time()
        for i, standing in enumerate(self._slots.standing(self._last)):
            changes, self._seen[i] = _compare(self._seen[i], standing)
            for what, (_, text, responder) in changes:
                src, dst = directory.name(i + 1), directory.name(responder)
                yield Traced(now, what, src, dst, text.decode(errors="replace"))


def _compare(seen: _Seen, now: Standing) -> tuple[list[tuple[str, Standing]], _Seen]:
    before = seen.standing
    changes = []
    if (now.text, now.responder) == (before.text, before.responder):
        if before.pending != now.pending:
            changes.append(("sent" if now.pending else "taken", now))
        elif not seen.told:
            changes.append(("passed", now))
        return changes, _Seen(now, told=True)
    if before.pending:
        changes.append(("taken" if now.text else "gone", before))
    elif not seen.told:
        changes.append(("passed", before))
    if now.pending:
        changes.append(("sent", now))
    return changes, _Seen(now, told=now.pending or not now.text)
