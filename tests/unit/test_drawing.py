"""The drawing of a switch, whatever guests and plug-ins wrote."""

from typing import Any

from famezd.cli.drawing import COLUMNS, show_switch


def port(n: int, **told: object) -> dict[str, Any]:
    nothing = {"link": "down", "nodename": "", "cclass": "", "cid": None, "sid": None, "attributes": None, "nak": None}
    return {"id": n, **nothing, **told}


def front(*ports: dict[str, Any], **switch: object) -> dict[str, Any]:
    own = {"id": 5, "nodename": "Z-server", "cclass": "FabricSwitch", "cid": 500, "sid": 27}
    roles = {"manager": False, "silent": False}
    return {"fabric": "lab", "switch": own | roles | switch, "ports": list(ports), "outstanding": []}


def test_ports_that_do_not_fit_go_to_the_next_row() -> None:
    for n in (1, 3, 4, 5, 14, 62):
        lines = show_switch(front(*(port(i) for i in range(1, n + 1)))).splitlines()
        assert lines[0] == "lab: Z-server (FabricSwitch), id 5, CID.SID 500.27, no manager"
        assert all(len(line) <= COLUMNS for line in lines)
        rows = -(-n // 4)
        assert len(lines) == 1 + 1 + 5 * rows
        assert lines[-1].count("+") == 1 + (n - 1) % 4 + 1
        assert sum(line.count("down") for line in lines) == n


def test_what_guests_wrote_is_cut_and_moves_no_cursor() -> None:
    numbers = {"cclass": "x", "cid": (1 << 64) - 1, "sid": (1 << 64) - 1}
    drawn = show_switch(
        front(port(1, link="up", nodename="n" * 31, cclass="\x1b[2J", attributes=numbers, nak="\x1b]0;x\x07\n\x9b"))
    )
    assert all(c.isprintable() for c in drawn.replace("\n", ""))
    assert f"| {'n' * 16} |" in drawn
    assert "| CID.SID 18446744 |" in drawn
    assert drawn.splitlines()[-1] == "port 1 refused a request: \ufffd]0;x\ufffd\ufffd\ufffd"


def test_what_a_plug_in_knows_is_listed() -> None:
    state = {"hub": {"messages": "7", "peers": "2"}, "nothing": {}, "odd\n": {"a\x1b": "b"}}
    shown = show_switch({"fabric": "party", "personality": "hub", "state": state})
    assert shown == "hub: messages 7, peers 2\nnothing\nodd\ufffd: a\ufffd b"
