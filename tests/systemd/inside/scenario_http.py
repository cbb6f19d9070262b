"""HTTP of a service that may open no network sockets: it comes from famezd-http.socket."""

from __future__ import annotations

import socket
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from famezd.client import Doorbell, Peer
from tests.daemon import PATIENCE, eventually
from tests.systemd.inside.unit import HTTP, NAME, Unit, drop_in, run, systemctl

LAB = {"lab": {"personality": "genz", "peers": 4, "vectors": 16}}
PORT = 9991
NOT_SERVED = "HTTP is not served"


def listening(port: int) -> list[str]:
    """The inodes of the TCP sockets that listen on a port of 127.0.0.1."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [row[9] for row in rows if row[1] == f"0100007F:{port:04X}" and row[3] == "0A"]


@contextmanager
def disabled() -> Iterator[None]:
    """Nobody has enabled the socket."""
    systemctl("disable", HTTP)
    try:
        yield
    finally:
        systemctl("enable", HTTP)


def works(one: Peer, other: Peer) -> None:
    """They are what they were to each other."""
    one.ring(other.id, 3)
    assert other.wait(PATIENCE) == [Doorbell(3, 1)]


def test_who_stops_and_starts_it_again_and_again_has_it() -> None:
    with Unit(LAB) as unit:
        # Five in ten seconds are what systemd lets a unit start by itself.
        for _ in range(7):
            unit.stop()
            unit.start()
            assert unit.metrics("famez_fabric_up", "fabric") == {("lab",): 1}


def test_the_tcp_socket_stays_through_restarts_and_crashes() -> None:
    with Unit(LAB) as unit:
        before = listening(PORT)
        assert len(before) == 1
        unit.restart()
        assert listening(PORT) == before
        main = unit.main_pid
        unit.kill()
        unit.await_active(other_than=main)
        assert listening(PORT) == before
        with unit.down(), socket.create_connection(("127.0.0.1", PORT), PATIENCE) as waiting:
            waiting.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            stays = socket.socket(fileno=waiting.detach())
        with stays:
            stays.settimeout(PATIENCE)
            assert stays.recv(64).split()[1] == b"200"
        assert NOT_SERVED not in unit.journal()


def test_a_scrape_does_not_start_what_somebody_has_stopped() -> None:
    with Unit(LAB) as unit:
        assert "famez_fabric_up" in unit.scrape()
        unit.stop()
        eventually(lambda: not listening(PORT), "nobody listens any more")
        with pytest.raises(urllib.error.URLError, match="Connection refused"):
            unit.scrape()
        assert unit.show("ActiveState") == "inactive"


def test_that_nobody_has_enabled_it_is_said_once_with_what_to_do() -> None:
    with disabled(), Unit(LAB) as unit, unit.join("lab") as one, unit.join("lab") as other:
        assert listening(PORT) == []
        assert unit.journal().count(NOT_SERVED) == 1
        commands = f"systemctl enable {HTTP} && systemctl restart famezd"
        assert f"`{commands}`" in unit.journal()
        systemctl("reload", NAME)
        assert unit.journal().count(NOT_SERVED) == 1
        done = run("sh", "-c", commands)
        assert done.returncode == 0, done.stderr
        assert unit.metrics("famez_fabric_peers", "fabric") == {("lab",): 2}
        works(one, other)


def test_without_it_http_may_be_null_and_nothing_is_said() -> None:
    with disabled(), Unit(LAB, http={"listen": None}) as unit:
        assert "HTTP" not in unit.journal()


def test_a_port_that_is_taken_keeps_no_fabric_from_being_served() -> None:
    unit = Unit(LAB)
    with socket.create_server(("127.0.0.1", PORT)), unit, unit.join("lab") as one, unit.join("lab") as other:
        assert NOT_SERVED in unit.journal()
        assert f"`systemctl status {HTTP}`" in unit.journal()
        unit.restart()
        works(one, other)


def test_a_stop_of_the_socket_hurts_nobody() -> None:
    with Unit(LAB) as unit, unit.join("lab") as one, unit.join("lab") as other:
        systemctl("stop", HTTP)
        works(one, other)
        assert unit.show("ActiveState") == "active"
        unit.restart()
        works(one, other)
        assert "famez_fabric_up" in unit.scrape()


def test_another_address_is_the_sockets_to_say() -> None:
    lines = "[Socket]\nListenStream=\nListenStream=127.0.0.1:9992\n"
    with drop_in(HTTP, lines), Unit(LAB) as unit:
        assert (len(listening(9992)), listening(PORT)) == (1, [])
        assert "http.listen" not in unit.journal()
        unit.write_settings(http={"listen": "127.0.0.1:9992"})
        systemctl("reload", NAME)
        assert "http.listen" not in unit.journal()
        for listen, written in ((f"127.0.0.1:{PORT + 2}", f"127.0.0.1:{PORT + 2}"), (None, "null")):
            unit.write_settings(http={"listen": listen})
            systemctl("reload", NAME)
            told = f"http.listen is {written}, but HTTP is served where systemd listens, on http://127.0.0.1:9992: "
            assert unit.journal().count(told) == 1
        assert f"systemctl edit {HTTP}" in unit.journal()


def test_without_the_socket_unit_famezd_can_be_let_listen() -> None:
    lines = "[Service]\nPrivateNetwork=no\nRestrictAddressFamilies=AF_INET AF_INET6\nIPAddressDeny=\n"
    with disabled(), drop_in(NAME, lines), Unit(LAB) as unit:
        assert "famez_fabric_up" in unit.scrape()
        assert NOT_SERVED not in unit.journal()


def test_peers_of_other_networks_join() -> None:
    with Unit(LAB) as unit:
        networks = {Path(f"/proc/{pid}/ns/net").readlink() for pid in ("self", *unit.processes())}
        assert len(networks) == 2
        done = run("unshare", "--net", "famez-client", "-S", str(unit.socket("lab")), "ping", "-c1", "switch")
        assert done.returncode == 0, done.stderr
