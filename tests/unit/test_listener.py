"""The listening socket: it takes nobody's place, and is never open to more than it should be."""

import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from famezd.fabric.listener import Credentials, ListenerError, credentials, listen
from tests.unit.conftest import NOBODY

ROOT = os.geteuid() == 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lab.sock"


@pytest.fixture
def another(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that listens on the path, until its standard input ends."""
    code = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen();"
        "print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        yield process
        process.communicate()


def refused(path: Path) -> str:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ListenerError) as e:
        listen(str(path))
    assert os.listdir("/proc/self/fd") == before
    return str(e.value)


def test_a_listener_takes_connections_without_waiting_for_them(path: Path) -> None:
    with listen(str(path)) as listener:
        with pytest.raises(BlockingIOError):
            listener.accept()
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))
            listener.accept()[0].close()


def test_a_socket_has_its_mode_whatever_the_umask_which_stays(path: Path) -> None:
    umask = os.umask(0o027)
    try:
        with listen(str(path), mode=0o666):
            assert stat.S_IMODE(path.stat().st_mode) == 0o666
        path.unlink()
        with listen(str(path)):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(umask)


def test_a_socket_has_its_owner_and_group(path: Path) -> None:
    owner, group = (NOBODY, 12345) if ROOT else (os.geteuid(), os.getegid())
    with listen(str(path), uid=owner, gid=group):
        assert (path.stat().st_uid, path.stat().st_gid) == (owner, group)


def test_a_socket_that_cannot_be_given_away_is_removed() -> None:
    # Not below what pytest makes, which is its user's alone.
    folder = Path(tempfile.mkdtemp())
    path = folder / "lab.sock"
    try:
        if ROOT:
            # Root may give files to anybody.
            os.chown(folder, NOBODY, NOBODY)
            os.seteuid(NOBODY)
        with pytest.raises(ListenerError, match=re.escape(f"cannot listen on {path}: Operation not permitted")):
            listen(str(path), gid=4242, mode=0o666)
        assert not path.exists()
    finally:
        if ROOT:
            os.seteuid(0)
        shutil.rmtree(folder)


def test_a_socket_on_which_nobody_listens_any_more_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    for _ in range(2):
        with listen(str(path)) as listener, socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))
            listener.accept()[0].close()


def test_a_process_that_listens_there_is_named_and_keeps_its_socket(
    path: Path, another: subprocess.Popen[bytes]
) -> None:
    inode = path.stat().st_ino
    assert refused(path) == f"cannot listen on {path}: process {another.pid} listens there already; stop it first"
    assert path.stat().st_ino == inode


def test_a_process_too_busy_to_accept_is_not_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        callers = []
        try:
            while True:
                callers.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
                callers[-1].connect(str(path))
        except BlockingIOError:
            pass
        assert refused(path) == f"cannot listen on {path}: a busy process listens there already; stop it"
        for caller in callers:
            caller.close()
    assert path.exists()


@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling link"])
def test_what_is_no_socket_is_left_alone(path: Path, kind: str) -> None:
    match kind:
        case "file":
            path.write_text("precious")
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to(path.parent)
        case _:
            path.symlink_to("nowhere")
    assert refused(path) == f"cannot listen on {path}: there is a file that is no socket; move it away"
    assert path.is_symlink() or path.exists()


def test_a_socket_of_another_type_is_left_alone(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        assert refused(path) == (
            f"cannot listen on {path}: what is there cannot be asked: Protocol wrong type for socket"
        )


@pytest.mark.parametrize(
    ("below", "why"),
    [
        ("missing/lab.sock", "No such file or directory; make its directory"),
        ("x" * 300, "File name too long"),
        ("x" * 108, "AF_UNIX path too long"),
    ],
)
def test_a_path_that_cannot_be_bound_is_told(path: Path, below: str, why: str) -> None:
    assert refused(path.parent / below) == f"cannot listen on {path.parent}/{below}: {why}"


def test_a_stale_socket_whose_path_is_too_long_to_ask_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("x" * 108)
    folder.mkdir()
    monkeypatch.chdir(folder)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind("s")
    assert refused(folder / "s") == (
        f"cannot listen on {folder}/s: what is there cannot be asked: AF_UNIX path too long"
    )


def test_credentials_are_those_of_the_other_end(path: Path, another: subprocess.Popen[bytes]) -> None:
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))
        assert credentials(caller) == Credentials(another.pid, os.geteuid(), os.getegid())
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert credentials(ours).pid == os.getpid()
