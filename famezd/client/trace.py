"""The mailbox's traffic, seen by a bystander.

Nothing tells a bystander of a message, so this looks again and again. A message that comes and goes between two looks
is seen only by the text that it leaves behind, and not at all if that is what stood there before.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from famezd.client.directory import Directory
from famezd.client.results import Traced
from famezd.mailbox import Slots, Standing

STANDS: Final = 1.0
"""Seconds after which a message that nobody takes is shown all the same."""


class _Slot(NamedTuple):
    """What is known of one."""

    standing: Standing
    since: float | None = None
    """When it was first seen to be pending, in seconds of the monotonic clock."""
    told: bool = True
    """Whether there is nothing to tell of it at the next look, if nothing changes."""


class Trace:
    """What happens to messages in the slots; those that stand there at first are new."""

    def __init__(self, slots: Slots, last: int) -> None:
        """Looks at slots 1 to `last`."""
        self._slots = slots
        self._last = last
        now = time.monotonic()
        self._seen = [_follow(standing, now) if standing.pending else _Slot(standing) for standing in self._look()]

    def look(self, directory: Directory) -> Iterator[Traced]:
        """What has happened since the last look, from one read of the whole mailbox."""
        now = time.monotonic()
        for i, standing in enumerate(self._look()):
            seen = self._seen[i]
            self._seen[i], what = _compare(seen, standing, now)
            if what:
                text, responder = seen.standing.message, seen.standing.responder
                stood = None if seen.since is None else now - seen.since
                dst = directory.name(responder) if 0 < responder <= self._last else "?"
                yield Traced(time.time(), what, directory.name(i + 1), dst, text.decode(errors="replace"), stood)

    def _look(self) -> list[Standing]:
        return self._slots.standing(self._last)


def _follow(standing: Standing, now: float) -> _Slot:
    """A slot whose content is new; a text without a length may be one that is just being written."""
    return _Slot(standing, now if standing.pending else None, told=not standing.text)


def _compare(seen: _Slot, standing: Standing, now: float) -> tuple[_Slot, str]:
    """What is known of a slot now, and what has happened to the message that stood there."""
    before = seen.standing
    if standing[1:] != before[1:]:
        untold = before.pending or not seen.told
        return _follow(standing, now), ("taken" if standing.text else "gone") if untold else ""
    if before.pending != standing.pending:
        # Now it is pending: the same text again, or one whose length was written last, as it should be.
        return (_Slot(standing), "taken") if before.pending else (_follow(standing, now), "")
    return (seen, "") if seen.told else _unchanged(seen, now)


def _unchanged(seen: _Slot, now: float) -> tuple[_Slot, str]:
    if seen.since is None:
        return seen._replace(told=True), "taken"
    stands = now - seen.since > STANDS
    return seen._replace(told=stands), "stands" if stands else ""
