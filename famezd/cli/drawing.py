"""A switch, drawn in text: its front, with what is plugged into each port."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

COLUMNS = 80
"""How wide a drawing may be."""
_INSIDE = 16
"""How wide a port is, inside; names that are longer are cut."""


def show_switch(answer: dict[str, Any]) -> str:
    """What famezd answers for a switch: with ports its front, else things and what is known of each."""
    lines = _front(answer) if "ports" in answer else _things(answer["state"])
    # Guests and plug-ins write what they like, and a terminal does what it is told.
    return "\n".join("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line) for line in lines)


def _front(answer: dict[str, Any]) -> Iterable[str]:
    switch, ports = answer["switch"], answer["ports"]
    in_a_row = min(len(ports), (COLUMNS - 1) // (_INSIDE + 3))
    rows = [ports[at : at + in_a_row] for at in range(0, len(ports), in_a_row)]
    yield _head(answer["fabric"], switch)
    yield _rule(in_a_row)
    for row in rows:
        yield from _boxes(row)
        yield _rule(len(row))
    for port in ports:
        if port["nak"]:
            yield f"port {port['id']} refused a request: {port['nak']}"
    for tag in answer["outstanding"]:
        yield f"port {tag['peer']} has still to acknowledge CTL-Write, tag {tag['tag']}"


def _head(fabric: str, switch: dict[str, Any]) -> str:
    if switch["silent"]:
        return f"{fabric}: the switch is silent, it is no peer"
    role = "primary fabric manager" if switch["manager"] else "no manager"
    return f"{fabric}: {switch['nodename']} ({switch['cclass']}), id {switch['id']}, {_ids(switch)}, {role}"


def _rule(ports: int) -> str:
    return "+" + ports * ("-" * (_INSIDE + 2) + "+")


def _boxes(ports: Sequence[dict[str, Any]]) -> Iterable[str]:
    for lines in zip(*map(_port, ports), strict=True):
        yield "|" + "".join(f" {line[:_INSIDE].ljust(_INSIDE)} |" for line in lines)


def _port(port: dict[str, Any]) -> tuple[str, str, str, str]:
    # Where the switch has configured nothing, what the component says of itself.
    known = port if port["cid"] is not None else port["attributes"]
    ids = _ids(known) if known else ""
    return f"{port['id']:<3}{port['link']:>{_INSIDE - 3}}", port["nodename"], port["cclass"], ids


def _ids(known: dict[str, Any]) -> str:
    return f"CID.SID {known['cid']}.{known['sid']}"


def _things(state: dict[str, dict[str, str]]) -> Iterable[str]:
    for name, fields in state.items():
        yield f"{name}: {', '.join(f'{key} {value}' for key, value in fields.items())}".rstrip(": ")
