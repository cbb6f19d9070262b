"""A soak that cannot fail is worth nothing: whatever is lost, doubled or miscounted, the model says so."""

from __future__ import annotations

import pytest

from tests.soak.model import Counters, Kind, Model, Rule

STICKY = Kind("relayed", "sticky", "plain", 3, 2)
FRESH = Kind("relayed", "fresh", "plain", 3, 2)
GENZ = Kind("relayed", "fresh", "genz", 3, 5)
DIRECT = Kind("direct", "sticky", "plain", 3, 2)


def model(kind: Kind = STICKY, peers: int = 2) -> Model:
    """A fabric with so many peers."""
    made = Model(kind)
    for peer in kind.ids[:peers]:
        assert made.join(peer) == []
    return made


def counters(model: Model, **others: object) -> Counters:
    """What an honest famezd tells of two peers, of which 0 has rung 1 three times on vector 1; but for `others`."""
    honest = Counters(
        peers=frozenset(model.members),
        pairs={(0, 1): 3, (1, 0): 0},
        vectors={(1, 1): 3},
        joins=2,
        leaves={},
        refusals={},
        dropped=0,
        faults={},
        rules=[],
        deaths=0,
    )
    return honest._replace(**others)  # type: ignore[arg-type]


@pytest.fixture
def rung() -> Model:
    """Two peers, 0 and 1, of which 0 has rung 1 three times on vector 1."""
    made = model()
    assert made.ring(0, 1, 1, 3) == 3
    return made


# What arrives


def test_all_that_was_rung_and_nothing_else_is_right(rung: Model) -> None:
    assert rung.missing() == {1: {1: 3}}
    rung.hear(1, {1: 2})
    assert rung.missing() == {1: {1: 1}}
    rung.hear(1, {1: 1})
    assert rung.missing() == {}
    assert rung.agree() == []
    # And what was agreed on is not expected again.
    assert rung.agree() == []


def test_a_lost_doorbell_is_noticed(rung: Model) -> None:
    rung.hear(1, {1: 2})
    assert rung.agree() == ["peer 1 was rung 2 times on vector 1, not 3"]


def test_a_doubled_doorbell_is_noticed(rung: Model) -> None:
    rung.hear(1, {1: 4})
    assert rung.agree() == ["peer 1 was rung 4 times on vector 1, not 3"]


def test_a_kill_may_double_but_not_lose(rung: Model) -> None:
    rung.disturb()
    rung.hear(1, {1: 6})
    assert rung.agree() == []
    rung.ring(0, 1, 1)
    rung.hear(1, {})
    assert rung.agree() == ["peer 1 was rung 0 times on vector 1, not 1 to 2"]


def test_a_kill_doubles_one_bell_at_most(rung: Model) -> None:
    rung.ring(0, 1, 0)
    rung.disturb()
    rung.hear(1, {0: 2, 1: 6})
    assert rung.agree() == ["2 bells were delivered more than once, after 1 kills"]


def test_of_direct_doorbells_a_kill_doubles_none() -> None:
    direct = model(DIRECT)
    direct.ring(0, 1, 1)
    direct.disturb()
    direct.hear(1, {1: 2})
    assert direct.agree() == ["peer 1 was rung 2 times on vector 1, not 1"]


@pytest.mark.parametrize("vector", [0, 1])
def test_a_doorbell_for_somebody_else_is_noticed(rung: Model, vector: int) -> None:
    rung.hear(1, {1: 3})
    rung.hear(0, {vector: 1})
    assert rung.agree() == [f"peer 0 was rung 1 times on vector {vector}, not 0"]


def test_a_machine_says_only_that_it_was_rung() -> None:
    machine = Model(STICKY)
    machine.join(0)
    machine.join(1, exact=False)
    machine.ring(0, 1, 1, 3)
    assert machine.missing() == {1: {1: 1}}
    assert machine.agree() == ["peer 1 was rung 0 times on vector 1, not 1 to 3"]
    machine.ring(0, 1, 1, 3)
    machine.hear(1, {1: 1})
    assert machine.agree() == []
    machine.hear(1, {0: 1})
    assert machine.agree() == ["peer 1 was rung 1 times on vector 0, not 0"]


# What is counted


def test_right_counters_are_right(rung: Model) -> None:
    assert rung.check(counters(rung)) == []


@pytest.mark.parametrize(
    ("tampered", "complaint"),
    [
        ({"pairs": {(0, 1): 2}}, "doorbells by src, dst (0, 1): 2, not 3"),
        ({"pairs": {(0, 1): 4}}, "doorbells by src, dst (0, 1): 4, not 3"),
        ({"pairs": {}}, "doorbells by src, dst (0, 1): 0, not 3"),
        ({"pairs": {(0, 1): 3, (2, 1): 1}}, "doorbells by src, dst (2, 1): 1, not 0"),
        ({"vectors": {(1, 1): 3, (1, 0): 1}}, "doorbells by dst, vector (1, 0): 1, not 0"),
        ({"vectors": {(1, 0): 3}}, "doorbells by dst, vector (1, 1): 0, not 3"),
        ({"peers": frozenset({0})}, "the peers are [0], not [0, 1]"),
        ({"joins": 3}, "joins: 3, not 2"),
        ({"leaves": {"stalled": 1}}, "departures: {'stalled': 1}, not {}"),
        ({"refusals": {"full": 1}}, "refusals: {'full': 1}, not {}"),
        ({"dropped": 1}, "doorbells dropped: 1, not 0"),
        ({"faults": {"drop": 1}}, "faults: {'drop': 1}, not {}"),
        ({"deaths": 1}, "workers' deaths: 1, not 0"),
    ],
)
def test_a_wrong_counter_is_noticed(rung: Model, tampered: dict[str, object], complaint: str) -> None:
    assert complaint in rung.check(counters(rung, **tampered))


def test_what_is_rung_where_nobody_is_counts_and_is_dropped(rung: Model) -> None:
    rung.ring(0, 2, 0, 5)
    told = counters(rung, pairs={(0, 1): 3, (0, 2): 5}, vectors={(1, 1): 3, (2, 0): 5})
    assert rung.check(told) == ["doorbells dropped: 0, not 5"]
    # What was told is what the next one begins from.
    assert rung.check(told) == []


def test_what_whoever_leaves_has_not_heard_may_be_dropped(rung: Model) -> None:
    rung.leave(1)
    for dropped in (3, 3):
        assert rung.check(counters(rung, leaves={"hangup": 1}, dropped=dropped)) == []
    assert rung.check(counters(rung, leaves={"hangup": 1}, dropped=4)) == ["doorbells dropped: 4, not 3"]


def test_direct_doorbells_are_not_counted() -> None:
    direct = model(DIRECT)
    direct.ring(0, 1, 1, 3)
    assert direct.check(counters(direct, pairs={}, vectors={})) == []
    assert direct.check(counters(direct)) != []


# Who is there


def test_an_id_that_is_taken_or_that_somebody_saw_depart_is_noticed() -> None:
    fresh = model(GENZ)
    assert fresh.join(1) == ["a newcomer has id 1, which is not free"]
    fresh = model(GENZ)
    fresh.leave(2)
    assert fresh.join(2) == ["a newcomer has id 2, which peers [1] have seen depart"]


def test_whether_there_is_room() -> None:
    assert [model(peers=n).room() for n in range(4)] == [True, True, True, False]
    fresh = model(GENZ, 3)
    fresh.leave(2)
    # Every id is taken, or was seen to depart.
    assert fresh.room() is None


@pytest.mark.parametrize(("noticed", "room"), [(True, True), (False, None)])
def test_whoever_comes_may_see_a_departure_that_was_not_noticed_before(noticed: bool, room: bool | None) -> None:
    fresh = model(GENZ)
    for peer in (1, 2):
        fresh.leave(peer)
    if noticed:
        fresh.settle()
    assert fresh.join(3) == []
    assert fresh.room() is room


def test_a_refusal_where_there_is_room_is_noticed() -> None:
    assert model().refuse() == ["a newcomer was turned away, and there was room"]
    assert model(peers=3).refuse() == []


def test_a_newcomer_too_many_is_noticed() -> None:
    assert "peer 3 joined a fabric that has 3 peers already" in model(FRESH, 3).join(3)


def test_of_those_who_have_left_fresh_ports_forget_the_counters_or_have_them_right() -> None:
    fresh = model(FRESH)
    fresh.ring(0, 1, 1, 3)
    fresh.leave(0)
    gone = {"leaves": {"hangup": 1}}
    assert fresh.check(counters(fresh, **gone)) == []
    assert fresh.check(counters(fresh, pairs={}, **gone)) == []
    assert fresh.check(counters(fresh, pairs={(0, 1): 2}, **gone)) == ["doorbells by src, dst (0, 1): 2, not 3"]
    # Who was rung is there still.
    assert fresh.check(counters(fresh, vectors={}, **gone)) == ["doorbells by dst, vector (1, 1): 0, not 3"]


def test_of_those_who_had_one_id_after_the_other_any_may_be_forgotten() -> None:
    fresh = model(GENZ)
    for _ in range(2):
        fresh.ring(1, 2, 1, 3)
        for peer in (1, 2):
            fresh.leave(peer)
        for peer in (1, 2):
            fresh.join(peer)
    fresh.leave(2)
    fresh.leave(1)

    def wrong(rings: int) -> list[str]:
        told = counters(fresh, pairs={(1, 2): rings}, vectors={(2, 1): rings}, joins=6, leaves={"hangup": 6})
        return fresh.check(told)

    assert [wrong(rings) for rings in (0, 3, 6)] == [[], [], []]
    assert wrong(7) == ["doorbells by src, dst (1, 2): 7, not 0 to 6", "doorbells by dst, vector (2, 1): 7, not 0 to 6"]


# Fault rules


@pytest.mark.parametrize(
    ("effects", "through", "faults", "rules"),
    [
        (["drop"], 0, {"drop": 3}, [(3, 3)]),
        (["block"], 0, {"block": 3}, [(3, 3)]),
        (["duplicate"], 6, {"duplicate": 3}, [(3, 3)]),
        (["delay", "duplicate"], 6, {"delay": 3, "duplicate": 3}, [(3, 3), (3, 3)]),
        (["duplicate", "delay"], 6, {"duplicate": 3, "delay": 6}, [(3, 3), (6, 6)]),
        (["drop", "duplicate"], 0, {"drop": 3}, [(3, 3), (0, 0)]),
        (["message"], 3, {}, [(0, 0)]),
    ],
)
def test_rules_strike_in_order(
    effects: list[str], through: int, faults: dict[str, int], rules: list[tuple[int, int]]
) -> None:
    ruled = model()
    ruled.change_rules(Rule(0, 1, effect) for effect in effects)
    assert ruled.ring(0, 1, 1, 3) == through
    assert ruled.check(counters(ruled, faults=faults, rules=rules)) == []
    assert ruled.check(counters(ruled, faults={"drop": 1}, rules=rules)) != []
    # They concern nobody else.
    assert ruled.ring(1, 0, 1, 3) == 3


def test_one_message_is_lost_however_often_its_doorbell_was_doubled() -> None:
    ruled = model(GENZ)
    ruled.change_rules([Rule(1, 2, "duplicate"), Rule(1, 2, "message")])
    assert ruled.ring(1, 2, 1, message=True) == 0
    assert ruled.faults == {"duplicate": 1, "drop": 1}
    assert ruled.check(counters(ruled, faults=ruled.faults, rules=[(1, 1), (2, 2)])) != []


def test_a_lost_message_takes_its_doorbell_with_it() -> None:
    ruled = model(GENZ)
    ruled.change_rules([Rule(1, 2, "message")])
    assert ruled.ring(1, 2, 1, message=True) == 0
    assert ruled.faults == {"drop": 1}


def test_rules_that_stay_go_on_where_they_are() -> None:
    ruled = model()
    drop = Rule(0, 1, "drop")
    ruled.change_rules([drop])
    ruled.ring(0, 1, 1, 3)
    ruled.change_rules([Rule(1, 0, "block"), drop])
    assert ruled.check(counters(ruled, faults={"drop": 3}, rules=[(0, 0), (3, 3)])) == []


def test_a_message_whose_doorbell_another_rule_drops_is_not_lost() -> None:
    fabric = model(peers=2)
    for rules, lost in (
        ((Rule(0, 1, "drop"), Rule(0, 1, "message")), 0),
        ((Rule(0, 1, "message"), Rule(0, 1, "drop")), 1),
    ):
        fabric.change_rules(rules)
        assert fabric.ring(0, 1, 0, message=True) == 0
        assert fabric.lost_messages == lost
