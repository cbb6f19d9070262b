"""A mailbox's file whose size somebody changes: it gets it back, whatever is in the way, and that is told once."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from famezd.fabric.guard import Guard
from famezd.protocol import Descriptor

SIZE = 8192


class Log:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, priority: int, event: str, **fields: object) -> None:
        self.said.append(event)


class Rig:
    """A file, its guard, and what came of it."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        os.write(self.descriptor, b"x" * SIZE)
        self.log = Log()
        self.restored = 0
        self.guard = Guard(Descriptor(self.descriptor), str(path), SIZE, self.log, self._count)  # type: ignore[arg-type]

    def _count(self) -> None:
        self.restored += 1

    @property
    def size(self) -> int:
        return os.fstat(self.descriptor).st_size


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "mailbox")
    yield rig
    os.close(rig.descriptor)


def test_a_size_that_is_right_is_left_alone(rig: Rig) -> None:
    assert rig.guard.look() == ""
    assert (rig.log.said, rig.restored) == ([], 0)


@pytest.mark.parametrize(
    ("size", "lost"),
    [
        (0, "what stood beyond byte 0 is lost"),
        (5000, "what stood beyond byte 5000 is lost"),
        (SIZE * 2, "nothing is lost"),
    ],
)
def test_a_size_that_was_changed_is_given_back(rig: Rig, size: int, lost: str) -> None:
    os.ftruncate(rig.descriptor, size)
    assert rig.guard.look() == ""
    assert rig.size == SIZE
    assert os.pread(rig.descriptor, SIZE, 0) == b"x" * min(size, SIZE) + b"\0" * (SIZE - size)
    (said,) = rig.log.said
    assert f"mailbox had {size} bytes, not {SIZE}; it has its size back, {lost}; a machine that touches" in said
    assert rig.restored == 1
    assert rig.guard.look() == ""
    assert (len(rig.log.said), rig.restored) == (1, 1)


def test_a_size_that_cannot_be_given_back_is_told_once_and_tried_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    os.ftruncate(rig.descriptor, 0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        for _ in range(3):
            # It has its size from the first attempt on, but not the memory.
            assert "mailbox had 0 bytes, not 8192, and there was no way to undo it: No space left" in rig.guard.look()
    assert (len(rig.log.said), rig.restored) == (1, 0)
    assert rig.guard.look() == ""
    assert (len(rig.log.said), rig.restored) == (2, 1)
    assert "it has its size back, " in rig.log.said[1]
