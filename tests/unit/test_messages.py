"""What components say to each other: texts, and what is read from them."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from famezd.messages import (
    Attributes,
    CtlWrite,
    LinkRfc,
    Message,
    MessageError,
    Nak,
    PeerAttribute,
    StandaloneAcknowledgment,
    Text,
    parse,
    track,
    untrack,
)

NUMBERS = st.integers(0, (1 << 64) - 1)
WORDS = st.from_regex(r"[A-Za-z][A-Za-z0-9 ._-]{0,20}[a-z]", fullmatch=True)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.just(PeerAttribute()),
    st.builds(Attributes, WORDS, NUMBERS, NUMBERS),
    st.builds(Nak, WORDS),
    st.builds(LinkRfc, NUMBERS),
    st.builds(CtlWrite, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS),
    st.builds(StandaloneAcknowledgment, NUMBERS, WORDS),
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Link CTL Peer-Attribute", PeerAttribute()),
        ("Link CTL ACK cclass=Debugger,CID0=300,SID0=27", Attributes("Debugger", 300, 27)),
        ("Link CTL ACK C-Class=Debugger, CID0=300, SID0=27", Attributes("Debugger", 300, 27)),
        ("link ctl ack SID=27,CID=300,cclass=FAME-Zadapter", Attributes("FAME-Zadapter", 300, 27)),
        ("Link CTL NAK not the manager", Nak("not the manager")),
        ("Link CTL NAK", Nak("")),
        ("Link RFC TTC=27us", LinkRfc(27)),
        (
            "CTL-Write Space=0,PFMCID=1500,PFMSID=27,CID=300,SID=27,Tag=7",
            CtlWrite(pfm_cid=1500, pfm_sid=27, cid=300, sid=27, tag=7),
        ),
        ("Standalone Acknowledgment Tag=7,Reason=OK", StandaloneAcknowledgment(7, "OK")),
        ("ping", Text("ping")),
        ("ping\n", Text("ping")),
        ("dump \n", Text("dump")),
        ("ping me\n", Text("ping me\n")),
        ("Ping", Text("Ping")),
        ("Link arms", Text("Link arms")),
        ("", Text("")),
    ],
)
def test_a_text_says(text: str, message: Message) -> None:
    said = parse(text)
    assert (type(said), said) == (type(message), message)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("Link CTL", "Link CTL has no ''; it has Peer-Attribute, ACK and NAK"),
        ("Link CTL Reset", "Link CTL has no 'Reset'; it has Peer-Attribute, ACK and NAK"),
        ("Link CTL ACK", "Link CTL ACK: cclass is missing"),
        ("Link CTL ACK cclass=,CID0=1,SID0=2", "Link CTL ACK: 'cclass=' is no KEY=VALUE"),
        ("Link CTL ACK cclass=x,CID0=1", "Link CTL ACK: SID0 is missing"),
        ("Link CTL ACK cclass=x,CID0=-1,SID0=2", "CID0 must be a number of at most 64 bits, not '-1'"),
        ("Link CTL ACK cclass=x,CID0=\u0661,SID0=2", "CID0 must be a number of at most 64 bits, not '\u0661'"),
        ("Link CTL ACK cclass=x,c-class=y,CID0=1,SID0=2", "c-class is there twice"),
        ("Link RFC", "Link RFC: TTC is missing"),
        ("Link RFC TTC", "Link RFC: 'TTC' is no KEY=VALUE"),
        ("Link RFC TTC=27ms", "Link RFC: TTC must be in microseconds, such as 100us, not '27ms'"),
        ("Link RFC TTC=27", "Link RFC: TTC must be in microseconds, such as 100us, not '27'"),
        ("CTL-Write", "CTL-Write: PFMCID is missing"),
        ("CTL-Write Space=0 PFMCID=1", "CTL-Write: PFMCID is missing"),
        ("Standalone Acknowledgment Tag=seven,Reason=OK", "Tag must be a number of at most 64 bits, not 'seven'"),
        (f"Standalone Acknowledgment Tag={1 << 64},Reason=OK", "Tag must be a number of at most 64 bits"),
        (f"Standalone Acknowledgment Tag={'9' * 300},Reason=OK", "Tag must be a number of at most 64 bits"),
    ],
)
def test_what_begins_like_a_packet_and_is_none_is_an_error(text: str, wrong: str) -> None:
    with pytest.raises(MessageError) as e:
        parse(text)
    assert wrong in str(e.value)


@given(MESSAGES)
def test_a_message_is_read_back_from_its_text(message: Message) -> None:
    said = parse(str(message))
    assert (type(said), said) == (type(message), message)


@given(st.text())
def test_a_value_never_ends_the_text_early(cclass: str) -> None:
    said = parse(str(Attributes(cclass, 1, 2)))
    assert isinstance(said, Attributes)
    assert said[1:] == (1, 2)


@given(st.text() | st.text("LinkCTLRFAKNWrietSpcgDomnda =,0123456789us-!EZ"))
def test_any_text_is_a_message_or_an_error(text: str) -> None:
    with contextlib.suppress(MessageError):
        parse(untrack(text)[0])


@pytest.mark.parametrize(
    ("text", "message", "hops"),
    [
        ("ping!EZT=3", "ping", 3),
        ("ping !EZT=0", "ping", 0),
        ("ping!EZT=4\n", "ping", 4),
        ("ping", "ping", None),
        ("ping!EZT=", "ping!EZT=", None),
        ("ping!EZT=-1", "ping!EZT=-1", None),
        ("ping!EZT=9999999999", "ping!EZT=9999999999", None),
        ("one!EZT=1!EZT=2", "one!EZT=1", 2),
    ],
)
def test_a_tracker_is_taken_off(text: str, message: str, hops: int | None) -> None:
    assert untrack(text) == (message, hops)


def test_a_tracker_is_put_on() -> None:
    assert track(Text("pong"), 4) == "pong!EZT=4"
    assert track(PeerAttribute(), None) == "Link CTL Peer-Attribute"
