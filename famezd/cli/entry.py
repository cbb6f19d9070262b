"""The commands as they are installed.

This imports next to nothing, so that Ctrl-C while a command still imports what it needs, and a reader of its output
that has gone, end it quietly: with the statuses that a shell gives to a program that such a signal has ended.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys

NOT_DONE = 1
CONFIG_WRONG = 2
"""Exit status when the configuration has mistakes: nothing was started."""
INTERRUPTED = 128 + signal.SIGINT
NOBODY_READS = 128 + signal.SIGPIPE


def famezd() -> int:
    """The service."""
    return run("famezd.cli.famezd")


def famezctl() -> int:
    """Asks a running famezd."""
    return run("famezd.cli.famezctl")


def famez_client() -> int:
    """A peer at the shell."""
    return run("famezd.cli.famez_client")


def famez_server() -> int:
    """A fabric of its own, started by hand."""
    return run("famezd.cli.famez_server")


def run(module: str) -> int:
    """Imports a command's module, runs its `main` and returns the exit status."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else it is ignored, as after nohup
    if ours:
        # An exception in the midst of an import may be taken for the import's own failure, or be lost.
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    _replace_closed()
    main = importlib.import_module(module).main
    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        try:
            status: int = main()
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        discard_output()
        return NOBODY_READS
    except OSError as e:
        if e.errno != errno.ENOSPC or e.filename is not None:
            raise
        discard_output()
        print(f"{os.path.basename(sys.argv[0])}: cannot write the output: {e.strerror}", file=sys.stderr)
        return NOT_DONE
    return status


def _replace_closed() -> None:
    """Opens standard streams that were closed on nothing: no file that is opened should come to be in their place.

    Nothing is to be read all the same: who wants to finds no `sys.stdin`.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, descriptor)
            if nowhere != descriptor:
                os.close(nowhere)
            if descriptor:
                setattr(sys, name, open(descriptor, "w"))  # noqa: SIM115 (as long as the process)


def discard_output() -> None:
    """Sends what is printed, and what is buffered still, nowhere: Python would complain at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
