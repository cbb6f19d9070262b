"""Runs the benchmarks and writes docs/performance.md: `make bench`, or `python -m bench` after `make .venv/.dev`.

Given names of parts it measures only these, and prints them.
"""

from __future__ import annotations

import importlib
import sys
import time
from datetime import date
from pathlib import Path

from bench import machine, process
from bench.report import ROUNDS, Section, add_rounds, fill, parser, raise_limit

ROOT = Path(__file__).parents[1]
PAGE = "docs/performance.md"
PARTS = ("join", "relay", "scale", "small", "resume", "hostile", "mailbox", "scrape")
"""Modules of bench/, in the order of the page; each has `section(rounds)`."""

_HEAD = """
famezd measured against QEMU's own ivshmem-server (the *stock server*), and beside what the machine itself takes. The
two are measured in turns, A B A B, in one run; a ratio is the median of the ratios pair by pair, with the lowest and
the highest beside it. Ratios are claims; times and rates are not: another machine has others.

A *limit* is what the bare thing takes when it is done by as little as possible, and what a figure is to be seen beside.
It is measured as all else is, and who goes about it in another way may pass it: some ratios to it are below 1.

To repeat: `make bench` as root (for priorities, perf and strace), on a machine that has nothing else to do. It fetches
and builds the stock server once, and takes about {minutes} minutes. `.venv/bin/python -m bench PART` measures one part
and prints it; `make .venv/.dev` sets up what that needs. It wrote this page on {today}.
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
    options = parser("bench", __doc__)
    options.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    add_rounds(options)
    arguments = options.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        options.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if not arguments.parts and arguments.rounds < ROUNDS:
        options.error(f"--rounds must be at least {ROUNDS} for {PAGE}; to try with fewer name a PART, which is printed")
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
    (ROOT / PAGE).write_text("\n\n".join(page).rstrip() + "\n")
    for section in sections:
        section.draw(ROOT / "docs" / "images")
    print(f"wrote {PAGE}", file=sys.stderr)


if __name__ == "__main__":
    process.run(main)
