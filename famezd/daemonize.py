"""Becoming a daemon: detached from its terminal, perhaps with a pid file, and started only when it serves.

Who calls the program gets it back when the daemon serves, with status 0; or when it cannot, with its status. What it
complains of until then is on the caller's terminal.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path

from daemon import DaemonContext
from daemon.pidfile import TimeoutPIDLockFile
from lockfile import AlreadyLocked, LockFailed, NotLocked, NotMyLock

from famezd.daemonlog import DaemonLog, LogFile
from famezd.errors import FamezError

FAILED = 1
"""Exit status of who could not become a daemon."""


class DaemonError(FamezError):
    """The process cannot become a daemon."""


def daemonize(serve: Callable[[Callable[[], None]], int], pid_file: Path | None, log: DaemonLog) -> int:
    """Calls `serve` in a daemon. Returns in both processes, in each with its exit status.

    Here it returns when the daemon serves or has failed. `serve` returns the daemon's exit status, and calls what it is
    given when it serves; from then on standard error is `log`, before that it is ours. All other descriptors but the
    log's are closed, the working directory is the root directory, the umask stays.
    """
    _open_standard_streams()
    reading, writing = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child:
        os.close(writing)
        return _await(reading, child)
    os.close(reading)
    with open(writing, "wb", buffering=0) as caller:
        try:
            with _detached(caller, pid_file, log):
                status = serve(lambda: _settle(caller, log))
        except DaemonError as e:
            print(f"{_program()}: {e}", file=sys.stderr)
            status = FAILED
        if not caller.closed:
            with contextlib.suppress(BrokenPipeError):
                caller.write(bytes([status]))
    return status


@contextlib.contextmanager
def pid_written(path: Path) -> Iterator[None]:
    """Our pid stands in the file at `path` meanwhile, which says to others that we run.

    A file whose process is no more is replaced. Raises DaemonError if one runs, or the file cannot be made.
    """
    lock = TimeoutPIDLockFile(str(path), acquire_timeout=0)
    pid = lock.read_pid()
    if pid is not None and not _runs(pid):
        with contextlib.suppress(OSError):
            # Why it cannot be removed is why it cannot be made, either.
            lock.break_lock()
    try:
        lock.acquire()
    except AlreadyLocked as e:
        holder = "is there, and holds no pid" if pid is None else f"is that of process {pid}, which runs"
        raise DaemonError(f"the pid file {path} {holder}; stop what it belongs to, or name another pid file") from e
    except LockFailed as e:
        why = e.__context__.strerror if isinstance(e.__context__, OSError) else e
        raise DaemonError(f"cannot make the pid file {path}: {why}; name one in a directory to write to") from e
    try:
        yield
    finally:
        with contextlib.suppress(NotLocked, NotMyLock, OSError):
            # Somebody may have removed it, or put another there.
            lock.release()


def _runs(pid: int) -> bool:
    """Whether there is such a process; one that is dead, but not waited for yet, is none."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1]
    except OSError:
        return False
    return state not in (b"Z", b"X")


def _open_standard_streams() -> None:
    """Opens those that our caller had closed: their numbers must not become anything else's."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (for good)


def _await(reading: int, child: int) -> int:
    """Waits until the daemon has told its status."""
    with open(reading, "rb", buffering=0) as pipe:
        status = pipe.read(1)
    # The daemon is no child of ours: the one that made it ends at once.
    os.waitpid(child, 0)
    if not status:
        print(f"{_program()}: the daemon has ended before it served", file=sys.stderr)
        return FAILED
    return status[0]


@contextlib.contextmanager
def _detached(caller: FileIO, pid_file: Path | None, log: DaemonLog) -> Iterator[None]:
    umask = os.umask(0)
    os.umask(umask)
    context = DaemonContext(
        detach_process=True,
        working_directory="/",
        umask=umask,
        files_preserve=[caller, *([log.fileno()] if isinstance(log, LogFile) else [])],
        stderr=sys.stderr,
        pidfile=None if pid_file is None else pid_written(pid_file),
        # Until who serves has its own way to end.
        signal_map={signal.SIGTERM: "terminate", signal.SIGTTIN: None, signal.SIGTTOU: None, signal.SIGTSTP: None},
    )
    # Whoever reads our pid may use it at once, and what is not entered yet is not left, either.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    with context:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield


def _settle(caller: FileIO, log: DaemonLog) -> None:
    """Lets go of the caller's terminal, and tells the caller that we serve."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(log.fileno() if isinstance(log, LogFile) else nowhere, 2)
    os.close(nowhere)
    sys.stderr = log.text
    try:
        caller.write(bytes([os.EX_OK]))
    except BrokenPipeError as e:
        raise DaemonError("who started it has not waited for it") from e
    caller.close()


def _program() -> str:
    return Path(sys.argv[0]).name
