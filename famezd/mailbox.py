"""The mailbox: opening and checking a fabric's shared memory, and the IVSHMSG layout of slots in it.

All integers in the layout are unsigned 64-bit, native; strings end with a NUL. Slot 0 holds the globals, slot k
belongs to peer k, and the last one in use to the server. A message stands in its sender's slot; whoever received it
zeroes its length, and that is the acknowledgement.

Whatever a guest writes there is untrusted: it is copied first and checked then.

Source of the layout: FAME-Z's IVSHMSG, the names of its fields included.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import stat
from typing import NamedTuple, Protocol

from famezd.errors import FamezError
from famezd.permissions import OURS, as_made, give
from famezd.remedies import invisible, remedy

SHM = "/dev/shm"  # noqa: S108 (where POSIX shared memory is)
PAGE = 4096
"""The least size of a mailbox in bytes: QEMU maps whole pages."""

SLOT_SIZE = 512
BUFFER_AT = 128
BUFFER_SIZE = SLOT_SIZE - BUFFER_AT
MAX_TEXT = BUFFER_SIZE - 1
"""The longest message in bytes: its NUL has to fit, too."""
NAME_SIZE = 32
MAX_PEERS = 62

# Offsets in slot 0
_SLOT_SIZE, _BUFFER_AT, _CLIENTS, _EVENTS, _SERVER = 0, 8, 16, 24, 32
# Offsets in every other slot
_NODENAME, _CCLASS, _BUFLEN, _PEER, _LAST_RESPONDER, _SID, _CID = 0, 32, 64, 72, 80, 88, 96


class MailboxError(FamezError):
    """The shared memory cannot be used, or what stands in it is none of the layout's."""


class Backing(NamedTuple):
    """Where a mailbox lives and whose it is."""

    kind: str
    """`shm` or `file`: a file at `path`; `unlinked`: a file in the directory `path`, which loses its name at once;
    `memfd`: no file, sealed against every change of its size."""
    path: str
    size: int
    """Bytes, a power of two: QEMU accepts nothing else."""
    mode: int = 0o660
    uid: int = -1
    """Owner, -1 for who creates it."""
    gid: int = -1

    @property
    def has_name(self) -> bool:
        """Whether others can open it, too: what has no name needs no lock, and nobody to own it."""
        return self.kind in ("shm", "file")


class SharedMemory(NamedTuple):
    """A mailbox's memory, open; both descriptors are the receiver's to close."""

    descriptor: int
    """The one that goes to peers."""
    lock: int | None
    """Keeps other servers away as long as it is open; None for what nobody else can name."""
    made: bool = True
    """Whether it was not there before."""


def open_backing(backing: Backing) -> SharedMemory:
    """Opens the shared memory, creating the file if there is none.

    An existing file is adopted only if it is a regular one with our owner and exactly this size; it keeps its content.
    Raises MailboxError, which says what stands in the way.
    """
    if backing.kind == "memfd":
        return SharedMemory(_sealed(backing.path, backing.size), None)
    if backing.kind == "unlinked":
        return SharedMemory(_unlinked(backing), None)
    if (why := invisible(backing.path)) is not None:
        raise MailboxError(f"cannot make the mailbox {backing.path}: {why}")
    made = False
    try:
        if os.path.lexists(backing.path):
            descriptor = _adopt(backing)
        else:
            descriptor, made = _create(backing), True
    except FileExistsError:
        # Another process was quicker between the look and the creation.
        descriptor = _adopt(backing)
    except OSError as e:
        todo = remedy(e, "the directory must be there and ours to write to", backing.path)
        raise MailboxError(f"cannot make the mailbox {backing.path}: {e.strerror}; {todo}") from e
    lock = None
    try:
        lock = claim(descriptor, backing.path)
        _give(descriptor, backing)
    except BaseException:
        os.close(descriptor)
        if lock is not None:
            os.close(lock)
        if made:
            os.unlink(backing.path)
        raise
    return SharedMemory(descriptor, lock, made)


def grow(backing: Backing) -> None:
    """Makes a file that is there already, and is ours and smaller, as large as it is to be.

    Nothing else about it is judged: that is for `open_backing`. Raises MailboxError if another server uses the file, or
    there is no room.
    """
    try:
        descriptor = os.open(backing.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_size < backing.size:
            lock = claim(descriptor, backing.path)
            try:
                _allocate(descriptor, backing)
            except MailboxError:
                os.ftruncate(descriptor, found.st_size)
                raise
            finally:
                os.close(lock)
    finally:
        os.close(descriptor)


def _sealed(name: str, size: int) -> int:
    # No file system bounds a memfd: too large a one would have the kernel kill whoever is largest.
    available = _available()
    if size > available:
        raise MailboxError(
            f"a memfd of {size} bytes does not fit into the {available} bytes of memory that are available; "
            f"choose a smaller mailbox.size"
        )
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size)
        os.posix_fallocate(descriptor, 0, size)
    except OSError as e:
        os.close(descriptor)
        raise MailboxError(f"cannot make a memfd of {size} bytes: {e.strerror}; choose a smaller mailbox.size") from e
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


def _available() -> int:
    """Bytes of memory that the kernel could give without swapping."""
    with open("/proc/meminfo") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 1 << 62


def _create(backing: Backing) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(backing.path, flags, OURS)
    try:
        _allocate(descriptor, backing)
    except MailboxError:
        os.unlink(backing.path)
        os.close(descriptor)
        raise
    return descriptor


def _allocate(descriptor: int, backing: Backing) -> None:
    try:
        os.ftruncate(descriptor, backing.size)
        # Memory that is found missing only when a machine touches it kills the machine with SIGBUS.
        os.posix_fallocate(descriptor, 0, backing.size)
    except OSError as e:
        raise MailboxError(
            f"cannot make the mailbox {backing.path} of {backing.size} bytes: {e.strerror}; "
            f"free space there or choose a smaller mailbox.size"
        ) from e


def _unlinked(backing: Backing) -> int:
    # Not O_TMPFILE, which not every file system has.
    path = os.path.join(backing.path, f"famez-{os.urandom(8).hex()}")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, OURS)
    except OSError as e:
        todo = remedy(e, "it must be a directory that is ours to write to", path)
        raise MailboxError(f"cannot make a mailbox in {backing.path}: {e.strerror}; {todo}") from e
    os.unlink(path)
    try:
        _allocate(descriptor, backing)
    except MailboxError:
        os.close(descriptor)
        raise
    return descriptor


def _adopt(backing: Backing) -> int:
    path = backing.path
    try:
        # Not blocking: opening a FIFO would wait for its other end.
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as e:
        link = " (a symbolic link is not followed)" if os.path.islink(path) else ""
        todo = remedy(e, "remove it or choose another mailbox.name", path)
        raise MailboxError(f"cannot use the mailbox {path}: {e.strerror}{link}; {todo}") from e
    found = os.fstat(descriptor)
    owner = backing.uid if backing.uid >= 0 else os.geteuid()
    wrong = ""
    if not stat.S_ISREG(found.st_mode):
        wrong = "it is no regular file"
    elif found.st_uid not in (owner, os.geteuid()):
        wrong = f"it belongs to user id {found.st_uid}, not {owner}"
    elif found.st_nlink != 1:
        wrong = f"it has {found.st_nlink} names"
    elif found.st_size != backing.size:
        wrong = f"it has {found.st_size} bytes, not {backing.size}"
    if wrong:
        os.close(descriptor)
        raise MailboxError(
            f"cannot adopt the mailbox {path}: {wrong}; if nobody uses it remove it, else choose another mailbox.name"
        )
    return descriptor


def is_backed(descriptor: int, backing: Backing) -> bool:
    """Whether `descriptor` is what `open_backing` would open."""
    found = os.fstat(descriptor)
    if found.st_size != backing.size:
        return False
    if backing.kind == "memfd":
        return found.st_nlink == 0 and os.readlink(f"/proc/self/fd/{descriptor}").startswith("/memfd:")
    try:
        there = os.lstat(backing.path)
    except OSError:
        return False
    if backing.kind == "unlinked":
        return found.st_nlink == 0 and found.st_dev == there.st_dev
    return os.path.samestat(found, there)


def discard(descriptor: int, path: str) -> None:
    """Removes the file at `path` if it is `descriptor`'s."""
    # Its name in /proc would not do: it is that in the mount namespace in which it was opened.
    with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
            os.unlink(path)


def claim(descriptor: int, path: str) -> int:
    """Makes sure that no other server uses the same mailbox; returns the lock, which is held as long as it is open.

    The lock is on an open file of its own: `descriptor` goes to peers, and what peers share they could unlock, or keep
    locked when we are gone.
    """
    own = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        os.close(own)
        raise MailboxError(
            f"the mailbox {path} is in use by another server ({_lock_holder(descriptor)}); "
            f"stop that one or choose another mailbox.name"
        ) from e
    return own


def _lock_holder(descriptor: int) -> str:
    inode = os.fstat(descriptor).st_ino
    with contextlib.suppress(OSError), open("/proc/locks") as locks:
        for line in locks:
            # 1: FLOCK  ADVISORY  WRITE 4242 00:19:77 0 EOF
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
                return f"pid {fields[4]}"
    return "its pid is not to be seen from here"


def give_mailbox(descriptor: int, backing: Backing) -> None:
    """Gives the file of a mailbox that was inherited its owner, group and mode: a predecessor's may have been others.

    At no time is it wider than before or after. Raises MailboxError if it is not ours to give.
    """
    uid, gid = as_made(backing.path, backing.uid, backing.gid)
    _give(descriptor, backing._replace(uid=uid, gid=gid))


def _give(descriptor: int, backing: Backing) -> None:
    try:
        give(descriptor, backing.uid, backing.gid, backing.mode)
    except OSError as e:
        raise MailboxError(
            f"cannot give the mailbox {backing.path} its owner, group and mode: {e.strerror}; "
            f"run as root or choose a group that the service is in (SupplementaryGroups= in its unit)"
        ) from e


class Memory(Protocol):
    """Access to shared memory, by offset in bytes."""

    def read(self, at: int, size: int) -> bytes:
        """A copy of `size` bytes."""

    def write(self, at: int, data: bytes) -> None:
        """Writes all of `data`."""

    def word(self, at: int) -> int:
        """The 64-bit word there."""

    def set_word(self, at: int, value: int) -> None:
        """Sets the 64-bit word there."""


class FileMemory:
    """Shared memory by pread and pwrite: a file that a peer truncates reads short, and cannot hurt the reader.

    Through a mapping, whoever touched what was cut off would die of SIGBUS.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, at: int, size: int) -> bytes:
        """A copy of `size` bytes; what is no longer there reads as zero."""
        return os.pread(self._descriptor, size, at).ljust(size, b"\0")

    def write(self, at: int, data: bytes) -> None:
        """Writes all of `data`, if that is still there: a file that was cut is not made longer by what we write."""
        if os.fstat(self._descriptor).st_size >= at + len(data):
            os.pwrite(self._descriptor, data, at)

    def word(self, at: int) -> int:
        """The 64-bit word there; bytes of it that are no longer there read as zero."""
        return int.from_bytes(os.pread(self._descriptor, 8, at), "little")

    def set_word(self, at: int, value: int) -> None:
        """Sets the 64-bit word there."""
        self.write(at, value.to_bytes(8, "little"))

    def close(self) -> None:
        """Lets go of the memory; the descriptor stays the caller's."""


class OwnMemory(FileMemory):
    """The same through an open file of its own.

    All who were handed one open file share its flags, and where one of them sets O_APPEND, what the others write to
    anywhere goes behind the end.
    """

    def __init__(self, descriptor: int) -> None:
        """Raises OSError if the file cannot be opened anew: it may be another user's."""
        super().__init__(os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC))

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)


class MappedMemory(FileMemory):
    """Shared memory that only a mapping can write to, as on hugetlbfs, and still no truncation hurts the writer.

    The kernel writes: it reads a file of ours into the mapping. Where a process would get a signal it gets an error.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self._mapping = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
        self._bytes = memoryview(self._mapping)
        self._source = os.memfd_create("famez-write", os.MFD_CLOEXEC)

    def write(self, at: int, data: bytes) -> None:
        """Writes all of `data`, if that is still there."""
        os.pwrite(self._source, data, 0)
        try:
            os.preadv(self._source, [self._bytes[at : at + len(data)]], 0)
        except OSError as e:
            if e.errno != errno.EFAULT:
                raise

    def close(self) -> None:
        """Unmaps the memory."""
        self._bytes.release()
        self._mapping.close()
        os.close(self._source)


def outliving_memory(descriptor: int) -> FileMemory:
    """The access that outlives whatever others do to the file."""
    try:
        os.pwrite(descriptor, b"", 0)
    except OSError:
        # A file on hugetlbfs cannot be written but through a mapping.
        return MappedMemory(descriptor)
    try:
        return OwnMemory(descriptor)
    except OSError:
        return FileMemory(descriptor)


def slots_size(peers: int) -> int:
    """Bytes of the layout for `peers`: a power of two of slots for the globals, the peers and the server."""
    return max(PAGE, SLOT_SIZE << (peers + 1).bit_length())


class Standing(NamedTuple):
    """What stands in a slot, whether or not it was taken."""

    length: int
    """As its sender has it; 0 once it is acknowledged."""
    text: bytes
    """Up to a NUL: a text that was taken stays until the next is written, perhaps over a part of it."""
    responder: int
    """Whom it is for, if its sender noted that."""

    @property
    def pending(self) -> bool:
        """Whether nobody has acknowledged it."""
        return self.length != 0

    @property
    def message(self) -> bytes:
        """The text, without what an earlier and longer one has left after it, as far as that can be known."""
        return self.text[: self.length] if self.pending else self.text


class Slots:
    """The IVSHMSG layout over shared memory."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    @property
    def peers(self) -> int:
        """How many clients the server laid the mailbox out for; they have the ids 1 .. peers."""
        return self.memory.word(_CLIENTS)

    @property
    def server(self) -> int:
        """The server's id."""
        return self.memory.word(_SERVER)

    def lay_out(self, peers: int) -> None:
        """Writes the globals and gives every slot its owner's id; what stood there before is gone."""
        for slot in range(peers + 2):
            self.memory.write(slot * SLOT_SIZE, bytes(SLOT_SIZE))
        for slot in range(1, peers + 2):
            self.memory.set_word(slot * SLOT_SIZE + _PEER, slot)
        self._globals(peers)

    def _globals(self, peers: int) -> None:
        self.memory.set_word(_SLOT_SIZE, SLOT_SIZE)
        self.memory.set_word(_BUFFER_AT, BUFFER_AT)
        self.memory.set_word(_EVENTS, peers + 2)
        self.memory.set_word(_SERVER, peers + 1)
        # Last: a client takes a mailbox with clients for one that is laid out.
        self.memory.set_word(_CLIENTS, peers)

    def restore(self, peers: int) -> None:
        """Writes again what the server alone writes, where it may be lost; what peers wrote stays."""
        for slot in range(1, peers + 2):
            self.memory.set_word(slot * SLOT_SIZE + _PEER, slot)
        self._globals(peers)

    def check(self, size: int) -> None:
        """Raises MailboxError if this is no IVSHMSG mailbox of `size` bytes."""
        found = [self.memory.word(at) for at in (_SLOT_SIZE, _BUFFER_AT, _CLIENTS, _SERVER)]
        peers = found[2]
        if found != [SLOT_SIZE, BUFFER_AT, peers, peers + 1] or not 0 < peers <= MAX_PEERS or slots_size(peers) > size:
            raise MailboxError("the shared memory holds no IVSHMSG mailbox; is the fabric's personality genz?")

    def clear(self, slot: int) -> None:
        """Empties a slot but for its id: no names, no message."""
        self.memory.write(slot * SLOT_SIZE, bytes(SLOT_SIZE))
        self.memory.set_word(slot * SLOT_SIZE + _PEER, slot)

    def name(self, slot: int, nodename: str, cclass: str) -> None:
        """Writes a slot's names, each cut to 31 bytes."""
        for at, text in ((_NODENAME, nodename), (_CCLASS, cclass)):
            field = text.encode()[: NAME_SIZE - 1].ljust(NAME_SIZE, b"\0")
            self.memory.write(slot * SLOT_SIZE + at, field)

    def nodename(self, slot: int) -> str:
        """The slot's node name; bytes that are no UTF-8 come as U+FFFD, control characters too."""
        return _text(self.memory.read(slot * SLOT_SIZE + _NODENAME, NAME_SIZE))

    def cclass(self, slot: int) -> str:
        """The slot's component class, in the same way."""
        return _text(self.memory.read(slot * SLOT_SIZE + _CCLASS, NAME_SIZE))

    def identify(self, slot: int, cid: int, sid: int) -> None:
        """Writes the Gen-Z ids of a slot's owner, its component's and its subnet's."""
        self.memory.set_word(slot * SLOT_SIZE + _SID, sid)
        self.memory.set_word(slot * SLOT_SIZE + _CID, cid)

    def identity(self, slot: int) -> tuple[int, int]:
        """The Gen-Z ids, CID and SID, that stand in a slot."""
        return self.memory.word(slot * SLOT_SIZE + _CID), self.memory.word(slot * SLOT_SIZE + _SID)

    def pending(self, slot: int) -> bool:
        """Whether the slot holds a message that nobody has acknowledged."""
        return self.memory.word(slot * SLOT_SIZE + _BUFLEN) != 0

    def pending_up_to(self, last: int) -> int:
        """How many of slots 1 to `last` hold such a message, from one copy of all of them."""
        copy = self.memory.read(SLOT_SIZE, last * SLOT_SIZE)
        return sum(any(copy[at : at + 8]) for at in range(_BUFLEN, len(copy), SLOT_SIZE))

    def responder(self, slot: int) -> int:
        """Whom the slot's last message was for."""
        return self.memory.word(slot * SLOT_SIZE + _LAST_RESPONDER)

    def put(self, slot: int, text: bytes, responder: int) -> None:
        """Writes a message for `responder` into the sender's own slot, which must not be pending; the length last."""
        if len(text) > MAX_TEXT:
            raise MailboxError(f"a message of {len(text)} bytes; at most {MAX_TEXT} fit into a slot")
        base = slot * SLOT_SIZE
        self.memory.set_word(base + _LAST_RESPONDER, responder)
        self.memory.write(base + BUFFER_AT, text + b"\0")
        self.memory.set_word(base + _BUFLEN, len(text))

    def peek(self, slot: int) -> bytes | None:
        """Copies the message in `slot`; None if there is none.

        Raises MailboxError if its length is beyond the buffer.
        """
        # One copy of both: the length comes first in it, and was written last.
        copy = self.memory.read(slot * SLOT_SIZE + _BUFLEN, SLOT_SIZE - _BUFLEN)
        length = int.from_bytes(copy[:8], "little")
        if not length:
            return None
        if length > MAX_TEXT:
            raise MailboxError(f"slot {slot} says its message has {length} bytes; at most {MAX_TEXT} fit")
        text = BUFFER_AT - _BUFLEN
        return copy[text : text + length].partition(b"\0")[0]

    def standing(self, last: int) -> list[Standing]:
        """What stands in slots 1 to `last`, from one copy of all of them."""
        copy = self.memory.read(SLOT_SIZE, last * SLOT_SIZE)
        found = []
        for base in range(0, len(copy), SLOT_SIZE):
            buflen, responder = (
                int.from_bytes(copy[base + at : base + at + 8], "little") for at in (_BUFLEN, _LAST_RESPONDER)
            )
            text = copy[base + BUFFER_AT : base + SLOT_SIZE].partition(b"\0")[0]
            found.append(Standing(buflen, text, responder))
        return found

    def text(self, slot: int) -> bytes:
        """Copies what stands in `slot`, as long as it says, or as the buffer is where it says more."""
        length = min(self.memory.word(slot * SLOT_SIZE + _BUFLEN), MAX_TEXT)
        return self.memory.read(slot * SLOT_SIZE + BUFFER_AT, length)

    def rewrite(self, slot: int, text: bytes) -> None:
        """Writes another text of the same length over what stands in `slot`."""
        self.memory.write(slot * SLOT_SIZE + BUFFER_AT, text)

    def take(self, slot: int) -> bytes | None:
        """Copies the message in `slot` and acknowledges it; None if there is none.

        Raises MailboxError, the message acknowledged all the same, if its length is beyond the buffer.
        """
        try:
            text = self.peek(slot)
        except MailboxError:
            self.acknowledge(slot)
            raise
        if text is not None:
            self.acknowledge(slot)
        return text

    def acknowledge(self, slot: int) -> None:
        """Zeroes the length in `slot`: its owner may send again."""
        self.memory.set_word(slot * SLOT_SIZE + _BUFLEN, 0)


def _text(field: bytes) -> str:
    text = field.partition(b"\0")[0].decode(errors="replace")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
