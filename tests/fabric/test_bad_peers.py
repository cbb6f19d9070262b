"""Peers that misbehave, die or do not read: each costs only itself."""

from __future__ import annotations

import fcntl
import math
import os
import random
import resource
import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest

from famezd.client import ClientError, Peer
from famezd.protocol import Message
from tests.fabric.conftest import Kind, Start
from tests.fabric.workers import DEADLINE, GENZ, Raw, Worker, take

FULL = 2**64 - 2
"""The most that an eventfd holds."""


def refused(client: Raw) -> bool:
    """Whether the newcomer is turned away in the one way that QEMU survives: the version -1, then the end."""
    return client.read() == Message(-1) and client.at_end()


def rings(worker: Worker, src: Raw, dst: Raw, vector: int = 0) -> None:
    """`src` can ring `dst`."""
    worker.acquaint(src, dst)
    src.ring(dst.id, vector)
    worker.wait(lambda: dst.take(vector) == 1, f"peer {dst.id} is rung by peer {src.id}")


def fill(worker: Worker) -> list[Raw]:
    """Takes all ports that are free."""
    return [worker.join() for _ in range(worker.settings.peers - len(worker.present))]


def let_block(eventfd: int) -> None:
    """Clears O_NONBLOCK, for everybody who has this eventfd open."""
    fcntl.fcntl(eventfd, fcntl.F_SETFL, fcntl.fcntl(eventfd, fcntl.F_GETFL) & ~os.O_NONBLOCK)


def test_peer_that_sends_bytes_is_dropped(start: Start, kind: Kind) -> None:
    worker = start(**kind._asdict())
    first, chatty, last = (worker.join() for _ in range(3))
    worker.acquaint(first, chatty, last)
    for n, text in enumerate((b"x", b"GET / HTTP/1.1\r\n\r\n", b"\0" * 4096), 1):
        chatty.connection.send(text)
        assert chatty.at_end()
        worker.await_total("left_bytes", n)
        rings(worker, last, first)
        chatty = worker.join()
        rings(worker, last, chatty)
    worker.await_log("reason=bytes", 3)


def test_bytes_sent_before_the_set_up_was_read(start: Start, kind: Kind) -> None:
    worker = start(**kind._asdict())
    for _ in range(20):
        worker.connect().connection.send(b"hello")
    worker.wait(lambda: not worker.present and worker.left + worker.refused == 20, "all are dropped")
    assert worker.totals["left_bytes"] == worker.totals["joins"]


def test_peer_that_never_reads_disturbs_nobody_and_is_told_all(start: Start, kind: Kind) -> None:
    """Its set-up and all that was announced meanwhile do not fit into its socket."""
    worker = start(**kind._asdict(), peers=14, vectors=16)
    sleeper = worker.connect()
    worker.await_total("joins", 1)
    choose = random.Random(14)
    others = [worker.join() for _ in range(13)]
    for _ in range(12):
        for gone in choose.sample(others, choose.randint(1, 13)):
            others.remove(gone)
            gone.close()
        worker.wait(lambda: len(worker.present) == 1 + len(others), "they have left")  # noqa: B023
        others += [worker.join() for _ in range(13 - len(others))]
        rings(worker, choose.choice(others[:6]), choose.choice(others[6:]), choose.randrange(16))
    for gone in others[3:]:
        gone.close()
    del others[3:]
    worker.wait(lambda: len(worker.present) == 4, "most have left")
    truth = set(range(14)) if kind.ports == "sticky" else set(worker.present)
    worker.wait(lambda: sleeper.hear() is None or set(sleeper.client.peers) == truth, "the sleeper knows all")
    assert {len(bells) for bells in sleeper.client.peers.values()} == {16}
    worker.barrier()
    assert not sleeper.hear()
    for other in others:
        rings(worker, sleeper, other, 15)
        rings(worker, other, sleeper, 9)


def test_peer_that_dies_in_its_set_up(start: Start, kind: Kind) -> None:
    """After each of these numbers of messages, of 323 in all; a socket takes 278 at once."""
    worker = start(**kind._asdict(), peers=20, vectors=16)
    others = [worker.join() for _ in range(19)]
    for n, read in enumerate((0, 0, 1, 2, 3, 4, 18, 100, 277, 278, 279, 320, 322, 323), 1):
        client = worker.connect()
        for _ in range(read):
            client.understand(client.read() or pytest.fail("the set-up ends early"))
        client.close()
        worker.await_total("left_hangup", n)
        assert len(worker.present) == 19
    newcomer = worker.join()
    for other in (others[0], others[-1]):
        rings(worker, newcomer, other)
        rings(worker, other, newcomer)


def test_peers_that_hang_up_at_once(start: Start, kind: Kind) -> None:
    worker = start(**kind._asdict())
    first, second = worker.join(), worker.join()
    for _ in range(500):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(worker.settings.socket)
    worker.wait(lambda: worker.totals["joins"] + worker.refused == 502, "all have been seen")
    worker.wait(lambda: worker.present == [first.id, second.id], "all have left")
    assert worker.refused == 0, worker.totals
    worker.wait(lambda: first.knows(4 if kind.ports == "sticky" else 1), "the first knows the second")
    rings(worker, first, second)
    assert sorted([first, second, *fill(worker)], key=lambda client: client.id)[-1].id >= 4


def test_newcomer_to_a_full_fabric_is_refused(start: Start, kind: Kind) -> None:
    worker = start(**kind._asdict())
    clients = fill(worker)
    for n in range(1, 4):
        assert refused(worker.connect())
        worker.await_total("refused_full", n)
    with pytest.raises(ClientError, match="refuses"):
        worker.peer()
    worker.await_log("all 5 ports are taken")
    rings(worker, clients[0], clients[4])


def test_place_of_who_hung_up_is_free_at_once(start: Start, kind: Kind) -> None:
    worker = start(**kind._asdict())
    clients = fill(worker)
    for _ in range(200):
        clients.pop(0).close()
        clients.append(worker.join())
    assert worker.refused == 0


def test_several_places_are_free_at_once(start: Start, kind: Kind) -> None:
    """Newcomers that stand in line together, each behind the departure of another."""
    worker = start(**kind._asdict(), peers=8)
    clients = fill(worker)
    for _ in range(30):
        for client in clients:
            client.close()
        clients = [worker.connect() for _ in range(8)]
        for client in clients:
            client.set_up()
    assert worker.refused == 0


IDLE = """
import socket, sys
idle = [socket.socket(socket.AF_UNIX) for _ in range(int(sys.argv[2]))]
for connection in idle:
    connection.connect(sys.argv[1])
sys.stdin.read()
"""


def test_three_hundred_peers_that_never_read(start: Start, ports: str) -> None:
    """In several processes: one that could not hold what it is sent is refused.

    Fewer for a user whose unread descriptors the kernel limits: there are as many as peers, squared.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    crowd = 300 if os.geteuid() == 0 or limit < 0 else min(300, math.isqrt(limit // 2))
    crowd -= crowd % 6
    worker = start(doorbells="direct", ports=ports, peers=crowd + 2, vectors=1)
    first = worker.join()
    with ExitStack() as stack:
        idle = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", IDLE, worker.settings.socket, str(crowd // 6)], stdin=subprocess.PIPE
                )
            )
            for _ in range(6)
        ]
        worker.wait(lambda: len(worker.present) == crowd + 1, "they have joined")
        last = worker.join()
        assert last.peers == sorted({*range(crowd + 2)} - {last.id})
        worker.wait(lambda: first.knows(crowd + 1), "the first knows all")
        rings(worker, first, last)
        rings(worker, last, first)
        assert refused(worker.connect())
        for process in idle:
            process.kill()
        worker.await_total("left_hangup", crowd)
        worker.wait(lambda: first.knows(crowd + 1 if ports == "sticky" else 1), "the first knows the last")
        rings(worker, first, last)


def test_three_hundred_connections_to_a_relayed_fabric(start: Start, ports: str) -> None:
    worker = start(doorbells="relayed", ports=ports, peers=14, vectors=16)
    first, second = worker.join(), worker.join()
    idle = [worker.connect() for _ in range(300)]
    worker.await_total("refused_full", 288)
    rings(worker, first, second)
    for client in idle:
        client.connection.close()
    worker.wait(lambda: worker.present == [first.id, second.id], "they have left")
    assert len(fill(worker)) == 12


def test_peer_whose_eventfd_blocks_is_expelled(start: Start, ports: str) -> None:
    worker = start(doorbells="relayed", ports=ports)
    src, stalled, dst = (worker.join() for _ in range(3))
    worker.acquaint(src, stalled, dst)
    let_block(stalled.own[1])
    os.eventfd_write(stalled.own[1], FULL)
    for n in range(1, 51):
        # Both at once: one may be behind the other in the worker's hand.
        src.ring(dst.id, 2)
        if n == 10:
            src.ring(stalled.id, 1)
        worker.wait(lambda: dst.take(2), "the other is rung all the same")
    worker.await_total("left_stalled", 1)
    assert worker.present == [src.id, dst.id]
    worker.wait(
        lambda: stalled.hear() is not None and stalled.connection.recv(1, socket.MSG_DONTWAIT) == b"", "its end"
    )
    worker.await_log("reason=stalled")
    worker.wait(lambda: sum(worker.doorbells().values()) == 51, "all are counted")
    assert worker.totals["dropped"] == 1
    # Nor may the process come back at once, to do it again.
    assert worker.connect().read() == Message(-1)
    worker.await_total("refused_stalled", 1)


def test_many_doorbells_for_a_peer_whose_eventfds_block(start: Start, ports: str) -> None:
    """In one batch: it is expelled at the first, and does not hold up the loop again and again."""
    worker = start(doorbells="relayed", ports=ports, vectors=16)
    src, stalled, dst = (worker.join() for _ in range(3))
    worker.acquaint(src, stalled, dst)
    for eventfd in stalled.own:
        let_block(eventfd)
        os.eventfd_write(eventfd, FULL)
    for vector in range(16):
        src.ring(stalled.id, vector)
        src.ring(dst.id, vector)
    worker.wait(lambda: dst.take(15), "the other is rung all the same")
    worker.await_total("left_stalled", 1)
    worker.await_total("dropped", 16)


def test_switch_expels_a_peer_whose_eventfd_blocks(start: Start, doorbells: str) -> None:
    """Where bells are direct only the switch writes into a peer's eventfd."""
    worker = start(doorbells=doorbells, personality=GENZ)
    with worker.peer() as good, worker.peer() as bad:
        stalled = bad._protocol.peers[bad._protocol.peer or pytest.fail("no id")][6]
        let_block(stalled)
        os.eventfd_write(stalled, FULL)
        ping(bad)
        worker.await_total("left_stalled", 1)
        assert worker.present == [good.id]
        ping(good)
        worker.wait(lambda: take(good._protocol.peers[good._protocol.peer or pytest.fail("no id")][6]), "it answers")


def ping(peer: Peer) -> None:
    """Writes `ping` into the peer's own slot, and rings the switch."""
    os.pwrite(peer.memory, b"ping\0", peer.id * 512 + 128)
    os.pwrite(peer.memory, (4).to_bytes(8, "little"), peer.id * 512 + 64)
    peer.ring(6, peer.id)


def test_peer_that_lets_its_bells_block_holds_up_nobody(start: Start, ports: str) -> None:
    """It rings, and takes the count back before the worker does: a plain read would wait for ever."""
    worker = start(doorbells="relayed", ports=ports, vectors=16)
    src, *others = fill(worker)
    worker.acquaint(src, *others)
    bells = [bell for other in others for bell in src.bells(other.id)]
    for bell in bells:
        let_block(bell)
    for _ in range(300):
        for bell in bells:
            os.eventfd_write(bell, 1)
        # The worker has heard of them all, and takes them one by one.
        for bell in reversed(bells):
            take(bell)
    worker.barrier()
    for other in others:
        # What the worker was quick enough to pass on.
        for eventfd in other.own:
            take(eventfd)
    rings(worker, others[0], src)
    rings(worker, others[1], others[2])
    assert worker.left == 0


def test_peer_that_fills_the_switchs_eventfd(start: Start, doorbells: str) -> None:
    worker = start(doorbells=doorbells, personality=GENZ)
    client, other = worker.join(), worker.join()
    for vector in range(7):
        let_block(client.bells(6)[vector])
        os.eventfd_write(client.bells(6)[vector], FULL)
    worker.await_total("clipped", 7)
    rings(worker, client, other)


def test_bell_with_more_than_can_be_rung_is_clipped(start: Start, ports: str) -> None:
    worker = start(doorbells="relayed", ports=ports)
    src, dst = worker.join(), worker.join()
    worker.acquaint(src, dst)
    os.eventfd_write(src.bells(dst.id)[1], FULL)
    worker.await_total("clipped", 1)
    worker.await_doorbells({(0, 1, 1): 1 << 32})
    assert dst.take(1) == 1 << 32
    for _ in range(3):
        os.eventfd_write(src.bells(dst.id)[1], FULL)
        worker.barrier()
    worker.await_total("clipped", 4)
    worker.await_doorbells({(0, 1, 1): 4 << 32})
    assert dst.take(1) == 3 << 32
    rings(worker, dst, src)


def test_peer_that_shuts_its_socket_half(start: Start, kind: Kind) -> None:
    worker = start(**kind._asdict())
    client, other, third = (worker.join() for _ in range(3))
    worker.acquaint(client, other, third)
    client.connection.shutdown(socket.SHUT_WR)
    worker.await_total("left_hangup", 1)
    other.hear()
    other.connection.shutdown(socket.SHUT_RD)
    newcomer = worker.join()
    rings(worker, third, newcomer)


def test_peer_killed_at_random_moments(start: Start, kind: Kind) -> None:
    """Newcomers close after a random part of the set-up, several at a time; those who stay miss nothing."""
    worker = start(**kind._asdict(), peers=10, vectors=8)
    stay = [worker.join() for _ in range(3)]
    choose = random.Random(3)
    for _ in range(25):
        comers = [worker.connect() for _ in range(7)]
        choose.shuffle(comers)
        for comer in comers:
            for _ in range(choose.choice((0, 0, 1, 2, 3, 10, 11, 12, 30))):
                message = comer.read()
                assert message is not None
                if message.value == -1 and message.descriptor is None:
                    break
                comer.understand(message)
            comer.close()
    worker.wait(lambda: worker.present == [client.id for client in stay], "the others have left")
    assert worker.refused == 0
    known = 9 if kind.ports == "sticky" else 2
    for client in stay:
        worker.wait(lambda: client.knows(known), "all know all")  # noqa: B023 (called at once)
    rings(worker, stay[0], stay[2], 7)
    rings(worker, stay[2], stay[1], 0)


def test_library_notices_the_end(start: Start, kind: Kind) -> None:
    worker = start(**kind._asdict())
    with worker.peer() as peer, worker.peer():
        while peer.wait(0.0):
            pass
        worker.check()
        with pytest.raises(ClientError, match="ended the membership"):
            peer.wait(DEADLINE)
        peer.ring(peer.peers[0])
