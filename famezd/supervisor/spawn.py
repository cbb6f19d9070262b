"""Starting a program as systemd does: with descriptors handed on, and the environment that says so."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping, Sequence

from famezd.notify import FIRST_DESCRIPTOR

# LISTEN_PID has to be the process's own pid, which nobody knows before it is there but itself.
_SHELL = ("/bin/sh", "-c", 'LISTEN_PID=$$ exec "$@"', "famezd")
_OURS = (
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "JOURNAL_STREAM",
)


def spawn(
    command: Sequence[str], descriptors: Mapping[str, Sequence[int]], log: int, environ: Mapping[str, str]
) -> int:
    """Starts `command` and returns its pid.

    `descriptors` are handed on by name (LISTEN_FDS), standard output and error go to `log`; all of them stay the
    caller's. `environ` comes on top of this process's own environment, less what our own manager put there.
    """
    named = [(name, fd) for name, fds in descriptors.items() for fd in fds]
    first_free = FIRST_DESCRIPTOR + len(named)
    # Out of the way of the numbers that they are to have: else one could overwrite another.
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, first_free) for fd in (log, *(fd for _, fd in named))]
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    ]
    actions += [(os.POSIX_SPAWN_DUP2, copies[0], target) for target in (1, 2)]
    actions += [(os.POSIX_SPAWN_DUP2, copy, target) for target, copy in enumerate(copies[1:], FIRST_DESCRIPTOR)]
    env = {key: value for key, value in os.environ.items() if key not in _OURS}
    env |= {"LISTEN_FDS": str(len(named)), "LISTEN_FDNAMES": ":".join(name for name, _ in named), **environ}
    try:
        # In a process group of its own: a Ctrl-C at the terminal is for us, who stop it in good order.
        return os.posix_spawn(_SHELL[0], [*_SHELL, *command], env, file_actions=actions, setpgroup=0, setsigmask=())
    finally:
        for copy in copies:
            os.close(copy)
