"""Owner, group and mode: on the way to the new ones a file is never open to more than the old or the new allow."""

import os
import stat
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from famezd.permissions import give

ROOT = os.geteuid() == 0
OTHER_USER, OTHER_GROUP = (1234, 12345) if ROOT else (os.geteuid(), os.getegid())


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "file"
    path.touch(0o600)
    place = os.open(path, os.O_PATH)
    yield place
    os.close(place)


def state(descriptor: int) -> tuple[int, int, int]:
    found = os.fstat(descriptor)
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, file: int) -> list[tuple[int, int, int]]:
    """What the file is after each call; the calls themselves are real."""
    seen: list[tuple[int, int, int]] = []
    for name in ("chmod", "chown"):
        real = getattr(os, name)

        def call(*arguments: object, real: object = real) -> None:
            real(*arguments)  # type: ignore[operator]
            seen.append(state(file))

        monkeypatch.setattr(os, name, call)
    return seen


@pytest.mark.parametrize(("old", "new"), list(product((0o660, 0o666, 0o600, 0o060, 0), repeat=2)))
def test_at_no_time_wider_than_both(file: int, calls: list[tuple[int, int, int]], old: int, new: int) -> None:
    os.chmod(f"/proc/self/fd/{file}", old)
    before = state(file)
    calls.clear()
    give(file, OTHER_USER, OTHER_GROUP, new)
    assert state(file) == (OTHER_USER, OTHER_GROUP, new)
    # The last call ends it.
    for uid, gid, mode in calls[:-1]:
        allowed = old if (uid, gid) == before[:2] else new
        assert mode & ~allowed == 0


def test_what_is_right_already_is_not_touched(file: int, calls: list[tuple[int, int, int]]) -> None:
    give(file, os.geteuid(), -1, 0o600)
    give(file, -1, -1, 0o600)
    assert calls == []


def test_what_is_not_ours_to_give_stays_as_narrow(file: int) -> None:
    os.chmod(f"/proc/self/fd/{file}", 0o666)
    if ROOT:
        os.chown(f"/proc/self/fd/{file}", OTHER_USER, -1)
        os.seteuid(OTHER_USER)
    try:
        with pytest.raises(PermissionError):
            give(file, -1, 4242, 0o660)
        assert state(file)[2] == 0o660
    finally:
        if ROOT:
            os.seteuid(0)
