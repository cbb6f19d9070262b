"""What a peer's connection does with its outbox."""

import os
import socket
from collections.abc import Callable, Iterator

import pytest

from famezd.fabric.peer import BURST, Peer
from famezd.protocol import Batch, Descriptor, Outbox, PeerId, encode
from tests.unit.conftest import closing


@pytest.fixture
def connected() -> Iterator[tuple[Peer, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Peer(ours, PeerId(3), 2, Outbox(), pid=os.getpid(), joined=0), theirs


def test_each_message_travels_by_itself_with_its_descriptor(
    connected: tuple[Peer, socket.socket], eventfd: Callable[[], int]
) -> None:
    peer, theirs = connected
    bells = [eventfd(), eventfd()]
    peer.owe([Batch(0), Batch(4, [Descriptor(fd) for fd in bells])])
    peer.flush()
    # The kernel ends a read behind a message with a descriptor.
    for expected, bell in ((encode(0) + encode(4), bells[0]), (encode(4), bells[1])):
        data, descriptors, _, _ = socket.recv_fds(theirs, 64, 4)
        assert (data, len(descriptors)) == (expected, 1)
        with closing(*descriptors):
            os.eventfd_write(bell, 5)
            assert os.eventfd_read(descriptors[0]) == 5


def test_what_a_full_socket_does_not_take_is_sent_later_and_none_is_lost(
    connected: tuple[Peer, socket.socket],
) -> None:
    peer, theirs = connected
    total = 20000
    peer.owe(Batch(n) for n in range(total))
    received = b""
    flushes = 0
    while len(received) < 8 * total:
        try:
            while peer.flush():
                pass
        except BlockingIOError:
            flushes += 1
        received += theirs.recv(1 << 16)
    assert received == b"".join(encode(n) for n in range(total))
    assert flushes
    assert not peer.outbox


def test_a_peer_that_hung_up_is_an_error_and_no_signal(connected: tuple[Peer, socket.socket]) -> None:
    peer, theirs = connected
    theirs.close()
    peer.owe([Batch(0)])
    with pytest.raises(BrokenPipeError):
        peer.flush()


def test_a_flush_sends_no_more_than_a_burst(connected: tuple[Peer, socket.socket]) -> None:
    peer, theirs = connected
    peer.owe(Batch(n) for n in range(BURST + 3))
    assert peer.flush()
    assert theirs.recv(1 << 16) == b"".join(map(encode, range(BURST)))
    assert not peer.flush()
    assert theirs.recv(1 << 16) == b"".join(map(encode, range(BURST, BURST + 3)))
