"""What is seen of peers' processes: what they are called, and how many descriptors they can still take."""

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from famezd.fabric import rooms
from famezd.fabric.listener import credentials
from famezd.fabric.peer import Peer
from famezd.fabric.processes import DEFAULT_LIMIT, DEFAULT_OPEN, program
from famezd.fabric.rooms import Rooms, room
from famezd.protocol import Batch, Descriptor, Outbox, PeerId
from tests.unit.conftest import NOBODY

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


def test_what_a_process_was_handed_since_it_was_looked_at_is_reckoned_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "AGE", 1000.0)
    seen = Rooms()
    with process(limited(100)) as pid, process(limited(60)) as other:
        assert [seen.take(pid, (), 40), seen.take(other, (), 40), seen.take(pid, (), 40)] == [55, 15, 15]
        # What is not enough is looked at once more: it may have closed some.
        assert seen.take(pid, (), 16) == 95 - 16
        assert seen.take(pid, (), 96) == -1


def test_a_look_is_good_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "AGE", 0.0)
    seen = Rooms()
    with process(limited(100)) as pid:
        assert [seen.take(pid, (), 40), seen.take(pid, (), 40)] == [55, 55]
