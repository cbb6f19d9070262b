"""What workers write, read back line by line."""

import asyncio
import fcntl
import os
import subprocess
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from famezd.supervisor.lines import Entry, LinePipe, parse


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        ("<6>peer joined\tpeer=3 pid=4242", Entry("info", "peer joined", {"peer": "3", "pid": "4242"})),
        ("<7>port", Entry("debug", "port", {})),
        (
            "<4>peer refused: all 14 ports are taken\tpid=1",
            Entry("warning", "peer refused: all 14 ports are taken", {"pid": "1"}),
        ),
        ("<3>cannot serve", Entry("error", "cannot serve", {})),
        ("<5>notice", Entry("info", "notice", {})),
        ('<6>x\ta="two words" b="" c="a=b"', Entry("info", "x", {"a": "two words", "b": "", "c": "a=b"})),
        ("<6>x\t" r'a="\"\\\n\xe9\u202e"', Entry("info", "x", {"a": '"\\\n\u00e9\u202e'})),
        ("<6>", Entry("info", "", {})),
        ("<6>\ta=1 b=2", Entry("info", "", {"a": "1", "b": "2"})),
        ("<6>a=1 b=2", Entry("info", "a=1 b=2", {})),
        ("", Entry("error", "", {})),
        ("Traceback (most recent call last):", Entry("error", "Traceback (most recent call last):", {})),
        ("    x=1", Entry("error", "    x=1", {})),
        ("<x>y a=1", Entry("error", "<x>y a=1", {})),
    ],
)
def test_a_line_is_read_back_into_level_event_and_fields(line: str, entry: Entry) -> None:
    assert parse(line) == entry


@pytest.mark.parametrize(
    "text",
    [
        "raise it (LimitNOFILE=5000 in the unit, or ulimit -Hn), or configure fewer peers or vectors",
        "size=x: size is a whole number",
        "x: not of the form key=value with one of socket, memory",
        "path=/a b=c d is wrong",
        'a="unterminated b',
        'a="x"y',
        "a=b=c",
        "a=",
        "the fabric needs 3182 descriptors; set LimitNOFILE=3182",
    ],
)
def test_what_looks_like_a_field_in_the_text_is_text(text: str) -> None:
    assert parse(f"<3>{text}") == Entry("error", text, {})
    assert parse(f"<3>{text}\tpeer=3") == Entry("error", text, {"peer": "3"})


@pytest.mark.parametrize("escape", [r"\x", r"\u12", r"\N{no such}"])
def test_an_escape_that_is_none_does_no_harm(escape: str) -> None:
    entry = parse(f'<6>x\ta="{escape}" b=1')
    assert (entry.event, entry.fields["b"]) == ("x", "1")


@given(st.text())
def test_any_line_is_read(line: str) -> None:
    assert parse(line).event in line
    parse(f"<6>{line}")


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test(), 60)

    asyncio.run(bounded())


class Reader:
    """A pipe's lines, as they come."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._came = asyncio.Event()
        self.pipe = LinePipe(self._take)
        self.writing = self.pipe.open()

    def _take(self, line: str) -> None:
        self.lines.append(line)
        self._came.set()

    async def until(self, count: int) -> None:
        while len(self.lines) < count:
            self._came.clear()
            await self._came.wait()


def test_lines_arrive_whole_however_they_are_written() -> None:
    async def test() -> None:
        reader = Reader()
        os.write(reader.writing, b"<6>on")
        os.write(reader.writing, b"e\n\n<6>two\n<6>\xff")
        await reader.until(3)
        assert reader.lines == ["<6>one", "", "<6>two"]
        os.write(reader.writing, b"three\n")
        await reader.until(4)
        assert reader.lines[3] == "<6>\ufffdthree"
        os.close(reader.writing)
        reader.pipe.close()

    run(test)


def test_closing_takes_what_is_left_even_without_a_line_end() -> None:
    async def test() -> None:
        reader = Reader()
        os.write(reader.writing, b"one\n" * 1000 + b"last")
        os.close(reader.writing)
        reader.pipe.close()
        assert reader.lines == ["one"] * 1000 + ["last"]

    run(test)


def test_a_pipe_that_somebody_still_holds_is_closed_all_the_same_and_can_be_opened_again() -> None:
    async def test() -> None:
        reader = Reader()
        os.write(reader.writing, b"one\ntw")
        reader.pipe.close()
        assert reader.lines == ["one", "tw"]
        with pytest.raises(BrokenPipeError):
            os.write(reader.writing, b"o\n")
        os.close(reader.writing)
        reader.writing = reader.pipe.open()
        os.write(reader.writing, b"three\n")
        await reader.until(3)
        assert reader.lines[2] == "three"
        os.close(reader.writing)
        reader.pipe.close()

    run(test)


def test_a_line_without_an_end_fills_no_memory() -> None:
    async def test() -> None:
        reader = Reader()
        written = 0
        while written < 1_000_000:
            try:
                written += os.write(reader.writing, b"x" * 4096)
            except BlockingIOError:
                await asyncio.sleep(0)
        while len(reader.pipe._rest) < 65536:
            await asyncio.sleep(0)
        os.write(reader.writing, b"\nnext\n")
        await reader.until(2)
        assert 65536 <= len(reader.lines[0]) <= 2 * 65536
        assert reader.lines[1] == "next"
        os.close(reader.writing)
        reader.pipe.close()

    run(test)


class CountedPipe(LinePipe):
    """Counts how often it was called for."""

    calls = 0

    def _read(self) -> bool:
        self.calls += 1
        return super()._read()


def test_a_writer_that_has_ended_is_called_for_no_more() -> None:
    async def test() -> None:
        lines: list[str] = []
        pipe = CountedPipe(lines.append)
        writing = pipe.open()
        subprocess.run(["/bin/echo", "one"], stdout=writing, check=True)
        os.close(writing)
        for _ in range(20):
            await asyncio.sleep(0)
        # Once for the line, once for the end.
        assert (pipe.calls, lines) == (2, ["one"])
        pipe.close()

    run(test)


def test_a_writer_never_waits_for_the_reader() -> None:
    async def test() -> None:
        reader = Reader()
        capacity = fcntl.fcntl(reader.writing, fcntl.F_GETPIPE_SZ)
        assert os.write(reader.writing, b"x" * 2 * capacity) == capacity
        with pytest.raises(BlockingIOError):
            os.write(reader.writing, b"x")
        os.close(reader.writing)
        reader.pipe.close()

    run(test)
