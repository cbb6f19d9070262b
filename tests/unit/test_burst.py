"""Many messages by one system call."""

import errno
import os
import socket
from collections.abc import Callable, Iterator

import pytest

from famezd.fabric.burst import Burst
from famezd.protocol import Descriptor, encode

MOST = 5


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        yield ours, theirs


def receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """What one read returns: the kernel ends it behind a message with a descriptor."""
    data, descriptors, _, _ = socket.recv_fds(connection, 64, 4)
    return data, descriptors


@pytest.mark.parametrize("n", [1, MOST - 1, MOST])
def test_each_message_carries_its_own_descriptor(
    pair: tuple[socket.socket, socket.socket], eventfd: Callable[[], int], n: int
) -> None:
    burst, (ours, theirs) = Burst(MOST), pair
    # Twice: nothing of the first is left in the second.
    for value in (-1, 7):
        bells = [Descriptor(eventfd()) for _ in range(n)]
        words = b"".join(encode(value + i) for i in range(n))
        assert burst.send(ours.fileno(), words, bells) == n
        for i, bell in enumerate(bells):
            data, (descriptor,) = receive(theirs)
            assert data == encode(value + i)
            os.eventfd_write(descriptor, i + 1)
            os.close(descriptor)
            assert os.eventfd_read(bell) == i + 1
    with pytest.raises(BlockingIOError):
        receive(theirs)


def test_what_the_socket_does_not_take_is_not_counted_as_sent(
    pair: tuple[socket.socket, socket.socket], eventfd: Callable[[], int]
) -> None:
    burst, (ours, theirs), bells = Burst(MOST), pair, [Descriptor(eventfd())] * MOST
    sent = 0
    while True:
        try:
            sent += burst.send(ours.fileno(), encode(1) * len(bells), bells)
        except BlockingIOError:
            break
    for _ in range(sent):
        data, (descriptor,) = receive(theirs)
        assert data == encode(1)
        os.close(descriptor)
    with pytest.raises(BlockingIOError):
        receive(theirs)


def test_a_burst_stops_before_a_descriptor_that_cannot_be_sent(
    pair: tuple[socket.socket, socket.socket], eventfd: Callable[[], int]
) -> None:
    burst, (ours, theirs) = Burst(MOST), pair
    bells = [Descriptor(eventfd()), Descriptor(-1), Descriptor(eventfd())]
    assert burst.send(ours.fileno(), encode(1) * len(bells), bells) == 1
    os.close(receive(theirs)[1][0])
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        burst.send(ours.fileno(), encode(1) * 2, bells[1:])


def test_who_hung_up_is_an_error_and_no_signal(
    pair: tuple[socket.socket, socket.socket], eventfd: Callable[[], int]
) -> None:
    ours, theirs = pair
    theirs.close()
    with pytest.raises(BrokenPipeError):
        Burst(MOST).send(ours.fileno(), encode(1), [Descriptor(eventfd())])
