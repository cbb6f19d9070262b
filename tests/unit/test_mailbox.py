"""The mailbox: whose file is adopted and whose is not, and the IVSHMSG layout byte by byte."""

import fcntl
import os
import re
import resource
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from famezd.mailbox import (
    MAX_PEERS,
    MAX_TEXT,
    SHM,
    SLOT_SIZE,
    Backing,
    FileMemory,
    MailboxError,
    MappedMemory,
    Memory,
    SharedMemory,
    Slots,
    grow,
    is_backed,
    open_backing,
    outliving_memory,
    slots_size,
)
from tests.unit.conftest import NOBODY, closing

SIZE = 8192
PEERS = 14
ROOT = os.geteuid() == 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mailbox"


def backing(path: Path, size: int = SIZE, kind: str = "shm") -> Backing:
    return Backing(kind, str(path), size)


@contextmanager
def opened(wanted: Backing) -> Iterator[SharedMemory]:
    memory = open_backing(wanted)
    with closing(memory.descriptor, *([] if memory.lock is None else [memory.lock])):
        yield memory


def refused(wanted: Backing) -> str:
    """Why it is refused; and that nothing stays open of the attempt."""
    before = os.listdir("/proc/self/fd")
    with pytest.raises(MailboxError) as e:
        open_backing(wanted)
    assert os.listdir("/proc/self/fd") == before
    return str(e.value)


# Opening


@pytest.mark.parametrize("kind", ["shm", "file"])
def test_a_new_mailbox_is_zero_allocated_and_of_its_size_mode_and_our_owner(path: Path, kind: str) -> None:
    umask = os.umask(0o077)
    try:
        with opened(backing(path, kind=kind)._replace(mode=0o664)) as memory:
            status = path.stat()
            assert os.path.samestat(os.fstat(memory.descriptor), status)
            assert (status.st_size, stat.S_IMODE(status.st_mode), status.st_uid) == (SIZE, 0o664, os.geteuid())
            assert status.st_blocks * 512 >= SIZE
            assert path.read_bytes() == bytes(SIZE)
            assert not os.get_inheritable(memory.descriptor)
    finally:
        os.umask(umask)


def test_an_existing_mailbox_is_adopted_with_its_content_and_given_its_mode(path: Path) -> None:
    path.write_bytes(b"x" * SIZE)
    path.chmod(0o600)
    with opened(backing(path)) as memory:
        assert os.pread(memory.descriptor, SIZE, 0) == b"x" * SIZE
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    with opened(backing(path)):
        pass


def test_a_mailbox_is_given_its_group(path: Path) -> None:
    # Without privileges a file can only be given to groups that one is in.
    group = 12345 if ROOT else os.getegid()
    with opened(backing(path)._replace(gid=group)):
        assert (path.stat().st_gid, path.stat().st_uid) == (group, os.geteuid())


def test_a_mailbox_is_given_its_owner_and_adopted_from_it(path: Path) -> None:
    owner = 12345 if ROOT else os.geteuid()
    # One of our own, which has yet to be given away, and then one that has been.
    path.write_bytes(bytes(SIZE))
    for _ in range(2):
        with opened(backing(path)._replace(uid=owner)):
            assert path.stat().st_uid == owner


@pytest.mark.parametrize("size", [SIZE // 2, SIZE * 2, SIZE - 1, 0])
def test_a_file_of_another_size_is_refused_untouched(path: Path, size: int) -> None:
    path.write_bytes(b"x" * size)
    path.chmod(0o640)
    why = refused(backing(path))
    assert why == (
        f"cannot adopt the mailbox {path}: it has {size} bytes, not {SIZE}; "
        f"if nobody uses it remove it, else choose another mailbox.name"
    )
    assert path.read_bytes() == b"x" * size
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_symbolic_link_is_not_followed(path: Path) -> None:
    target = path.with_name("target")
    target.write_bytes(bytes(SIZE))
    path.symlink_to(target)
    assert "(a symbolic link is not followed); remove it or choose another mailbox.name" in refused(backing(path))


def test_a_dangling_symbolic_link_makes_no_file(path: Path) -> None:
    path.symlink_to(path.with_name("target"))
    assert "a symbolic link is not followed" in refused(backing(path))
    assert not path.with_name("target").exists()


def test_a_fifo_is_refused_without_waiting_for_its_other_end(path: Path) -> None:
    os.mkfifo(path)
    assert "it is no regular file" in refused(backing(path))


def test_a_directory_is_refused(path: Path) -> None:
    path.mkdir()
    assert refused(backing(path)).startswith(f"cannot use the mailbox {path}: Is a directory; remove it")


def test_a_file_of_somebody_else_is_refused(path: Path) -> None:
    if ROOT:
        path.write_bytes(bytes(SIZE))
        os.chown(path, NOBODY, NOBODY)
        assert f"it belongs to user id {NOBODY}, not 0" in refused(backing(path))
        assert f"it belongs to user id {NOBODY}, not 5" in refused(backing(path)._replace(uid=5))
    else:
        # Whoever is not root can make no file of another's, and is refused by the kernel where it is one of root's.
        assert "Permission denied" in refused(backing(Path("/etc/passwd")))


def test_a_file_with_two_names_is_refused(path: Path) -> None:
    path.write_bytes(bytes(SIZE))
    path.with_name("other").hardlink_to(path)
    assert "it has 2 names" in refused(backing(path))


def test_a_folder_that_is_missing_is_told(path: Path) -> None:
    assert refused(backing(path / "x")) == (
        f"cannot make the mailbox {path}/x: No such file or directory; the directory must be there and ours to write to"
    )


def test_a_mailbox_for_which_there_is_no_room_is_not_left_behind(path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE - 1, limit[1]))
    try:
        why = refused(backing(path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert why == (
        f"cannot make the mailbox {path} of {SIZE} bytes: File too large; "
        f"free space there or choose a smaller mailbox.size"
    )
    assert not path.exists()


def test_a_mailbox_in_use_is_refused_naming_who_uses_it(path: Path) -> None:
    code = (
        "import sys; from famezd.mailbox import Backing, open_backing;"
        f"open_backing(Backing('shm', {str(path)!r}, {SIZE})); print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        assert refused(backing(path)) == (
            f"the mailbox {path} is in use by another server (pid {other.pid}); "
            f"stop that one or choose another mailbox.name"
        )
        other.communicate()
    with opened(backing(path)):
        pass


def test_the_descriptor_that_peers_get_neither_holds_nor_breaks_the_lock(path: Path) -> None:
    memory = open_backing(backing(path))
    assert memory.lock is not None
    with closing(memory.descriptor):
        fcntl.flock(memory.descriptor, fcntl.LOCK_UN)
        assert f"in use by another server (pid {os.getpid()})" in refused(backing(path))
        os.close(memory.lock)
        with opened(backing(path)):
            pass


@pytest.mark.parametrize("found", [False, True])
def test_a_mailbox_that_cannot_be_given_away_is_as_before_and_unlocked(found: bool) -> None:
    folder = Path(tempfile.mkdtemp(dir=SHM))
    try:
        if ROOT:
            # Root may give files to anybody.
            os.chown(folder, NOBODY, NOBODY)
            os.seteuid(NOBODY)
        path = folder / "mailbox"
        if found:
            path.write_bytes(bytes(SIZE))
            path.chmod(0o600)
        wanted = backing(path)._replace(gid=4242, mode=0o666)
        for _ in range(2):
            assert refused(wanted) == (
                f"cannot give the mailbox {folder}/mailbox its owner, group and mode: Operation not permitted; "
                f"run as root or choose a group that the service is in (SupplementaryGroups= in its unit)"
            )
            assert path.exists() == found
            assert not found or stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        if ROOT:
            os.seteuid(0)
        shutil.rmtree(folder)


def test_a_memfd_can_neither_shrink_nor_grow_nor_lose_that(path: Path) -> None:
    with opened(backing(path, kind="memfd")) as memory:
        assert memory.lock is None
        assert os.fstat(memory.descriptor).st_size == SIZE
        for size in (0, SIZE - 1, SIZE + 1):
            with pytest.raises(PermissionError):
                os.ftruncate(memory.descriptor, size)
        with pytest.raises(PermissionError):
            os.pwrite(memory.descriptor, b"x", SIZE)
        with pytest.raises(PermissionError):
            fcntl.fcntl(memory.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        assert os.pwrite(memory.descriptor, b"x", SIZE - 1) == 1
    assert not path.exists()


def test_an_unlinked_mailbox_has_no_name_from_the_start(tmp_path: Path) -> None:
    wanted = backing(tmp_path, kind="unlinked")
    with opened(wanted) as memory:
        assert memory.lock is None
        assert list(tmp_path.iterdir()) == []
        found = os.fstat(memory.descriptor)
        assert (found.st_size, found.st_nlink, found.st_dev) == (SIZE, 0, tmp_path.stat().st_dev)
        assert found.st_blocks * 512 >= SIZE
        assert is_backed(memory.descriptor, wanted)
        assert not is_backed(memory.descriptor, backing(Path("/proc"), kind="unlinked"))
        assert not is_backed(memory.descriptor, backing(tmp_path, SIZE * 2, kind="unlinked"))


def test_an_unlinked_mailbox_that_cannot_be_made_is_told(path: Path) -> None:
    why = "it must be a directory that is ours to write to"
    told = f"cannot make a mailbox in {path}: No such file or directory; {why}"
    assert refused(backing(path, kind="unlinked")) == told
    path.write_bytes(b"")
    assert "Not a directory" in refused(backing(path, kind="unlinked"))


def test_an_unlinked_mailbox_for_which_there_is_no_room_is_told(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE - 1, limit[1]))
    try:
        assert "File too large; free space there" in refused(backing(tmp_path, kind="unlinked"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert list(tmp_path.iterdir()) == []


# Growing


def test_a_smaller_file_is_made_larger_and_keeps_what_stands_there(path: Path) -> None:
    path.write_bytes(b"x" * 100)
    grow(backing(path))
    with opened(backing(path)) as memory:
        assert os.pread(memory.descriptor, SIZE, 0) == b"x" * 100 + bytes(SIZE - 100)


def test_what_is_not_smaller_or_not_a_file_of_ours_is_left_as_it_is(path: Path) -> None:
    grow(backing(path))
    assert not path.exists()
    path.write_bytes(bytes(SIZE * 2))
    grow(backing(path))
    assert path.stat().st_size == SIZE * 2
    path.unlink()
    target = path.with_name("target")
    target.write_bytes(b"x")
    path.symlink_to(target)
    grow(backing(path))
    assert target.read_bytes() == b"x"
    path.unlink()
    os.mkfifo(path)
    grow(backing(path))


def test_a_file_in_use_is_not_made_larger_under_its_server(path: Path) -> None:
    with opened(backing(path)), pytest.raises(MailboxError, match="is in use by another server"):
        grow(backing(path, SIZE * 2))
    assert path.stat().st_size == SIZE


def test_a_file_that_cannot_be_made_larger_is_as_before(path: Path) -> None:
    path.write_bytes(b"x" * 100)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE - 1, limit[1]))
    try:
        with pytest.raises(MailboxError, match="File too large"):
            grow(backing(path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == b"x" * 100


# Access


@pytest.fixture(params=[FileMemory, MappedMemory])
def memory(request: pytest.FixtureRequest, path: Path) -> Iterator[Memory]:
    with opened(backing(path, kind="memfd")) as shared:
        memory = request.param(shared.descriptor)
        yield memory
        memory.close()


def test_words_and_bytes_are_the_same_memory(memory: Memory) -> None:
    memory.set_word(16, 2**64 - 2)
    assert memory.word(16) == 2**64 - 2
    assert memory.read(8, 24) == struct.pack("QQQ", 0, 2**64 - 2, 0)
    memory.write(24, b"abc")
    assert memory.word(24) == int.from_bytes(b"abc\0\0\0\0\0", sys.byteorder)


@pytest.mark.parametrize("kind", [FileMemory, MappedMemory])
def test_what_is_cut_off_reads_as_zeros_and_is_not_written(path: Path, kind: type[FileMemory]) -> None:
    with opened(backing(path)) as shared:
        memory = kind(shared.descriptor)
        Slots(memory).lay_out(PEERS)
        os.ftruncate(shared.descriptor, 0)
        assert memory.read(0, 16) == bytes(16)
        assert memory.word(16) == 0
        assert Slots(memory).take(3) is None
        assert Slots(memory).nodename(3) == ""
        os.ftruncate(shared.descriptor, 4096)
        memory.write(4092, b"12345678")
        memory.write(4092, b"1234")
        # To make it longer would hide that it was cut.
        assert os.fstat(shared.descriptor).st_size == 4096
        assert memory.read(4092, 8) == b"1234\0\0\0\0"
        memory.close()


def test_a_file_that_can_be_written_is_not_mapped(path: Path) -> None:
    with opened(backing(path)) as shared:
        memory = outliving_memory(shared.descriptor)
        assert not isinstance(memory, MappedMemory)
        memory.close()


def test_the_flags_that_somebody_sets_on_the_shared_file_mean_nothing(path: Path) -> None:
    with opened(backing(path)) as shared:
        memory = outliving_memory(shared.descriptor)
        fcntl.fcntl(shared.descriptor, fcntl.F_SETFL, os.O_APPEND)
        memory.write(16, b"here")
        assert memory.read(16, 4) == b"here"
        assert os.fstat(shared.descriptor).st_size == backing(path).size
        memory.close()


# The layout


@pytest.fixture
def slots(memory: Memory) -> Slots:
    slots = Slots(memory)
    slots.lay_out(PEERS)
    return slots


@pytest.mark.parametrize(
    ("peers", "size"),
    [(1, 4096), (6, 4096), (7, 8192), (14, 8192), (15, 16384), (30, 16384), (31, 32768), (62, 32768)],
)
def test_the_slots_take_a_power_of_two_and_at_least_a_page(peers: int, size: int) -> None:
    assert slots_size(peers) == size
    assert size >= (peers + 2) * SLOT_SIZE


def test_the_layout_is_that_of_the_guest_driver(slots: Slots) -> None:
    memory = slots.memory
    assert memory.read(0, 40) == struct.pack("QQQQQ", 512, 128, 14, 16, 15)
    assert memory.read(40, 512 - 40) == bytes(512 - 40)
    for slot in range(1, 16):
        assert memory.read(slot * 512, 512) == bytes(72) + struct.pack("Q", slot) + bytes(432)
    assert (slots.peers, slots.server) == (14, 15)


def test_laying_out_wipes_what_stood_there_and_nothing_behind(memory: Memory) -> None:
    memory.write(0, b"x" * SIZE)
    Slots(memory).lay_out(6)
    assert b"x" not in memory.read(0, 8 * 512)
    assert memory.read(8 * 512, SIZE - 8 * 512) == b"x" * (SIZE - 8 * 512)


def test_names_and_a_message_stand_where_the_guest_driver_looks(slots: Slots) -> None:
    slots.name(3, "z03", "Debugger")
    slots.put(3, b"ping", 15)
    expected = b"z03".ljust(32, b"\0") + b"Debugger".ljust(32, b"\0") + struct.pack("QQQ", 4, 3, 15)
    assert slots.memory.read(3 * 512, 512) == expected.ljust(128, b"\0") + b"ping".ljust(384, b"\0")
    assert slots.pending(3)
    assert slots.responder(3) == 15
    assert slots.memory.word(2 * 512 + 64) == slots.memory.word(4 * 512 + 64) == 0


def test_a_message_is_taken_once_and_acknowledged_by_that(slots: Slots) -> None:
    slots.put(1, b"hello", 2)
    assert slots.take(1) == b"hello"
    assert not slots.pending(1)
    assert slots.take(1) is None


def test_a_message_can_be_acknowledged_unread(slots: Slots) -> None:
    slots.put(1, b"hello", 2)
    slots.acknowledge(1)
    assert slots.take(1) is None


def test_a_shorter_message_leaves_nothing_of_the_longer_one_before(slots: Slots) -> None:
    slots.put(1, b"a long message", 2)
    slots.take(1)
    slots.put(1, b"short", 2)
    assert slots.memory.read(512 + 128, 6) == b"short\0"
    assert slots.take(1) == b"short"


def test_the_longest_message_has_383_bytes_and_a_nul(slots: Slots) -> None:
    neighbour = slots.memory.read(2 * 512, 512)
    slots.put(1, b"x" * 383, 2)
    assert slots.memory.read(512 + 128, 384) == b"x" * 383 + b"\0"
    assert slots.memory.read(2 * 512, 512) == neighbour
    assert slots.take(1) == b"x" * 383


def test_a_message_of_384_bytes_is_not_sent(slots: Slots) -> None:
    with pytest.raises(MailboxError, match="a message of 384 bytes; at most 383 fit into a slot"):
        slots.put(1, b"x" * 384, 2)
    assert not slots.pending(1)


@pytest.mark.parametrize("length", [MAX_TEXT + 1, 512, 2**32, 2**63, 2**64 - 1])
def test_a_length_beyond_the_buffer_is_malformed_and_acknowledged(slots: Slots, length: int) -> None:
    slots.memory.set_word(512 + 64, length)
    with pytest.raises(MailboxError, match=f"slot 1 says its message has {length} bytes; at most 383 fit"):
        slots.take(1)
    assert not slots.pending(1)


def test_a_message_ends_at_its_length_or_its_first_nul(slots: Slots) -> None:
    slots.memory.write(512 + 128, b"abc\0def\xff")
    slots.memory.set_word(512 + 64, 8)
    assert slots.take(1) == b"abc"
    slots.memory.set_word(512 + 64, 2)
    assert slots.take(1) == b"ab"


@pytest.mark.parametrize(
    ("written", "stands"),
    [
        ("x" * 31, "x" * 31),
        ("x" * 32, "x" * 31),
        ("x" * 500, "x" * 31),
        ("", ""),
        ("n\u00e4me", "n\u00e4me"),
        ("x" * 30 + "\u00e4", "x" * 30 + "\ufffd"),
    ],
)
def test_a_name_is_cut_to_31_bytes_and_its_nul(slots: Slots, written: str, stands: str) -> None:
    slots.name(2, written, written)
    assert slots.nodename(2) == slots.cclass(2) == stands
    assert slots.memory.read(2 * 512 + 31, 1) == slots.memory.read(2 * 512 + 63, 1) == b"\0"


@pytest.mark.parametrize(
    ("field", "text"),
    [
        (b"x" * 32, "x" * 32),
        (b"\xff\xfehost", "\ufffd\ufffdhost"),
        (b"a\x1b[2J\nb", "a\ufffd[2J\ufffdb"),
        (b"a\0secret", "a"),
        ("a\u202eb".encode(), "a\ufffdb"),
    ],
)
def test_what_a_guest_writes_as_a_name_is_shown_without_harm(slots: Slots, field: bytes, text: str) -> None:
    slots.memory.write(2 * 512, field.ljust(32, b"\0"))
    slots.memory.write(2 * 512 + 32, field.ljust(32, b"\0"))
    assert slots.nodename(2) == slots.cclass(2) == text


def test_clearing_a_slot_leaves_only_its_id(slots: Slots) -> None:
    slots.name(2, "a", "b")
    slots.put(2, b"hello", 3)
    slots.memory.set_word(2 * 512 + 72, 99)
    slots.clear(2)
    assert slots.memory.read(2 * 512, 512) == bytes(72) + struct.pack("Q", 2) + bytes(432)


def test_a_mailbox_that_is_laid_out_is_one(slots: Slots) -> None:
    slots.check(SIZE)


@pytest.mark.parametrize(
    ("offset", "value"),
    [(0, 0), (0, 1024), (8, 0), (16, 0), (16, 13), (16, 2**64 - 1), (32, 14), (32, 0)],
)
def test_what_was_not_laid_out_is_no_mailbox(slots: Slots, offset: int, value: int) -> None:
    slots.memory.set_word(offset, value)
    with pytest.raises(MailboxError, match=re.escape("is the fabric's personality genz?")):
        slots.check(SIZE)


@pytest.mark.parametrize(("peers", "size"), [(PEERS, SIZE - 1), (PEERS, SIZE // 2), (MAX_PEERS + 1, 1 << 20)])
def test_a_mailbox_of_more_peers_than_fit_is_none(slots: Slots, peers: int, size: int) -> None:
    slots.memory.set_word(16, peers)
    slots.memory.set_word(32, peers + 1)
    with pytest.raises(MailboxError, match="holds no IVSHMSG mailbox"):
        slots.check(size)
