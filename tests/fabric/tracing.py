"""Stops another process wherever it is, and lets it go on step by step: ptrace, one function for each request.

What a process has done so far is then exactly known, and it can be killed there. Only the thread that seized a process
may go on with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from typing import Final, NamedTuple

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long

_SINGLESTEP, _DETACH, _SYSCALL = 9, 17, 24
_SEIZE, _INTERRUPT, _GET_SYSCALL_INFO = 0x4206, 0x4207, 0x420E
_O_TRACESYSGOOD, _O_EXITKILL = 1, 1 << 20
_WALL: Final = 0x40000000
_AT_SYSTEM_CALL: Final = signal.SIGTRAP | 0x80
"""What a process is stopped by at a system call (with _O_TRACESYSGOOD)."""
_EVENT_STOP: Final = 128


class _SyscallInfo(ctypes.Structure):
    _fields_ = (
        ("op", ctypes.c_uint8),
        ("padding", ctypes.c_uint8 * 3),
        ("arch", ctypes.c_uint32),
        ("instruction_pointer", ctypes.c_uint64),
        ("stack_pointer", ctypes.c_uint64),
        ("number", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64 * 6),
    )


_ENTRY: Final = 1


class TraceeEndedError(Exception):
    """The process that was to be stopped again has ended."""


class SystemCall(NamedTuple):
    """A system call that is about to be made."""

    number: int
    """The kernel's, which is another one on each architecture."""
    arguments: tuple[int, ...]


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """While this lasts a process is stopped, but for what it is let do; then it goes on, if it still lives.

    Both run on one processor: a step takes a third of the time.
    """
    mine = os.sched_getaffinity(0)
    theirs = os.sched_getaffinity(pid)
    one = {min(mine)}
    os.sched_setaffinity(0, one)
    os.sched_setaffinity(pid, one)
    try:
        seize(pid)
        interrupt(pid)
        yield
        with contextlib.suppress(ProcessLookupError):
            detach(pid)
            os.sched_setaffinity(pid, theirs)
    finally:
        os.sched_setaffinity(0, mine)


def seize(pid: int) -> None:
    """Traces a process, which goes on meanwhile; it dies with this process."""
    _ptrace(_SEIZE, pid, 0, _O_TRACESYSGOOD | _O_EXITKILL)


def interrupt(pid: int) -> None:
    """Stops it where it is; a system call in which it sleeps is interrupted."""
    _ptrace(_INTERRUPT, pid)
    _await_stop(pid)


def single_step(pid: int) -> None:
    """Lets it execute one instruction.

    Signals that it should get meanwhile are lost to it: to a process that is stepped its timers are far too fast.
    """
    while True:
        _ptrace(_SINGLESTEP, pid)
        if _await_stop(pid) == signal.SIGTRAP:
            return


def to_system_call(pid: int) -> None:
    """Lets it run until it enters, or leaves, a system call; signals are lost to it as in `single_step`."""
    while True:
        _ptrace(_SYSCALL, pid)
        if _await_stop(pid) == _AT_SYSTEM_CALL:
            return


def system_call(pid: int) -> SystemCall | None:
    """The system call that it is about to make, None where it is anywhere else."""
    info = _SyscallInfo()
    _ptrace(_GET_SYSCALL_INFO, pid, ctypes.sizeof(info), ctypes.addressof(info))
    return SystemCall(info.number, tuple(info.arguments)) if info.op == _ENTRY else None


def detach(pid: int) -> None:
    """Lets it go its own way."""
    _ptrace(_DETACH, pid)


def _await_stop(pid: int) -> int:
    """Waits until it is stopped; returns by what signal."""
    _, status = os.waitpid(pid, _WALL)
    if not os.WIFSTOPPED(status):
        raise TraceeEndedError(f"process {pid} has ended, status {os.waitstatus_to_exitcode(status)}")
    return os.WSTOPSIG(status)


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> None:
    if _libc.ptrace(request, pid, address, data) < 0:
        e = ctypes.get_errno()
        raise OSError(e, f"ptrace request {request:#x}: {os.strerror(e)}")
