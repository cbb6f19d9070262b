"""Commands one after the other, from a script or one from the shell, and how they are printed."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterable, Iterator
from typing import Final

from famezd.client.grammar import Call, Quit, UsageError, split, understand
from famezd.client.mailbox import LOOK_AGAIN
from famezd.client.results import Result, as_json
from famezd.client.session import Session
from famezd.errors import FamezError

OK: Final = 0
NOT_DONE: Final = 1
WRONG_USAGE: Final = 2


class Output:
    """Prints results on standard output and errors on standard error, each at once."""

    def __init__(self, *, json: bool) -> None:
        self._json = json

    def emit(self, result: Result) -> None:
        """Prints a result, as text or as a line of JSON."""
        print(as_json(result) if self._json else result, flush=True)

    def notice(self, text: str) -> None:
        """Prints what there is to know of this client itself on standard error."""
        print(f"famez-client: {text}", file=sys.stderr, flush=True)

    def complain(self, error: FamezError, where: str = "") -> int:
        """Prints an error; returns the exit status that goes with it."""
        self.notice(f"{where}{error}")
        return WRONG_USAGE if isinstance(error, UsageError) else NOT_DONE


def run(session: Session, call: Call, output: Output) -> int:
    """Runs one command; returns its exit status."""
    try:
        call.run(session, output.emit)
    except Quit:
        pass
    except FamezError as e:
        return output.complain(e)
    return OK


def run_script(session: Session, lines: Iterable[str], output: Output, *, keep_going: bool) -> int:
    """Runs the commands of a script; returns the exit status of the first that fails, which is also the last that runs.

    With `keep_going` the others run, too.
    """
    first = OK
    for number, line in enumerate(lines, 1):
        try:
            words = split(line)
            if words:
                understand(words).run(session, output.emit)
        except Quit:
            break
        except FamezError as e:
            status = output.complain(e, f"line {number}: ")
            first = first or status
            if not keep_going:
                break
    return first


def lines(session: Session, descriptor: int) -> Iterator[str]:
    """The lines that come from a file, a pipe or a program; messages are answered while there is none.

    Raises ClientError if the fabric ends meanwhile.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.register(session.peer, select.POLLIN)
    rest = b""
    while True:
        ready = dict(poll.poll(LOOK_AGAIN * 1e3 if session.busy else None))
        if descriptor not in ready:
            session.wait(0.0)
            continue
        data = os.read(descriptor, 1 << 16)
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            yield line.decode(errors="surrogateescape")
        if not data:
            # What is not ended by a line's end is a line all the same.
            if rest:
                yield rest.decode(errors="surrogateescape")
            return
