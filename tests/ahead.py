"""What tests need and what takes long to get, all at once: `python -m tests.ahead`, with which `make test` begins.

A test still gets by itself what it needs, so that one can be run alone, and says what it cannot get; here all packages
are one call of apt, and what is built is built side by side.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.guest.kernel import GuestError, system
from tests.needs import MissingPackagesError, MissingProgramError, find, need_packages
from tests.stock import StockBuildError, stock_programs

TOOLS = ("build-essential", "debhelper", "dh-python", "dpkg-dev", "pybuild-plugin-pyproject", "python3-pip", "rpm")
"""What famezd's packages are built with."""
FILES = ("libvirt-daemon-driver-qemu", "python3-libvirt")
"""Packages that are not there for a program."""


def programs() -> Iterator[tuple[str, str]]:
    """All programs that tests call, and the packages that have them: what they ask tests.needs for."""
    for path in Path(__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            match call:
                case ast.Call(ast.Name("need"), [ast.Constant(str(program)), ast.Constant(str(package))]):
                    yield program, package


def get() -> Iterator[str]:
    """Get everything; tell what could not be got."""
    try:
        need_packages([*{package for program, package in programs() if not find(program)}, *TOOLS, *FILES])
    except MissingPackagesError as error:
        yield str(error)
    with ThreadPoolExecutor() as threads:
        for getting in [threads.submit(make) for make in (stock_programs, system)]:
            try:
                getting.result()
            except (StockBuildError, GuestError, MissingProgramError, OSError) as error:
                yield str(error)


if __name__ == "__main__":
    print("Getting what tests need; the first time on a machine that takes minutes", flush=True)
    for complaint in get():
        print(f"Some tests will fail: {complaint}", file=sys.stderr)
