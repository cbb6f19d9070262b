"""The soak as a program: `python -m tests.soak --hours 1 --seed 42`."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import resource
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from types import FrameType

from tests.descendants import adopt_orphans, end_descendants
from tests.soak.run import Soak
from tests.soak.world import World


class Interrupted(BaseException):
    """SIGINT or SIGTERM."""


def main(arguments: list[str] | None = None) -> int:
    """Soaks, and returns the exit status: 0 if all was well, 1 if not, 130 if it was interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--hours", type=_hours, default=1.0, help="how long, at least (%(default)s)")
    parser.add_argument("--seed", type=_seed, default=None, help="of all that is chosen; by default another each time")
    given = parser.parse_args(arguments)
    seed = int.from_bytes(os.urandom(4), "little") if given.seed is None else given.seed
    _prepare()
    directory = Path(tempfile.mkdtemp(prefix=f"famezd-soak-{seed}-"))
    again = f"`make soak HOURS={given.hours:g} SEED={seed}` chooses the same actions again"
    print(f"seed {seed}: {again}; in {directory}", flush=True)
    return soak(directory, seed, given.hours)


def _hours(text: str) -> float:
    """What HOURS says; raises ArgumentTypeError if it is no time that ends."""
    with contextlib.suppress(ValueError):
        if 0 < (hours := float(text)) < math.inf:
            return hours
    raise argparse.ArgumentTypeError(f"HOURS must be a number such as 1 or 0.2, not {text!r}")


def _seed(text: str) -> int:
    """What SEED says; raises ArgumentTypeError if it is no number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"SEED must be a number such as 42, not {text!r}") from None


def soak(directory: Path, seed: int, hours: float) -> int:
    """A whole soak in a directory, which is left if anything is wrong; returns the exit status."""
    world = World(directory)
    run = None
    try:
        world.start()
        run = Soak(world, seed, hours)
        run.run()
    except Interrupted:
        print("interrupted", file=sys.stderr)
        status = 130
    except Exception as e:  # noqa: BLE001 (whatever it is, it is told, with how it came about)
        tell(e, seed, [] if run is None else list(run.last), world)
        status = 1
    else:
        status = 0
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        world.close()
        end_descendants()
        if run is not None:
            run.close()
    if status != 1:
        world.discard()
    return status


def tell(e: Exception, seed: int, last: list[str], world: World) -> None:
    """Says what is wrong, after which actions, and where more is to be found."""
    directory = world.directory
    with (directory / "failure").open("w") as failure, contextlib.suppress(Exception):
        failure.write("".join(traceback.format_exception(e)))
        # Which may fail, as things are.
        failure.write(world.told())
    told = "\n".join(last)
    print(
        f"\nFAILED, seed {seed}; the last actions:\n{told}\n\n{type(e).__name__}: {e}\n\n"
        f"journal, famezd's log and how it came about are in {directory}",
        file=sys.stderr,
        flush=True,
    )


def _prepare() -> None:
    """What is this process's for as long as it lives."""
    adopt_orphans()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted


if __name__ == "__main__":
    sys.exit(main())
