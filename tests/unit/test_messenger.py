"""The slots, over a real mailbox: peers write into theirs and ring the switch, and it answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from famezd.mailbox import MAX_TEXT, slots_size
from famezd.stats import QUEUED, SAID
from famezd.switch import messenger
from famezd.switch.genz import Genz
from tests.unit.switch_rig import PEERS, SWITCH, Rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


# The slots


def test_the_switch_lays_the_mailbox_out_and_takes_the_last_slot() -> None:
    rig = Rig(members=0)
    rig.slots.check(slots_size(PEERS))
    assert (rig.slots.peers, rig.slots.server) == (PEERS, SWITCH)
    assert (rig.slots.nodename(SWITCH), rig.slots.cclass(SWITCH)) == ("Z-switch", "FabricSwitch")
    for peer in range(1, PEERS + 1):
        assert (rig.slots.nodename(peer), rig.slots.cclass(peer)) == ("", "")
        assert rig.mapped.word(peer * 512 + 72) == peer
    assert rig.switch.due is None
    assert not rig.rung
    rig.close()


def test_a_newcomer_gets_an_empty_slot_as_a_driverless_qemu(rig: Rig) -> None:
    rig.switch.left(3)
    rig.slots.name(3, "before", "before")
    rig.slots.put(3, b"before", 2)
    rig.switch.joined(3)
    assert (rig.slots.nodename(3), rig.slots.cclass(3)) == ("", "Driverless QEMU")
    assert not rig.slots.pending(3)
    assert rig.mapped.word(3 * 512 + 72) == 3


def test_a_newcomer_finds_what_another_has_scribbled_over(rig: Rig) -> None:
    rig.switch.left(3)
    rig.slots.name(2, "host.2", "FAME-Zadapter")
    rig.mapped.write(0, b"\xff" * 512)
    rig.mapped.write(1 * 512 + 72, b"\xff" * 8)
    rig.slots.name(SWITCH, "mine", "now")
    rig.switch.joined(3)
    rig.slots.check(slots_size(PEERS))
    assert (rig.slots.peers, rig.slots.server) == (PEERS, SWITCH)
    assert rig.mapped.word(1 * 512 + 72) == 1
    assert (rig.slots.nodename(SWITCH), rig.slots.cclass(SWITCH)) == ("Z-switch", "FabricSwitch")
    assert (rig.slots.nodename(2), rig.slots.cclass(2)) == ("host.2", "FAME-Zadapter")


def test_a_leavers_slot_keeps_nothing_but_its_id(rig: Rig) -> None:
    rig.slots.name(3, "host.3", "FAME-Zadapter")
    rig.slots.identify(3, 300, 27)
    rig.switch.left(3)
    assert rig.mapped.read(3 * 512, 512) == bytes(72) + (3).to_bytes(8, "little") + bytes(432)


def test_what_was_cut_off_is_written_again_and_names_that_are_there_stay(rig: Rig) -> None:
    rig.slots.name(2, "host.2", "FAME-Zadapter")
    before = rig.mapped.read(0, 3 * 512)
    rig.mapped.write(3 * 512, bytes(rig.settings.size - 3 * 512))
    rig.switch.mailbox_restored()
    assert rig.mapped.read(0, 3 * 512) == before
    assert rig.slots.cclass(3) == "Driverless QEMU"
    assert (rig.slots.nodename(SWITCH), rig.slots.cclass(SWITCH)) == ("Z-switch", "FabricSwitch")
    assert rig.slots.identity(SWITCH) == (1500, 27)


# What peers do wrong


@pytest.mark.parametrize("vector", [0, SWITCH, SWITCH + 1, 63])
def test_a_vector_that_is_no_peers_is_not_heard(rig: Rig, vector: int) -> None:
    for slot in (0, SWITCH):
        # As a guest can write it.
        rig.slots.put(slot, b"ping", SWITCH)
    before = rig.mapped.read(0, rig.settings.size)
    rig.switch.doorbell(3, vector, 1)
    assert rig.mapped.read(0, rig.settings.size) == before
    assert not rig.logged


def test_the_vector_of_a_port_on_which_nobody_is_is_not_heard(rig: Rig) -> None:
    rig.switch.left(4)
    rig.slots.put(4, b"ping", SWITCH)
    rig.switch.doorbell(3, 4, 1)
    assert rig.slots.pending(4)
    assert not rig.rung


def test_a_doorbell_without_a_message_is_not_answered(rig: Rig) -> None:
    rig.switch.doorbell(3, 3, 1)
    rig.send(3, b"ping")
    rig.switch.doorbell(3, 3, 5)
    assert rig.answers() == [b"pong"]
    assert not rig.logged


def test_a_message_is_known_by_its_slot_where_the_ringer_is_not(rig: Rig) -> None:
    rig.slots.put(4, b"ping", SWITCH)
    rig.switch.doorbell(None, 4, 1)
    assert rig.rung == [(4, SWITCH)]


@pytest.mark.parametrize("text", [b"ping", b"Link RFC TTC=100us"])
def test_who_hears_an_answer_may_send_again_at_once(rig: Rig, text: bytes) -> None:
    for n in range(1, 4):
        rig.send(3, text)
        assert rig.rung == [(3, SWITCH)] * n
        assert not any(rig.pending_when_rung)
        assert rig.take() is not None
        rig.tick()


@pytest.mark.parametrize("length", [MAX_TEXT + 1, 2**64 - 1])
def test_a_length_beyond_the_buffer_is_logged_counted_and_acknowledged(rig: Rig, length: int) -> None:
    rig.mapped.set_word(3 * 512 + 64, length)
    rig.switch.doorbell(3, 3, 1)
    ((event, fields),) = rig.logged
    assert (event, fields["peer"]) == ("message malformed", 3)
    assert str(length) in str(fields["error"])
    assert not rig.slots.pending(3)
    assert not rig.rung
    assert (rig.total("messages_malformed"), rig.total("personality_errors")) == (1, 0)


def test_bytes_that_are_no_text_are_logged_counted_and_acknowledged(rig: Rig) -> None:
    rig.send(3, b"ping\xff")
    assert rig.logged == [("message malformed", {"peer": 3, "error": "it is no UTF-8"})]
    assert not rig.slots.pending(3)
    assert not rig.rung
    assert rig.total("messages_malformed") == 1


@pytest.mark.parametrize("text", [b"x" * MAX_TEXT, b"\0" * MAX_TEXT, b"\0ping", b"ping\0" + b"\xff" * 378])
def test_as_much_as_fits_is_a_message(rig: Rig, text: bytes) -> None:
    rig.send(3, text)
    assert not rig.slots.pending(3)
    assert not rig.logged


# The queue


def test_answers_wait_until_the_one_before_is_acknowledged(rig: Rig) -> None:
    rig.send(1, b"ping!EZT=1")
    rig.send(2, b"ping!EZT=2")
    assert rig.rung == [(1, SWITCH)]
    rig.tick()
    assert rig.rung == [(1, SWITCH)], "not yet acknowledged"
    assert rig.switch.busy
    assert rig.take() == b"pong!EZT=2"
    rig.tick()
    assert rig.rung == [(1, SWITCH), (2, SWITCH)]
    assert not rig.switch.busy
    assert rig.slots.responder(SWITCH) == 2
    assert rig.answers() == [b"pong!EZT=3"]


def test_a_peer_that_takes_nothing_is_owed_few_messages(rig: Rig) -> None:
    for n in range(10):
        rig.send(1, f"ping!EZT={n}".encode())
    assert rig.logged == [("message not sent: the peer takes none", {"peer": 1})] * (10 - 1 - messenger.QUEUED)
    rig.send(2, b"ping")
    assert rig.answers() == [*(f"pong!EZT={n + 1}".encode() for n in range(1 + messenger.QUEUED)), b"pong"]


def test_a_message_not_taken_in_time_is_overwritten_by_the_next(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messenger, "TAKE_WITHIN", 0.0)
    rig.send(1, b"ping!EZT=1")
    assert rig.logged == [("message not taken in time", {"peer": 1})]
    rig.send(2, b"ping!EZT=2")
    assert rig.rung == [(1, SWITCH), (2, SWITCH)]
    assert rig.take() == b"pong!EZT=3"


def test_who_did_not_take_a_message_holds_nobody_up_until_it_takes_one(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messenger, "TAKE_WITHIN", 0.0)
    rig.send(1, b"ping!EZT=1")
    monkeypatch.setattr(messenger, "TAKE_WITHIN", 1000.0)
    monkeypatch.setattr(messenger, "DEAF_TAKE_WITHIN", 0.0)
    not_taken = ("message not taken in time", {"peer": 1})
    rig.send(1, b"ping!EZT=2")
    rig.tick()
    assert rig.logged == [not_taken], "while nobody else is to be sent anything it has its time"
    rig.send(2, b"ping!EZT=3")
    assert rig.logged == [not_taken] * 2
    assert rig.take() == b"pong!EZT=4"
    rig.send(1, b"ping!EZT=5")
    assert rig.take() == b"pong!EZT=6", "it is no longer deaf"
    rig.send(1, b"ping!EZT=7")
    rig.send(2, b"ping!EZT=8")
    assert rig.answers() == [b"pong!EZT=8", b"pong!EZT=9"]
    assert rig.logged == [not_taken] * 2


def test_a_leaver_is_sent_nothing_more_and_holds_nobody_up(rig: Rig) -> None:
    for peer in (1, 2, 1, 3):
        rig.send(peer, b"ping!EZT=%d" % peer)
    rig.switch.left(1)
    assert rig.rung == [(1, SWITCH), (2, SWITCH)]
    assert rig.answers() == [b"pong!EZT=3", b"pong!EZT=4"]
    assert rig.rung == [(1, SWITCH), (2, SWITCH), (3, SWITCH)]


def test_a_leaver_for_whom_nothing_stands_does_not_disturb_the_one_who_is_waited_for(rig: Rig) -> None:
    rig.send(1, b"ping")
    rig.send(2, b"ping")
    rig.switch.left(2)
    assert rig.rung == [(1, SWITCH)]
    assert rig.answers() == [b"pong"]
    assert rig.rung == [(1, SWITCH)]


def test_when_the_last_one_leaves_there_is_nothing_to_look_for() -> None:
    rig = Rig(members=1)
    rig.send(1, b"ping")
    rig.switch.left(1)
    assert rig.switch.due is None
    assert not rig.slots.pending(SWITCH)
    rig.close()


# Going on after a kill


def test_a_message_stands_until_its_answer_is_there_and_what_it_changed_is_kept() -> None:
    rig = Rig()
    standing: list[tuple[bool, bool]] = []
    real = rig.state_page.write

    def write(*tables: dict[str, dict[str, str]]) -> None:
        standing.append((rig.slots.pending(1), rig.slots.pending(SWITCH)))
        real(*tables)

    rig.state_page.write = write  # type: ignore[method-assign,assignment]
    rig.send(1, b"Link RFC TTC=5us")
    assert standing == [(True, True)]
    assert not rig.slots.pending(1)
    rig.close()


def test_whoever_has_not_taken_its_answer_is_rung_again_by_a_successor(rig: Rig) -> None:
    rig.send(2, b"ping")
    rig.succeed([2, 3])
    assert rig.rung == [(2, SWITCH)] * 2
    assert rig.answers() == [b"pong"]


def test_a_successor_rings_nobody_where_nothing_stands(rig: Rig) -> None:
    rig.send(2, b"ping")
    rig.answers()
    rig.succeed([2, 3])
    assert rig.rung == [(2, SWITCH)]


def test_answers_that_wait_outlive_the_worker_but_not_their_receivers(rig: Rig) -> None:
    for peer in (1, 2, 3, 2):
        rig.send(peer, b"ping!EZT=%d" % peer)
    rig.succeed([1, 2])
    assert rig.told() == [(1, "pong!EZT=2"), (2, "pong!EZT=3"), (2, "pong!EZT=3")]


def test_an_answer_that_was_put_just_before_a_kill_is_sent_once(rig: Rig) -> None:
    rig.send(1, b"ping!EZT=1")
    rig.send(2, b"ping!EZT=2")
    # As if there had been no time to write down that it waits no more.
    tables = rig.state_page.read(2)
    assert rig.take() == b"pong!EZT=2"
    rig.tick()
    rig.state_page.write(*tables)
    rig.succeed()
    assert rig.told() == [(2, "pong!EZT=3")]


def test_slots_of_who_is_no_more_are_blanked_by_a_successor(rig: Rig) -> None:
    rig.slots.name(2, "host.2", "FAME-Zadapter")
    rig.slots.name(3, "host.3", "FAME-Zadapter")
    rig.succeed([2])
    assert (rig.slots.nodename(2), rig.slots.nodename(3)) == ("host.2", "")


# Silent


def test_a_silent_switch_lays_out_and_is_not_there() -> None:
    rig = Rig(silent=1, options="manager=false")
    rig.slots.check(slots_size(PEERS))
    assert rig.mapped.read(SWITCH * 512, 72) == bytes(72)
    assert rig.slots.cclass(2) == "Driverless QEMU"
    rig.succeed()
    rig.switch.mailbox_restored()
    rig.switch.left(3)
    assert rig.mapped.read(SWITCH * 512, 72) == bytes(72)
    assert not rig.rung
    assert not rig.logged
    rig.close()


# What is counted


def test_messages_are_counted_by_what_they_are(rig: Rig) -> None:
    texts = {
        "ping": ["ping", "ping!EZT=3", " ping\n"],
        "dump": ["dump"],
        "text": ["hello", "ping pong", "pong"],
        "link_ctl": ["Link CTL Peer-Attribute", "link  ctl NAK no"],
        "link_rfc": ["Link RFC TTC=100us"],
        "ctl_write": ["CTL-Write Space=0,PFMCID=1,PFMSID=1,CID=1,SID=1,Tag=1"],
        "acknowledgment": ["Standalone Acknowledgment Tag=9,Reason=OK"],
    }
    for text in (text for said in texts.values() for text in said):
        rig.send(1, text)
        rig.answers()
    counted = {name: n for name, n in rig.page.totals().items() if name.startswith(("heard_", "failed_")) and n}
    assert counted == {f"heard_{kind}": len(said) for kind, said in texts.items()}
    for malformed in (b"Link CTL nonsense", b"\xff"):
        rig.send(1, malformed)
    assert rig.total("messages_malformed") == 2
    assert counted == {name: n for name, n in rig.page.totals().items() if name in counted}


def test_a_message_at_which_the_personality_fails_is_counted_as_such() -> None:
    class Tested(Genz):
        def message(self, src: int, text: str) -> None:
            raise ValueError(text)

    rig = Rig(Tested)
    rig.send(1, "dump")
    assert (rig.total("failed_dump"), rig.total("heard_dump"), rig.total("personality_errors")) == (1, 0, 1)
    rig.close()


def test_the_switchs_messages_are_counted_by_what_became_of_them(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def said() -> tuple[int, ...]:
        return tuple(rig.total(name) for name in SAID)

    rig.send(1, "ping")
    assert said() == (0, 0, 0), "nobody knows yet"
    assert rig.answers() == [b"pong"]
    assert said() == (1, 0, 0)
    for _ in range(1 + messenger.QUEUED + 2):
        rig.send(1, "ping")
    assert rig.page.gauges()[QUEUED] == messenger.QUEUED
    assert said() == (1, 0, 2)
    rig.switch.left(1)
    assert rig.page.gauges()[QUEUED] == 0
    assert said() == (1, 1, 2 + messenger.QUEUED), "what stood there, and what waited"
    monkeypatch.setattr(messenger, "TAKE_WITHIN", 0.0)
    rig.send(2, "ping")
    assert said() == (1, 2, 2 + messenger.QUEUED)
    monkeypatch.setattr(messenger, "TAKE_WITHIN", 1000.0)
    rig.send(2, "ping")
    assert rig.answers() == [b"pong"]
    rig.send(3, "ping")
    rig.take()
    rig.switch.left(3)
    assert said() == (3, 2, 2 + messenger.QUEUED), "it was taken before its receiver left"
