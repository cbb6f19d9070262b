"""A worker's log: one line an event, which the supervisor reads back, and never a wait."""

import contextlib
import fcntl
import math
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from famezd.fabric.log import DEBUG, ERROR, INFO, KINDS, LINES, WARNING, Log
from famezd.supervisor.lines import Entry, parse
from tests.unit.conftest import closing


@contextmanager
def standard_error(descriptor: int) -> Iterator[None]:
    """Makes it standard error."""
    saved = os.dup(2)
    os.dup2(descriptor, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


@contextmanager
def logged() -> Iterator[tuple[int, Log]]:
    """The reading end of a pipe that is standard error, whose writers do not wait, and a log that goes there.

    No fixture: pytest sets standard error anew after those.
    """
    reading, writing = os.pipe2(os.O_NONBLOCK)
    with closing(reading, writing), standard_error(writing), contextlib.closing(Log()) as log:
        yield reading, log


def test_a_line_has_its_priority_its_event_and_its_fields() -> None:
    with logged() as (pipe, log):
        log.say(INFO, "peer joined", peer=3, pid=4242)
        log.say(ERROR, "fabric cannot serve")
        assert os.read(pipe, 1000) == b"<6>peer joined\tpeer=3 pid=4242\n<3>fabric cannot serve\n"
        assert (DEBUG, INFO, WARNING, ERROR) == (7, 6, 4, 3)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("plain", "plain"),
        ("n\u00e4me", "n\u00e4me"),
        ("", '""'),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "x"', r'"say \"x\""'),
        ("a\\b", r'"a\\b"'),
        ("line\nbreak\x1b[0m", r'"line\nbreak\x1b[0m"'),
        ("<3>forged", "<3>forged"),
        (None, "None"),
    ],
)
def test_a_value_is_quoted_where_it_could_be_misread(value: object, written: str) -> None:
    with logged() as (pipe, log):
        log.say(INFO, "event", value=value)
        assert os.read(pipe, 1000) == f"<6>event\tvalue={written}\n".encode()


def test_an_event_is_one_line_and_any_text_can_be_written() -> None:
    with logged() as (pipe, log):
        log.say(INFO, "cannot\n\tload \udcff")
        assert os.read(pipe, 1000) == b"<6>cannot  load \\udcff\n"


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.text(), max_size=4))
def test_any_values_are_read_back_as_they_were(fields: dict[str, str]) -> None:
    reading, writing = os.pipe()
    with closing(reading, writing), standard_error(writing), contextlib.closing(Log()) as log:
        log.say(WARNING, "peer refused: raise it with LimitNOFILE=9", **{f"f_{k}": v for k, v in fields.items()})
        line = os.read(reading, 65536).decode()
    assert line.endswith("\n")
    assert line.count("\n") == 1
    expected = {f"f_{k}": v for k, v in fields.items()}
    assert parse(line[:-1]) == Entry("warning", "peer refused: raise it with LimitNOFILE=9", expected)


def test_a_terminal_sees_no_priority() -> None:
    controlling, terminal = os.openpty()
    with closing(controlling, terminal), standard_error(terminal), contextlib.closing(Log()) as log:
        log.say(INFO, "peer joined", peer=3)
        assert os.read(controlling, 1000) == b"peer joined peer=3\r\n"


def test_a_full_pipe_loses_lines_and_the_next_that_fits_says_how_many() -> None:
    with logged() as (pipe, log):
        fcntl.fcntl(2, fcntl.F_SETPIPE_SZ, 4096)
        said = 0
        while not log._lost:
            log.say(INFO, "x" * 100)
            said += 1
        log.say(INFO, "lost as well", reason="full")
        os.read(pipe, 65536)
        log.say(INFO, "peer left", peer=1)
        log.say(INFO, "peer left", peer=2)
        assert os.read(pipe, 65536) == b"<6>peer left\tpeer=1 lines_lost=2\n<6>peer left\tpeer=2\n"
        assert said > 30


def test_a_log_without_a_reader_stops_nobody() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with closing(writing), standard_error(writing), contextlib.closing(Log()) as log:
        log.say(INFO, "peer joined")
        log.say(INFO, "peer joined")
    assert log._lost == 2


def test_a_reader_that_stops_reading_is_not_waited_for() -> None:
    """A pipe that blocks whoever writes to it is what a shell gives; it is the shell's, and stays as it is."""
    reading, writing = os.pipe()
    with closing(reading, writing), standard_error(writing), contextlib.closing(Log()) as log:
        while not log._lost:
            log.say_as(str(time.monotonic_ns()), INFO, "x" * 1000)
        assert os.get_blocking(writing)


def test_a_stream_that_is_not_read_is_not_waited_for() -> None:
    """The journal is at the end of a socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs, standard_error(theirs.fileno()), contextlib.closing(Log()) as log:
        log.say(INFO, "peer joined")
        assert ours.recv(1000) == b"<6>peer joined\n"
        while not log._lost:
            log.say_as(str(time.monotonic_ns()), INFO, "x" * 1000)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in its only item."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_of_a_flood_so_much_is_written_and_then_how_much_was_not(clock: list[float]) -> None:
    with logged() as (pipe, log):
        log.say(WARNING, "fabric serves")
        for i in range(LINES + 5):
            log.say(INFO if i else WARNING, f"peer refused: for reason {i}", uid=i)
        log.say(INFO, "peer left", peer=1)
        lines = os.read(pipe, 65536).splitlines()
        assert [line for line in lines if b"refused" not in line] == [b"<4>fabric serves", b"<6>peer left\tpeer=1"]
        assert len(lines) == LINES + 2
        assert log.due == 1001.0
        log.tick(1000.9)
        assert log.due == 1001.0
        clock[0] = 1001.5
        log.tick(clock[0])
        assert log.due is None
        assert os.read(pipe, 65536) == b"<4>peer refused: more of this in one second than is logged\tleft_out=5\n"
        log.say(INFO, "peer refused: again")
        assert os.read(pipe, 65536) == b"<6>peer refused: again\n"


def test_who_goes_on_says_first_what_was_left_out(clock: list[float]) -> None:
    with logged() as (pipe, log):
        for second in range(3):
            for i in range(LINES + 1):
                log.say(INFO, "peer joined", peer=i)
            clock[0] += 1
            lines = os.read(pipe, 65536).splitlines()
            assert len(lines) == LINES + (second > 0)
            assert (b"left_out=1" in lines[0]) == (second > 0)


def test_kinds_that_never_end_are_forgotten(clock: list[float]) -> None:
    with logged() as (pipe, log):
        for i in range(20 * KINDS):
            clock[0] += 0.1
            log.say(INFO, f"plug-in says {i}")
            os.read(pipe, 65536)
        assert len(log._seconds) <= KINDS
        # What is left out of one kind is not forgotten with the others.
        for _ in range(LINES + 1):
            log.say(INFO, "peer joined")
        os.read(pipe, 65536)
        for i in range(2 * KINDS):
            clock[0] += 0.1
            log.say(INFO, f"plug-in says {i}")
        assert b"<6>peer joined: more of this in one second than is logged\tleft_out=1\n" in os.read(pipe, 65536)


def test_a_personality_is_one_kind_whatever_it_says() -> None:
    with logged() as (pipe, log):
        for i in range(2 * LINES):
            log.say_as("personality", INFO, f"says {i}", priority=i, kind=i, event=i)
        assert os.read(pipe, 65536).count(b"says") == LINES
        log.tick(math.inf)
        assert os.read(pipe, 65536).endswith(b"left_out=100\n")
