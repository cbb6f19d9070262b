"""What a peer's process is, by its command line: a QEMU and the machine's name, or some program on the host.

A process can write what it likes there, so this is no more than what it calls itself. To read it the kernel takes the
lock of the process's memory, which can be held for as long as some file system, also one of the process's own (FUSE),
does not answer: so it is read by a thread, and nobody waits for that for long.

Sources: proc_pid_cmdline(5), proc_pid_stat(5); QEMU's manual, -name, and its QemuOpts, where a comma in a value is
doubled.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from threading import Thread
from typing import NamedTuple

QEMU, HOST, UNKNOWN = "qemu", "host", "unknown"
"""Kinds of programs: a QEMU; any other on the host; one that cannot be seen from here."""

_QEMU = re.compile(r"qemu-system-.+|qemu-kvm|qemu|kvm")
_LONGEST = 1 << 16
"""Bytes of a command line that are read; libvirt's are a tenth of that, and -name comes first."""
_TICKS = os.sysconf("SC_CLK_TCK")
"""In a second, of the time at which a process began."""
WITHIN = 0.5
"""Seconds to wait for a command line: it takes some microseconds, and a thread's start a few more."""
_SLACK = 1.0
"""Seconds by which the two clocks may be apart; no pid comes round as fast."""


class Program(NamedTuple):
    """What a process is."""

    kind: str
    name: str = ""
    """Of the machine that it runs, as it was written; "" for none."""


def program_of(pid: int, joined: float) -> Program:
    """What the process is that joined with this pid at this time, in seconds of the real-time clock.

    Of one that has ended meanwhile, also if another has its pid now, nothing is known.
    """
    try:
        folder = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return Program(UNKNOWN)
    try:
        if _age(folder) < time.time() - joined - _SLACK:
            return Program(UNKNOWN)
        return understand(_read(folder, "cmdline").rstrip(b"\0").decode(errors="replace").split("\0"))
    except OSError:
        return Program(UNKNOWN)
    finally:
        os.close(folder)


class Reading:
    """A command line that was read, or still is: then nothing is known of it yet."""

    def __init__(self, program: Program) -> None:
        self.program = program


class Reader:
    """Reads command lines. One that does not come is nobody's loss but that of the user whose process it is."""

    def __init__(self, look: Callable[[int, float], Program] = program_of) -> None:
        self._look = look
        self._late: dict[int, Thread] = {}
        """What still reads, by the process's user."""

    def read(self, pid: int, uid: int, joined: float) -> Reading:
        """Reads that of a user's process, by `program_of`; of users with one that is late no other is read."""
        reading = Reading(Program(UNKNOWN))
        if uid in self._late and self._late[uid].is_alive():
            return reading

        def read() -> None:
            reading.program = self._look(pid, joined)

        # Not waited for at the end either.
        thread = Thread(target=read, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # There is no room for one more: a name is not worth more than that.
            return reading
        thread.join(WITHIN)
        if thread.is_alive():
            self._late[uid] = thread
        else:
            self._late.pop(uid, None)
        return reading


def understand(command: Sequence[str]) -> Program:
    """What a command line says."""
    if not any(command):
        # It is about to end.
        return Program(UNKNOWN)
    if not _QEMU.fullmatch(os.path.basename(command[0])):
        return Program(HOST)
    names = [
        name for option, value in pairwise(command) if option in ("-name", "--name") and (name := guest_name(value))
    ]
    # QEMU takes the last.
    return Program(QEMU, names[-1] if names else "")


def guest_name(option: str) -> str:
    """The machine's name in the value of QEMU's -name, "" if there is none: `X`, or `guest=X,debug-threads=on`."""
    parts = [part.replace("\0", ",") for part in option.replace(",,", "\0").split(",")]
    if "=" not in parts[0]:
        parts[0] = f"guest={parts[0]}"
    guests = [part.removeprefix("guest=") for part in parts if part.startswith("guest=")]
    return guests[-1] if guests else ""


def _age(folder: int) -> float:
    """Seconds since the process began."""
    # The second field, its name in parentheses, may contain anything.
    fields = _read(folder, "stat").rpartition(b")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / _TICKS


def _read(folder: int, name: str) -> bytes:
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.read(descriptor, _LONGEST)
    finally:
        os.close(descriptor)
