"""systemd's protocols, as a service and as a manager: readiness, watchdog, descriptors that are handed on and kept.

Between systemd and the supervisor, and between the supervisor and its workers, the same is spoken. Sources:
sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3), sd_pid_notify_with_fds(3).
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import sdnotify

FIRST_DESCRIPTOR = 3
"""Number of the first descriptor that is handed on."""
WAIT = 5.0
"""Seconds that a message which must not be lost waits for a busy manager, whose queue may have room for ten only
(net.unix.max_dgram_qlen) and is the same for all of its services."""
MOMENT = 0.05
"""Seconds that even who is in a hurry waits, to be sure that the manager has what it was told."""
_MAX_DESCRIPTORS = 253
"""The most descriptors in one message: SCM_MAX_FD of the kernel."""
_UCRED = struct.Struct("iII")


def inherited(environ: Mapping[str, str] = os.environ) -> dict[str, list[int]]:
    """The descriptors that the manager handed on, by name; each is the caller's from now on.

    Those without a name are called `unknown`, as systemd does.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    count = int(environ.get("LISTEN_FDS", "0"))
    names = environ.get("LISTEN_FDNAMES", "").split(":") if environ.get("LISTEN_FDNAMES") else []
    found: dict[str, list[int]] = {}
    for i in range(count):
        os.set_inheritable(FIRST_DESCRIPTOR + i, False)
        found.setdefault(names[i] if i < len(names) else "unknown", []).append(FIRST_DESCRIPTOR + i)
    return found


class Manager:
    """Who started this process, if it wants to be told anything (NOTIFY_SOCKET)."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        # Only where there is a manager: else the notifier drops a socket unclosed.
        self._notifier = sdnotify.SystemdNotifier() if environ.get("NOTIFY_SOCKET") else None
        self._socket: socket.socket | None = self._notifier and self._notifier.socket
        if self._socket is not None:
            # A manager that does not read must not stop us; a lost keep-alive is followed by the next.
            self._socket.setblocking(False)
        self.patience = WAIT
        """Seconds to wait for a manager that is busy, where a message must not be lost."""
        self.confirms = False
        """Whether it confirms a barrier by a byte. Of one that does not, nobody can tell the answer from its death."""
        self._obsolete: deque[str] = deque()
        mine = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog = int(environ.get("WATCHDOG_USEC", "0")) / 1e6 if mine else 0.0
        """Seconds in which the manager expects a keep-alive, 0 for none."""

    @property
    def listens(self) -> bool:
        """Whether there is a manager."""
        return self._socket is not None

    def hurry(self) -> None:
        """From now on waits for no manager: others wait for us."""
        self.patience = 0.0

    def tell(self, *assignments: str, wait: bool = False) -> None:
        """Sends assignments such as READY=1; does nothing where nobody listens.

        `wait`: for a manager that is busy, instead of losing them.
        """
        if self._notifier is None or self._socket is None:
            return
        if wait:
            self._socket.settimeout(self.patience)
        self._notifier.notify("\n".join(assignments))
        self._socket.setblocking(False)

    def store(self, name: str, descriptors: Iterable[int]) -> None:
        """Asks the manager to keep descriptors under `name`, and to hand them on to the next process.

        Waits `patience` seconds for a manager that is busy; raises OSError if it does not take them.
        """
        fds = array.array("i", descriptors)
        for start in range(0, len(fds), _MAX_DESCRIPTORS):
            # Not to be polled: what has hung up is for us to find, not for the manager to throw away.
            self._send(f"FDSTORE=1\nFDPOLL=0\nFDNAME={name}", fds[start : start + _MAX_DESCRIPTORS])

    def barrier(self) -> int:
        """A descriptor, the caller's, that hangs up when the manager has taken all that it was told before.

        Raises OSError as `store`. Where there is no manager it has hung up already. See sd_notify_barrier(3).
        """
        taken, pending = os.pipe2(os.O_CLOEXEC)
        try:
            self._send("BARRIER=1", array.array("i", [pending]))
        except OSError:
            os.close(taken)
            raise
        finally:
            os.close(pending)
        return taken

    def settle(self) -> bool:
        """Waits until the manager has taken all that it was told, for `patience` or `MOMENT`; whether it has."""
        try:
            taken = self.barrier()
        except OSError:
            return False
        try:
            answered = has_hung_up(taken, max(self.patience, MOMENT))
            return answered and (not self.confirms or bool(os.read(taken, 1)))
        finally:
            os.close(taken)

    def _send(self, text: str, descriptors: array.array[int]) -> None:
        if self._socket is None:
            return
        self._socket.settimeout(self.patience)
        try:
            self._let_go()
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors.tobytes())]
            self._socket.sendmsg([text.encode()], ancillary)
        except OSError as e:
            if e.errno == errno.ENOTCONN:
                # What the kernel says from the second time on.
                raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)) from e
            raise
        finally:
            self._socket.setblocking(False)

    def forget(self, name: str) -> None:
        """Asks the manager to let go of what it keeps under `name`; one that is busy is asked again with the next.

        At any rate before anything else is stored: that may have the same name. `flush` where there is no next.
        """
        self._obsolete.append(name)
        with contextlib.suppress(OSError):
            self._let_go()

    def flush(self) -> None:
        """Asks a busy manager once more for what `forget` could not, and waits `patience` seconds for it."""
        if self._socket is None:
            return
        until, writable = time.monotonic() + self.patience, select.poll()
        writable.register(self._socket, select.POLLOUT)
        while self._obsolete and (left := until - time.monotonic()) > 0 and writable.poll(left * 1000):
            try:
                self._let_go()
            except BlockingIOError:
                continue
            except OSError:
                # It is dead.
                return

    def _let_go(self) -> None:
        while self._obsolete and self._socket is not None:
            self._socket.send(f"FDSTOREREMOVE=1\nFDNAME={self._obsolete[0]}".encode())
            self._obsolete.popleft()


def has_hung_up(descriptor: int, timeout: float = 0.0) -> bool:
    """Whether the other end of a pipe is closed, or will be within `timeout` seconds."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return bool(poll.poll(timeout * 1000))


class Notification(NamedTuple):
    """What a service told its manager."""

    pid: int
    """Who sent it, as the kernel says."""
    assignments: dict[str, str]
    descriptors: list[int]
    """The receiver's from now on."""

    def confirm(self) -> None:
        """Answers a barrier: all that was told before it has been taken."""
        for descriptor in self.descriptors:
            with contextlib.suppress(OSError):
                # Whoever waited for it may be gone.
                os.write(descriptor, b"\1")
        self.close()

    def close(self) -> None:
        """Closes the descriptors."""
        for descriptor in self.descriptors:
            os.close(descriptor)


class NotifySocket:
    """The manager's end: a datagram socket that services send to."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        umask = os.umask(0o177)
        try:
            self._socket.bind(path)
        except BaseException:
            self._socket.close()
            raise
        finally:
            os.umask(umask)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def fileno(self) -> int:
        """For an event loop: readable when something came."""
        return self._socket.fileno()

    def receive(self) -> Notification:
        """The next notification; raises BlockingIOError if there is none."""
        room = socket.CMSG_SPACE(_UCRED.size) + socket.CMSG_SPACE(4 * _MAX_DESCRIPTORS)
        text, ancillary, _, _ = self._socket.recvmsg(8192, room, socket.MSG_CMSG_CLOEXEC)
        pid, fds = 0, array.array("i")
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                pid = _UCRED.unpack(data)[0]
            elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data[: len(data) // 4 * 4])
        pairs = (line.partition("=") for line in text.decode(errors="replace").splitlines())
        return Notification(pid, {key: value for key, _, value in pairs}, list(fds))

    def close(self) -> None:
        """Closes the socket and removes its file, if nobody else has."""
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
