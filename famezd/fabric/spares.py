"""Spare eventfds: made while the worker has nothing else to do, so that who comes need not wait for it.

Nobody has any of them yet, and the ark knows nothing of them: they go with the worker.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from famezd.protocol import Descriptor

MOST = 4096
"""So many are spare at once, about 3 MiB of the kernel's memory: more than the bells of 14 ports of 16 vectors."""
AT_ONCE = 16
"""So many are made before the loop looks what else there is: about 50 us."""


class Spares:
    """Eventfds that are nobody's."""

    def __init__(self, prepare: Callable[[Descriptor], None]) -> None:
        """`prepare` is called with each; it raises OSError where the kernel has no room for what it does."""
        self._prepare = prepare
        self._spares: list[Descriptor] = []
        self._most = MOST

    def __len__(self) -> int:
        """How many there are."""
        return len(self._spares)

    def lack(self, wanted: int) -> bool:
        """Whether there are fewer than are wanted, and can be more."""
        return len(self._spares) < min(wanted, self._most)

    def take(self, n: int) -> list[Descriptor]:
        """So many, which are the caller's; what is missing is made.

        Raises OSError if there is no room for it, and then none is left.
        """
        try:
            while len(self._spares) < n:
                self._make()
        except OSError:
            self.clear()
            raise
        taken = self._spares[-n:]
        del self._spares[-n:]
        return taken

    def fill(self, wanted: int) -> None:
        """Makes some of those that are missing; where there is no room, there are none from then on.

        Somebody else may need it more than who may come one day.
        """
        try:
            for _ in range(min(AT_ONCE, wanted - len(self._spares))):
                self._make()
        except OSError:
            self._most = 0
            self.clear()

    def clear(self) -> None:
        """Closes all."""
        while self._spares:
            os.close(self._spares.pop())

    def _make(self) -> None:
        spare = Descriptor(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        try:
            self._prepare(spare)
        except OSError:
            os.close(spare)
            raise
        self._spares.append(spare)
