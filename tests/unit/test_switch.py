"""A personality that does what it should not hurts only what it was called for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping

import pytest

from famezd.fabric.switch import SwitchError, keeps_state
from famezd.mailbox import MAX_TEXT
from famezd.messages import MessageError
from famezd.switch.genz import Genz
from famezd.switch.personality import Fabric, Messaging, Personality, State
from famezd.switch.plain import Plain
from tests.unit.switch_rig import PEERS, SWITCH, Rig


class Echo(Messaging):
    """Answers each message with itself, unless it is told to raise."""

    def __init__(self, fabric: Fabric) -> None:
        super().__init__(fabric)
        self.heard: dict[str, dict[str, str]] = {}

    def message(self, src: int, text: str) -> None:
        if text == "raise":
            self.fabric.send(src, "half done")
            raise KeyError("told to")
        if text == "exit":
            raise SystemExit(1)
        if text == "malformed":
            raise MessageError("I do not like it")
        self.heard[text] = {"from": str(src)}
        self.fabric.send(src, text)

    def state(self) -> State:
        return self.heard


Make = Callable[[type[Personality]], Rig]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Rig] = []

    def rig(personality: type[Personality]) -> Rig:
        made.append(Rig(personality))
        return made[-1]

    yield rig
    for one in made:
        one.close()


def works(rig: Rig) -> None:
    """The next message is served."""
    rig.told()
    rig.send(2, "next")
    assert rig.told() == [(2, "next")]


def test_a_message_that_raises_is_acknowledged_and_the_next_is_served(make: Make) -> None:
    rig = make(Echo)
    rig.send(1, "raise")
    assert not rig.slots.pending(1)
    assert rig.logged == [("personality failed", {"call": "message(1, 'raise')", "error": "KeyError: 'told to'"})]
    assert (rig.total("personality_errors"), rig.total("messages_malformed")) == (1, 0)
    assert rig.told() == [(1, "half done")], "what it did before stands"
    works(rig)


def test_to_give_up_is_not_for_a_personality_to_decide(make: Make) -> None:
    rig = make(Echo)
    rig.send(1, "exit")
    assert not rig.slots.pending(1)
    assert rig.total("personality_errors") == 1
    works(rig)


def test_a_message_that_it_calls_malformed_is_none_of_its_errors(make: Make) -> None:
    rig = make(Echo)
    rig.send(1, "malformed")
    assert not rig.slots.pending(1)
    assert rig.logged == [("message malformed", {"peer": 1, "error": "I do not like it"})]
    assert (rig.total("personality_errors"), rig.total("messages_malformed")) == (0, 1)
    works(rig)


def test_what_one_peer_causes_uses_up_no_other_peers_lines(make: Make) -> None:
    rig = make(Echo)
    rig.send(1, "malformed")
    rig.send(2, "malformed")
    rig.send(2, "raise")
    rig.switch.log("of its own accord")
    assert rig.logger.kinds == [
        "personality, caused by peer 1",
        "personality, caused by peer 2",
        "personality failed, caused by peer 2",
        "personality",
    ]


def _raise(*_: object) -> None:
    raise ValueError("no")


HOOKS: dict[str, Callable[[Rig], object]] = {
    "started": lambda rig: rig.switch.started(),
    "resumed": lambda rig: rig.succeed(),
    "mailbox_restored": lambda rig: rig.switch.mailbox_restored(),
    "joined": lambda rig: rig.switch.joined(3),
    "left": lambda rig: rig.switch.left(3),
    "doorbell": lambda rig: rig.switch.doorbell(3, SWITCH, 1),
}


@pytest.mark.parametrize("hook", HOOKS)
def test_each_hook_may_raise(make: Make, hook: str) -> None:
    rig = make(type("Raising", (Echo,), {hook: _raise}))
    before = rig.total("personality_errors")
    HOOKS[hook](rig)
    assert rig.total("personality_errors") == before + 1
    assert rig.logged[-1][0] == "personality failed"
    assert str(rig.logged[-1][1]["call"]).startswith(f"{hook}(")
    works(rig)


def test_a_tick_may_raise_and_is_not_called_again_and_again(make: Make) -> None:
    rig = make(type("Raising", (Echo,), {"tick": _raise}))
    rig.switch._personality.due = time.monotonic()
    rig.tick()
    rig.tick()
    assert rig.total("personality_errors") == 1
    assert rig.switch.due is None
    works(rig)


@pytest.mark.parametrize("due", ["soon", math.nan, math.inf, [1]])
def test_a_due_that_is_no_time_is_never(make: Make, due: object) -> None:
    rig = make(Echo)
    rig.switch._personality.due = due  # type: ignore[assignment]
    assert rig.switch.due is None
    assert rig.total("personality_errors") == 1
    assert rig.switch.due is None
    assert rig.total("personality_errors") == 1
    works(rig)


def test_busy_may_raise(make: Make) -> None:
    rig = make(type("Raising", (Echo,), {"busy": property(_raise)}))
    assert not rig.switch.busy
    assert rig.total("personality_errors") == 1


@pytest.mark.parametrize(
    "state",
    [None, [], 1, {"a": None}, {"a": {"b": 1}}, {1: {"b": "c"}}, {"a": {2: "c"}}, {"a": {"b": "x" * (2 << 20)}}],
)
def test_a_state_that_is_none_is_logged_and_the_one_before_is_kept(make: Make, state: object) -> None:
    rig = make(Echo)
    works(rig)
    rig.switch._personality.state = lambda: state  # type: ignore[assignment,method-assign,return-value]
    works(rig)
    assert rig.total("personality_errors") >= 1
    assert rig.state == {"next": {"from": "2"}}


def test_where_the_state_is_none_what_waits_to_be_sent_is_kept_all_the_same(make: Make) -> None:
    rig = make(Echo)
    works(rig)
    rig.switch._personality.state = lambda: {"a": {"b": 1}}  # type: ignore[method-assign,dict-item]
    for peer in (1, 2, 3):
        rig.send(peer, f"to {peer}")
    assert rig.state == {"next": {"from": "2"}}
    rig.succeed()
    assert rig.told() == [(1, "to 1"), (2, "to 2"), (3, "to 3")]


def test_a_state_may_raise(make: Make) -> None:
    rig = make(type("Raising", (Echo,), {"state": _raise}))
    works(rig)
    assert rig.total("personality_errors") >= 1


def test_one_that_cannot_be_made_is_a_clear_error() -> None:
    with pytest.raises(SwitchError, match=r"test_switch:Tested cannot be made: ValueError: no"):
        Rig(type("Raising", (Echo,), {"__init__": _raise, "__module__": __name__}))


def test_names_of_a_wrong_kind_are_blank_or_text(make: Make) -> None:
    rig = make(type("Raising", (Echo,), {"nodename": property(_raise)}))
    assert rig.slots.nodename(SWITCH) == ""
    works(rig)


# What it works with


def test_members_are_those_who_are_there(make: Make) -> None:
    seen = []

    class Looking(Echo):
        def joined(self, peer: int) -> None:
            seen.append((peer, list(self.fabric.members)))

        def left(self, peer: int) -> None:
            seen.append((-peer, list(self.fabric.members)))

    rig = make(Looking)
    seen.clear()
    rig.switch.left(3)
    rig.switch.joined(3)
    everybody = list(range(1, PEERS + 1))
    assert seen == [(-3, [p for p in everybody if p != 3]), (3, everybody)]


def test_a_message_to_nobody_goes_nowhere_and_holds_nobody_up(make: Make) -> None:
    rig = make(Echo)
    rig.switch.left(3)
    for peer in (3, 0, -1, SWITCH, 1 << 70):
        rig.switch.send(peer, "hello")
    assert not rig.rung
    works(rig)


def test_a_message_that_is_too_long_is_the_senders_error(make: Make) -> None:
    class Long(Echo):
        def message(self, src: int, text: str) -> None:
            self.fabric.send(src, "x" * (MAX_TEXT + 1 if text == "long" else MAX_TEXT))

    rig = make(Long)
    rig.send(1, "long")
    assert (rig.total("personality_errors"), rig.total("messages_malformed")) == (1, 0)
    assert "384 bytes to peer 1; at most 383 fit" in str(rig.logged[-1][1]["error"])
    rig.send(1, "short")
    assert rig.told() == [(1, "x" * MAX_TEXT)]


def test_a_switch_that_is_no_peer_can_ring_and_send_nothing() -> None:
    rig = Rig(type("Listening", (Echo,), {"is_peer": False}))
    with pytest.raises(SwitchError, match="it can ring nobody"):
        rig.switch.ring(1, 0)
    with pytest.raises(SwitchError, match="it is no peer"):
        rig.switch.send(1, "hello")
    assert not rig.rung
    rig.close()


def test_a_personality_without_slots_gets_every_doorbell_and_can_send_nothing(make: Make) -> None:
    rung: list[tuple[int | None, int, int]] = []

    class Bare(Personality):
        is_peer = True

        def doorbell(self, peer: int | None, vector: int, rings: int) -> None:
            rung.append((peer, vector, rings))

    rig = make(Bare)
    before = rig.mapped.read(0, rig.settings.size)
    rig.switch.doorbell(3, 3, 2)
    assert rung == [(3, 3, 2)]
    with pytest.raises(SwitchError, match="the mailbox has no slots"):
        rig.switch.send(1, "hello")
    assert rig.mapped.read(0, rig.settings.size) == before


def test_options_come_as_text() -> None:
    seen: list[Mapping[str, str]] = []

    class Curious(Echo):
        def __init__(self, fabric: Fabric) -> None:
            super().__init__(fabric)
            seen.append(fabric.options)

    Rig(Curious, options="colour=a%3Db%2Cc,n=7").close()
    assert seen == [{"colour": "a=b,c", "n": "7"}]


def test_only_who_knows_anything_has_a_state_page() -> None:
    assert (keeps_state(Plain), keeps_state(Genz), keeps_state(Echo)) == (False, True, True)
    assert keeps_state(type("Bare", (Personality,), {"state": Echo.state}))
