"""Runs the benchmarks and writes docs/performance.md: `make bench`, or `python -m bench`.

Given names of parts it measures only these, and prints them.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from datetime import date
from pathlib import Path

from bench import machine
from bench.report import ROUNDS, Section, at_least_one, fill, raise_limit

DOCS = Path(__file__).parents[1] / "docs"
PARTS = ("join", "relay", "scale", "small", "resume", "hostile", "mailbox", "scrape")
"""Modules of bench/, in the order of the page; each has `section(rounds)`."""

_HEAD = """
famezd measured against QEMU's own ivshmem-server (the *stock server*), and against what the machine itself allows. The
two are measured in turns, A B A B, in one run; a ratio is the median of the ratios pair by pair, with the lowest and
the highest beside it. Ratios are claims; times and rates are not: another machine has others.

To repeat: `make bench`, on a machine that has nothing else to do. It fetches and builds the stock server once, and
takes about {minutes} minutes. `.venv/bin/python -m bench PART` measures one part and prints it. It wrote this page on
{today}.
"""


def measure(name: str, rounds: int) -> Section:
    """Measures a part, and says how long that took."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    began = time.monotonic()
    section: Section = importlib.import_module(f"bench.{name}").section(rounds)
    print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return section


def main() -> None:
    """Measures, and writes the page or prints what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--rounds", type=at_least_one, default=ROUNDS, help="pairs of measurements (%(default)s)")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    raise_limit()
    if arguments.parts:
        for name in arguments.parts:
            print(measure(name, arguments.rounds).markdown())
        return
    described, began = machine.described().markdown(), time.monotonic()
    sections = [measure(name, arguments.rounds) for name in PARTS]
    minutes = round((time.monotonic() - began) / 60)
    head = fill(_HEAD.format(minutes=minutes, today=date.today().isoformat()))
    page = ["# Performance", head, described, *(section.markdown() for section in sections)]
    (DOCS / "performance.md").write_text("\n\n".join(page).rstrip() + "\n")
    for section in sections:
        section.draw(DOCS / "images")


if __name__ == "__main__":
    main()
