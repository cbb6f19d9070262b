"""A mailbox in a file: whoever shares it can change its size, and that is noticed and undone.

A machine that touches memory which its file no longer has dies of SIGBUS. So the file is given its size back as soon
as it is seen to have another; what stood in the part that was cut off is lost. A memfd needs none of this: its size
is sealed.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from famezd.fabric import log
from famezd.protocol import Descriptor


class Guard:
    """Looks after the size of one file."""

    def __init__(
        self, mailbox: Descriptor, path: str, size: int, logger: log.Log, restored: Callable[[], None]
    ) -> None:
        """`restored` is called when the size is right again after it was not."""
        self._mailbox = mailbox
        self._path = path
        self._size = size
        self._log = logger
        self._restored = restored
        self._wrong = ""

    def look(self) -> str:
        """Makes the size right; returns what is wrong with it if that cannot be done, else ""."""
        found = os.fstat(self._mailbox).st_size
        if found == self._size and not self._wrong:
            return ""
        try:
            os.ftruncate(self._mailbox, self._size)
            # Memory that is found missing only when a machine touches it kills the machine with SIGBUS.
            os.posix_fallocate(self._mailbox, 0, self._size)
        except OSError as e:
            self._fail(found, e)
            return self._wrong
        lost = f"what stood beyond byte {found} is lost" if found < self._size else "nothing is lost"
        why = self._wrong or self._differs(found)
        self._wrong = ""
        self._log.say(log.ERROR, f"mailbox resized: {why}; it has its size back, {lost}; {_CONSEQUENCE}")
        self._restored()
        return ""

    def _differs(self, found: int) -> str:
        return f"{self._path} had {found} bytes, not {self._size}"

    def _fail(self, found: int, e: OSError) -> None:
        before = self._wrong
        # Once it has its size again, but not the memory, it is still the first size that was wrong.
        self._wrong = (
            before or f"{self._differs(found)}, and there was no way to undo it: {e.strerror}; free space there"
        )
        if not before:
            self._log.say(log.ERROR, f"mailbox resized: {self._wrong}; {_CONSEQUENCE}")


_CONSEQUENCE = (
    "a machine that touches memory which its file has not dies of SIGBUS; the fabric's peers and whoever may open the "
    "file can do this: with mailbox.backing memfd nobody can"
)
