"""The client's grammar, whom its destinations mean, what it answers, and what it makes of the mailbox's traffic."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from famezd.client import ClientError, Message, commands  # noqa: F401 (fills the grammar)
from famezd.client.component import Component
from famezd.client.directory import Directory
from famezd.client.grammar import ALIASES, COMMANDS, UsageError, explain, split, understand
from famezd.client.results import PingStatistics, Place, Received, Who, as_json, printable
from famezd.client.trace import Trace
from famezd.mailbox import SLOT_SIZE, Slots
from famezd.messages import CtlWrite


class Bytes:
    """Memory that nobody shares."""

    def __init__(self, size: int) -> None:
        self._bytes = bytearray(size)

    def read(self, at: int, size: int) -> bytes:
        return bytes(self._bytes[at : at + size])

    def write(self, at: int, data: bytes) -> None:
        self._bytes[at : at + len(data)] = data

    def word(self, at: int) -> int:
        return int.from_bytes(self.read(at, 8), "little")

    def set_word(self, at: int, value: int) -> None:
        self.write(at, value.to_bytes(8, "little"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        ("  \t ", []),
        ("# who", []),
        ("  # who", []),
        ("who", ["who"]),
        ("send z01 issue #3", ["send", "z01", "issue", "#3"]),
        ("send z01 'two  words' \"it's\" it\\'s", ["send", "z01", "two  words", "it's", "it's"]),
        ('send z01 ""', ["send", "z01", ""]),
    ],
)
def test_a_line_has_words(line: str, words: list[str]) -> None:
    assert split(line) == words


@given(st.text())
def test_a_line_has_words_or_is_cut_off(line: str) -> None:
    with contextlib.suppress(UsageError):
        words = split(line)
        if words:
            assert understand(words).command.name in COMMANDS


def test_options_come_before_what_is_taken_as_it_stands() -> None:
    call = understand(["send", "-t", "2.5", "z01", "-t", "3", "--", "x"])
    assert vars(call.arguments) == {"timeout": 2.5, "destination": "z01", "text": ["-t", "3", "--", "x"]}
    assert understand(["int", "1", "all"]).arguments.vector is None
    assert understand(["ring", "1"]).arguments.vector == 0
    assert understand(["rfc", "--ttc", "100us"]).arguments.ttc == 100


def test_every_command_has_help() -> None:
    everything = explain(None)
    for name in (*COMMANDS, *ALIASES):
        command = COMMANDS[ALIASES.get(name, name)]
        assert f"  {command.usage} " in everything
        assert command.help.endswith((".", ")."))
        assert understand([name, "--help"]).command.name == "help"
        assert explain(name).startswith(f"usage: {command.usage}")
    with pytest.raises(UsageError, match=r"no command 'lsten' \(did you mean listen\?\)"):
        explain("lsten")


MEMBERS = {1: ("z01", "Debugger"), 2: ("twin", "a"), 3: ("twin", "b"), 4: ("", "Driverless QEMU"), 5: ("1", "c")}
DIRECTORY = Directory({**MEMBERS, 15: ("Z-switch", "FabricSwitch")}, 1, 15)


@pytest.mark.parametrize(
    ("destination", "peers"),
    [
        ("switch", [15]),
        ("server", [15]),
        ("Z-switch", [15]),
        ("15", [15]),
        ("z01", [1]),
        ("1", [1]),
        ("04", [4]),
        ("all", [1, 2, 3, 4, 5, 15]),
        ("others", [2, 3, 4, 5, 15]),
    ],
)
def test_destinations(destination: str, peers: list[int]) -> None:
    assert DIRECTORY.find_all(destination) == peers


@pytest.mark.parametrize(
    ("destination", "complaint"),
    [
        ("twin", "'twin' is the name of peers 2, 3: say which, by id"),
        ("swich", r"no peer 'swich' \(did you mean switch\?\); there are: 1 \(z01\), 2 \(twin\)"),
        ("", "no peer ''; there are"),
        ("6", "no peer '6'; there are"),
        ("-1", "no peer '-1'"),
        ("9" * 5000, "no peer '999"),
        ("\N{SUPERSCRIPT ONE}", "no peer"),
    ],
)
def test_destinations_that_are_none(destination: str, complaint: str) -> None:
    with pytest.raises(ClientError, match=complaint):
        DIRECTORY.find_all(destination)


def test_where_there_are_no_names() -> None:
    directory = Directory({0: ("", ""), 1: ("", "")}, 0, None)
    assert directory.find("1") == 1
    assert directory.words() == ["0", "1", "all", "others"]
    with pytest.raises(ClientError, match="no peer 'switch'; there are: 0, 1"):
        directory.find("switch")
    assert (directory.name(0), DIRECTORY.name(1), DIRECTORY.name(99)) == ("peer 0", "z01 (1)", "peer 99")


def test_words_are_each_understood() -> None:
    words = DIRECTORY.words()
    assert words == ["z01", "Z-switch", "2", "3", "4", "5", "switch", "all", "others"]
    for word in words:
        assert DIRECTORY.find_all(word)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("ping", "pong"),
        ("ping!EZT=4", "pong!EZT=5"),
        ("pong", None),
        ("PING", None),
        ("hello", None),
        ("", None),
        ("Link CTL Peer-Attribute", "Link CTL ACK cclass=Debugger,CID0=0,SID0=0"),
        ("link ctl peer-attribute!EZT=1", "Link CTL ACK cclass=Debugger,CID0=0,SID0=0!EZT=2"),
        ("Link CTL NAK no", None),
        ("Link CTL nonsense", None),
        ("Link RFC TTC=5us", "Link CTL NAK this component is no fabric manager"),
        ("Link RFC TTC=5ms", None),
        ("CTL-Write CID=1", None),
        ("Standalone Acknowledgment Tag=1,Reason=OK", None),
    ],
)
def test_a_component_answers(text: str, answer: str | None) -> None:
    assert Component().answer(Message(15, text)) == answer


def test_a_component_is_configured() -> None:
    component = Component()
    write = str(CtlWrite(pfm_cid=1500, pfm_sid=27, cid=300, sid=27, tag=7))
    assert component.answer(Message(15, f"{write}!EZT=2")) == "Standalone Acknowledgment Tag=7,Reason=OK!EZT=3"
    assert (component.cid, component.sid) == (300, 27)
    asked = component.answer(Message(15, "Link CTL Peer-Attribute"))
    assert asked == "Link CTL ACK cclass=Debugger,CID0=300,SID0=27"
    component.answer(Message(3, "Link CTL ACK cclass=Adapter,CID0=5,SID0=6"))
    assert str(component.attributes[3]) == "Link CTL ACK cclass=Adapter,CID0=5,SID0=6"


def traced(trace: Trace) -> list[tuple[str, str]]:
    return [(found.what, found.text) for found in trace.look(DIRECTORY)]


def test_a_trace_follows_each_message() -> None:
    slots = Slots(Bytes(SLOT_SIZE * 4))
    slots.put(1, b"before", 2)
    trace = Trace(slots, 3)
    assert traced(trace) == []
    slots.acknowledge(1)
    assert traced(trace) == [("taken", "before")]
    slots.put(1, b"seen", 2)
    assert traced(trace) == []
    slots.acknowledge(1)
    slots.put(1, b"next", 2)
    assert traced(trace) == [("taken", "seen")]
    slots.clear(1)
    assert traced(trace) == [("gone", "next")]
    assert traced(trace) == []


def test_a_trace_shows_nothing_of_an_earlier_message_nor_a_peer_that_is_none() -> None:
    slots = Slots(Bytes(SLOT_SIZE * 4))
    trace = Trace(slots, 3)
    slots.put(1, b"long ago", 2)
    assert traced(trace) == []
    slots.acknowledge(1)
    assert traced(trace) == [("taken", "long ago")]
    for responder in (0, 4, (1 << 64) - 1):
        # As one writes it who ends no text with a NUL, and does not say whom it is for.
        slots.memory.write(512 + 128, b"now")
        slots.memory.set_word(512 + 80, responder)
        slots.memory.set_word(512 + 64, 3)
        assert traced(trace) == []
        slots.acknowledge(1)
        assert [(found.dst, found.text) for found in trace.look(DIRECTORY)] == [("?", "now")]


def test_a_trace_sees_what_came_and_went_by_what_is_left() -> None:
    slots = Slots(Bytes(SLOT_SIZE * 4))
    trace = Trace(slots, 3)
    slots.put(2, b"quick", 3)
    slots.acknowledge(2)
    assert traced(trace) == [], "it may be one that is just being written"
    [found] = trace.look(DIRECTORY)
    assert (found.what, found.src, found.dst, found.text, found.stood) == (
        "taken",
        "twin (2)",
        "twin (3)",
        "quick",
        None,
    )
    assert str(found).endswith("  twin (2) -> twin (3): quick  [taken at once]")
    slots.put(2, b"quick", 3)
    slots.acknowledge(2)
    assert traced(trace) + traced(trace) == [], "the same again cannot be told from what was there"


def test_a_trace_does_not_take_a_half_written_message_for_one_that_passed() -> None:
    slots = Slots(Bytes(SLOT_SIZE * 4))
    trace = Trace(slots, 3)
    slots.put(2, b"text", 3)
    slots.acknowledge(2)
    assert traced(trace) == []
    slots.put(2, b"text", 3)
    assert traced(trace) == []
    slots.acknowledge(2)
    assert traced(trace) == [("taken", "text")]


def test_results_as_json_and_as_text() -> None:
    who = Who([Place(1, "z01", "Debugger", own=True)])
    assert json.loads(as_json(who)) == {
        "result": "who",
        "peers": [{"id": 1, "nodename": "z01", "cclass": "Debugger", "own": True}],
    }
    assert str(Received(1, "z01 (1)", "a\x1b[2Jb", None)) == "z01 (1): a\N{REPLACEMENT CHARACTER}[2Jb"
    assert str(PingStatistics("z01", 3, 0, None, None, None, None)).endswith("3 sent, 0 received, 100% loss")
    assert "0 sent, 0 received, 0% loss" in str(PingStatistics("z01", 0, 0, None, None, None, None))
    assert printable("gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n\0\n") == "grün" + "\N{REPLACEMENT CHARACTER}" * 2
