"""The ivshmem protocol: whatever comes and goes, every peer's view becomes the truth, and QEMU's law is kept."""

import os
import socket
from collections import deque
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from famezd.fabric.ids import FreshIds
from famezd.protocol import (
    MEMORY,
    MESSAGE_SIZE,
    REFUSAL,
    VERSION,
    Batch,
    Client,
    Descriptor,
    Event,
    Identified,
    MemoryShared,
    Message,
    Outbox,
    PeerId,
    PeerLeft,
    ProtocolError,
    Vector,
    VectorAdded,
    announcement,
    decode,
    departure,
    encode,
    marked,
    refusal,
    setup,
)

CAPACITY = 3
VECTORS = 2
IDS = range(4)
DOUBT, GREETING, PLACES_AT = 0, 1, 4
"""Where in a peer's marks what is, as in a row of the stats page."""
SETUP_ONLY = 4
"""Batches of a set-up that are nobody else's announcement: version, id, memory, the newcomer's own."""


def bells(*numbers: int) -> list[Descriptor]:
    return [Descriptor(n) for n in numbers]


def messages(batches: Iterable[Batch]) -> list[Message]:
    return [Message(batch.value, descriptor) for batch in batches for descriptor in carried(batch.descriptors)]


def carried(descriptors: Sequence[Descriptor]) -> Sequence[Descriptor | None]:
    """What each message carries: without any descriptor there is one that carries nothing."""
    return descriptors or (None,)


def fed(client: Client, stream: Iterable[Message]) -> list[Event]:
    return [event for message in stream for event in feed(client, message)]


def feed(client: Client, message: Message) -> list[Event]:
    return client.receive(encode(message.value), () if message.descriptor is None else (message.descriptor,))


def outbox_of(batches: Iterable[Batch]) -> Outbox:
    outbox = Outbox()
    outbox.extend(batches)
    return outbox


def together(words: bytes, descriptors: Sequence[Descriptor]) -> list[Message]:
    """The messages that an outbox sends at once."""
    values = [decode(words[at : at + MESSAGE_SIZE]) for at in range(0, len(words), MESSAGE_SIZE)]
    return [Message(*message) for message in zip(values, carried(descriptors), strict=True)]


def drained(outbox: Outbox) -> list[Message]:
    sent: list[Message] = []

    def send(words: bytes, descriptors: Sequence[Descriptor]) -> int:
        sent.extend(messages := together(words, descriptors))
        return len(messages)

    assert not outbox.flush(send)
    return sent


# Values and batches


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_value_survives_encoding(value: int) -> None:
    assert decode(encode(value)) == value


def test_a_value_is_eight_little_endian_bytes_with_a_sign() -> None:
    assert encode(0x0102) == b"\x02\x01\0\0\0\0\0\0"
    assert encode(-1) == b"\xff" * 8


def test_a_setup_is_version_id_memory_the_others_and_last_the_newcomers_own_vectors() -> None:
    others = [announcement(PeerId(4), bells(40, 41)), announcement(PeerId(5), bells(50, 51))]
    assert messages(setup(PeerId(7), Descriptor(9), others, bells(70, 71))) == [
        Message(0),
        Message(7),
        Message(-1, Descriptor(9)),
        Message(4, Descriptor(40)),
        Message(4, Descriptor(41)),
        Message(5, Descriptor(50)),
        Message(5, Descriptor(51)),
        Message(7, Descriptor(70)),
        Message(7, Descriptor(71)),
    ]


def test_a_refusal_is_one_wrong_version_without_a_descriptor() -> None:
    assert messages([refusal()]) == [Message(-1)]


# The outbox


def test_an_announcement_of_which_nothing_was_sent_is_taken_back() -> None:
    outbox = outbox_of([announcement(PeerId(1), bells(10, 11)), announcement(PeerId(2), bells(20, 21))])
    outbox.depart(PeerId(2))
    outbox.depart(PeerId(1))
    assert drained(outbox) == []


def test_an_announcement_that_was_begun_is_broken_off_and_followed_by_the_departure() -> None:
    outbox = outbox_of([announcement(PeerId(1), bells(10, 11)), announcement(PeerId(2), bells(20, 21))])
    sent: list[int] = []

    def send(words: bytes, descriptors: Sequence[Descriptor]) -> int:
        if sent:
            raise BlockingIOError
        sent.append(together(words, descriptors)[0].value)
        return 1

    with pytest.raises(BlockingIOError):
        outbox.flush(send)
    outbox.depart(PeerId(1))
    assert sent == [1]
    assert drained(outbox) == [Message(2, Descriptor(20)), Message(2, Descriptor(21)), Message(1)]


def test_a_message_for_which_send_raised_is_the_first_of_the_next_flush() -> None:
    outbox = outbox_of([announcement(PeerId(1), bells(10, 11))])

    def full(_words: bytes, _descriptors: Sequence[Descriptor]) -> int:
        raise BlockingIOError

    for _ in range(2):
        with pytest.raises(BlockingIOError):
            outbox.flush(full)
    assert drained(outbox) == [Message(1, Descriptor(10)), Message(1, Descriptor(11))]
    assert len(outbox) == 0


def test_marks_say_how_much_of_each_batch_was_sent() -> None:
    marks = [0] * 8
    outbox = Outbox(marks, doubt=7)
    others = [announcement(PeerId(4), bells(40, 41), 4, goes_on=True)]
    outbox.extend(setup(PeerId(3), Descriptor(9), others, bells(30), greeting_mark=1, own_mark=5))
    doubts = []

    def send(_words: bytes, _descriptors: Sequence[Descriptor]) -> int:
        doubts.append(marks[7])
        return 1

    outbox.flush(send)
    # From the memory on all might have been sent.
    assert doubts == [1, 2, 5, 5, 5, 5]
    assert [marked(word) for word in (marks[4], marks[5])] == [(4, 2), (3, 1)]
    assert marks[7] == 0
    outbox.depart(PeerId(4), 4)
    drained(outbox)
    assert marked(marks[4]) == (4, 0)


def test_a_message_that_was_not_sent_leaves_neither_mark_nor_doubt() -> None:
    marks = [0] * 3
    outbox = Outbox(marks, doubt=2)
    outbox.extend([announcement(PeerId(4), bells(40, 41), 1)])

    def full(_words: bytes, _descriptors: Sequence[Descriptor]) -> int:
        raise BlockingIOError

    with pytest.raises(BlockingIOError):
        outbox.flush(full)
    assert marks == [0, 0, 0]


def test_a_flush_sends_no_more_than_it_may_and_says_whether_more_is_left() -> None:
    outbox = outbox_of([announcement(PeerId(1), bells(10, 11, 12)), announcement(PeerId(2), bells(20))])
    given: list[list[Descriptor]] = []

    def send(_words: bytes, descriptors: Sequence[Descriptor]) -> int:
        given.append(list(descriptors))
        return len(descriptors)

    assert [outbox.flush(send, 2), outbox.flush(send, 2), outbox.flush(send, 2)] == [True, False, False]
    assert given == [[10, 11], [12], [20]]


def test_a_set_ups_ports_are_sent_together_and_announcements_each_by_itself() -> None:
    others = [announcement(PeerId(n), bells(10 * n, 10 * n + 1), goes_on=True) for n in (4, 5)]
    outbox = outbox_of(
        [
            *setup(PeerId(3), Descriptor(9), others, bells(30, 31)),
            announcement(PeerId(6), bells(60, 61)),
            announcement(PeerId(7), bells(70)),
        ]
    )
    given: list[list[int]] = []

    def send(words: bytes, descriptors: Sequence[Descriptor]) -> int:
        given.append([message.value for message in together(words, descriptors)])
        return len(given[-1])

    assert [outbox.flush(send, 6), outbox.flush(send, 4), outbox.flush(send, 4)] == [True, True, False]
    assert given == [[0], [3], [-1, 4, 4, 5], [5, 3, 3], [6], [6], [7]]


def test_a_resumed_batch_goes_on_where_it_stopped_and_before_all_others() -> None:
    marks = [0] * 4
    outbox = Outbox(marks, doubt=3)
    outbox.extend([announcement(PeerId(5), bells(50), 2)])
    outbox.resume(announcement(PeerId(4), bells(40, 41, 42), 1), 2)
    assert drained(outbox) == [Message(4, Descriptor(42)), Message(5, Descriptor(50))]
    assert marked(marks[1]) == (4, 3)


class Member:
    """A peer of the modelled server: what it is owed, what it was sent, and what it made of that."""

    def __init__(self, peer: PeerId, place: int) -> None:
        self.peer = peer
        self.place = place
        self.marks = [0] * (PLACES_AT + CAPACITY)
        self.outbox = Outbox(self.marks, DOUBT)
        self.client = Client()
        self.stream: list[Message] = []

    def flush(self, room: int) -> None:
        """The connection takes `room` messages more."""
        limit = len(self.stream) + room

        def send(words: bytes, descriptors: Sequence[Descriptor]) -> int:
            assert self.marks[DOUBT]
            taken = together(words, descriptors)[: limit - len(self.stream)]
            if not taken:
                raise BlockingIOError
            for message in taken:
                self.stream.append(message)
                feed(self.client, message)
            return len(taken)

        try:
            self.outbox.flush(send)
        except BlockingIOError:
            assert len(self.stream) == limit
        self.assert_marked()

    def assert_marked(self) -> None:
        """The marks say what the peer was sent, as the stream does."""
        greeted = [VERSION, self.peer, MEMORY][: len(self.stream)]
        assert self.marks[DOUBT] == 0
        assert [marked(word)[0] for word in self.marks[GREETING : GREETING + 3] if word] == greeted
        told: dict[int, int] = {}
        for value, descriptor in self.stream[3:]:
            told[value] = told.get(value, 0) + 1 if descriptor is not None else 0
        # A place may have changed hands: of a peer whose mark another has taken over, it was said last that it left.
        found = dict(marked(word) for word in self.marks[PLACES_AT:] if word)
        assert {value: told.get(value) for value in found} == found
        assert not any(sent for value, sent in told.items() if value not in found)


class FreshServer:
    """What a server with fresh ports does, and nothing else of it."""

    def __init__(self) -> None:
        self.ids = FreshIds(IDS)
        self.members: dict[PeerId, Member] = {}
        self.gone: list[Member] = []
        self._free = deque(range(CAPACITY))
        self._tokens = 0
        self.truth: dict[PeerId, dict[PeerId, list[Descriptor]]] = {}
        """By peer and other: the bells by which the one rings the other, and its own vectors."""

    def join(self) -> None:
        if len(self.members) == CAPACITY or (peer := self.ids.take()) is None:
            return
        place = self._free.popleft()
        truth = self.truth[peer] = {other: self._bells() for other in self.members}
        own = self._bells()
        others = [
            announcement(other, made, PLACES_AT + self.members[other].place, goes_on=True)
            for other, made in truth.items()
        ]
        truth[peer] = own
        for other, member in self.members.items():
            made = self.truth[other][peer] = self._bells()
            member.outbox.extend([announcement(peer, made, PLACES_AT + place)])
        newcomer = self.members[peer] = Member(peer, place)
        newcomer.outbox.extend(
            setup(peer, Descriptor(0), others, own, greeting_mark=GREETING, own_mark=PLACES_AT + place)
        )

    def leave(self, choice: int) -> None:
        if not self.members:
            return
        peer = list(self.members)[choice % len(self.members)]
        leaver = self.members.pop(peer)
        self.gone.append(leaver)
        self._free.append(leaver.place)
        self.ids.release(peer)
        del self.truth[peer]
        for other, member in self.members.items():
            member.outbox.depart(peer, PLACES_AT + leaver.place)
            del self.truth[other][peer]

    def flush(self, choice: int, room: int) -> None:
        if self.members:
            list(self.members.values())[choice % len(self.members)].flush(room)

    def _bells(self) -> list[Descriptor]:
        made = bells(*range(self._tokens + 1, self._tokens + 1 + VECTORS))
        self._tokens += VECTORS
        return made


MOVES = st.one_of(
    st.just(("join",)),
    st.tuples(st.just("leave"), st.integers(0, CAPACITY - 1)),
    st.tuples(st.just("flush"), st.integers(0, CAPACITY - 1), st.sampled_from([*range(2 * VECTORS + 2), 1000])),
)


def assert_lawful(stream: list[Message]) -> None:
    """No id is announced again after its departure; a departure comes once, and only of announced ids."""
    announced: set[int] = set()
    departed: set[int] = set()
    for value, descriptor in stream[3:]:
        if descriptor is not None:
            assert value not in departed
            announced.add(value)
        else:
            assert value in announced
            assert value not in departed
            departed.add(value)


@settings(max_examples=300)
@given(st.lists(MOVES, min_size=20, max_size=60))
def test_every_peer_comes_to_know_the_truth_lawfully_with_a_bounded_outbox(moves: list[tuple[str, int, int]]) -> None:
    server = FreshServer()
    for name, *arguments in moves:
        getattr(server, name)(*arguments)
        for member in server.members.values():
            # Those that are there, and those that it was told of and that have gone: it saw all of these at one time.
            assert len(member.outbox) <= SETUP_ONLY + 2 * (CAPACITY - 1)
    for peer, member in server.members.items():
        member.flush(10**6)
        assert member.client.peers == server.truth[peer]
        assert member.client.complete
        assert_lawful(member.stream)
    for member in server.gone:
        assert_lawful(member.stream)


@given(st.lists(MOVES, max_size=60))
def test_a_peer_that_does_not_read_is_owed_a_bounded_number_of_batches(moves: list[tuple[str, int, int]]) -> None:
    server = FreshServer()
    server.join()
    (silent,) = server.members.values()
    silent.flush(3)
    for name, *arguments in moves:
        if name == "join":
            server.join()
        elif name == "leave" and len(server.members) > 1:
            # It stays, and is the first.
            server.leave(1 + arguments[0] % (len(server.members) - 1))
        # Its own announcement, and those of the others that are there.
        assert len(silent.outbox) == len(server.members)


# The client


STREAM = [
    *messages(
        setup(
            PeerId(1), Descriptor(9), [announcement(PeerId(p), bells(p * 10, p * 10 + 1)) for p in (4, 5)], bells(1, 2)
        )
    ),
    *messages([departure(PeerId(4)), departure(PeerId(5)), announcement(PeerId(6), bells(60, 61))]),
]
EVENTS: list[Event] = [
    Identified(PeerId(1)),
    MemoryShared(Descriptor(9)),
    VectorAdded(PeerId(4), Vector(0), Descriptor(40)),
    VectorAdded(PeerId(4), Vector(1), Descriptor(41)),
    VectorAdded(PeerId(5), Vector(0), Descriptor(50)),
    VectorAdded(PeerId(5), Vector(1), Descriptor(51)),
    VectorAdded(PeerId(1), Vector(0), Descriptor(1)),
    VectorAdded(PeerId(1), Vector(1), Descriptor(2)),
    PeerLeft(PeerId(4), (Descriptor(40), Descriptor(41))),
    PeerLeft(PeerId(5), (Descriptor(50), Descriptor(51))),
    VectorAdded(PeerId(6), Vector(0), Descriptor(60)),
    VectorAdded(PeerId(6), Vector(1), Descriptor(61)),
]


class Kernel:
    """A stream socket's receive queue, one message a write, as unix(7) and SCM_RIGHTS have it.

    A read never goes past a message with a descriptor; the descriptor comes with the message's first byte.
    """

    def __init__(self, stream: Iterable[Message]) -> None:
        self._queue = [(encode(value), descriptor) for value, descriptor in stream]

    def read(self, size: int) -> tuple[bytes, list[Descriptor]]:
        data, handed = b"", list[Descriptor]()
        while self._queue and len(data) < size and not handed:
            word, descriptor = self._queue.pop(0)
            taken = word[: size - len(data)]
            data += taken
            if descriptor is not None:
                handed.append(descriptor)
            if len(taken) < len(word):
                self._queue.insert(0, (word[len(taken) :], None))
        return data, handed


@given(st.lists(st.integers(1, 40), max_size=200))
def test_pieces_of_any_size_decode_to_the_same_events(sizes: list[int]) -> None:
    kernel, client, events = Kernel(STREAM), Client(), list[Event]()
    for size in [*sizes, *[64] * len(STREAM)]:
        data, handed = kernel.read(size)
        if data:
            events += client.receive(data, handed)
    assert events == EVENTS
    assert client.peers == {PeerId(1): bells(1, 2), PeerId(6): bells(60, 61)}
    client.end()


@pytest.mark.parametrize("size", [1, 3, 7, 8, 9, 12, 16, 64])
def test_the_kernel_hands_a_stream_out_as_the_model_says(size: int) -> None:
    ours, theirs = socket.socketpair()
    kernel = Kernel(STREAM)
    with ours, theirs, open(os.devnull) as null:
        for value, descriptor in STREAM:
            socket.send_fds(ours, [encode(value)], [] if descriptor is None else [null.fileno()])
        ours.close()
        while True:
            data, handed, _, _ = socket.recv_fds(theirs, size, 4)
            for fd in handed:
                os.close(fd)
            modelled, tokens = kernel.read(size)
            assert (data, len(handed)) == (modelled, len(tokens))
            if not data:
                break


def test_a_client_is_complete_when_it_has_as_many_vectors_as_any_other_peer() -> None:
    client = Client()
    completed = [feed(client, message) and client.complete for message in STREAM[:9]]
    assert completed == [[], False, False, False, False, False, False, False, True]


SET_UP = [Message(VERSION), Message(1), Message(MEMORY, Descriptor(9)), Message(4, Descriptor(40))]
COMPLETE = [*SET_UP, Message(1, Descriptor(10))]
A_VERSION = "expected the protocol version 0, without a descriptor"
AN_ID = "expected this client's own id, 0 to 65535, without a descriptor"
THE_MEMORY = "expected -1 with the descriptor of the shared memory"
A_PEER = "expected a peer's id, 0 to 65535: with the eventfd of its next vector, or to say it left"


@pytest.mark.parametrize(
    ("before", "wrong", "told"),
    [
        (0, Message(1), f"received 1 without a descriptor; {A_VERSION}"),
        (0, Message(2**40), A_VERSION),
        (0, Message(VERSION, Descriptor(5)), f"received 0 with a descriptor; {A_VERSION}"),
        (0, Message(REFUSAL), "the server refuses (it says why in its log); expected version 0"),
        (0, Message(REFUSAL, Descriptor(5)), f"received -1 with a descriptor; {A_VERSION}"),
        (1, Message(3, Descriptor(5)), f"received 3 with a descriptor; {AN_ID}"),
        (1, Message(-1), f"received -1 without a descriptor; {AN_ID}"),
        (1, Message(65536), f"received 65536 without a descriptor; {AN_ID}"),
        (2, Message(MEMORY), f"received -1 without a descriptor; {THE_MEMORY}"),
        (2, Message(4, Descriptor(5)), f"received 4 with a descriptor; {THE_MEMORY}"),
        (2, Message(-2, Descriptor(5)), f"received -2 with a descriptor; {THE_MEMORY}"),
        (3, Message(-1, Descriptor(5)), f"received -1 with a descriptor; {A_PEER}"),
        (5, Message(-5), f"received -5 without a descriptor; {A_PEER}"),
        (5, Message(65536, Descriptor(5)), f"received 65536 with a descriptor; {A_PEER}"),
        (5, Message(1), "the departure of this client itself; expected departures of announced peers only"),
        (3, Message(4), "the departure of peer 4, which was never announced; expected departures of announced"),
        (5, Message(7), "the departure of peer 7, which was never announced"),
    ],
)
def test_what_may_not_come_is_refused_saying_what_was_expected(before: int, wrong: Message, told: str) -> None:
    client = Client()
    fed(client, COMPLETE[:before])
    with pytest.raises(ProtocolError) as first:
        feed(client, wrong)
    assert told in str(first.value)
    with pytest.raises(ProtocolError) as again:
        feed(client, Message(4, Descriptor(41)))
    assert again.value is first.value
    with pytest.raises(ProtocolError) as at_the_end:
        client.end()
    assert at_the_end.value is first.value


@pytest.mark.parametrize(("before", "handed"), [([], bells(5, 6)), (bells(5), bells(6))])
def test_two_descriptors_with_one_message_are_refused(before: list[Descriptor], handed: list[Descriptor]) -> None:
    client = Client()
    client.receive(b"\0", before)
    with pytest.raises(ProtocolError, match="received a message with several descriptors; expected at most one"):
        client.receive(b"\0", handed)


@pytest.mark.parametrize(("before", "expected"), [*enumerate([A_VERSION, AN_ID, THE_MEMORY, A_PEER, A_PEER])])
def test_the_end_of_the_stream_in_the_midst_of_the_setup_is_refused(before: int, expected: str) -> None:
    client = Client()
    fed(client, SET_UP[:before])
    with pytest.raises(ProtocolError) as first:
        client.end()
    assert str(first.value) == f"received the end of the stream; {expected}"
    with pytest.raises(ProtocolError) as again:
        feed(client, Message(VERSION))
    assert again.value is first.value


@pytest.mark.parametrize("before", range(len(COMPLETE) + 1))
def test_the_end_of_the_stream_in_the_midst_of_a_message_is_refused(before: int) -> None:
    client = Client()
    fed(client, COMPLETE[:before])
    client.receive(b"\0\0\0")
    with pytest.raises(
        ProtocolError, match="the end of the stream after 3 bytes of a message; expected the rest of it"
    ):
        client.end()


def test_the_end_of_the_stream_after_the_setup_is_fine() -> None:
    client = Client()
    fed(client, COMPLETE)
    client.end()


def test_what_came_before_the_failure_is_still_there_to_be_closed() -> None:
    client = Client()
    fed(client, COMPLETE)
    with pytest.raises(ProtocolError):
        feed(client, Message(-7, Descriptor(70)))
    assert client.memory == Descriptor(9)
    assert client.peers == {PeerId(4): bells(40), PeerId(1): bells(10)}
