"""The Gen-Z switch: every conversation by its exact texts, as WIRE.md section 4 and docs/genz.md have them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from famezd.fabric.switch import SwitchError
from famezd.mailbox import BUFFER_SIZE, MAX_TEXT
from famezd.switch.genz import LOOK_AT_NAMES, TAG_EXPIRES, Genz
from tests.unit.switch_rig import PEERS, SWITCH, Rig

Make = Callable[..., Rig]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Rig] = []

    def rig(**given: object) -> Rig:
        made.append(Rig(**given))  # type: ignore[arg-type]
        return made[-1]

    yield rig
    for one in made:
        one.close()


@pytest.fixture
def rig(make: Make) -> Rig:
    return make()


# ping, dump, and what is an ordinary message


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (b"ping", b"pong"),
        (b"ping!EZT=1", b"pong!EZT=2"),
        (b"ping !EZT=41", b"pong!EZT=42"),
        (b"ping!EZT=999999999", b"pong!EZT=1000000000"),
        (b"ping\0junk", b"pong"),
        (b"dump", b"1 of 14 ports in use; 1 - (Driverless QEMU)"),
        (b"dump!EZT=7", b"1 of 14 ports in use; 1 - (Driverless QEMU)!EZT=8"),
    ],
)
def test_a_request_is_answered_on_the_vector_of_the_switch(make: Make, sent: bytes, answered: bytes) -> None:
    rig = make(members=1)
    rig.send(1, sent)
    assert not rig.slots.pending(1), "its message is acknowledged"
    assert rig.rung == [(1, SWITCH)]
    assert rig.slots.responder(SWITCH) == 1
    assert rig.answers() == [answered]


@pytest.mark.parametrize(
    "text",
    [
        *(b"hello", b"pong", b"Ping", b"!EZT=1", b"Link", b"Link arms", b"Standalone"),
        *(b"ping!EZT=", b"ping!EZT=x", b"ping!EZT=-1", b"ping!EZT=1234567890"),
        # Digits, but not ours.
        *("ping!EZT=\u0663".encode(), "ping!EZT=\u00b2".encode()),
    ],
)
def test_other_text_is_acknowledged_and_not_answered(rig: Rig, text: bytes) -> None:
    before = rig.state
    rig.send(3, text)
    assert not rig.slots.pending(3)
    assert not rig.slots.pending(SWITCH)
    assert not rig.rung
    assert rig.state == before
    assert not rig.logged


def test_a_dump_shows_the_ports_in_use_to_the_asker_and_the_log(make: Make) -> None:
    rig = make(members=5)
    for peer in (1, 3, 4):
        rig.switch.left(peer)
    rig.slots.name(5, "host.5", "FAME-Zadapter")
    configure(rig, 5)
    rig.logged.clear()
    rig.send(5, b"dump")
    assert rig.answers() == [b"2 of 14 ports in use; 2 - (Driverless QEMU); 5 host.5 (FAME-Zadapter) 500.27"]
    assert rig.logged == [
        ("port", {"peer": 2, "link": "up", "cclass": "Driverless QEMU"}),
        (
            "port",
            {"peer": 5, "link": "configured", "nodename": "host.5", "cclass": "FAME-Zadapter"}
            | {"cid": "500", "sid": "27"},
        ),
    ]


@pytest.mark.parametrize("name", ["x" * 31, "\u00e4" * 15, "\u20ac" * 10])
def test_a_dump_that_is_too_long_for_a_message_is_cut_between_ports(rig: Rig, name: str) -> None:
    for peer in range(1, PEERS + 1):
        rig.slots.name(peer, name, name)
    rig.send(1, b"dump!EZT=999999999")
    (answer,) = rig.answers()
    assert len(answer) <= MAX_TEXT
    assert answer.decode().endswith(f"({name}); ...!EZT=1000000000")


# Link CTL: who is there


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        ("Link CTL Peer-Attribute", "Link CTL ACK cclass=FabricSwitch,CID0=1500,SID0=27"),
        ("Link CTL Peer-Attribute!EZT=3", "Link CTL ACK cclass=FabricSwitch,CID0=1500,SID0=27!EZT=4"),
        ("link ctl peer-attribute", "Link CTL ACK cclass=FabricSwitch,CID0=1500,SID0=27"),
    ],
)
@pytest.mark.parametrize("manager", ["true", "false"])
def test_who_asks_the_switch_for_its_attributes_is_told(make: Make, manager: str, sent: str, answered: str) -> None:
    rig = make(members=1, options=f"manager={manager}")
    rig.answers()
    rig.send(1, sent)
    assert rig.told() == [(1, answered)]


def test_who_is_no_manager_asks_each_newcomer_for_its_attributes(make: Make) -> None:
    rig = make(members=0, options="manager=false")
    assert (rig.slots.nodename(SWITCH), rig.slots.cclass(SWITCH)) == ("Z-server", "FabricSwitch")
    rig.switch.joined(4)
    assert rig.told() == [(4, "Link CTL Peer-Attribute")]
    rig.send(4, "Link CTL ACK cclass=Debugger,CID0=9,SID0=3")
    assert not rig.told()
    told = {"link": "up", "cclass": "Driverless QEMU"}
    assert rig.state["port 4"] == told | {"peer_cclass": "Debugger", "peer_cid": "9", "peer_sid": "3"}


def test_a_manager_waits_until_it_is_asked(make: Make) -> None:
    rig = make(members=3)
    assert not rig.told()
    assert (rig.slots.nodename(SWITCH), rig.slots.identity(SWITCH)) == ("Z-switch", (1500, 27))


@pytest.mark.parametrize(
    "text",
    [
        "Link CTL ACK cclass=Debugger,CID0=300,SID0=27",
        "Link CTL ACK C-Class=Debugger,CID0=300,SID0=27!EZT=5",
        "Link CTL ACK SID=27, CID=300, C-CLASS=Debugger",
    ],
)
def test_an_ack_is_recorded_however_its_keys_are_spelled(rig: Rig, text: str) -> None:
    rig.send(3, text)
    assert rig.state["port 3"].items() >= {"peer_cclass": "Debugger", "peer_cid": "300", "peer_sid": "27"}.items()
    assert rig.logged == [("peer attributes", {"peer": 3, "cclass": "Debugger", "cid": 300, "sid": 27})]
    assert not rig.told()


def test_a_nak_is_recorded_until_an_ack_comes(rig: Rig) -> None:
    rig.send(3, "Link CTL NAK I am busy")
    assert rig.state["port 3"]["nak"] == "I am busy"
    assert rig.logged == [("peer refused a request", {"peer": 3, "why": "I am busy"})]
    rig.send(3, "Link CTL NAK")
    assert rig.state["port 3"]["nak"] == "no reason given"
    rig.send(3, "Link CTL ACK cclass=x,CID0=0,SID0=0")
    assert "nak" not in rig.state["port 3"]
    assert not rig.told()


# Link RFC, CTL-Write, Standalone Acknowledgment and what comes after


def configure(rig: Rig, peer: int) -> None:
    """The whole conversation, as the peer has it."""
    rig.send(peer, "Link RFC TTC=100us")
    ((_, write),) = rig.told()
    rig.send(peer, f"Standalone Acknowledgment {write[write.index('Tag=') :]},Reason=OK")
    assert rig.told() == [(peer, "Link CTL Peer-Attribute")]


def test_a_peer_is_configured(rig: Rig) -> None:
    rig.send(3, "Link RFC TTC=100us")
    assert rig.told() == [(3, "CTL-Write Space=0,PFMCID=1500,PFMSID=27,CID=300,SID=27,Tag=1")]
    assert rig.state["port 3"]["link"] == "up"
    assert rig.state["tag 1"].items() >= {"peer": "3", "cid": "300", "sid": "27"}.items()
    assert rig.slots.identity(3) == (0, 0)
    rig.send(3, "Standalone Acknowledgment Tag=1,Reason=OK")
    assert rig.told() == [(3, "Link CTL Peer-Attribute")]
    assert "tag 1" not in rig.state
    assert rig.state["port 3"].items() >= {"link": "configured", "cid": "300", "sid": "27"}.items()
    assert rig.slots.identity(3) == (300, 27)
    rig.send(3, "Link CTL ACK cclass=FAME-Zadapter,CID0=300,SID0=27")
    assert rig.state["port 3"]["peer_cclass"] == "FAME-Zadapter"
    assert not rig.told()
    assert rig.events == ["link configured", "peer attributes"]


def test_the_tracker_counts_every_hop_of_a_conversation(rig: Rig) -> None:
    rig.send(3, "Link RFC TTC=100us!EZT=1")
    assert rig.told() == [(3, "CTL-Write Space=0,PFMCID=1500,PFMSID=27,CID=300,SID=27,Tag=1!EZT=2")]
    rig.send(3, "Standalone Acknowledgment Tag=1,Reason=OK!EZT=3")
    assert rig.told() == [(3, "Link CTL Peer-Attribute!EZT=4")]


def test_each_peer_gets_its_own_tag_and_ids_of_the_subnet(make: Make) -> None:
    rig = make(options="manager=true,sid=5")
    rig.send(3, "Link RFC TTC=1us")
    rig.send(4, "Link RFC TTC=1us")
    assert rig.told() == [
        (3, "CTL-Write Space=0,PFMCID=1500,PFMSID=5,CID=300,SID=5,Tag=1"),
        (4, "CTL-Write Space=0,PFMCID=1500,PFMSID=5,CID=400,SID=5,Tag=2"),
    ]


def test_who_asks_again_has_one_tag_outstanding(rig: Rig) -> None:
    for _ in range(100):
        rig.send(3, "Link RFC TTC=1us")
        rig.told()
    assert [name for name in rig.state if name.startswith("tag ")] == ["tag 100"]
    rig.send(3, "Standalone Acknowledgment Tag=99,Reason=OK")
    assert rig.logged[-1] == (
        "Standalone Acknowledgment ignored",
        {"peer": 3, "tag": 99, "why": "no such tag is outstanding"},
    )
    assert rig.state["port 3"]["link"] == "up"


def test_who_is_no_manager_refuses(make: Make) -> None:
    rig = make(members=1, options="manager=false")
    rig.told()
    rig.send(1, "Link RFC TTC=100us!EZT=1")
    assert rig.told() == [(1, "Link CTL NAK this switch is no fabric manager!EZT=2")]
    assert rig.state["port 1"]["link"] == "up"


@pytest.mark.parametrize("text", ["Link RFC TTC=100ms", "Link RFC TTC=100", "Link RFC TTC=us", "Link RFC TTC=1s"])
def test_a_time_in_other_units_is_dropped(rig: Rig, text: str) -> None:
    before = rig.state
    rig.send(3, text)
    assert not rig.told()
    assert rig.state == before
    ((event, fields),) = rig.logged
    assert (event, fields["peer"]) == ("message malformed", 3)
    assert "TTC must be in microseconds, such as 100us" in str(fields["error"])
    assert rig.total("messages_malformed") == 1


@pytest.mark.parametrize(
    ("tag", "peer", "why"),
    [
        (2, 3, "no such tag is outstanding"),
        (0, 3, "no such tag is outstanding"),
        ((1 << 64) - 1, 3, "no such tag is outstanding"),
        (1, 4, "the tag is peer 3's"),
    ],
)
def test_a_tag_that_is_not_the_peers_has_no_effect(rig: Rig, tag: int, peer: int, why: str) -> None:
    rig.send(3, "Link RFC TTC=1us")
    rig.told()
    before = rig.state
    rig.send(peer, f"Standalone Acknowledgment Tag={tag},Reason=OK")
    assert rig.logged == [("Standalone Acknowledgment ignored", {"peer": peer, "tag": tag, "why": why})]
    assert rig.state == before
    assert not rig.told()
    rig.send(3, "Standalone Acknowledgment Tag=1,Reason=OK")
    assert rig.state["port 3"]["link"] == "configured"


def test_another_reason_configures_nothing(rig: Rig) -> None:
    rig.send(3, "Link RFC TTC=1us")
    rig.told()
    rig.send(3, "Standalone Acknowledgment Tag=1,Reason=Access denied")
    assert rig.logged == [("CTL-Write refused", {"peer": 3, "tag": 1, "reason": "Access denied"})]
    assert rig.state["port 3"]["link"] == "up"
    assert rig.slots.identity(3) == (0, 0)
    assert not rig.told()


def test_an_acknowledgment_counts_once(rig: Rig) -> None:
    configure(rig, 3)
    rig.send(3, "Standalone Acknowledgment Tag=1,Reason=OK")
    assert rig.logged[-1][0] == "Standalone Acknowledgment ignored"
    assert not rig.told()


def test_a_tag_expires_with_a_line_in_the_log(rig: Rig) -> None:
    rig.send(3, "Link RFC TTC=1us")
    rig.told()
    rig.tick(TAG_EXPIRES / 2)
    assert "tag 1" in rig.state
    rig.tick(TAG_EXPIRES + 0.1)
    assert rig.logged == [("CTL-Write not acknowledged in time", {"peer": 3, "tag": 1})]
    assert "tag 1" not in rig.state
    rig.send(3, "Standalone Acknowledgment Tag=1,Reason=OK")
    assert rig.logged[-1][0] == "Standalone Acknowledgment ignored"
    assert rig.state["port 3"]["link"] == "up"


def test_a_leaver_takes_its_tag_and_its_link_with_it(rig: Rig) -> None:
    configure(rig, 3)
    rig.send(3, "Link RFC TTC=1us")
    rig.told()
    rig.switch.left(3)
    assert rig.state["port 3"] == {"link": "down"}
    assert "tag 2" not in rig.state
    rig.switch.joined(3)
    rig.send(3, "Standalone Acknowledgment Tag=2,Reason=OK")
    assert rig.state["port 3"] == {"link": "up", "cclass": "Driverless QEMU"}


def test_nobody_configures_the_switch(rig: Rig) -> None:
    before = rig.state
    rig.send(3, "CTL-Write Space=0,PFMCID=300,PFMSID=27,CID=1,SID=1,Tag=1")
    assert rig.state == before
    assert not rig.told()
    assert rig.logged == [("CTL-Write to the switch, which nobody configures", {"peer": 3})]


@pytest.mark.parametrize(
    "text",
    [
        "Link CTL",
        "Link CTL Reset",
        "Link CTL ACK",
        "Link CTL ACK cclass",
        "Link CTL ACK cclass=,CID0=1,SID0=2",
        "Link CTL ACK cclass=x,CID0=,SID0=2",
        "Link CTL ACK cclass=x,CID0=-1,SID0=2",
        "Link RFC",
        "Link RFC TTC",
        "Link RFC TTC=",
        "CTL-Write Space",
        "Standalone Acknowledgment",
        "Standalone Acknowledgment Tag=,Reason=OK",
        "Standalone Acknowledgment Tag=1",
        "Standalone Acknowledgment Tag=x,Reason=OK",
    ],
)
def test_a_malformed_control_message_is_logged_counted_and_has_no_effect(rig: Rig, text: str) -> None:
    before = rig.state
    rig.send(3, text)
    assert not rig.slots.pending(3)
    assert [(event, fields["peer"]) for event, fields in rig.logged] == [("message malformed", 3)]
    assert (rig.total("messages_malformed"), rig.total("personality_errors")) == (1, 0)
    assert rig.state == before
    assert not rig.told()
    rig.send(3, "ping")
    assert rig.told() == [(3, "pong")]


# What outlives the worker


def test_a_successor_goes_on_with_links_attributes_and_tags(rig: Rig) -> None:
    configure(rig, 3)
    rig.send(3, "Link CTL ACK cclass=a=b%2C,CID0=300,SID0=27")
    rig.send(4, "Link RFC TTC=1us!EZT=1")
    before = rig.state
    rig.succeed()
    assert rig.state == before
    rig.told()
    rig.send(4, "Standalone Acknowledgment Tag=2,Reason=OK!EZT=3")
    assert rig.told() == [(4, "Link CTL Peer-Attribute!EZT=4")]
    rig.send(5, "Link RFC TTC=1us")
    assert rig.told()[0][1].endswith("Tag=3")


def test_who_is_no_more_is_forgotten_and_who_came_is_up(rig: Rig) -> None:
    configure(rig, 3)
    configure(rig, 4)
    rig.switch.left(5)
    rig.succeed([3, 5])
    assert [rig.state[f"port {port}"]["link"] for port in (3, 4, 5)] == ["configured", "down", "up"]


def test_a_tag_expires_under_a_successor(rig: Rig) -> None:
    rig.send(3, "Link RFC TTC=1us")
    rig.told()
    rig.succeed()
    rig.tick(TAG_EXPIRES + 0.1)
    assert rig.logged == [("CTL-Write not acknowledged in time", {"peer": 3, "tag": 1})]


def test_without_a_state_everybody_who_is_there_is_up(rig: Rig) -> None:
    rig.state_page.write()
    rig.succeed([2, 3])
    assert [rig.state[f"port {port}"]["link"] for port in (1, 2, 3)] == ["down", "up", "up"]
    configure(rig, 2)


def test_settings_change_in_place(rig: Rig) -> None:
    configure(rig, 3)
    rig.succeed(options="manager=false,sid=5")
    assert rig.state["switch"].items() >= {"manager": "false", "sid": "5", "nodename": "Z-server"}.items()
    assert rig.slots.nodename(SWITCH) == "Z-server"
    assert rig.slots.identity(SWITCH) == (1500, 5)
    assert rig.state["port 3"].items() >= {"link": "configured", "sid": "27"}.items()


def test_names_that_guests_write_are_seen_within_a_second(rig: Rig) -> None:
    rig.slots.name(3, "host.3", "FAME-Zadapter")
    assert "nodename" not in rig.state["port 3"]
    assert rig.switch.due is not None
    rig.tick(1.1)
    assert rig.state["port 3"] == {"link": "up", "nodename": "host.3", "cclass": "FAME-Zadapter"}


def test_names_that_stay_as_they_are_are_looked_at_ever_more_seldom_until_one_is_new(rig: Rig) -> None:
    def is_due_within(seconds: float) -> bool:
        assert rig.switch.due is not None
        return rig.switch.due <= time.monotonic() + seconds

    for seconds in (2, 4, 8, 8):
        began = time.monotonic()
        rig.tick(100)
        assert rig.switch.due is not None
        assert began + seconds <= rig.switch.due
        assert is_due_within(seconds)
    rig.slots.name(3, "host.3", "FAME-Zadapter")
    rig.tick(100)
    assert is_due_within(LOOK_AT_NAMES)
    rig.tick(100)
    assert not is_due_within(LOOK_AT_NAMES)
    rig.slots.name(2, "host.2", "FAME-Zadapter")
    rig.send(2, "ping")
    assert rig.answers() == [b"pong"]
    assert is_due_within(LOOK_AT_NAMES)
    rig.tick(100)
    rig.switch.left(3)
    assert not is_due_within(LOOK_AT_NAMES)
    rig.switch.joined(3)
    assert is_due_within(LOOK_AT_NAMES)


def test_a_mailbox_that_was_cut_gets_its_ids_again(rig: Rig) -> None:
    configure(rig, 3)
    rig.mapped.write(0, bytes(rig.settings.size))
    rig.switch.mailbox_restored()
    assert [rig.slots.identity(slot) for slot in (2, 3, SWITCH)] == [(0, 0), (300, 27), (1500, 27)]


# Whatever they write

PIECES = (
    "Link",
    "CTL",
    "RFC",
    "ACK",
    "NAK",
    "Peer-Attribute",
    "CTL-Write",
    "Standalone",
    "Acknowledgment",
    "ping",
    "dump",
)
VALUES = (
    "TTC=1us",
    "Tag=1",
    "Reason=OK",
    "cclass=x",
    "C-Class=",
    "CID0=1",
    "SID0=2",
    "Space=0",
    "!EZT=1",
    "\0",
    "\x1b[2J",
)
TEXTS = st.lists(st.sampled_from([*PIECES, *VALUES, " ", ",", "="]) | st.text(max_size=6), max_size=12).flatmap(
    lambda words: st.sampled_from([" ".join(words), "".join(words), ",".join(words)])
)
ANYTHING = st.binary(max_size=BUFFER_SIZE) | TEXTS.map(lambda text: text.encode(errors="replace")[:BUFFER_SIZE])


@hypothesis_settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 8), ANYTHING, st.none() | st.integers(0, (1 << 64) - 1)),
        max_size=12,
    ),
    st.booleans(),
)
def test_whatever_peers_write_nothing_fails_and_the_next_is_answered(
    written: list[tuple[int, int, bytes, int | None]], manager: bool
) -> None:
    rig = Rig(peers=4, members=4, options=f"manager={str(manager).lower()}")
    try:
        for slot, vector, text, length in written:
            rig.mapped.write(slot * 512 + 128, text)
            rig.mapped.set_word(slot * 512 + 64, len(text) if length is None else length)
            rig.switch.doorbell(None, vector, 1)
            assert vector not in range(1, 5) or not rig.slots.pending(vector)
        assert rig.total("personality_errors") == 0
        for peer in range(1, 5):
            rig.switch.left(peer)
        rig.slots.acknowledge(5)
        rig.switch.joined(2)
        rig.told()
        rig.send(2, "ping")
        assert rig.told()[-1] == (2, "pong")
    finally:
        rig.close()


# What it asks of a fabric


@pytest.mark.parametrize(
    ("peers", "vectors", "wrong"),
    [
        (14, 16, []),
        (62, 64, []),
        (62, 63, ["vectors"]),
        (1, 2, ["vectors"]),
        (63, 65, ["peers"]),
        (63, 1, ["peers", "vectors"]),
    ],
)
def test_a_fabric_has_a_slot_and_a_vector_for_each_peer(peers: int, vectors: int, wrong: list[str]) -> None:
    mistakes = Genz.mistakes(peers, vectors)
    assert list(mistakes) == wrong
    if "peers" in wrong:
        assert mistakes["peers"] == f"personality genz takes at most 62, not {peers}"
    if "vectors" in wrong:
        assert mistakes["vectors"].endswith(f"needs at least {peers + 2} (peers + 2), not {vectors}")


def test_the_switch_is_a_peer_on_a_fabric_whose_ids_begin_at_one() -> None:
    assert (Genz.first_id, Genz.is_peer, Genz.fixed_ids) == (1, True, True)
    assert Genz.mailbox_size(14) == 8192


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("manager=yes", "option manager must be true or false, not 'yes'"),
        ("sid=65536", "option sid must be an integer from 0 to 65535, not '65536'"),
        ("sid=", "option sid must be an integer from 0 to 65535, not ''"),
    ],
)
def test_options_that_are_none_are_named(make: Make, options: str, why: str) -> None:
    with pytest.raises(SwitchError, match=why):
        make(options=options)
