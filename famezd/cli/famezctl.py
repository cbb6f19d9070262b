"""famezctl: asks a running famezd, and tells it what to do."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from famezd import __version__
from famezd.cli.attaching import AttachError, attach, show_attached
from famezd.cli.drawing import show_switch
from famezd.errors import FamezError

_EPILOG = """\
exit status: 0 done; 1 not done, standard error says why; 2 wrong usage; 3 done, but a fabric is not served as it should
be (status, reload)
"""
FABRIC_DOWN = 3
_DIRECT = """\
Doorbells of fabric {} are direct: those between peers are not counted, only those to and from a switch.

"""
_RULES = "Several rules may concern a doorbell: they apply in their order. See docs/faults.md."
_RULE_KEYS = ("src", "dst", "vector", "drop", "delay", "duplicate", "block", "corrupt", "message", "seed")
_ANSWERS_WITHIN = 10.0
"""Seconds for a question."""
_DONE_WITHIN = 120.0
"""Seconds for what has to be done first: new workers are waited for."""


class ControlError(FamezError):
    """famezd cannot be asked, or does not know the answer."""


def main() -> int:
    """Runs one verb; returns its exit status."""
    arguments = _parser().parse_args()
    path = arguments.socket or default_control_socket()
    try:
        answers = arguments.ask(path, arguments)
    except ControlError as e:
        print(f"famezctl: {e}", file=sys.stderr)
        return 1
    print(json.dumps(answers, indent=2) if arguments.json else arguments.show(answers))
    down = {
        "status": lambda: any(fabric["state"] != "serving" for fabric in answers["fabrics"]),
        "reload": lambda: bool(answers["failed"]),
    }
    return FABRIC_DOWN if down.get(arguments.verb, bool)() else os.EX_OK


def default_control_socket() -> Path:
    """The control socket of the famezd that is meant where none is named: the system's, else the user's own."""
    system = Path("/run/famez/control.sock")
    own = os.environ.get("RUNTIME_DIRECTORY") or os.environ.get("XDG_RUNTIME_DIR", "")
    if "RUNTIME_DIRECTORY" in os.environ:
        return Path(own.split(":")[0], "control.sock")
    return system if os.geteuid() == 0 or system.exists() or not own else Path(own, "famez", "control.sock")


def get(control: Path, resource: str) -> Any:  # noqa: ANN401 (whatever JSON it is)
    """What famezd answers to a GET of `resource`; raises ControlError if it cannot be asked, or says no."""
    return _request(control, "GET", resource, _ANSWERS_WITHIN)


def post(control: Path, resource: str, data: object = None) -> Any:  # noqa: ANN401
    """The same for a POST, which has something done; `data` go with it as JSON."""
    return _request(control, "POST", resource, _DONE_WITHIN, None if data is None else json.dumps(data))


def _request(control: Path, method: str, resource: str, timeout: float, body: str | None = None) -> Any:  # noqa: ANN401
    connection = _Unix(control, timeout)
    try:
        connection.request(method, resource, body)
        response = connection.getresponse()
        answer = json.loads(response.read())
    except PermissionError as e:
        raise ControlError(f"permission denied: {control}; run as root or join the socket's group") from e
    except (FileNotFoundError, ConnectionRefusedError) as e:
        raise ControlError(f"nobody answers at {control}; is famezd running? (systemctl status famezd)") from e
    except (OSError, http.client.HTTPException, ValueError) as e:
        raise ControlError(f"cannot ask famezd at {control}: {e}") from e
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise ControlError(answer.get("error", f"famezd answers {response.status} {response.reason}"))
    return answer


class _Unix(http.client.HTTPConnection):
    """HTTP over an AF_UNIX socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _parser() -> argparse.ArgumentParser:
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
    status.set_defaults(ask=lambda path, _: get(path, "/api/v1/status"), show=_show_status)
    peers = verbs.add_parser("peers", help="who is on a fabric")
    peers.add_argument("fabric", metavar="FABRIC")
    peers.set_defaults(ask=_ask_fabric("peers"), show=_show_peers)
    doorbells = verbs.add_parser("doorbells", help="who rang whom, and how often")
    doorbells.add_argument("fabric", metavar="FABRIC")
    doorbells.set_defaults(ask=_ask_fabric("doorbells"), show=_show_doorbells)
    switch = verbs.add_parser("switch", help="what a fabric's switch knows: with genz its ports and who is on them")
    switch.add_argument("fabric", metavar="FABRIC")
    switch.set_defaults(ask=_ask_fabric("switch"), show=show_switch)
    reload = verbs.add_parser("reload", help="read the configuration anew; with any mistake in it nothing changes")
    reload.set_defaults(ask=lambda path, _: post(path, "/api/v1/reload"), show=_show_reload)
    restart = verbs.add_parser(
        "restart",
        help="have a new process serve a fabric; peers notice nothing, unless settings wait that disconnect them",
    )
    restart.add_argument("fabric", metavar="FABRIC")
    restart.set_defaults(ask=_ask_fabric("restart", post), show=_show_restart)
    kick = verbs.add_parser("kick", help="disconnect a peer from a fabric")
    kick.add_argument("fabric", metavar="FABRIC")
    kick.add_argument("peer", metavar="PEER", help="its id or its name, as in the list of `peers`")
    kick.set_defaults(ask=_ask_kick, show=_show_kick)
    _add_fault_verbs(verbs.add_parser("fault", help="have doorbells and messages fail by rules, on a relayed fabric"))
    qemu = verbs.add_parser("qemu", help="QEMU's arguments for a machine on a fabric")
    qemu.add_argument("fabric", metavar="FABRIC")
    qemu.add_argument("--port", type=int, metavar="N", help="at this port, which has a socket of its own (pins:)")
    qemu.set_defaults(ask=_ask_qemu, show=lambda answer: shlex.join(answer["arguments"]))
    _add_libvirt_verbs(verbs)
    return parser


def _add_libvirt_verbs(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
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
    attached.add_argument("domain", metavar="DOMAIN")
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
    listed.set_defaults(ask=_ask_fabric("faults"), show=_show_faults)
    clear = verbs.add_parser("clear", help="take a rule away, or all")
    clear.add_argument("fabric", metavar="FABRIC")
    clear.add_argument("rule", type=int, nargs="?", metavar="ID", help="the rule's id, as in the list (default: all)")
    clear.set_defaults(ask=_ask_clear_faults, show=_show_cleared)


def _ask_fabric(what: str, ask: Callable[[Path, str], Any] = get) -> Any:  # noqa: ANN401
    return lambda path, arguments: ask(path, f"{_fabric(arguments)}/{what}")


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


def _show_status(answer: dict[str, Any]) -> str:
    head = ("FABRIC", "STATE", "PERSONALITY", "DOORBELLS", "PORTS", "PEERS", "VECTORS", "RUNG", "RESTARTS", "SOCKET")
    keys = ("name", "state", "personality", "doorbells", "ports", "peers", "vectors", "rung", "restarts", "socket")
    fabrics = [fabric | {"peers": f"{fabric['peers']}/{fabric['peers_limit']}"} for fabric in answer["fabrics"]]
    notes = [f"fabric {f['name']} is not served: {f['failure']}" for f in fabrics if f["failure"]]
    notes += [_waits(f["name"], "; ".join(f["waiting"])) for f in fabrics if f["waiting"]]
    notes += [f"configuration refused: {problem}" for problem in answer["configuration"]["problems"]]
    return "\n".join([table([head, *([str(fabric[key]) for key in keys] for fabric in fabrics)]), *notes])


def _waits(fabric: str, why: str) -> str:
    return f"fabric {fabric} waits for `famezctl restart {fabric}`, which disconnects its peers: {why}"


def _show_reload(answer: dict[str, Any]) -> str:
    lines = [f"{done}: {', '.join(answer[done])}" for done in ("added", "removed", "changed") if answer[done]]
    lines += [_waits(name, why) for name, why in answer["waiting"].items()]
    lines += [f"fabric {name} failed: {why}" for name, why in answer["failed"].items()]
    return "\n".join(lines) or "nothing has changed"


def _show_restart(answer: dict[str, Any]) -> str:
    took = f"restarted; nobody served for {answer['pause'] * 1e3:.1f} ms"
    if answer["why"]:
        return f"{took}; {answer['disconnected']} peers were disconnected: {answer['why']}"
    return took


def _show_kick(answer: dict[str, Any]) -> str:
    return f"peer {_called(answer['kicked'], answer['name'])} was disconnected"


def _called(peer: int, name: str | None) -> str:
    return str(peer) if name in (None, str(peer)) else f"{peer} {name}"


def _show_faults(answer: dict[str, Any]) -> str:
    rows = [
        [str(f["id"]), f["rule"], "file" if f["configured"] else "famezctl", str(f["seen"]), str(f["struck"])]
        for f in answer["faults"]
    ]
    return table([("ID", "RULE", "FROM", "SEEN", "STRUCK"), *rows])


def _show_cleared(answer: dict[str, Any]) -> str:
    return "cleared: " + (", ".join(map(str, answer["cleared"])) or "none")


def _show_peers(answer: dict[str, Any]) -> str:
    now = time.time()
    keys = ("id", "name", "kind", "program", "pid", "uid", "since")
    peers = [p | {"program": p["program"] or "-", "since": _duration(now - p["joined"])} for p in answer["peers"]]
    if answer["switch"] is not None:
        peers.append(answer["switch"] | {"program": "-", "since": "-"})
    return table([[key.upper() for key in keys], *([str(peer[key]) for key in keys] for peer in peers)])


def _show_doorbells(answer: dict[str, Any]) -> str:

    def called(peer: int) -> str:
        return _called(peer, answer["names"].get(str(peer)))

    rows = [[called(p["src"]), called(p["dst"]), str(p["count"])] for p in answer["pairs"] if p["count"]]
    vectors = [[called(v["dst"]), str(v["vector"]), str(v["count"])] for v in answer["vectors"] if v["count"]]
    pairs = table([("SRC", "DST", "DOORBELLS"), *rows])
    note = _DIRECT.format(answer["fabric"]) if answer["doorbells"] == "direct" else ""
    return note + pairs + "\n\n" + table([("DST", "VECTOR", "DOORBELLS"), *vectors])


def table(rows: list[Any]) -> str:
    """Rows of texts in columns; the first is the heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _duration(seconds: float) -> str:
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    for n, unit in ((days, "d"), (hours, "h"), (minutes, "min")):
        if n >= 1:
            return f"{int(n)} {unit}"
    return f"{max(0, int(seconds))} s"
