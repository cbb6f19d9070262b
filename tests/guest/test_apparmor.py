"""What famezd's programs say where AppArmor forbids what owner, group and mode permit: asked of a Linux that has it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import sdnotify

from tests.guest.archive import Archive
from tests.guest.kernel import SITE, install_program
from tests.guest.machine import CLIENT, Done, Guest, Program, first_files, folder
from tests.needs import need

pytestmark = pytest.mark.timeout(1800)

LAB = ("peers=4", "vectors=2", "size=4096")
SOCKET, MAILBOX = "/run/famez/lab.sock", "/dev/shm/famez-lab"
CTL = ("python3", "-c", "import sys; from famezd.cli.entry import famezctl; sys.exit(famezctl())")
BASE = """
  capability,
  signal,
  / r,
  /{usr,lib,lib64,proc,sys,tmp}/{,**} rmk,
  /tmp/** w,
  /usr/bin/* ix,
  /dev/null rw,
"""
RUN, SHM, UNIX = "/run/{,**} rwk,\n", "/dev/shm/{,**} rwk,\n", "network unix,\n"
FORBIDS = "AppArmor forbids it to this process (profile {})"
THOUGH = ", though owner, group and mode permit it; `journalctl -k -g DENIED` tells what to allow"
PREPARE = """\
import ctypes, os
os.makedirs("/run/famez"), os.makedirs("/dev/shm")
os.chmod("/dev/shm", 0o1777)
mounted = ctypes.CDLL(None).mount(b"securityfs", b"/sys/kernel/security", b"securityfs", 0, None)
assert mounted == 0
"""
CONFINE = """\
import os, sys
profile, *command = sys.argv[1:]
with open("/proc/self/attr/exec", "w") as ours:
    ours.write(f"exec {profile}")
os.execvp(command[0], command)
"""
KERNEL_SAYS = """\
import os
log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
try:
    while True:
        print(os.read(log, 8192).decode().partition("\\n")[0])
except BlockingIOError:
    pass
"""


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    with folder() as directory:
        files = first_files(directory)
        with (directory / "files").open("wb") as whole:
            for archived in (files, confining(directory)):
                whole.write(archived.read_bytes())
        with Guest("confined", directory, directory / "files", ()) as guest:
            guest.ready().python(PREPARE)
            yield guest


def confining(directory: Path) -> Path:
    """An archive of what a guest needs besides: what a worker imports, and what loads profiles."""
    tree = directory / "confining"
    (tree / SITE).mkdir(parents=True)
    shutil.copy(sdnotify.__file__, tree / SITE / "sdnotify.py")
    install_program(need("apparmor_parser", "apparmor"), tree / "usr/bin/apparmor_parser", tree)
    archive = directory / "confining.cpio"
    with Archive(archive) as written:
        written.add_tree(tree)
    return archive


def confine(guest: Guest, profile: str, *rules: str) -> tuple[str, ...]:
    """Loads a profile; returns the words that put a command under it."""
    text = f"profile {profile} flags=(attach_disconnected) {{{BASE}{''.join(rules)}}}"
    features = "--policy-features=/sys/kernel/security/apparmor/features"
    done = guest.run("apparmor_parser", "--replace", "--skip-cache", features, stdin=text)
    assert done.status == 0, done
    return ("python3", "-c", CONFINE, profile)


def worker(name: str = "two") -> tuple[str, ...]:
    """The command for a worker."""
    return ("python3", "-m", "famezd.fabric", name, f"socket=/run/famez/{name}.sock", f"memory=/dev/shm/famez-{name}")


def serve(guest: Guest, *under: str) -> Program:
    """Starts the worker of lab; it serves when this returns."""
    program = guest.start(*under, *worker("lab"), *LAB)
    while "fabric serves" not in (seen := program.look())[2]:
        assert seen[0] is None, seen
    return program


def stop(program: Program) -> None:
    program.signal("SIGTERM")
    assert program.wait().status == 0


def denied(guest: Guest, profile: str) -> str:
    """What the kernel says that it has denied under a profile: what the command that a message names finds."""
    lines = guest.python(KERNEL_SAYS).splitlines()
    return "\n".join(line for line in lines if "DENIED" in line and f'profile="{profile}"' in line)


def complaint(done: Done) -> str:
    """What a program says that cannot do what it is to do."""
    assert done.status != 0, done
    assert "Traceback" not in done.err
    return done.err.removeprefix("<3>").rstrip("\n")


def test_a_worker_that_may_not_make_its_mailbox(guest: Guest) -> None:
    under = confine(guest, "no-mailbox", UNIX, RUN)
    said = complaint(guest.run(*under, *worker(), *LAB))
    why = FORBIDS.format("no-mailbox") + THOUGH
    assert said == f"cannot make the mailbox /dev/shm/famez-two: Permission denied; {why}"
    assert 'name="/dev/shm/famez-two"' in denied(guest, "no-mailbox")


def test_a_worker_that_may_not_make_its_socket(guest: Guest) -> None:
    under = confine(guest, "no-socket", UNIX, SHM)
    said = complaint(guest.run(*under, *worker(), *LAB))
    why = FORBIDS.format("no-socket") + THOUGH
    assert said == f"cannot listen on /run/famez/two.sock: Permission denied; {why}"
    assert 'name="/run/famez/two.sock"' in denied(guest, "no-socket")


def test_a_client_and_famezctl_that_may_use_no_socket(guest: Guest) -> None:
    program = serve(guest)
    under = confine(guest, "no-sockets", RUN, SHM)
    why = FORBIDS.format("no-sockets") + THOUGH
    said = complaint(guest.run(*under, *CLIENT, "-S", SOCKET, "who"))
    assert said == f"famez-client: cannot join {SOCKET}: Permission denied; {why}"
    said = complaint(guest.run(*under, *CTL, "-s", SOCKET, "status"))
    assert said == f"famezctl: permission denied: {SOCKET}; {why}"
    assert 'family="unix"' in denied(guest, "no-sockets")
    stop(program)


def test_a_client_that_may_not_have_the_mailbox(guest: Guest) -> None:
    program = serve(guest, *confine(guest, "worker", UNIX, RUN, SHM))
    under = confine(guest, "no-memory", UNIX, RUN)
    said = complaint(guest.run(*under, *CLIENT, "-S", SOCKET, "who"))
    why = f"{FORBIDS.format('no-memory')}; `journalctl -k -g DENIED` tells what to allow"
    assert said == f"famez-client: cannot join {SOCKET}: a descriptor was lost; {why}"
    assert f'name="{MAILBOX}"' in denied(guest, "no-memory")
    under = confine(guest, "no-memory", UNIX, RUN, SHM)
    assert guest.run(*under, *CLIENT, "-S", SOCKET, "who").status == 0
    stop(program)


def test_what_an_unconfined_famezd_has_needs_no_rule(guest: Guest) -> None:
    program = serve(guest)
    assert guest.run(*confine(guest, "no-paths", UNIX), *CLIENT, "-S", SOCKET, "who").status == 0
    stop(program)


def test_what_a_mode_forbids_is_not_apparmors_doing(guest: Guest) -> None:
    program = serve(guest)
    # In the guest a user is of root's group.
    guest.python(f"import os; os.chmod({SOCKET!r}, 0o600)")
    under = confine(guest, "all", UNIX, RUN, SHM)
    said = complaint(guest.run(*under, *CLIENT, "-S", SOCKET, "who", user=65534))
    assert said.startswith(f"famez-client: cannot join {SOCKET}: Permission denied; run as a user, or in a group, that")
    stop(program)
