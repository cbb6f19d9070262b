"""A relay in C, bench/relay/relay.c: how fast one of the same shape can be, whatever it is written in."""

from __future__ import annotations

import mmap
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from famezd.stats import WORD
from tests.needs import need, need_file

SOURCE = Path(__file__).with_name("relay.c")
COUNTERS = 3
"""Index of the first bell's counter in its page."""


@contextmanager
def relay_in_c(bells: Sequence[tuple[int, int]], look: int = 0) -> Iterator[tuple[int, memoryview]]:
    """The C relay, which passes on what these bells are rung to the receivers beside them; yields its pid and page.

    It looks for the next doorbell for as many nanoseconds before it sleeps as `look` says, as a worker does.
    The page has a counter for each bell from the word COUNTERS on.
    """
    with TemporaryDirectory() as directory:
        program = _compiled(Path(directory))
        page = os.memfd_create("famez-bench-c")
        os.ftruncate(page, (COUNTERS + len(bells)) * WORD)
        words = memoryview(mmap.mmap(page, 0)).cast("Q")
        command = [program, str(look), str(page), *(f"{bell}:{receiver}" for bell, receiver in bells)]
        inherited = {page, *(eventfd for pair in bells for eventfd in pair)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=tuple(inherited)) as process:
            os.close(page)
            try:
                assert process.stdout is not None
                if process.stdout.readline() != b"relays\n":
                    raise RuntimeError("the relay in C does not start")
                yield process.pid, words
            finally:
                process.kill()


def _compiled(directory: Path) -> str:
    need_file(Path("/usr/include/stdio.h"), "libc6-dev")
    program = directory / "relay"
    subprocess.run([need("gcc", "gcc"), "-O2", "-Wall", "-o", program, SOURCE], check=True)
    return str(program)
