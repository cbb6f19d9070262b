"""famez-server: one fabric, started by hand, with the options of QEMU's own ivshmem-server and of FAME-Z's server."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

from famezd import __version__
from famezd.daemonize import daemonize
from famezd.daemonlog import open_log
from famezd.errors import FamezError
from famezd.fabric import log
from famezd.fabric.settings import Settings
from famezd.fabric.worker import Worker, load_personality
from famezd.mailbox import PAGE, SHM, grow
from famezd.switch.personality import Personality

PERSONALITIES = {"plain": "famezd.switch.plain:Plain", "genz": "famezd.switch.genz:Genz"}
DEFAULT_PID_FILE = Path("/var/run/ivshmem-server.pid")
DEFAULT_SIZE = 4 << 20
PLAIN_PEERS = 256
GENZ_PEERS = 14
GENZ_VECTORS = 16
"""The guest driver wants at least so many."""
MOST_PEERS, MOST_VECTORS, MOST_BYTES = 65535, 2048, 1 << 40
FAILED = 1
"""Exit status of whatever fails, usage errors included, as of the stock server."""

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SERVICE = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
_OPTIONS = {
    "choose another mailbox.name": "choose another one (-M)",
    "choose a smaller mailbox.size": "choose a smaller size (-l)",
    "configure fewer peers or vectors": "have fewer peers (--nClients) or vectors (-n)",
}
"""What a worker advises, which is configured by YAML elsewhere, and how it is said here."""

_EPILOG = f"""\
It takes the place of QEMU's ivshmem-server: peers are told of joins and departures, and ring each other without it.
With --personality genz it takes that of FAME-Z's server: the switch is a peer, -n is the number of peers + 2 and at
least {GENZ_VECTORS}, -l what the mailbox needs, and ids are used again, of which nobody is told.

A daemon logs to the system's log (syslog), or with -L to a file; else the log is standard error. SIGTERM and SIGINT end
it; socket, PID file and shared memory are removed.

examples:
  famez-server -n 2                             a daemon at /tmp/ivshmem_socket, two vectors for each peer
  famez-server -F -v -S /run/lab.sock -l 64M    in the foreground, saying what happens
  famez-server --personality genz --nClients 8  in the place of FAME-Z's server

exit status: 0 stopped as asked, or the daemon serves; 1 anything else, standard error says what
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(FAILED, f"{self.prog}: {message}\nTry '{self.prog} -h' for more information.\n")


def main() -> int:
    """Serves, in a daemon or here; returns the exit status."""
    parser = make_parser()
    options = parser.parse_args()
    try:
        settings = worker_settings(options)
    except argparse.ArgumentTypeError as e:
        parser.error(str(e))
    try:
        return _in_foreground(options, settings) if options.foreground else _as_daemon(options, settings)
    except FamezError as e:
        return _fail(e)


def _in_foreground(options: argparse.Namespace, settings: Settings) -> int:
    sink = None if options.logfile is None else open_log("famez-server", options.logfile)
    return _serve(settings, log.Log(sink, _least(options)), lambda: None)


def _as_daemon(options: argparse.Namespace, settings: Settings) -> int:
    for variable in _SERVICE:
        # Where we were started by a service, it is that one's manager, which a daemon is no business of.
        os.environ.pop(variable, None)
    sink = open_log("famez-server", options.logfile)
    return daemonize(partial(_serve, settings, log.Log(sink, _least(options))), options.pid_file, sink)


def _least(options: argparse.Namespace) -> int:
    return log.INFO if options.verbose else log.WARNING


def _serve(settings: Settings, logger: log.Log, ready: Callable[[], None]) -> int:
    """Serves until a signal says to stop; `ready` is called when newcomers find the socket."""
    try:
        if settings.backing == "shm":
            grow(settings.mailbox)
        worker = Worker(settings, logger)
    except (FamezError, OSError) as e:
        return _fail(e)
    try:
        ready()
        worker.run()
    finally:
        worker.discard()
    return os.EX_OK


def _fail(error: Exception) -> int:
    text = str(error)
    for advised, option in _OPTIONS.items():
        text = text.replace(advised, option)
    print(f"famez-server: {text}", file=sys.stderr)
    return FAILED


def worker_settings(options: argparse.Namespace) -> Settings:
    """What the worker is told; raises argparse.ArgumentTypeError for options that do not go together."""
    genz = options.personality == "genz"
    reference = PERSONALITIES[options.personality]
    personality = load_personality(reference)
    peers = options.peers or (GENZ_PEERS if genz else PLAIN_PEERS)
    vectors = options.vectors or (max(GENZ_VECTORS, peers + 2) if genz else 1)
    for key, mistake in personality.mistakes(peers, vectors).items():
        raise argparse.ArgumentTypeError(f"{ {'peers': '--nClients', 'vectors': '-n'}[key] }: {mistake}")
    for option, given in (("--norecycle", options.no_recycle), ("--noPFM", options.no_pfm), ("-s", options.silent)):
        if given and not genz:
            raise argparse.ArgumentTypeError(f"{option} is for --personality genz: leave it out")
    backing, path = options.memory
    umask = os.umask(0)
    os.umask(umask)
    return Settings(
        name="server",
        socket=options.socket,
        memory=path,
        size=_size(options, personality, peers),
        personality=reference,
        peers=peers,
        vectors=vectors,
        doorbells="direct",
        ports="sticky" if genz and not options.no_recycle else "fresh",
        backing=backing,
        # As the stock server makes them: peers get the memory from it, not by its name.
        memory_mode=0o600,
        socket_mode=0o777 & ~umask,
        silent=int(options.silent),
        options="manager=false" if options.no_pfm else "",
    )


def _size(options: argparse.Namespace, personality: type[Personality], peers: int) -> int:
    """Bytes of the shared memory: what was asked for, rounded up to a power of two of whole pages."""
    needed = personality.mailbox_size(peers)
    size: int = options.size or needed or DEFAULT_SIZE
    if size < needed:
        raise argparse.ArgumentTypeError(f"-l: {peers} peers need at least {needed} bytes, not {size}")
    least, (backing, path) = PAGE, options.memory
    if backing == "unlinked":
        try:
            # The pages of hugetlbfs are large.
            least = max(least, os.statvfs(path).f_bsize)
        except OSError as e:
            raise argparse.ArgumentTypeError(f"-m: cannot use {path}: {e.strerror}") from e
    return max(least, 1 << (size - 1).bit_length())


def make_parser() -> argparse.ArgumentParser:
    """What reads the options."""
    parser = _Parser(
        prog="famez-server",
        description="Serve one ivshmem fabric: doorbells and shared memory between virtual machines and programs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_stock_options(parser.add_argument)
    _add_other_options(parser.add_argument)
    return parser


def _add_stock_options(add: Callable[..., object]) -> None:
    add("-v", dest="verbose", action="store_true", help="log joins and departures, too, not only what is wrong")
    add("-F", dest="foreground", action="store_true", help="stay in the foreground (default: become a daemon)")
    add(
        "-p",
        dest="pid_file",
        type=_path,
        metavar="FILE",
        default=DEFAULT_PID_FILE,
        help="the daemon's PID file (default: %(default)s)",
    )
    add(
        "-S",
        dest="socket",
        type=os.path.abspath,
        metavar="PATH",
        default="/tmp/ivshmem_socket",  # noqa: S108 (the stock server's)
        help="the socket to listen on (default: %(default)s)",
    )
    add(
        "-M",
        dest="memory",
        type=_shm,
        metavar="NAME",
        default="ivshmem",
        help="the POSIX shared memory, one that is there is used (default: %(default)s)",
    )
    add(
        "-m",
        dest="memory",
        type=_directory,
        metavar="DIR",
        default=argparse.SUPPRESS,
        help="a directory, such as one of hugetlbfs, for shared memory without a name",
    )
    add(
        "-l",
        dest="size",
        type=_bytes,
        metavar="SIZE",
        help="bytes of shared memory, or with K, M, G or T, rounded up to a power of two (default: 4M)",
    )
    add("-n", dest="vectors", type=_up_to(MOST_VECTORS), metavar="VECTORS", help="each peer's vectors (default: 1)")


def _add_other_options(add: Callable[..., object]) -> None:
    """FAME-Z's, and our own."""
    add(
        "--nClients",
        dest="peers",
        type=_up_to(MOST_PEERS),
        metavar="PEERS",
        help=f"how many peers there may be at once (default: {PLAIN_PEERS}; genz: {GENZ_PEERS})",
    )
    add(
        "--personality",
        choices=PERSONALITIES,
        default="plain",
        help="what the switch does: plain is nothing, as the stock server; genz answers Gen-Z messages",
    )
    add(
        "--norecycle",
        dest="no_recycle",
        action="store_true",
        help="genz: tell of joins and departures, and give no id again that a peer has seen depart",
    )
    add("--noPFM", dest="no_pfm", action="store_true", help="genz: the switch is not the fabric's manager")
    add("-s", "--silent", action="store_true", help="genz: lay out the mailbox, and be no peer")
    add("-L", "--logfile", type=os.path.abspath, metavar="FILE", help="add the log to FILE")
    add("--version", action="version", version=f"famez-server {__version__}")


def _path(text: str) -> Path:
    return Path(text).absolute()


def _shm(text: str) -> tuple[str, str]:
    """Backing and path of POSIX shared memory."""
    name = text.removeprefix("/")
    if name in ("", ".", "..") or "/" in name or len(os.fsencode(name)) > 255:
        raise argparse.ArgumentTypeError(f"must be a name in {SHM}, perhaps with one / in front, not {text!r}")
    return "shm", f"{SHM}/{name}"


def _directory(text: str) -> tuple[str, str]:
    """Backing and directory of memory without a name."""
    return "unlinked", os.path.abspath(text)


def _bytes(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,16})([KMGT]?)", text.upper())
    size = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 0 < size <= MOST_BYTES:
        raise argparse.ArgumentTypeError(
            f"must be a number of bytes up to 1T, such as 65536, 64K, 4M or 1G, not {text!r}"
        )
    return size


def _up_to(most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= most):
            raise argparse.ArgumentTypeError(f"must be a number from 1 to {most}, not {text!r}")
        return int(text)

    return number
