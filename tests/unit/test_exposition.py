"""How metrics are written: what we write is what prometheus_client would, whatever labels and numbers are."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from famezd.supervisor.metrics.exposition import Family, Part, Values, Writer, bucket, counter, document, gauge

FORMATS = ["", "application/openmetrics-text"]

Series = dict[tuple[str, str], float]


class Theirs(Collector):
    """The same families as the library has them."""

    def __init__(self, *families: Metric) -> None:
        self._families = families

    def collect(self) -> tuple[Metric, ...]:
        return self._families


def ours(families: list[Family[None]], accept: str) -> bytes:
    samples: dict[str, list[str]] = {}
    for name, text in Writer(families, ("lab",)).write(None):
        samples.setdefault(name, []).append(text)
    return document(families, samples, open_metrics=bool(accept))


def theirs(families: list[Metric], accept: str) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Theirs(*families))
    return choose_encoder(accept)[0](registry)


@given(
    st.dictionaries(st.tuples(st.text(), st.text()), st.floats(allow_nan=False), min_size=1), st.sampled_from(FORMATS)
)
def test_any_labels_and_numbers(values: Series, accept: str) -> None:
    text = 'Say "x" \\ y.'
    mine: list[Family[None]] = [
        counter("famez_x", text, "", lambda _: values, "fabric", "name", "other"),
        gauge("famez_y", text, "", lambda _: values, "fabric", "name", "other"),
    ]
    made: list[Metric] = []
    for family in CounterMetricFamily, GaugeMetricFamily:
        one = family(mine[len(made)].name, text, labels=["fabric", "name", "other"])
        for labels, value in values.items():
            one.add_metric(["lab", *labels], value)
        made.append(one)
    assert numbers(ours(mine, accept)) == numbers(theirs(made, accept))


def numbers(text: bytes) -> list[str | tuple[str, float]]:
    """The lines of a text, with numbers as numbers: the library writes some of them in another way."""
    lines = text.decode().split("\n")
    told = [line.rpartition(" ") for line in lines]
    return [
        line if line.startswith("#") or not line else (before, float(n))
        for line, (before, _, n) in zip(lines, told, strict=True)
    ]


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\\nb", "two\nlines", "\\", "x" * 10_000, "\u2028 \x85 \x0c", "{,=}"])
def test_a_hostile_label_is_one_label(name: str) -> None:
    text = ours([gauge("famez_x", "", "", lambda _: {(name,): 1}, "fabric", "name")], "")
    (family,) = text_string_to_metric_families(text.decode())
    assert [sample.labels for sample in family.samples] == [{"fabric": "lab", "name": name}]


def test_units_and_histograms() -> None:
    family = Family[None](
        "famez_wait_seconds",
        "histogram",
        "How long.",
        "",
        (
            Part("_bucket", ("fabric", "le"), lambda _: {(bucket(0.5),): 1, (bucket(math.inf),): 2}),
            Part("_sum", ("fabric",), lambda _: {(): 1.5}),
            Part("_count", ("fabric",), lambda _: {(): 2}),
        ),
    )
    assert ours([family], FORMATS[1]).decode().splitlines() == [
        "# HELP famez_wait_seconds How long.",
        "# TYPE famez_wait_seconds histogram",
        "# UNIT famez_wait_seconds seconds",
        'famez_wait_seconds_bucket{fabric="lab",le="0.5"} 1',
        'famez_wait_seconds_bucket{fabric="lab",le="+Inf"} 2',
        'famez_wait_seconds_sum{fabric="lab"} 1.5',
        'famez_wait_seconds_count{fabric="lab"} 2',
        "# EOF",
    ]


def test_a_family_without_samples_is_left_out() -> None:
    assert ours([gauge("famez_x", "X.", "", lambda _: {}, "fabric")], "") == b""


def test_series_of_who_has_gone_are_forgotten() -> None:
    present: list[int] = []

    def values(_: None) -> Values:
        return {(peer,): 1 for peer in present}

    writer = Writer([gauge("famez_x", "X.", "", values, "fabric", "peer")], ("lab",))
    for peer in range(10_000):
        present[:] = [peer]
        assert "".join(text for _, text in writer.write(None)) == f'famez_x{{fabric="lab",peer="{peer}"}} 1\n'
    ((_, _, beginnings),) = writer._parts
    assert len(beginnings) < 100
