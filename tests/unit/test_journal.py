"""The journal's native protocol, to a socket that listens as the journal does; and what happens when it does not."""

from __future__ import annotations

import array
import fcntl
import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from famezd.supervisor import journal
from famezd.supervisor.events import EVENTS, catalog, message_id
from famezd.supervisor.logs import configure, lines_lost

Fields = dict[str, str]


def parsed(entry: bytes) -> Fields:
    """An entry, read as the journal does."""
    fields = {}
    while entry:
        line, _, entry = entry.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(entry[:8], "little")
            value, end, entry = entry[8 : 8 + size], entry[8 + size : 9 + size], entry[9 + size :]
            assert end == b"\n"
        fields[name.decode()] = value.decode()
    return fields


class Listening:
    """A socket in the journal's place."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(path))

    def entry(self) -> Fields:
        """The next one; raises BlockingIOError if there is none."""
        data, ancillary, flags, _ = self._socket.recvmsg(1 << 20, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        assert not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        if not ancillary:
            return parsed(data)
        ((level, kind, carried),) = ancillary
        assert (level, kind, data) == (socket.SOL_SOCKET, socket.SCM_RIGHTS, b"")
        (file,) = array.array("i", carried)
        try:
            # Else the journal does not take it.
            assert fcntl.fcntl(file, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
            return parsed(os.pread(file, os.fstat(file).st_size, 0))
        finally:
            os.close(file)

    def entries(self) -> Iterator[Fields]:
        """All that are there."""
        try:
            while True:
                yield self.entry()
        except BlockingIOError:
            return

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listening]:
    monkeypatch.setattr(journal, "SOCKET", str(tmp_path / "journal"))
    listening = Listening(tmp_path / "journal")
    yield listening
    listening.close()


@contextmanager
def under_systemd(level: str = "info", fabrics: Mapping[str, str | None] | None = None) -> Iterator[socket.socket]:
    """Standard error is a stream to the journal; the other end of it."""
    ours, theirs = socket.socketpair()
    with ours, theirs, open(theirs.fileno(), "w", closefd=False) as stream, redirect_stderr(stream):
        found = os.fstat(stream.fileno())
        configure(level, "auto", fabrics, {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
        ours.setblocking(False)
        try:
            yield ours
        finally:
            structlog.reset_defaults()


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,63}", fullmatch=True), st.text(), max_size=5))
def test_any_text_is_read_back(fields: Fields) -> None:
    assert parsed(journal.serialised(fields)) == fields


@given(st.text())
def test_any_name_makes_a_fields_name(name: str) -> None:
    assert re.fullmatch("[A-Z][A-Z0-9_]{0,63}", journal.field(name))
    assert re.fullmatch("FAMEZ_[A-Z][A-Z0-9_]{0,57}", journal.field(name, "FAMEZ_"))


def test_an_entry_has_the_fields_by_which_it_is_looked_for(listening: Listening) -> None:
    with under_systemd():
        structlog.get_logger(fabric="lab").info("peer joined", peer="3", pid="42", name="web one")
        structlog.get_logger().error("odd", **{"_x 1": 'a"b\n'})
    assert list(listening.entries()) == [
        {
            "MESSAGE": "peer joined fabric='lab' peer='3' pid='42' name='web one'",
            "MESSAGE_ID": next(event.id for event in EVENTS if event.text == "peer joined"),
            "PRIORITY": "6",
            "SYSLOG_IDENTIFIER": "famezd",
            "FABRIC": "lab",
            "PEER": "3",
            "FAMEZ_PID": "42",
            "FAMEZ_NAME": "web one",
        },
        {
            "MESSAGE": "odd _x 1='a\"b\\n'",
            "PRIORITY": "3",
            "SYSLOG_IDENTIFIER": "famezd",
            "FAMEZ_X_1": "'a\"b\\n'",
        },
    ]


def test_a_traceback_is_a_field(listening: Listening) -> None:
    with under_systemd():
        try:
            int("wrong")
        except ValueError:
            structlog.get_logger().exception("it failed")
    entry = listening.entry()
    assert entry["FAMEZ_EXCEPTION"].endswith("ValueError: invalid literal for int() with base 10: 'wrong'")
    assert entry["PRIORITY"] == "3"


def test_what_libraries_log_is_an_entry(listening: Listening) -> None:
    with under_systemd():
        logging.getLogger("asyncio").error("Task exception was never retrieved", exc_info=ValueError("odd"))
    entry = listening.entry()
    assert (entry["FAMEZ_LIBRARY"], entry["PRIORITY"]) == ("asyncio", "3")
    assert entry["FAMEZ_EXCEPTION"].endswith("ValueError: odd")


@pytest.mark.parametrize("size", [10_000, 1_000_000])
def test_an_entry_of_any_size_arrives(listening: Listening, size: int) -> None:
    with under_systemd():
        structlog.get_logger().info("long", text="x" * size)
    assert listening.entry()["FAMEZ_TEXT"] == "x" * size


def test_without_a_journal_lines_go_to_standard_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SOCKET", str(tmp_path / "journal"))
    before = lines_lost()
    with under_systemd() as stderr:
        structlog.get_logger(fabric="lab").warning("peer refused: two\nlines", peer="3")
        assert stderr.recv(1000) == b"<4>peer refused: two lines fabric='lab' peer='3'\n"
        (tmp_path / "journal").touch()
        structlog.get_logger().info("nobody listens there")
        assert stderr.recv(1000) == b"<6>nobody listens there\n"
        (tmp_path / "journal").unlink()
        listening = Listening(tmp_path / "journal")
        structlog.get_logger().info("it is back")
        assert [entry["MESSAGE"] for entry in listening.entries()] == ["it is back"]
        listening.close()
    assert lines_lost() == before


def test_a_journal_that_reads_nothing_stops_nobody_and_the_loss_is_told(listening: Listening) -> None:
    before, said = lines_lost(), 0
    with under_systemd() as stderr:
        while lines_lost() < before + 7:
            structlog.get_logger().info("more", text="x" * 1000)
            said += 1
            assert said < 100_000, "it is lost sooner or later"
        taken = len(list(listening.entries()))
        read = stderr.recv(1 << 24).count(b"\n") if said > taken + 7 else 0
        assert taken + read + 7 == said
        structlog.get_logger().info("the last one")
    lost, last = listening.entries()
    assert lost["MESSAGE"] == "7 lines of famezd's log are lost: nobody took them"
    assert (lost["PRIORITY"], lost["FAMEZ_LINES_LOST"]) == ("4", "7")
    assert last["MESSAGE"] == "the last one"


def test_a_fabric_has_a_level_of_its_own(listening: Listening) -> None:
    entries: list[Fields] = []
    with under_systemd("warning", {"lab": "debug", "quiet": "error", "plain": None}):
        for fabric in ("lab", "quiet", "plain", "other"):
            for level in ("debug", "info", "warning", "error"):
                getattr(structlog.get_logger(fabric=fabric), level)("said")
            # There may be room for ten only.
            entries += listening.entries()
        structlog.get_logger().info("of no fabric")
        structlog.get_logger().warning("of no fabric")
    said = [(entry.get("FABRIC"), entry["PRIORITY"]) for entry in (*entries, *listening.entries())]
    assert said == [
        *(("lab", priority) for priority in "7643"),
        ("quiet", "3"),
        *(("plain", priority) for priority in "43"),
        *(("other", priority) for priority in "43"),
        (None, "4"),
    ]


# The events


def test_ids_are_of_128_bits_and_no_two_the_same() -> None:
    assert all(re.fullmatch("[0-9a-f]{32}", event.id) for event in EVENTS)
    assert len({event.id for event in EVENTS}) == len({event.text for event in EVENTS}) == len(EVENTS)
    assert message_id("peer refused: all 3 ports are taken") == message_id("peer refused")
    assert message_id("peer refused because") is None


def test_every_event_is_one_that_is_logged() -> None:
    sources = "".join(
        path.read_text() for path in Path(journal.__file__).parents[1].rglob("*.py") if path.name != "events.py"
    )
    for event in EVENTS:
        assert re.search(rf'f?"{re.escape(event.text)}["/:]', sources), event.text


def test_the_page_lists_them() -> None:
    page = (Path(journal.__file__).parents[2] / "docs" / "operations.md").read_text()
    listed = re.findall(r"^\| `(.*?)` \| `([0-9a-f]{32})` \|", page, re.MULTILINE)
    assert listed == [(event.text, event.id) for event in EVENTS]


def test_the_catalog_has_no_field_that_is_not_logged() -> None:
    for name in re.findall("@(.*?)@", catalog()):
        assert name in ("FABRIC", "PEER") or name.startswith("FAMEZ_")
