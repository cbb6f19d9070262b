"""Pinned ports: who gets them, who does not, and what a worker's death or succession makes of them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from famezd.fabric.handed import START_FAILED
from famezd.fabric.settings import Settings
from tests.fabric import tracing
from tests.fabric.conftest import Start, settings
from tests.fabric.lineage import handed_over, prepared
from tests.fabric.test_access import LET_IN, REFUSED, ROOT, UID, newcomer
from tests.fabric.test_bad_peers import fill, refused, rings
from tests.fabric.workers import GENZ, Raw, Worker

OWN = os.geteuid()
ACCEPT4 = 288 if os.uname().machine == "x86_64" else 242
"""Its number, on x86_64 and as most other architectures have it."""


def pinned(folder: Path, pins: str, **given: object) -> Settings:
    return settings(folder, pins=pins, port_sockets=str(folder), **given)


class Doors:
    """Connects at ports' own sockets; what came there is closed with the worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def connect(self, port: int) -> Raw:
        own = self._worker.settings
        client = Raw(own._replace(socket=own.port_socket(port)))
        self._worker.at_end(client.close)
        return client

    def join(self, port: int) -> Raw:
        return self.connect(port).set_up()


def test_a_port_with_a_socket_of_its_own_is_for_who_joins_there(start: Start, folder: Path, doorbells: str) -> None:
    worker = start(pins="1:socket,3:socket", port_sockets=str(folder), doorbells=doorbells)
    doors = Doors(worker)
    ordinary = [worker.join() for _ in range(3)]
    assert [peer.id for peer in ordinary] == [0, 2, 4]
    assert refused(worker.connect())
    worker.await_total("refused_pinned", 1)
    worker.await_log("the ports that are free are pinned, to other users or to sockets of their own\treason=pinned")
    three, one = doors.join(3), doors.join(1)
    assert (three.id, one.id) == (3, 1)
    rings(worker, three, ordinary[1])
    rings(worker, ordinary[0], one)
    # All are taken now.
    assert refused(worker.connect())
    worker.await_total("refused_full", 1)
    assert refused(doors.connect(3))
    worker.await_total("refused_pinned", 2)
    worker.await_log("peer refused: port 3, whose own socket this is, is taken\treason=pinned")


def test_a_machine_that_is_restarted_finds_its_port_free_at_once(start: Start, folder: Path) -> None:
    worker = start(pins=f"2:socket,4:{OWN}", port_sockets=str(folder))
    doors = Doors(worker)
    fill_up = [worker.join() for _ in range(3)]
    assert [peer.id for peer in fill_up] == [4, 0, 1]
    at_socket, of_user = doors.join(2), fill_up[0]
    for _ in range(30):
        # Not waited for: the news of the one's end and of the other's coming may be in any order.
        at_socket.close()
        at_socket = doors.join(2)
        assert at_socket.id == 2
        of_user.close()
        of_user = worker.join()
        assert of_user.id == 4
    rings(worker, of_user, at_socket)
    assert worker.refused == 0


def test_a_hang_up_that_is_not_heard_of_yet_is_looked_for(start: Start) -> None:
    """It comes when the worker has begun to accept: without looking it would give another port."""
    worker = start(pins=f"4:{OWN}")
    before, other = worker.join(), worker.join()
    assert (before.id, other.id) == (4, 0)
    worker.barrier()
    with tracing.stopped(worker.pid):
        again = worker.connect()
        while not accepts(worker.pid):
            tracing.to_system_call(worker.pid)
        before.close()
    assert again.set_up().id == 4
    rings(worker, again, other)


def accepts(pid: int) -> bool:
    """Whether a process is about to accept a connection."""
    call = tracing.system_call(pid)
    return call is not None and call.number == ACCEPT4


def test_the_first_of_a_user_gets_its_port_whatever_is_free(start: Start) -> None:
    worker = start(pins=f"2:{OWN},4:{OWN}", socket_mode=0o666)
    peers = fill(worker)
    assert [peer.id for peer in peers] == [2, 4, 0, 1, 3]
    peers[1].close()
    peers[3].close()
    assert [worker.join().id, worker.join().id] == [4, 1]


@pytest.mark.skipif(not ROOT, reason="only root can be another user")
def test_nobody_else_ever_gets_a_users_port(start: Start) -> None:
    worker = start(pins=f"0:{OWN},1:{OWN}", peers=3, socket_mode=0o666)
    with newcomer(worker) as somebody:
        assert [somebody.knocks(), somebody.knocks()] == [LET_IN, REFUSED]
        assert worker.present == [2]
        worker.await_total("refused_pinned", 1)
        worker.await_log(f'reason=pinned pid={somebody.pid} uid={UID} program="a newcomer"')
        assert [worker.join().id, worker.join().id] == [0, 1]
        assert refused(worker.connect())
        worker.await_total("refused_full", 1)


@pytest.mark.skipif(not ROOT, reason="only root can be another user")
def test_access_is_the_fabrics_at_every_socket(start: Start, folder: Path) -> None:
    worker = start(pins="1:socket", port_sockets=str(folder), users=str(UID), socket_mode=0o666)
    assert refused(Doors(worker).connect(1))
    worker.await_total("refused_access", 1)
    worker.settings = worker.settings._replace(socket=worker.settings.port_socket(1))
    with newcomer(worker) as somebody:
        assert [somebody.knocks(), somebody.knocks()] == [LET_IN, REFUSED]
        assert worker.present == [1]


def test_every_socket_has_the_same_owner_group_and_mode(folder: Path) -> None:
    owner, group = (1234, 5678) if ROOT else (OWN, os.getegid())
    wanted = pinned(folder, "1:socket", socket_mode=0o606, socket_uid=owner, socket_gid=group)
    with Worker(pinned(folder, "1:socket"), folder) as worker:
        worker.kill()
        with Worker(wanted, folder, kept=worker.kept):
            for path in (wanted.socket, wanted.port_socket(1)):
                found = os.stat(path)
                assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o606, owner, group)


def test_the_sockets_survive_the_workers_death(folder: Path) -> None:
    wanted = pinned(folder, "1:socket,2:socket", personality=GENZ, peers=5)
    with Worker(wanted, folder) as worker:
        assert {"socket", "socket.1", "socket.2"} <= worker.kept.keys()
        ordinary, there = worker.join(), Doors(worker).join(2)
        worker.barrier()
        worker.kill()
        # They can be connected to all the while.
        waiting, again = Doors(worker).connect(1), Doors(worker).connect(2)
        with Worker(wanted, folder, kept=worker.kept) as successor:
            assert waiting.set_up().id == 1
            assert refused(again)
            rings(successor, there, ordinary)
            rings(successor, ordinary, waiting)
            # Nothing new was stored.
            assert not any(told.get("FDNAME", "").startswith("socket") for told in successor.told)


def test_a_succession_adds_and_removes_pins_and_disturbs_nobody(start: Start, folder: Path) -> None:
    worker = start(pins="1:socket,2:socket", port_sockets=str(folder))
    one, ordinary = Doors(worker).join(1), worker.join()
    assert (one.id, ordinary.id) == (1, 0)
    worker.barrier()
    changed = pinned(folder, f"0:socket,2:socket,4:{OWN}")
    successor = prepared(worker, folder, changed)
    with handed_over(worker, successor):
        assert {name for name in successor.kept if name.startswith("socket")} == {"socket", "socket.0", "socket.2"}
        rings(successor, one, ordinary)
        doors = Doors(successor)
        # Who was on a port before it was pinned stays there.
        assert refused(doors.connect(0))
        assert doors.join(2).id == 2
        assert [successor.join().id, successor.join().id] == [4, 3]
        one.close()
        # It is an ordinary port now.
        assert successor.join().id == 1
        ordinary.close()
        successor.wait(lambda: 0 not in successor.present, "it has left")
        assert refused(successor.connect())
        assert doors.join(0).id == 0


def test_a_socket_that_cannot_be_made_is_named(folder: Path) -> None:
    wanted = pinned(folder, "0:socket,1:socket")
    Path(wanted.port_socket(1)).write_text("somebody's")
    worker = Worker(wanted, folder)
    try:
        assert worker.ended() == START_FAILED
        assert f"cannot listen on {wanted.port_socket(1)}: there is a file that is no socket" in worker.log
    finally:
        worker.close()
    assert Path(wanted.port_socket(1)).read_text() == "somebody's"
    assert not Path(wanted.port_socket(0)).exists()
    assert not Path(wanted.socket).exists()


def test_pins_that_are_none_are_named(folder: Path) -> None:
    worker = Worker(settings(folder, pins="1:alice"), folder)
    try:
        assert worker.ended() == START_FAILED
        assert "pins=1:alice: pins are PORT:UID or PORT:socket, with commas between" in worker.log
    finally:
        worker.close()


def test_many_newcomers_at_many_sockets_at_once(start: Start, folder: Path) -> None:
    ports = range(12)
    worker = start(pins=",".join(f"{port}:socket" for port in ports), port_sockets=str(folder), peers=12)
    doors = Doors(worker)
    clients = [(port, doors.connect(port)) for port in ports for _ in range(3)]
    for port in ports:
        at_port = [client for p, client in clients if p == port]
        # The first in line gets it.
        assert at_port[0].set_up().id == port
        assert refused(at_port[1])
        assert refused(at_port[2])
    worker.await_total("refused_pinned", 24)
