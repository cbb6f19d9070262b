"""famez-client: a peer of a fabric, at the shell."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from contextlib import closing

from famezd import __version__
from famezd.client import ClientError, Mailbox, Peer
from famezd.errors import FamezError

_EPILOG = """\
DEST is a peer's id, its node name, or `switch`.

exit status: 0 done; 1 not done, standard error says why; 2 wrong usage
"""


def main() -> int:
    """Runs one command; returns its exit status."""
    arguments = _parser().parse_args()
    try:
        with Peer.join(arguments.socket) as peer, closing(Mailbox(peer)) as mailbox:
            command: Callable[[Peer, Mailbox, argparse.Namespace], None] = arguments.run
            command(peer, mailbox, arguments)
    except KeyboardInterrupt:
        return 0
    except FamezError as e:
        print(f"famez-client: {e}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="famez-client",
        description="Join a fabric of the genz personality, and see, ring or write to its peers.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-S", "--socket", required=True, metavar="SOCKET", help="the fabric's socket")
    parser.add_argument("--version", action="version", version=f"famez-client {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    who = commands.add_parser("who", help="list who is on the fabric")
    who.set_defaults(run=_who)
    ping = commands.add_parser("ping", help="send `ping` to DEST and wait for its `pong`")
    ping.add_argument("destination", metavar="DEST")
    ping.add_argument("--timeout", type=_seconds, default=5.0, metavar="SECONDS", help="how long to wait (%(default)s)")
    ping.set_defaults(run=_ping)
    send = commands.add_parser("send", help="send TEXT to DEST, and wait until it is taken")
    send.add_argument("destination", metavar="DEST")
    send.add_argument("text", nargs="+", metavar="TEXT")
    send.add_argument("--timeout", type=_seconds, default=5.0, metavar="SECONDS", help="how long to wait (%(default)s)")
    send.set_defaults(run=_send)
    listen = commands.add_parser("listen", help="print the messages that come, and answer pings, until Ctrl-C")
    listen.set_defaults(run=_listen)
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, not {text!r}")
    return seconds


def _who(peer: Peer, mailbox: Mailbox, _: argparse.Namespace) -> None:
    print(f"{'ID':>5}  {'NODENAME':<31}  CCLASS")
    for identity, (nodename, cclass) in sorted(mailbox.names().items()):
        here = "  (this client)" if identity == peer.id else ""
        print(f"{identity:>5}  {nodename or '-':<31}  {cclass}{here}")


def _ping(peer: Peer, mailbox: Mailbox, arguments: argparse.Namespace) -> None:
    destination = mailbox.find(arguments.destination)
    if destination == peer.id:
        raise ClientError("that is this client itself; name another peer")
    seconds = mailbox.ping(destination, timeout=arguments.timeout)
    print(f"pong from {destination}: time={seconds * 1e3:.3f} ms")


def _send(peer: Peer, mailbox: Mailbox, arguments: argparse.Namespace) -> None:
    destination = mailbox.find(arguments.destination)
    if destination == peer.id:
        raise ClientError("that is this client itself; name another peer")
    mailbox.send(destination, " ".join(arguments.text), timeout=arguments.timeout)


def _listen(peer: Peer, mailbox: Mailbox, _: argparse.Namespace) -> None:
    print(f"peer {peer.id} listens; Ctrl-C ends it", flush=True)
    while True:
        message = mailbox.receive()
        if message is None:
            continue
        print(f"{message.src}: {message.text}", flush=True)
        if message.text == "ping":
            try:
                mailbox.send(message.src, "pong")
            except ClientError as e:
                print(f"famez-client: {e}", file=sys.stderr)
