"""famezd, the service."""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import shutil
import sys
from pathlib import Path

import structlog

from famezd import __version__
from famezd.attach import qemu_arguments
from famezd.cli.entry import discard_output
from famezd.config import DEFAULT_CONFIG, FABRICS, Config, ConfigError, load
from famezd.errors import FamezError
from famezd.notify import Manager, inherited
from famezd.supervisor.accepted import at_start
from famezd.supervisor.logs import configure
from famezd.supervisor.service import Service
from famezd.supervisor.store import Store

CONFIG_WRONG = 2
"""Exit status when the configuration has mistakes: nothing was started."""

_EPILOG = """\
Each file fabrics.d/NAME.yaml beside the configuration defines the fabric NAME: a socket at which QEMU's
ivshmem-doorbell devices and host programs join, and the memory that they share.

exit status: 0 stopped as asked; 1 cannot run; 2 mistakes in the configuration (all are listed, nothing was started)
"""


def main() -> int:
    """Runs famezd; returns its exit status."""
    arguments = _parser().parse_args()
    nothing = f"no fabric is served: there is no file such as lab.yaml in {arguments.config.parent / FABRICS}"
    if arguments.check:
        return _check(arguments.config, nothing)
    store = Store(Manager(), inherited())
    try:
        accepted, refused = at_start(arguments.config, store)
    except ConfigError as e:
        print(e, file=sys.stderr)
        return CONFIG_WRONG
    config = accepted.config
    configure(config.log.level, config.log.format)
    if not config.fabrics:
        structlog.get_logger().warning(nothing)
    # systemd has its own ways to learn of it; this is for people.
    foreground = "NOTIFY_SOCKET" not in os.environ
    service = Service(arguments.config, accepted, store, lambda url: _announce(config, url) if foreground else None)
    if refused is not None:
        service.refuse(refused)
    try:
        asyncio.run(service.run())
    except FamezError as e:
        print(f"famezd: {e}", file=sys.stderr)
        return 1
    return os.EX_OK


def _check(path: Path, nothing: str) -> int:
    try:
        config = load(path)
    except ConfigError as e:
        print(e, file=sys.stderr)
        return CONFIG_WRONG
    print(f"{path}: {len(config.fabrics)} fabrics, no mistakes")
    if not config.fabrics:
        print(f"warning: {nothing}", file=sys.stderr)
    return os.EX_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="famezd",
        description="Serve ivshmem fabrics: doorbells and shared memory between virtual machines and host programs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-c", "--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="the settings (default: %(default)s)"
    )
    parser.add_argument("--check", action="store_true", help="only check the configuration, and list all mistakes")
    parser.add_argument("--version", action="version", version=f"famezd {__version__}")
    return parser


def _announce(config: Config, url: str) -> None:
    """Tells a person what is there and what to do next; that nobody can read it is no reason not to serve."""
    try:
        _print_fabrics(config, url)
    except OSError:
        discard_output()


def _print_fabrics(config: Config, url: str) -> None:
    for fabric in config.fabrics.values():
        arguments = qemu_arguments(fabric)
        print(f"\nfabric {fabric.name}: {fabric.personality}, {fabric.peers} peers, {fabric.vectors} vectors")
        print(f"  socket   {fabric.socket.path}")
        print(f"  mailbox  {fabric.mailbox.file or 'memfd'} ({fabric.mailbox.size} bytes)")
        print(f"  QEMU     {shlex.join(arguments[:2])} \\\n           {shlex.join(arguments[2:])}")
    if url:
        print(f"\nmetrics  {url}/metrics")
    # In a virtual environment the commands are beside this one, and on nobody's PATH.
    famezctl = "famezctl" if shutil.which("famezctl") else str(Path(sys.argv[0]).with_name("famezctl"))
    print(f"status   {shlex.join([famezctl, '-s', str(config.control_socket), 'status'])}", flush=True)
