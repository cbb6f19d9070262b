"""famez-client: a peer of a fabric, at its prompt, at the shell and in scripts."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path

from famezd import __version__
from famezd.client import commands  # noqa: F401 (fills the grammar)
from famezd.client.grammar import Call, UsageError, explain, understand
from famezd.client.script import Output, lines, run, run_script
from famezd.client.session import Session
from famezd.errors import FamezError

_EPILOG = """\
without COMMAND: a prompt, or commands from standard input if that is no terminal: one a line, '#' begins a comment;
the first that fails is the last

commands (`COMMAND -h` explains one):
{}

examples:
  famez-client -f lab                           a prompt, on a fabric of the famezd that runs here
  famez-client -f lab ping -c 3 switch          round trips to the switch
  famez-client -S run/lab.sock send 3 hello     a message to peer 3, by the fabric's socket
  famez-client -f lab --json watch              the doorbells that come, as JSON
  famez-client --pci                            a prompt in a virtual machine, as the machine
  famez-client --pci 0000:00:04.0 listen        the messages to the machine, by one of several devices

exit status: 0 done; 1 not done, standard error says why; 2 wrong usage; 130 interrupted
"""


def main() -> int:
    """Joins, runs what is asked for, and returns the exit status."""
    parser = make_parser()
    arguments = parser.parse_args(_told_apart(sys.argv[1:]))
    output = Output(json=arguments.json)
    try:
        call = understand(arguments.command) if arguments.command else None
        if call is not None and call.command.name == "help":
            print(explain(call.arguments.command))
            return os.EX_OK
        if arguments.socket is None and arguments.fabric is None and arguments.pci is None:
            parser.error("which fabric? name it by -S SOCKET or -f FABRIC, or in a machine by --pci [ADDRESS]")
        with _join(arguments, output) as session:
            return _run(session, call, arguments, output)
    except FamezError as e:
        return output.complain(e)


def _join(arguments: argparse.Namespace, output: Output) -> Session:
    if arguments.pci is not None:
        return Session.open(arguments.pci, output.notice)
    return Session.join(arguments.socket or _socket_of(arguments.fabric))


def _run(session: Session, call: Call | None, arguments: argparse.Namespace, output: Output) -> int:
    if call is not None:
        return run(session, call, output)
    if sys.stdin is None:
        raise UsageError("no command, and no standard input to read any from")
    if sys.stdin.isatty():
        # Only now: it takes as long to import as all the rest.
        from famezd.client.prompt import Prompt  # noqa: PLC0415

        return Prompt(session, output).run(session.peer.where)
    return run_script(session, lines(session, sys.stdin.fileno()), output, keep_going=arguments.keep_going)


def make_parser() -> argparse.ArgumentParser:
    """What reads the arguments."""
    parser = argparse.ArgumentParser(
        prog="famez-client",
        description="Join a fabric as a peer: see, ring, and write to the others.",
        epilog=_EPILOG.format(explain(None)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("-S", "--socket", type=Path, metavar="SOCKET", help="the fabric's socket")
    where.add_argument("-f", "--fabric", metavar="FABRIC", help="the fabric's name, if famezd runs here")
    where.add_argument(
        "--pci",
        metavar="ADDRESS",
        nargs="?",
        const="",
        help="in a virtual machine: its ivshmem device, by its PCI address if it has several",
    )
    parser.add_argument("--json", action="store_true", help="print results as JSON, one a line")
    parser.add_argument("--keep-going", action="store_true", help="run all of a script, whatever fails in it")
    parser.add_argument("--version", action="version", version=f"famez-client {__version__}")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="run one command")
    return parser


def _told_apart(words: list[str]) -> list[str]:
    """The arguments, with `--pci` told apart from the command where no address follows it.

    Commands have no colon, and every address has one.
    """
    for i, word in enumerate(words):
        if word == "--pci" and ":" not in "".join(words[i + 1 : i + 2]):
            return [*words[:i], "--pci=", *words[i + 1 :]]
        if not word.startswith("-") or word == "--":
            break
    return words


def _socket_of(fabric: str) -> Path:
    """Where a fabric of famezctl's famezd is joined: as configured, if that can be read, else by default."""
    from famezd.cli.control import default_control_socket  # noqa: PLC0415 (these take long, and are seldom needed)
    from famezd.config import DEFAULT_CONFIG, load, load_standalone  # noqa: PLC0415

    runtime = default_control_socket().parent
    environ = {"RUNTIME_DIRECTORY": str(runtime)}
    with contextlib.suppress(FamezError):
        configured = load(DEFAULT_CONFIG, environ=environ).fabrics.get(fabric)
        if configured is not None:
            return configured.socket.path
    with contextlib.suppress(FamezError):
        return load_standalone(DEFAULT_CONFIG, fabric, environ=environ).socket.path
    return runtime / f"{fabric}.sock"
