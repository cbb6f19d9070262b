"""Whatever stands in the mailbox, whoever reads it gets what the layout says, or a MailboxError."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from famezd.mailbox import MAX_TEXT, NAME_SIZE, SLOT_SIZE, Backing, FileMemory, MailboxError, Slots, open_backing
from famezd.messages import MessageError, parse, untrack

SIZE = 4096
PLACES = st.sampled_from([0, 16, 32, *(slot * SLOT_SIZE + at for slot in range(1, 7) for at in (0, 32, 64, 72, 128))])
NOISE = st.lists(st.tuples(PLACES, st.binary(max_size=64) | st.integers(0, 400).map(lambda n: n.to_bytes(8, "little"))))


@pytest.fixture
def descriptor() -> Iterator[int]:
    shared = open_backing(Backing("memfd", "noise", SIZE))
    yield shared.descriptor
    os.close(shared.descriptor)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NOISE, st.integers(0, 6))
def test_noise_is_read_as_text_or_refused(descriptor: int, noise: list[tuple[int, bytes]], slot: int) -> None:
    slots = Slots(FileMemory(descriptor))
    for at, data in noise:
        slots.memory.write(at, data)
    for name in (slots.nodename(slot), slots.cclass(slot)):
        assert len(name) <= NAME_SIZE
        assert not name or name.isprintable()
    try:
        slots.check(SIZE)
    except MailboxError:
        pass
    else:
        assert slots.server == slots.peers + 1
    try:
        text = slots.take(slot)
    except MailboxError:
        text = None
    assert not slots.pending(slot)
    if text is not None:
        assert len(text) <= MAX_TEXT
        assert b"\0" not in text
        try:
            str(parse(untrack(text.decode())[0]))
        except (UnicodeDecodeError, MessageError):
            # Named for the log, and nothing else.
            pass
