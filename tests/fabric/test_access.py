"""Who is let in: by user, by group, and so many of each user; and who can open the socket and the mailbox at all."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from famezd.fabric.handed import START_FAILED
from famezd.fabric.settings import Settings
from famezd.mailbox import SHM
from tests.fabric.conftest import Start, settings
from tests.fabric.test_bad_peers import fill, refused, rings
from tests.fabric.workers import DEADLINE, Worker
from tests.needs import need

ROOT = os.geteuid() == 0
OWN = os.geteuid()
OTHERS = OWN + 1
UID, GID, EXTRA = (1234, 5678, 6789) if ROOT else (OWN, os.getegid(), os.getegid())
"""Of a newcomer; who is not root can only be itself."""

NEWCOMER = """
import os, socket, sys
path, uid, gid, groups = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), [int(sys.argv[4])]
with open('/proc/self/comm', 'w') as name:
    name.write('a newcomer')
if os.geteuid() == 0:
    os.setgroups(groups), os.setresgid(gid, gid, gid), os.setresuid(uid, uid, uid)
connections = []
for line in sys.stdin:
    connection = socket.socket(socket.AF_UNIX)
    connections.append(connection)
    connection.connect(path)
    print(int.from_bytes(connection.recv(8), 'little', signed=True), connection.recv(1) == b'', flush=True)
"""
LET_IN, REFUSED = "0 False\n", "-1 True\n"


class Newcomer:
    """A process of another user, as far as we can have one."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.pid = process.pid
        self._process = process

    def knocks(self) -> str:
        """Joins, or tries to; returns the version that it was sent, and whether that was all."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()


@contextmanager
def newcomer(worker: Worker, *, uid: int = UID) -> Iterator[Newcomer]:
    path = Path(worker.settings.socket)
    path.parent.chmod(0o711)
    command = [sys.executable, "-c", NEWCOMER, str(path), str(uid), str(GID), str(EXTRA)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Newcomer(process)
        process.communicate(timeout=DEADLINE)


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"users": f"{UID}"},
        {"users": f"{OTHERS},{UID}"},
        {"groups": f"{GID}"},
        {"groups": f"{EXTRA}"},
        {"users": f"{OTHERS}", "groups": f"1,{EXTRA}"},
    ],
)
def test_who_is_listed_is_let_in(start: Start, rules: dict[str, str]) -> None:
    worker = start(socket_mode=0o666, **rules)
    with newcomer(worker) as somebody:
        assert somebody.knocks() == LET_IN
        assert worker.totals["joins"] == 1


@pytest.mark.parametrize("rules", [{"users": f"{OTHERS}"}, {"groups": "1"}, {"users": f"{OTHERS}", "groups": "1"}])
def test_who_is_not_listed_is_refused_and_named(start: Start, rules: dict[str, str]) -> None:
    worker = start(socket_mode=0o666, **rules)
    with newcomer(worker) as somebody:
        for n in range(1, 4):
            assert somebody.knocks() == REFUSED
            worker.await_total("refused_access", n)
        worker.await_log(f'reason=access pid={somebody.pid} uid={UID} program="a newcomer"', 3)
    worker.await_log("peer refused: neither its user nor any of its groups is in access.users or access.groups", 3)
    # We are not listed either, whoever we are.
    assert refused(worker.connect())
    assert (worker.totals["joins"], worker.refused) == (0, 4)


def test_access_comes_before_all_else(start: Start) -> None:
    """Who may not join is told nothing of the fabric, not even that it is full."""
    worker = start(socket_mode=0o666, users=str(UID), peers=1)
    with newcomer(worker) as somebody:
        assert somebody.knocks() == LET_IN
        assert somebody.knocks() == REFUSED
        worker.await_total("refused_full", 1)
        if ROOT:
            assert refused(worker.connect())
            worker.await_total("refused_access", 1)


def test_one_user_has_so_many_peers_at_once(start: Start, ports: str) -> None:
    worker = start(peers_per_user=3, ports=ports, socket_mode=0o666)
    clients = [worker.join() for _ in range(3)]
    for _ in range(20):
        assert refused(worker.connect())
        # Who leaves makes room at once.
        clients.pop().close()
        clients.append(worker.join())
    worker.await_total("refused_per_user", 20)
    worker.await_log("its user has 3 peers on the fabric, as many as access.peers_per_user allows", 20)
    rings(worker, clients[0], clients[2])
    if ROOT:
        with newcomer(worker) as somebody:
            assert somebody.knocks() == LET_IN
            assert somebody.knocks() == LET_IN
            assert somebody.knocks() == REFUSED
            worker.await_total("refused_full", 1)


def test_a_users_peers_still_count_after_the_workers_death(folder: Path) -> None:
    chosen = settings(folder, peers_per_user=2)
    with Worker(chosen, folder) as worker:
        first, second = worker.join(), worker.join()
        worker.barrier()
        worker.kill()
        with Worker(chosen, folder, kept=worker.kept) as successor:
            assert refused(successor.connect())
            successor.await_total("refused_per_user", 1)
            second.close()
            successor.join()
            assert first.id in successor.present


def test_rules_that_are_none_are_named(folder: Path) -> None:
    worker = Worker(settings(folder, groups="kvm"), folder)
    try:
        assert worker.ended() == START_FAILED
        assert "groups=kvm: groups are whole numbers with commas between" in worker.log
    finally:
        worker.close()


# Permissions

CALLS = "umask,bind,listen,openat,chmod,fchmod,fchmodat,chown,fchown,fchownat,lchown"
GIVEN = [
    (0o660, -1, -1),
    (0o666, *((1234, 12345) if ROOT else (-1, os.getegid()))),
    # Root needs no rights of its own.
    (0o060 if ROOT else 0o640, -1, 12345 if ROOT else os.getegid()),
    (0o600, -1, -1),
]


def traced(folder: Path) -> list[str]:
    """A command that becomes the worker, with a tracer beside it that writes down its calls in order."""
    return [str(need("strace", "strace")), "-D", "-f", "-o", str(folder / "calls"), "-e", f"trace={CALLS}"]


def history(folder: Path, path: str, mode: int = 0) -> list[tuple[int, bool]]:
    """What a worker's calls made of the file at `path`: its mode after each, and whether it had its owner by then.

    `mode`: what it had before. A call is written as `pid name(arguments) = result`.
    """
    umask, given, opened, seen = 0, False, "", []
    for line in (folder / "calls").read_text().splitlines():
        call = re.match(r"\d+ +(\w+)\((.*)\) += (\d+)", line)
        if call is None:
            continue
        function, arguments, result = call.groups()
        ours = f'"{path}"' in arguments or arguments.startswith(f'"{opened}"')
        if function == "umask":
            umask = int(arguments, 8)
        elif not ours:
            continue
        elif function == "openat":
            opened = f"/proc/self/fd/{result}"
        if ours and (function == "bind" or "O_CREAT" in arguments):
            mode = (0o777 if function == "bind" else int(arguments.rpartition(",")[2], 8)) & ~umask
        elif ours and "chmod" in function:
            mode = int(arguments.rpartition(",")[2], 8)
        elif ours and "chown" in function:
            given = True
        if ours:
            seen.append((mode, given))
    return seen


def permissions(path: str) -> tuple[int, int, int]:
    found = os.lstat(path)
    return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid


@pytest.fixture
def shm() -> Iterator[str]:
    """A path in /dev/shm that is removed in the end."""
    path = f"{SHM}/famezd-test-{os.getpid()}"
    yield path
    os.unlink(path)


def chosen(folder: Path, shm: str, given: tuple[int, int, int]) -> Settings:
    """A fabric whose socket and mailbox have these mode, owner and group."""
    values = dict(zip(("mode", "uid", "gid"), given, strict=True))
    both = {f"{what}_{key}": value for what in ("socket", "memory") for key, value in values.items()}
    return settings(folder, backing="shm", memory=shm, **both)


def expected(mode: int, uid: int, gid: int) -> tuple[int, int, int]:
    return mode, OWN if uid < 0 else uid, os.getegid() if gid < 0 else gid


@pytest.mark.parametrize("given", GIVEN)
def test_at_no_time_can_others_open_what_is_new(folder: Path, shm: str, given: tuple[int, int, int]) -> None:
    wanted = chosen(folder, shm, given)
    with Worker(wanted, folder, through=traced(folder)):
        pass
    for path in (wanted.socket, shm):
        assert permissions(path) == expected(*given)
        for moment, has_owner in history(folder, path)[:-1]:
            assert moment & ~(given[0] if has_owner else 0o600) == 0


@pytest.mark.parametrize("before", GIVEN)
@pytest.mark.parametrize("after", GIVEN)
def test_at_no_time_can_others_open_what_is_inherited(
    folder: Path, shm: str, before: tuple[int, int, int], after: tuple[int, int, int]
) -> None:
    """A successor with other settings; where it may not have them all is no wider than either."""
    first = chosen(folder, shm, before)
    changed = chosen(folder, shm, after)
    with Worker(first, folder) as worker:
        worker.kill()
        with Worker(changed, folder, kept=worker.kept, through=traced(folder)) as successor:
            one, other, *_ = fill(successor)
            rings(successor, one, other)
            assert "cannot give" not in successor.log
    for path in (changed.socket, shm):
        assert permissions(path) == expected(*after)
        for moment, has_owner in history(folder, path, before[0])[:-1]:
            assert moment & ~(after[0] if has_owner else before[0]) == 0


def test_the_group_that_a_folder_gives_stays(folder: Path) -> None:
    """A successor does not take it for another setting."""
    group = 12345 if ROOT else [os.getegid(), *os.getgroups()][-1]
    os.chown(folder, -1, group)
    folder.chmod(0o2700)
    with Worker(settings(folder), folder) as worker:
        worker.kill()
        with Worker(worker.settings, folder, kept=worker.kept):
            assert permissions(worker.settings.socket) == expected(0o660, -1, group)
