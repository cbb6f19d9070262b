"""What is shown of a fabric's switch: read from its state page, and never asked of a worker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from famezd.config import GENZ
from famezd.errors import FamezError
from famezd.statepage import Table
from famezd.supervisor.status.view import FabricView

_HARDWARE = ("qemu", "debugger", "adapter", "switch")
"""FAME-Z's kinds of hardware: a component class that contains one of these words is of that kind."""


class NoSwitchError(FamezError):
    """The fabric has no switch that knows anything."""


def switch(view: FabricView) -> dict[str, Any]:
    """What its switch knows, for JSON: with genz ports in numbers, else as the personality has it.

    Raises NoSwitchError where there is nothing, StateError where it cannot be read.
    """
    name, personality, state = view.fabric.name, view.fabric.personality, view.switch_state
    if not state:
        raise NoSwitchError(f"fabric {name}: its switch keeps no state, with personality {personality}")
    if personality != GENZ:
        return {"state": state}
    tags = [{"tag": int(at.removeprefix("tag ")), **_numbers(told)} for at, told in state.items() if at[:4] == "tag "]
    for tag in tags:
        # In the worker's clock, which means nothing elsewhere.
        del tag["until"]
    own = _numbers(state.get("switch", {}))
    return {
        "switch": {
            "id": view.fabric.peers + 1,
            "nodename": own.get("nodename", ""),
            "cclass": own.get("cclass", ""),
            "cid": own.get("cid", 0),
            "sid": own.get("sid", 0),
            "manager": own.get("manager") == "true",
            "silent": view.fabric.silent,
        },
        "ports": [_port(port, told) for port, told in _ports(view, state)],
        "outstanding": tags,
    }


def _ports(view: FabricView, state: Table) -> Iterable[tuple[int, dict[str, str]]]:
    """Each port, and what is known of it."""
    return ((port, state.get(f"port {port}", {})) for port in range(1, view.fabric.peers + 1))


def _port(port: int, told: Mapping[str, str]) -> dict[str, Any]:
    attributes = {key.removeprefix("peer_"): value for key, value in told.items() if key.startswith("peer_")}
    return {
        "id": port,
        "link": told.get("link", "down"),
        "nodename": told.get("nodename", ""),
        "cclass": told.get("cclass", ""),
        "cid": int(told["cid"]) if "cid" in told else None,
        "sid": int(told["sid"]) if "sid" in told else None,
        "attributes": _numbers(attributes) or None,
        "nak": told.get("nak") or None,
    }


def _numbers(told: Mapping[str, str]) -> dict[str, Any]:
    """With numbers as such, but for names, which may look like one."""
    return {
        key: int(value) if value.isascii() and value.isdigit() and key not in ("nodename", "cclass") else value
        for key, value in told.items()
    }


# As FAME-Z shows it


def first_genz(views: Iterable[FabricView]) -> FabricView:
    """The first fabric of personality genz by name; raises NoSwitchError if there is none."""
    for view in views:
        if view.fabric.personality == GENZ:
            return view
    raise NoSwitchError("no fabric has personality genz")


def system(view: FabricView) -> dict[str, Any]:
    """A genz fabric as FAME-Z's `/system` has it, for a drawing by D3: nodes by name, and links between them.

    Raises NoSwitchError for another personality, StateError where its state cannot be read.
    """
    fabric = view.fabric
    if fabric.personality != GENZ:
        raise NoSwitchError(f"fabric {fabric.name} has personality {fabric.personality}, not {GENZ}")
    state = view.switch_state
    there = [(port, told) for port, told in _ports(view, state) if told.get("link", "down") != "down"]
    if not fabric.silent and "switch" in state:
        there.append((fabric.peers + 1, state["switch"]))
    nodes: list[dict[str, Any]] = []
    for peer, told in there:
        group = f"port_{peer}"
        # To D3 the id is what a link names, so it has to be there, and only once; guests write what they like.
        name = told.get("nodename") or group
        name = name if all(node["id"] != name for node in nodes) else f"{name} ({group})"
        cclass = told.get("cclass", "")
        nodes.append({"ivshmsg_id": peer, "id": name, "cclass": cclass, "hardware": _hardware(cclass), "group": group})
    center = nodes[-1]["id"] if nodes and nodes[-1]["ivshmsg_id"] == fabric.peers + 1 else None
    links = [{"source": node["id"], "target": center} for node in nodes if center and node["id"] != center]
    return {"nClients": fabric.peers, "server_ivshmsg_id": fabric.peers + 1, "nodes": nodes, "links": links}


def _hardware(cclass: str) -> str:
    lower = cclass.lower()
    return next((word for word in _HARDWARE if word in lower), lower)
