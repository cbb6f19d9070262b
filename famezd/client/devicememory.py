"""The shared memory as a machine's device shows it."""

from __future__ import annotations

import mmap
import struct
from typing import Final

_WORD: Final = 8


class DeviceMemory:
    """Shared memory that is a device's, by whole words: some machines let such memory be accessed in no other way.

    All offsets are multiples of eight, as those of the mailbox's fields are. That a host program cuts the file hurts
    nobody here: it is QEMU that has it mapped.
    """

    def __init__(self, mapping: mmap.mmap) -> None:
        """The mapping is this object's from now on."""
        self.size = len(mapping)
        """Bytes."""
        self._mapping = mapping
        self._words = memoryview(mapping).cast("Q")

    def read(self, at: int, size: int) -> bytes:
        """A copy of `size` bytes."""
        words = self._words[at // _WORD : -(-(at + size) // _WORD)].tolist()
        return struct.pack(f"{len(words)}Q", *words)[:size]

    def write(self, at: int, data: bytes) -> None:
        """Writes all of `data`; what of its last word is not to be changed must be nobody else's to write."""
        whole = len(data) // _WORD * _WORD
        if rest := data[whole:]:
            data = data[:whole] + rest + self.read(at + whole, _WORD)[len(rest) :]
        for i, word in enumerate(struct.unpack(f"{len(data) // _WORD}Q", data), at // _WORD):
            self._words[i] = word

    def word(self, at: int) -> int:
        """The 64-bit word there."""
        return self._words[at // _WORD]

    def set_word(self, at: int, value: int) -> None:
        """Sets the 64-bit word there."""
        self._words[at // _WORD] = value

    def close(self) -> None:
        """Nothing: the memory is there as long as its device is held."""

    def release(self) -> None:
        """Unmaps it."""
        self._words.release()
        self._mapping.close()
