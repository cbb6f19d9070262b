"""The fault rules in force: those of the file first, each with an id that stays and is never given again."""

from pathlib import Path

import pytest

from famezd.config import Fabric, FaultSettings, Mailbox, Socket
from famezd.faults import MAX_RULES, FaultError
from famezd.faultsettings import read_fault
from famezd.stats import Page, Shape, rule_key
from famezd.supervisor.faults import FaultTable, TooManyRulesError, UnknownRuleError, look_at_faults

DROP = FaultSettings(src=1, drop=0.1)
BLOCK = FaultSettings(dst=2, block=True)
DELAY = FaultSettings(src=2, dst="*", vector=3, delay="1ms..5ms", seed=7)


def fabric(*faults: FaultSettings, **given: object) -> Fabric:
    settings = {"name": "lab", "socket": Socket(path=Path("/s")), "mailbox": Mailbox(name="m", size=4096)}
    return Fabric.model_validate(settings | {"faults": faults} | given)


def ids(table: FaultTable) -> list[int]:
    return [numbered.id for numbered in table.rules]


def test_rules_of_the_file_come_first_and_keep_their_ids() -> None:
    table = FaultTable().fitting(fabric(DROP, BLOCK)).added(DELAY)
    assert ids(table) == [1, 2, 3]
    changed = table.fitting(fabric(BLOCK, DELAY))
    # The same rule in the file is another one than famezctl's.
    assert ids(changed) == [2, 4, 3]
    assert [numbered.configured for numbered in changed.rules] == [True, True, False]
    assert ids(changed.fitting(fabric(DROP))) == [5, 3]


def test_two_equal_rules_of_a_file_are_two() -> None:
    table = FaultTable().fitting(fabric(DROP, DROP))
    assert ids(table) == ids(table.fitting(fabric(DROP, DROP))) == [1, 2]


def test_no_id_is_given_twice() -> None:
    table = FaultTable().added(DROP).cleared(1).added(BLOCK)
    assert ids(table) == [2]
    assert ids(table.cleared(None).added(BLOCK)) == [3]
    with pytest.raises(UnknownRuleError, match="no fault rule 1; there are: 2"):
        table.cleared(1)


def test_what_famezctl_added_goes_where_it_fits_no_more() -> None:
    table = FaultTable().added(FaultSettings(dst=9, block=True)).added(BLOCK)
    assert ids(table.fitting(fabric(peers=5))) == [2]
    assert ids(table.fitting(fabric(doorbells="direct"))) == []


def test_there_are_so_many_rules_and_no_more() -> None:
    table = FaultTable()
    for _ in range(MAX_RULES):
        table = table.added(DROP)
    with pytest.raises(TooManyRulesError, match=f"there are {MAX_RULES} fault rules already"):
        table.added(DROP)


def test_a_rule_has_a_seed_of_its_own_that_depends_on_itself_alone() -> None:
    assert DROP.rule(1).seed == DROP.rule(2).seed != BLOCK.rule(1).seed
    assert DELAY.rule(1).seed == 7
    assert FaultTable().added(DELAY).text == "id=1 src=2 dst=* vector=3 delay=1ms..5ms seed=7"


def test_what_rules_have_done_is_read_from_the_page() -> None:
    page = Page.create("test", Shape(4, 4, 2))
    try:
        table = FaultTable().added(DROP).added(BLOCK)
        at = page.shape.rules_at + 9
        page.words[at], page.words[at + 1], page.words[at + 2] = rule_key(table.rules[1].rule), 5, 4
        seen = look_at_faults(table, page)
        assert [(view.id, view.seen, view.struck) for view in seen] == [(1, 0, 0), (2, 5, 4)]
        assert seen[1].rule.startswith("src=* dst=2 block seed=")
        assert [view.struck for view in look_at_faults(table, None)] == [0, 0]
    finally:
        page.close()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, "the rule must have one of drop, delay, duplicate, block, corrupt, and has none"),
        ({"drop": 0.1, "block": True}, "block is one thing, and drop another: write a rule for each"),
        ({"drop": 0.1, "vector": 1, "message": True}, "message needs a mailbox with slots"),
        ({"drop": "x"}, "drop must be a probability from 0 to 1"),
        ({"dorp": 1}, "dorp unknown key, did you mean 'drop'?"),
        ({"src": "switch", "block": True}, "src must be a peer, and with personality plain the switch is none"),
        ({"src": 14, "block": True}, "src must be one of this fabric's ids, 0 to 13, not 14"),
        (
            {"src": True, "block": 1},
            "src must be a peer's id, switch or *, not true; block must be true or false, not 1",
        ),
    ],
)
def test_what_is_wrong_with_a_rule_is_told(asked: dict[str, object], told: str) -> None:
    with pytest.raises(FaultError) as e:
        read_fault(asked, fabric())
    assert str(e.value).startswith(told)


def test_what_is_right_is_read() -> None:
    asked = {"src": "2", "dst": "*", "vector": "3", "delay": "1ms..5ms", "seed": 7}
    assert read_fault(asked, fabric()) == DELAY
    fresh = fabric(ports="fresh")
    assert read_fault({"src": 60000, "drop": "50%"}, fresh).drop == 0.5
