"""The fabric's listening socket: bound where nobody else listens, never open to more than it should be."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
from typing import NamedTuple

from famezd.errors import FamezError
from famezd.permissions import OURS, as_made, give
from famezd.remedies import invisible, remedy

BACKLOG = 1024
_UCRED = struct.Struct("iII")


_REMEDIES = {
    errno.ENOENT: "make its directory",
    errno.EACCES: "let us write to its directory",
    errno.EPERM: "run as root, or choose an owner and a group that are ours to give; a unit gets groups by "
    "SupplementaryGroups=",
}


class ListenerError(FamezError):
    """The socket's path cannot be bound."""


class Credentials(NamedTuple):
    """Who is at the other end of a socket, as the kernel saw it connect or listen."""

    pid: int
    """0 if it is in a pid namespace that cannot be seen from here."""
    uid: int
    gid: int


def credentials(connection: socket.socket) -> Credentials:
    """The credentials of a connected AF_UNIX socket's other end (SO_PEERCRED)."""
    return Credentials(*_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


def listen(path: str, *, uid: int = -1, gid: int = -1, mode: int = 0o660) -> socket.socket:
    """Binds a non-blocking stream socket to `path` and listens.

    A socket file that nobody listens on any more is replaced. Raises ListenerError, which says what is in the way.
    """
    if (why := invisible(path)) is not None:
        raise ListenerError(f"cannot listen on {path}: {why}")
    _make_way(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    umask = os.umask(0o777 & ~OURS)
    bound = False
    try:
        listener.bind(path)
        bound = True
        _give(path, uid, gid, mode)
        listener.listen(BACKLOG)
    except OSError as e:
        listener.close()
        if bound:
            with contextlib.suppress(OSError):
                os.unlink(path)
        # What Python itself refuses, such as a path that is too long, has no error number.
        raise ListenerError(f"cannot listen on {path}: {_told(e, path)}") from e
    finally:
        os.umask(umask)
    return listener


def give_socket(path: str, *, uid: int, gid: int, mode: int) -> None:
    """Gives the file of a socket that was inherited its owner, group and mode: a predecessor's may have been others.

    At no time is it wider than before or after. Raises ListenerError if it is no longer there, or not ours to give.
    """
    try:
        _give(path, *as_made(path, uid, gid), mode)
    except FileNotFoundError as e:
        raise ListenerError(f"the socket {path} was removed, nobody can join; restart the fabric") from e
    except OSError as e:
        raise ListenerError(f"cannot give {path} its owner, group and mode: {_told(e, path)}") from e


def _told(error: OSError, path: str) -> str:
    todo = remedy(error, _REMEDIES.get(error.errno or 0, ""), path)
    return f"{error.strerror or error}" + (f"; {todo}" if todo else "")


def _give(path: str, uid: int, gid: int, mode: int) -> None:
    place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(place).st_mode):
            raise OSError(errno.ENOTSOCK, "somebody has put another file there")
        give(place, uid, gid, mode)
    finally:
        os.close(place)


def identity(path: str) -> tuple[int, int] | None:
    """Tells the file at `path` from any that may come to be there; None where there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def unlink(path: str, of: tuple[int, int] | None) -> None:
    """Removes what is at `path` if it still has the identity `of`; call it before the file of that is closed."""
    if of is not None and identity(path) == of:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _make_way(path: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as e:
        raise ListenerError(f"cannot listen on {path}: {_told(e, path)}") from e
    if not stat.S_ISSOCK(found.st_mode):
        raise ListenerError(f"cannot listen on {path}: there is a file that is no socket; move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except BlockingIOError as e:
            raise ListenerError(f"cannot listen on {path}: a busy process listens there already; stop it") from e
        except OSError as e:
            raise ListenerError(f"cannot listen on {path}: what is there cannot be asked: {e.strerror or e}") from e
        else:
            owner = credentials(probe).pid
            raise ListenerError(f"cannot listen on {path}: process {owner} listens there already; stop it first")
