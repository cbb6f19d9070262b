"""The state page: what is written is read, all of it or what was there before."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from famezd.escapes import escape, joined, split, unescape
from famezd.statepage import HEAD, ROOM, StateError, StatePage, Table

TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.text("%=,\t\n\r\0\x1c\x85AF09\u2028")
TABLES = st.dictionaries(TEXT, st.dictionaries(TEXT, TEXT, max_size=4), max_size=4)


@pytest.fixture
def page() -> Iterator[StatePage]:
    page = StatePage.create("test")
    yield page
    page.close()


def reader(page: StatePage) -> StatePage:
    """As another process opens it."""
    return StatePage.open(os.dup(page.descriptor))


@given(TEXT)
def test_what_is_escaped_is_read_back_and_ends_no_field(text: str) -> None:
    assert unescape(escape(text)) == text
    assert escape(text).isascii()
    assert not set(escape(text)) & set(",=\t\n\r")


@given(st.text())
def test_any_text_can_be_unescaped(text: str) -> None:
    unescape(text)
    assert unescape(escape(text)) == text.encode(errors="replace").decode()


@pytest.mark.parametrize(
    ("text", "meant"), [("%", "%"), ("%4", "%4"), ("%zz", "%zz"), ("%41%", "A%"), ("%FF", "\ufffd")]
)
def test_a_percent_sign_that_begins_no_byte_is_one(text: str, meant: str) -> None:
    assert unescape(text) == meant


@given(st.dictionaries(TEXT, TEXT, max_size=4), st.sampled_from(",\t"))
def test_fields_are_read_back(fields: dict[str, str], separator: str) -> None:
    assert split(joined(fields, separator), separator) == fields


def test_a_field_without_a_value_is_named() -> None:
    with pytest.raises(ValueError, match="'b' is no KEY=VALUE"):
        split("a=1,b", ",")


@hypothesis_settings(deadline=None)
@given(TABLES, TABLES)
def test_tables_are_read_back(one: Table, other: Table) -> None:
    page = StatePage.create("test")
    try:
        page.write(one, other)
        assert page.read(2) == [one, other]
        page.write(other)
        assert page.read(2) == [other, {}]
    finally:
        page.close()


def test_a_reader_sees_what_is_written_later(page: StatePage) -> None:
    other = reader(page)
    assert other.read() == [{}]
    for n in range(5):
        page.write({"a": {"n": str(n)}})
        assert other.read() == [{"a": {"n": str(n)}}]
    other.close()


def test_who_was_killed_while_it_wrote_leaves_the_old(page: StatePage, monkeypatch: pytest.MonkeyPatch) -> None:
    page.write({"a": {"n": "old"}})
    real = os.pwrite

    def half(descriptor: int, data: bytes, at: int) -> int:
        real(descriptor, data[: len(data) // 2], at)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "pwrite", half)
    with pytest.raises(KeyboardInterrupt):
        page.write({"a": {"n": "new"}})
    monkeypatch.undo()
    other = reader(page)
    assert other.read() == [{"a": {"n": "old"}}]
    page.write({"a": {"n": "newer"}})
    assert other.read() == [{"a": {"n": "newer"}}]
    other.close()


def test_a_reader_never_sees_a_half_of_what_a_process_writes_that_is_killed(page: StatePage) -> None:
    page.write({str(i): {"n": "0"} for i in range(50)})
    writer = os.fork()
    if writer == 0:
        n = 0
        while True:
            n += 1
            page.write({str(i): {"n": str(n)} for i in range(50 + n % 7)})
    other = reader(page)
    seen: set[str] = set()
    while len(seen) < 100:
        (table,) = other.read()
        numbers = {fields["n"] for fields in table.values()}
        assert len(numbers) == 1
        seen |= numbers
        assert len(table) == 50 + int(numbers.pop()) % 7
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    (table,) = other.read()
    assert len({fields["n"] for fields in table.values()}) == 1
    other.close()


def test_its_number_comes_round(page: StatePage) -> None:
    page._words[1] = ((1 << 32) - 1) << 32
    page.write({"a": {}})
    assert page.read() == [{"a": {}}]
    page.write({"b": {}})
    assert page.read() == [{"b": {}}]


def test_a_state_of_a_megabyte_is_kept_and_a_larger_one_is_refused(page: StatePage) -> None:
    room = ROOM - len("0\ta\tb=")
    page.write({"a": {"b": "x" * room}})
    assert len(page.read()[0]["a"]["b"]) == room
    with pytest.raises(StateError, match=f"a state of {ROOM + 1} bytes; at most {ROOM} are kept"):
        page.write({"a": {"b": "x" * (room + 1)}})
    assert len(page.read()[0]["a"]["b"]) == room


@pytest.mark.parametrize(
    ("size", "version", "why"),
    [(0, 1, "0 bytes"), (HEAD, 1, "4096 bytes"), (HEAD + 2 * ROOM, 2, "layout 2; this is layout 1")],
)
def test_a_page_that_is_none_is_refused(size: int, version: int, why: str) -> None:
    descriptor = os.memfd_create("test")
    os.pwrite(descriptor, version.to_bytes(8, "little"), 0)
    os.ftruncate(descriptor, size)
    with pytest.raises(StateError, match=why):
        StatePage.open(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize("junk", [b"\xff" * 64, b"x\ta\tb=c", b"0", b"0\ta\tb"])
def test_junk_is_refused(page: StatePage, junk: bytes) -> None:
    page.write({"a": {"b": "c"}})
    os.pwrite(page.descriptor, junk, HEAD + ROOM)
    page._words[1] = 1 << 32 | len(junk)
    with pytest.raises(StateError, match="holds no tables"):
        page.read()
