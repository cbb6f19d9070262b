"""famezctl: asks a running famezd, and tells it what to do."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote, urlencode

from famezd import __version__
from famezd.cli.attaching import AttachError, attach, show_attached
from famezd.cli.control import ControlError, NobodyAnswersError, default_control_socket, get, post
from famezd.cli.drawing import show_switch
from famezd.cli.lessons import taught
from famezd.cli.matrix import show_doorbells
from famezd.cli.render import (
    show_check,
    show_cleared,
    show_diff,
    show_faults,
    show_kick,
    show_peers,
    show_reload,
    show_restart,
    show_status,
)
from famezd.cli.terminal import columns, say
from famezd.cli.watch import watch

_EPILOG = """\
exit status: 0 done; 1 not done, or mistakes in the configuration, standard error says which; 2 wrong usage; 3 done, but
a fabric is not served as it should be (status, reload)
"""
NOT_DONE, FABRIC_DOWN = 1, 3
_MOST_OFTEN, _SELDOM = 0.1, 86400
"""Seconds between two looks of `watch`."""
_RULES = "Several rules may concern a doorbell: they apply in their order. See docs/faults.md."
_Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
_RULE_KEYS = ("src", "dst", "vector", "drop", "delay", "duplicate", "block", "corrupt", "message", "seed")


def main() -> int:
    """Runs one verb; returns its exit status."""
    parser = make_parser()
    arguments = parser.parse_args()
    for name in ("fabric", "peer", "domain"):
        if getattr(arguments, name, None) == "":
            parser.error(f"{name.upper()} must not be empty")
    path = arguments.socket or default_control_socket()
    try:
        if arguments.verb == "watch":
            return watch(path, arguments.fabric, arguments.seconds, as_json=arguments.json)
        answers = arguments.ask(path, arguments)
    except ControlError as e:
        print(f"famezctl: {e}", file=sys.stderr)
        return NOT_DONE
    if arguments.json:
        print(json.dumps(answers, indent=2))
    elif arguments.verb == "check" and answers["problems"]:
        print("\n".join(problem["text"] for problem in answers["problems"]), file=sys.stderr)
    else:
        say(_shown(arguments, answers))
    return _status(arguments.verb, answers)


def _shown(arguments: argparse.Namespace, answers: Any) -> str:  # noqa: ANN401
    """The answers as text."""
    if arguments.verb == "status":
        return show_status(answers, columns() if sys.stdout.isatty() else None)
    if arguments.verb == "doorbells":
        return show_doorbells(answers, columns(), as_list=arguments.list, vectors=arguments.vectors)
    text: str = arguments.show(answers)
    return text


def _status(verb: str, answers: Any) -> int:  # noqa: ANN401
    """The exit status of a verb that was answered."""
    match verb:
        case "status" if answers["unready"]:
            return FABRIC_DOWN
        case "reload" if answers["failed"]:
            return FABRIC_DOWN
        case "check" if answers["problems"]:
            return NOT_DONE
    return os.EX_OK


def make_parser() -> argparse.ArgumentParser:
    """What reads the arguments."""
    parser = argparse.ArgumentParser(
        prog="famezctl",
        description="See what a running famezd serves, and tell it what to do.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-s", "--socket", type=Path, metavar="SOCKET", help="famezd's control socket (default: that of the system's)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--version", action="version", version=f"famezctl {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB", dest="verb")
    status = verbs.add_parser("status", help="all fabrics")
    status.set_defaults(ask=lambda path, _: get(path, "/api/v1/status"))
    watched = verbs.add_parser("watch", help="the same, or one fabric's peers and how they ring, until Ctrl-C")
    watched.add_argument("fabric", metavar="FABRIC", nargs="?")
    watched.add_argument(
        "-n", dest="seconds", type=_seconds, default=2.0, metavar="SECONDS", help="how often (default: %(default)g)"
    )
    peers = verbs.add_parser("peers", help="who is on a fabric")
    peers.add_argument("fabric", metavar="FABRIC")
    peers.set_defaults(ask=_ask_fabric("peers"), show=show_peers)
    doorbells = verbs.add_parser("doorbells", help="who rang whom, and how often")
    doorbells.add_argument("fabric", metavar="FABRIC")
    doorbells.add_argument("--list", action="store_true", help="as a list, also where a matrix is not too wide")
    doorbells.add_argument("--vectors", action="store_true", help="also on which vector each was rung")
    doorbells.set_defaults(ask=_ask_fabric("doorbells"))
    switch = verbs.add_parser("switch", help="what a fabric's switch knows: with genz its ports and who is on them")
    switch.add_argument("fabric", metavar="FABRIC")
    switch.set_defaults(ask=_ask_fabric("switch"), show=show_switch)
    reload = verbs.add_parser("reload", help="read the configuration anew; with any mistake in it nothing changes")
    reload.add_argument("--force", action="store_true", help="remove also fabrics that have peers, and disconnect them")
    reload.set_defaults(ask=_ask_reload, show=show_reload)
    _add_file_verbs(verbs)
    restart = verbs.add_parser(
        "restart",
        help="have a new process serve a fabric; peers notice nothing, unless settings wait that disconnect them",
    )
    restart.add_argument("fabric", metavar="FABRIC")
    restart.set_defaults(ask=_ask_fabric("restart", post), show=show_restart)
    kick = verbs.add_parser("kick", help="disconnect a peer from a fabric")
    kick.add_argument("fabric", metavar="FABRIC")
    kick.add_argument("peer", metavar="PEER", help="its id or its name, as in the list of `peers`")
    kick.set_defaults(ask=_ask_kick, show=show_kick)
    _add_fault_verbs(verbs.add_parser("fault", help="have doorbells and messages fail by rules, on a relayed fabric"))
    qemu = verbs.add_parser("qemu", help="QEMU's arguments for a machine on a fabric")
    qemu.add_argument("fabric", metavar="FABRIC")
    qemu.add_argument("--port", type=int, metavar="N", help="at this port, which has a socket of its own (pins:)")
    qemu.set_defaults(ask=_ask_qemu, show=lambda answer: shlex.join(answer["arguments"]))
    _add_libvirt_verbs(verbs)
    _take_json(verbs)
    return taught(parser)


def _add_file_verbs(verbs: _Verbs) -> None:
    check = verbs.add_parser("check", help="find all mistakes in the configuration; nothing is changed")
    check.add_argument(
        "file", type=Path, nargs="?", metavar="FILE", help="a famezd.yaml (default: what the running famezd reads)"
    )
    check.set_defaults(ask=_ask_check, show=show_check)
    diff = verbs.add_parser("diff", help="what a reload would change; nothing is changed")
    diff.set_defaults(ask=lambda path, _: get(path, "/api/v1/diff"), show=show_diff)
    schema = verbs.add_parser("schema", help="the JSON Schemas of the configuration's files, for editors")
    schema.add_argument(
        "which", nargs="?", choices=("main", "fabric"), help="of famezd.yaml, or of a file in fabrics.d (default: both)"
    )
    schema.set_defaults(ask=_ask_schema, show=lambda answer: json.dumps(answer, indent=2))


def _take_json(verbs: _Verbs) -> None:
    """Takes --json after a verb, too."""
    for verb in verbs.choices.values():
        verb.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not _MOST_OFTEN <= seconds <= _SELDOM:
        raise argparse.ArgumentTypeError(f"must be {_MOST_OFTEN:g} to {_SELDOM} seconds, not {text}")
    return seconds


def _add_libvirt_verbs(verbs: _Verbs) -> None:
    libvirt = verbs.add_parser("libvirt", help="what puts a libvirt domain on a fabric, to paste by `virsh edit`")
    libvirt.add_argument("fabric", metavar="FABRIC")
    libvirt.add_argument("--port", type=int, metavar="N", help="at this port, which has a socket of its own (pins:)")
    form = libvirt.add_mutually_exclusive_group()
    form.add_argument("--name", metavar="NAME", help="of the device, for libvirt (default: famez-FABRIC)")
    form.add_argument(
        "--commandline", action="store_true", help="as QEMU's arguments (qemu:commandline), where <shmem> will not do"
    )
    libvirt.set_defaults(ask=_ask_libvirt, show=lambda answer: answer["xml"])
    attached = verbs.add_parser("attach", help="put a libvirt domain on a fabric, at once if it runs")
    attached.add_argument("domain", metavar="DOMAIN", help="its name")
    attached.add_argument("fabric", metavar="FABRIC")
    attached.add_argument("--port", type=int, metavar="N", help="at this port, which has a socket of its own (pins:)")
    attached.add_argument("--config", action="store_true", help="only from its next start on")
    attached.add_argument("-c", "--connect", metavar="URI", help="which libvirt (default: as virsh chooses)")
    attached.set_defaults(ask=_ask_attach, show=show_attached)


def _add_fault_verbs(fault: argparse.ArgumentParser) -> None:
    verbs = fault.add_subparsers(required=True, metavar="VERB", dest="fault_verb")
    add = verbs.add_parser("add", help="add a rule; prints its id", epilog=_RULES)
    add.add_argument("fabric", metavar="FABRIC")
    add.add_argument("src", metavar="SRC", help="who rings: a peer's id, switch, or * for all")
    add.add_argument("dst", metavar="DST", help="who is rung, in the same way")
    add.add_argument("--vector", metavar="V", help="on which vector; * (the default) is all")
    does = add.add_mutually_exclusive_group(required=True)
    does.add_argument("--drop", metavar="P", help="lose doorbells, each by this probability: 0.1, or 10%%")
    does.add_argument("--delay", metavar="DIST", help="hold them up: 5ms, 1ms..5ms (evenly), 5ms+-1ms (normally)")
    does.add_argument("--duplicate", metavar="P", help="double them, each by this probability")
    does.add_argument("--block", action="store_true", default=None, help="lose them all")
    does.add_argument("--corrupt", metavar="P", help="change some bytes of messages, of each by this probability")
    add.add_argument(
        "--message", action="store_true", default=None, help="with --drop: messages are lost, as if they had been taken"
    )
    add.add_argument("--seed", metavar="N", help="of the rule's chance: with the same one, the same fates")
    add.set_defaults(ask=_ask_add_fault, show=lambda answer: str(answer["id"]))
    listed = verbs.add_parser("list", help="the rules, and how often each struck")
    listed.add_argument("fabric", metavar="FABRIC")
    listed.set_defaults(ask=_ask_fabric("faults"), show=show_faults)
    clear = verbs.add_parser("clear", help="take a rule away, or all")
    clear.add_argument("fabric", metavar="FABRIC")
    clear.add_argument("rule", type=int, nargs="?", metavar="ID", help="the rule's id, as in the list (default: all)")
    clear.set_defaults(ask=_ask_clear_faults, show=show_cleared)
    _take_json(verbs)


def _ask_fabric(what: str, ask: Callable[[Path, str], Any] = get) -> Any:  # noqa: ANN401
    return lambda path, arguments: ask(path, f"{_fabric(arguments)}/{what}")


def _ask_reload(path: Path, arguments: argparse.Namespace) -> Any:  # noqa: ANN401
    return post(path, "/api/v1/reload" + ("?force=true" if arguments.force else ""))


def _ask_check(path: Path, arguments: argparse.Namespace) -> Any:  # noqa: ANN401
    if arguments.file is not None:
        from famezd.configreport import main_file, report  # noqa: PLC0415 (this takes long, and is seldom needed)

        return report(main_file(arguments.file))
    try:
        return get(path, "/api/v1/check")
    except NobodyAnswersError as e:
        raise ControlError(f"{e}; without it name the file, as in `famezctl check /etc/famez/famezd.yaml`") from e


def _ask_schema(_: Path, arguments: argparse.Namespace) -> Any:  # noqa: ANN401
    from famezd.configreport import schemas  # noqa: PLC0415 (this takes long, and is seldom needed)

    return schemas() if arguments.which is None else schemas()[arguments.which]


def _ask_kick(path: Path, arguments: argparse.Namespace) -> Any:  # noqa: ANN401
    return post(path, f"{_fabric(arguments)}/peers/{quote(arguments.peer, safe='')}/kick")


def _ask_qemu(path: Path, arguments: argparse.Namespace) -> Any:  # noqa: ANN401
    port = "" if arguments.port is None else f"?port={arguments.port}"
    return get(path, f"{_fabric(arguments)}/qemu{port}")


def _ask_libvirt(path: Path, arguments: argparse.Namespace) -> Any:  # noqa: ANN401
    form = "commandline" if arguments.commandline else "element"
    asked = {"port": arguments.port, "name": arguments.name, "form": form}
    query = urlencode({key: value for key, value in asked.items() if value is not None})
    return get(path, f"{_fabric(arguments)}/libvirt?{query}")


def _ask_attach(path: Path, arguments: argparse.Namespace) -> Any:  # noqa: ANN401
    port = "" if arguments.port is None else f"?port={arguments.port}"
    element = get(path, f"{_fabric(arguments)}/libvirt{port}")["xml"]
    try:
        return attach(arguments.domain, arguments.fabric, element, arguments.connect, arguments.config)
    except AttachError as e:
        raise ControlError(str(e)) from e


def _ask_add_fault(path: Path, arguments: argparse.Namespace) -> Any:  # noqa: ANN401
    asked = {key: value for key in _RULE_KEYS if (value := getattr(arguments, key)) is not None}
    if asked.get("seed", "").isdecimal():
        asked["seed"] = int(asked["seed"])
    return post(path, f"{_fabric(arguments)}/faults", asked)


def _ask_clear_faults(path: Path, arguments: argparse.Namespace) -> Any:  # noqa: ANN401
    which = "" if arguments.rule is None else f"/{arguments.rule}"
    return post(path, f"{_fabric(arguments)}/faults{which}/clear")


def _fabric(arguments: argparse.Namespace) -> str:
    return f"/api/v1/fabrics/{quote(arguments.fabric, safe='')}"
