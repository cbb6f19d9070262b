"""A benchmark's own process: it ends when it is told to, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from tests.descendants import adopt_orphans, die_with_parent, end_descendants, kill_descendants

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED = 130
"""The exit status then."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM."""


def run(main: Callable[[], None]) -> NoReturn:
    """Does what a program is there for, and exits; whatever it has started ends with it, also if it is interrupted."""
    benchmark, interrupted = os.getpid(), False

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal interrupted
        if os.getpid() != benchmark:
            # Forked, and interrupted from the terminal as well: what is to be cleared away is not this one's.
            os._exit(INTERRUPTED)
        interrupted = True
        for number in _INTERRUPTS:
            signal.signal(number, signal.SIG_IGN)
        # At once: on the way out all would be waited for that has been started.
        kill_descendants()
        raise Interrupted

    adopt_orphans()
    os.register_at_fork(after_in_child=die_with_parent)
    for number in _INTERRUPTS:
        signal.signal(number, interrupt)
    try:
        main()
    except BaseException:
        # Or what came of it that all are dead.
        if not interrupted:
            raise
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        end_descendants()
    sys.exit()
