"""famezd, the service."""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import shlex
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import structlog

from famezd import __version__
from famezd.attach import qemu_arguments
from famezd.cli.entry import CONFIG_WRONG, discard_output
from famezd.config import DEFAULT_CONFIG, FABRICS, STANDALONE, Config, ConfigError, load
from famezd.daemonlog import DaemonLog, open_log
from famezd.errors import FamezError
from famezd.notify import Manager, inherited
from famezd.openfiles import hard_limit
from famezd.supervisor.accepted import Accepted, at_start
from famezd.supervisor.logs import configure
from famezd.supervisor.service import Service
from famezd.supervisor.store import Store

_EPILOG = """\
Each file fabrics.d/NAME.yaml beside the configuration defines the fabric NAME: a socket at which QEMU's
ivshmem-doorbell devices and host programs join, and the memory that they share.

examples:
  famezd --check                                look for mistakes, without disturbing who runs
  famezd -c lab/famezd.yaml                     serve a configuration of your own, in the foreground
  famezd --daemon --pidfile /run/famezd.pid     on a host without systemd
  famezd --fabric lab                           serve one fabric without a supervisor, as famez-fabric@lab.service does

exit status: 0 stopped as asked; 1 cannot run; 2 mistakes in the configuration (all are listed, nothing was started), or
wrong usage

The settings: famezd.yaml(5). What a running famezd serves: famezctl status.
"""


def main() -> int:
    """Runs famezd; returns its exit status."""
    parser = make_parser()
    arguments = parser.parse_args()
    if arguments.fabric is not None:
        if arguments.daemon or arguments.pidfile or arguments.logfile:
            parser.error("--fabric serves in the foreground: leave out --daemon, --pidfile and --logfile")
        # The service keeps what it imports, and needs none of this.
        from famezd.cli.standalone import become_worker, check  # noqa: PLC0415

        return (check if arguments.check else become_worker)(arguments.config, arguments.fabric)
    if arguments.check:
        return _check(arguments.config)
    # systemd has its own ways to learn that it is ready, and where it goes; all else is for people.
    managed = "NOTIFY_SOCKET" in os.environ
    if arguments.daemon and managed:
        parser.error(
            "--daemon is for hosts without systemd: leave it out of the unit, systemd makes a daemon of famezd"
        )
    if arguments.daemon:
        # Its working directory is another.
        arguments.config = arguments.config.absolute()
    # What was handed on to this process a daemon does not have.
    store = Store(Manager(), {} if arguments.daemon else inherited())
    try:
        accepted, refused = at_start(arguments.config, store)
    except ConfigError as e:
        print(e, file=sys.stderr)
        return CONFIG_WRONG
    run = partial(_run, arguments, accepted, refused, store)
    try:
        log = open_log("famezd", arguments.logfile) if arguments.daemon or arguments.logfile else None
        if arguments.daemon and log is not None:
            from famezd.daemonize import daemonize  # noqa: PLC0415 (as under --fabric)

            return daemonize(lambda ready: run(log=log, ready=lambda _: ready()), arguments.pidfile, log)
        with _pid_written(arguments.pidfile):
            return run(log=log, ready=lambda url: None if managed else _announce(accepted.config, url))
    except FamezError as e:
        print(f"famezd: {e}", file=sys.stderr)
        return 1


def _pid_written(path: Path | None) -> AbstractContextManager[None]:
    if path is None:
        return nullcontext()
    from famezd.daemonize import pid_written  # noqa: PLC0415 (as under --fabric)

    return pid_written(path)


def _run(
    arguments: argparse.Namespace,
    accepted: Accepted,
    refused: ConfigError | None,
    store: Store,
    *,
    log: DaemonLog | None,
    ready: Callable[[str], None],
) -> int:
    """Serves until it is told to stop, and logs to `log`, None for standard error; returns the exit status."""
    # Fabrics' descriptors are kept here, and what workers have in flight counts against our limit, too.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    terminal, config = sys.stderr, accepted.config
    if log is not None:
        sys.stderr = log.text
    configure(config.log.level, config.log.format, config.fabric_log_levels)
    if not config.fabrics:
        structlog.get_logger().warning(_nothing(arguments.config))
    service = Service(arguments.config, accepted, store, ready)
    if refused is not None:
        service.refuse(refused)
    try:
        asyncio.run(service.run())
    except FamezError as e:
        print(f"famezd: {e}", file=terminal)
        if log is not None:
            structlog.get_logger().error(str(e))
        return 1
    return os.EX_OK


def _nothing(path: Path) -> str:
    return f"no fabric is served: there is no file such as lab.yaml in {path.parent / FABRICS}"


def _check(path: Path) -> int:
    try:
        config = load(path)
    except ConfigError as e:
        print(e, file=sys.stderr)
        return CONFIG_WRONG
    print(f"{path}: {len(config.fabrics)} fabrics, no mistakes")
    if not config.fabrics:
        print(f"warning: {_nothing(path)}", file=sys.stderr)
    try:
        load(path, limit=hard_limit())
    except ConfigError as e:
        # Not a mistake yet: systemd starts it with the limit of its unit, not with that of this shell.
        for problem in e.problems:
            print(f"warning: started from here it could not be served: {problem}", file=sys.stderr)
    return os.EX_OK


def make_parser() -> argparse.ArgumentParser:
    """What reads the arguments."""
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
    parser.add_argument(
        "--fabric",
        metavar="NAME",
        help=f"serve only the fabric of {STANDALONE}/NAME.yaml beside FILE, which need not be there, and without a"
        " supervisor: no famezctl, no metrics",
    )
    parser.add_argument(
        "--daemon",
        action="store_true",
        help="for hosts without systemd: become a daemon, and return when it is ready; it logs to the system's log",
    )
    parser.add_argument(
        "--pidfile",
        type=lambda name: Path(name).absolute(),
        metavar="FILE",
        help="write the process id to FILE while it runs",
    )
    parser.add_argument("--logfile", type=os.path.abspath, metavar="FILE", help="add the log to FILE")
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
        print(f"\npage     {url}/")
        print(f"metrics  {url}/metrics")
    # In a virtual environment the commands are beside this one, and on nobody's PATH.
    famezctl = "famezctl" if shutil.which("famezctl") else str(Path(sys.argv[0]).with_name("famezctl"))
    print(f"status   {shlex.join([famezctl, '-s', str(config.control_socket), 'status'])}", flush=True)
