"""Fault rules as text, and the chance by which they strike: bounded, repeatable, and as likely as they say."""

import math
import statistics
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from famezd.faults import (
    ANY,
    EACH,
    KINDS,
    MAX_DELAY,
    MAX_RULES,
    MAX_SEED,
    NO_DELAY,
    SWITCH,
    Chance,
    Delay,
    FaultError,
    Rule,
    parse_delay,
    parse_probability,
    parse_rule,
    parse_rules,
    rules_text,
)
from famezd.stats import COUNT_LIMIT

US, MS, S = 10**3, 10**6, 10**9
PEERS = st.sampled_from([ANY, SWITCH]) | st.integers(0, 65535)
TIMES = st.integers(0, MAX_DELAY)


# Text


@pytest.mark.parametrize(
    ("text", "probability"),
    [("0", 0), ("1", 1), ("0.1", 0.1), (".5", 0.5), ("10%", 0.1), ("100%", 1), ("0.1%", 0.001), ("1e-06", 1e-6)],
)
def test_probabilities(text: str, probability: float) -> None:
    assert parse_probability(text) == pytest.approx(probability)


@pytest.mark.parametrize("text", ["", "%", "1.1", "101%", "-0.1", "nan", "inf", "0x1", "1,5", "10 %", "1e5", "٣%%"])
def test_what_is_no_probability(text: str) -> None:
    with pytest.raises(FaultError, match=r"is no probability, such as 0\.1 or 10%"):
        parse_probability(text)


@pytest.mark.parametrize(
    ("text", "delay"),
    [
        ("5ms", Delay("", 5 * MS)),
        ("1.5s", Delay("", 1500 * MS)),
        ("0.25us", Delay("", 250)),
        ("60s", Delay("", 60 * S)),
        ("1ms..5ms", Delay("..", MS, 5 * MS)),
        ("0us..1s", Delay("..", 0, S)),
        ("5ms+-500us", Delay("+-", 5 * MS, 500 * US)),
    ],
)
def test_delays(text: str, delay: Delay) -> None:
    assert parse_delay(text) == delay
    assert parse_delay(delay.text) == delay


@pytest.mark.parametrize(
    "text", ["", "5", "5 ms", "5m", "5min", "-5ms", "1..5ms", "1ms...5ms", "1ms-5ms", "1ms..", "5MS"]
)
def test_what_is_no_delay(text: str) -> None:
    with pytest.raises(
        FaultError, match=r"is no delay, such as 5ms, 1ms\.\.5ms or 5ms\+-1ms; the units are us, ms and s"
    ):
        parse_delay(text)


def test_delays_that_cannot_be_meant() -> None:
    with pytest.raises(FaultError, match=r"'5ms\.\.1ms' ends before it begins; write 1ms\.\.5ms"):
        parse_delay("5ms..1ms")
    for text in ("61s", "1s..61s", "1s+-61s"):
        with pytest.raises(FaultError, match="is too long: a delay is at most 60s"):
            parse_delay(text)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    kind = draw(st.sampled_from(KINDS))
    first, second = sorted((draw(TIMES), draw(TIMES)))
    delay = draw(st.sampled_from([Delay("", first), Delay("..", first, second), Delay("+-", second, first)]))
    return Rule(
        id=draw(st.integers(1, 10**9)),
        kind=kind,
        src=draw(PEERS),
        dst=draw(PEERS),
        vector=draw(st.integers(ANY, 2047)),
        message=draw(st.booleans()),
        probability=1.0 if kind in ("block", "delay") else draw(st.floats(0, 1)),
        delay=delay if kind == "delay" else NO_DELAY,
        seed=draw(st.integers(0, MAX_SEED)),
    )


@given(st.lists(rules(), max_size=5))
def test_rules_are_read_back_as_they_were(some: list[Rule]) -> None:
    assert parse_rules(rules_text(some)) == tuple(some)


def test_a_rule_reads_as_it_is_meant() -> None:
    text = "id=3 src=1 dst=* vector=2 drop=0.1 seed=7"
    assert parse_rule(text) == Rule(3, "drop", 1, ANY, 2, probability=0.1, seed=7)
    assert parse_rule(text).text == text
    assert parse_rule("id=4 src=* dst=switch message drop=0.5 seed=8").text.split()[3] == "message"


@pytest.mark.parametrize(
    "text",
    ["id=1", "drop=2", "drop=0.1 block", "drop=0.1 peer=1", "src=one drop=1", "src=65536 drop=1", "vector=x block"],
)
def test_what_is_no_rule(text: str) -> None:
    with pytest.raises(FaultError):
        parse_rule(text)


def test_so_many_rules_and_no_more() -> None:
    assert len(parse_rules("block;" * MAX_RULES)) == MAX_RULES
    with pytest.raises(FaultError, match=f"{MAX_RULES + 1} fault rules; a fabric has at most {MAX_RULES}"):
        parse_rules("block;" * (MAX_RULES + 1))


# Chance


def test_chance_is_the_same_each_time_and_another_with_another_seed() -> None:
    assert [Chance(7).word(i) for i in range(100)] == [Chance(7).word(i) for i in range(100)]
    words = {Chance(seed).word(i, nth) for seed in range(10) for i in range(50) for nth in range(3)}
    assert len(words) == 10 * 50 * 3
    # Known from now on: a run that was noted down can be repeated with a later version.
    assert [Chance(7).binomial(i, 1, 0.5) for i in range(12)] == [1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 0]


def test_chance_is_even() -> None:
    chance = Chance(1)
    fractions = [chance.fraction(i) for i in range(20_000)]
    assert all(0 <= f < 1 for f in fractions)
    assert statistics.fmean(fractions) == pytest.approx(0.5, abs=5 * math.sqrt(1 / 12 / 20_000))
    # And what is next to each other is not alike.
    products = [(a - 0.5) * (b - 0.5) for a, b in pairwise(fractions)]
    assert abs(statistics.fmean(products)) < 5 / 12 / math.sqrt(20_000)


def test_few_doorbells_have_a_draw_each_however_they_come() -> None:
    chance = Chance(5)
    together = chance.binomial(1000, EACH, 0.3)
    one_by_one = sum(chance.binomial(1000 + i, 1, 0.3) for i in range(EACH))
    in_parts = chance.binomial(1000, 100, 0.3) + chance.binomial(1100, EACH - 100, 0.3)
    assert together == one_by_one == in_parts


@pytest.mark.parametrize("n", [1, 7, EACH, EACH + 1, 1000, 10**6, COUNT_LIMIT])
@pytest.mark.parametrize("p", [0.0, 1e-12, 1e-3, 0.1, 0.5, 0.9, 0.999, 1 - 1e-12, 1.0])
def test_as_many_are_struck_as_the_probability_says(n: int, p: float) -> None:
    draws = 300
    chance = Chance(11)
    struck = [chance.binomial(i * n, n, p) for i in range(draws)]
    assert all(0 <= k <= n for k in struck)
    spread = math.sqrt(n * p * (1 - p))
    assert statistics.fmean(struck) == pytest.approx(n * p, abs=5 * spread / math.sqrt(draws) + 1e-3 + n * 1e-12)
    if n * p * (1 - p) > 1:
        assert 0.8 * spread < statistics.stdev(struck) < 1.2 * spread


@given(st.integers(0, MAX_SEED), st.integers(0, 2**64 - 1), st.integers(1, COUNT_LIMIT), st.floats(0, 1))
def test_any_number_is_shared_out(seed: int, index: int, n: int, p: float) -> None:
    assert 0 <= Chance(seed).binomial(index, n, p) <= n


def test_certain_and_impossible_are_that() -> None:
    for n in (1, EACH, EACH + 1, COUNT_LIMIT):
        assert Chance(1).binomial(0, n, 1.0) == n
        assert Chance(1).binomial(0, n, 0.0) == 0


def test_delays_are_drawn_as_they_say() -> None:
    chance = Chance(3)

    def drawn(text: str) -> list[float]:
        delay = parse_delay(text)
        return [delay.draw(chance, i) for i in range(10_000)]

    assert set(drawn("5ms")) == {0.005}
    even = drawn("1ms..5ms")
    assert 0.001 <= min(even) < 0.0011 < 0.0049 < max(even) <= 0.005
    assert statistics.fmean(even) == pytest.approx(0.003, rel=0.02)
    normal = drawn("5ms+-1ms")
    assert statistics.fmean(normal) == pytest.approx(0.005, rel=0.02)
    assert statistics.stdev(normal) == pytest.approx(0.001, rel=0.05)
    assert min(drawn("1ms+-5ms")) == 0
    assert list(islice(drawn("5ms+-1ms"), 10)) == normal[:10]
