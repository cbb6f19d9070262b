"""How many descriptors another process can still take, and what a peer's connection does with its outbox."""

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from famezd.fabric.listener import credentials
from famezd.fabric.peer import BURST, Peer, room
from famezd.fabric.processes import DEFAULT_LIMIT, DEFAULT_OPEN, program
from famezd.protocol import Batch, Descriptor, Outbox, PeerId, encode
from tests.unit.conftest import NOBODY, closing

ROOT = os.geteuid() == 0


@contextmanager
def process(prelude: str = "") -> Iterator[int]:
    """A process that waits with its standard descriptors and two more; yields its pid."""
    code = f"import os, sys; os.pipe(); {prelude}\nprint(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"\n"
        yield other.pid
        other.communicate()


def limited(soft: int) -> str:
    return f"import resource as r; r.setrlimit(r.RLIMIT_NOFILE, ({soft}, r.getrlimit(r.RLIMIT_NOFILE)[1]))"


def test_a_process_has_a_name_unless_it_has_gone() -> None:
    assert program(os.getpid()) == Path("/proc/self/comm").read_text().strip()
    assert program(1 << 30) == program(0) == ""


def test_a_process_can_choose_any_name() -> None:
    with process(r"open('/proc/self/comm', 'wb').write(b'\xff\n<3>x y=')") as pid:
        assert program(pid) == "\N{REPLACEMENT CHARACTER}\n<3>x y="


def test_room_is_the_soft_limit_less_what_is_open() -> None:
    with process(limited(100)) as pid:
        assert room(pid, ()) == 100 - 5
    with process(limited(4096) + "; os.dup(0)") as pid:
        assert room(pid, ()) == 4096 - 6


def test_room_can_be_less_than_none() -> None:
    with process("[os.dup(0) for _ in range(20)]; " + limited(10)) as pid:
        assert room(pid, ()) == 10 - 25


def test_ones_own_room_is_told_as_anybodys() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        # The listing has one more open while it looks.
        assert room(credentials(ours).pid, ()) == soft - (len(os.listdir("/proc/self/fd")) - 1)


def test_a_process_that_is_gone_or_out_of_sight_is_taken_for_a_customary_one() -> None:
    with process() as gone:
        pass
    assert room(gone, ()) == room(0, ()) == DEFAULT_LIMIT - DEFAULT_OPEN


def test_where_prlimit_is_not_allowed_the_limit_is_read_from_proc() -> None:
    # Root's own process, looked at by somebody else.
    with process(limited(200)) as pid:
        if ROOT:
            # The real user id counts, too; the saved one is the way back.
            os.setresuid(NOBODY, NOBODY, 0)
            looked_at, limit = pid, 200
        else:
            with open("/proc/1/limits") as limits:
                line = next(line for line in limits if line.startswith("Max open files"))
            looked_at, limit = 1, int(line.split()[3])
        try:
            with pytest.raises(PermissionError):
                resource.prlimit(looked_at, resource.RLIMIT_NOFILE)
            found = room(looked_at, ())
        finally:
            if ROOT:
                os.setresuid(0, 0, 0)
    # How many are open can be seen by all since Linux 6.2.
    if os.stat("/proc/self/fd").st_size:
        assert limit - DEFAULT_LIMIT < found < limit
        assert found == limit - 5 or not ROOT
    else:
        assert found == limit - DEFAULT_OPEN


def test_what_was_sent_and_is_not_read_yet_counts_against_the_room(eventfd: Callable[[], int]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, process(limited(100)) as pid:
        peer = Peer(ours, PeerId(3), 2, Outbox(), pid=pid, joined=0)
        peer.owe([Batch(4, [Descriptor(eventfd()) for _ in range(20)])])
        assert room(pid, [peer]) == 100 - 5 - 20
        peer.flush()
        # By the memory that the messages take, and so about.
        assert 100 - 5 - 30 < room(pid, [peer]) <= 100 - 5 - 15
        theirs.recv(4096)
        assert room(pid, [peer]) > 100 - 5 - 30


# The connection


@pytest.fixture
def connected() -> Iterator[tuple[Peer, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Peer(ours, PeerId(3), 2, Outbox(), pid=os.getpid(), joined=0), theirs


def test_each_message_travels_by_itself_with_its_descriptor(
    connected: tuple[Peer, socket.socket], eventfd: Callable[[], int]
) -> None:
    peer, theirs = connected
    bells = [eventfd(), eventfd()]
    peer.owe([Batch(0), Batch(4, [Descriptor(fd) for fd in bells])])
    peer.flush()
    # The kernel ends a read behind a message with a descriptor.
    for expected, bell in ((encode(0) + encode(4), bells[0]), (encode(4), bells[1])):
        data, descriptors, _, _ = socket.recv_fds(theirs, 64, 4)
        assert (data, len(descriptors)) == (expected, 1)
        with closing(*descriptors):
            os.eventfd_write(bell, 5)
            assert os.eventfd_read(descriptors[0]) == 5


def test_what_a_full_socket_does_not_take_is_sent_later_and_none_is_lost(
    connected: tuple[Peer, socket.socket],
) -> None:
    peer, theirs = connected
    total = 20000
    peer.owe(Batch(n) for n in range(total))
    received = b""
    flushes = 0
    while len(received) < 8 * total:
        try:
            while peer.flush():
                pass
        except BlockingIOError:
            flushes += 1
        received += theirs.recv(1 << 16)
    assert received == b"".join(encode(n) for n in range(total))
    assert flushes
    assert not peer.outbox


def test_a_peer_that_hung_up_is_an_error_and_no_signal(connected: tuple[Peer, socket.socket]) -> None:
    peer, theirs = connected
    theirs.close()
    peer.owe([Batch(0)])
    with pytest.raises(BrokenPipeError):
        peer.flush()


def test_a_flush_sends_no_more_than_a_burst(connected: tuple[Peer, socket.socket]) -> None:
    peer, theirs = connected
    peer.owe(Batch(n) for n in range(BURST + 3))
    assert peer.flush()
    assert theirs.recv(1 << 16) == b"".join(map(encode, range(BURST)))
    assert not peer.flush()
    assert theirs.recv(1 << 16) == b"".join(map(encode, range(BURST, BURST + 3)))
