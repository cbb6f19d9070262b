"""Prometheus' two text formats: what a family of metrics is, and how it is written.

prometheus_client would do it, but it makes objects of all samples and their labels' texts anew each time, which takes
300 ms for the 45,000 doorbell counters of a hundred fabrics of 14 peers. Here the text of a series up to its value is
made once; `bench/scrape.py` compares the two.

Sources: Prometheus' exposition formats (text 0.0.4), and OpenMetrics 1.0.0. Of the latter no `_created` is written: the
counters are older than the process that exports them, and nobody knows when they began.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
UNITS = ("seconds", "bytes")

View = TypeVar("View")
Key = tuple[Any, ...]
"""The values of a series' labels, in the order of their names."""
Values = Mapping[Key, float]
"""Of each series its value."""


class Part(NamedTuple, Generic[View]):
    """Series that end alike."""

    suffix: str
    labels: tuple[str, ...]
    values: Callable[[View], Values]


@dataclass(frozen=True)
class Family(Generic[View]):
    """A metric."""

    name: str
    """Without what its series' names end in."""
    kind: str
    """counter, gauge, histogram or summary."""
    text: str
    example: str
    """A question to Prometheus that it answers."""
    parts: tuple[Part[View], ...]

    @property
    def full_name(self) -> str:
        """As people look for it."""
        return f"{self.name}_total" if self.kind == "counter" else self.name

    @property
    def unit(self) -> str:
        """Of its values, as its name says; "" where it is a number of things."""
        return unit_of(self.name)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of its labels."""
        return self.parts[0].labels

    def head(self, *, open_metrics: bool) -> str:
        """The lines before its samples."""
        name = self.name if open_metrics else self.full_name
        # Only OpenMetrics has quotes escaped here.
        text = _escaped(self.text) if open_metrics else _escaped(self.text).replace('\\"', '"')
        unit = f"# UNIT {name} {self.unit}\n" if open_metrics and self.unit else ""
        return f"# HELP {name} {text}\n# TYPE {name} {self.kind}\n{unit}"


def unit_of(name: str) -> str:
    """The unit that the name of a family tells, "" if none."""
    return next((unit for unit in UNITS if name.endswith(f"_{unit}")), "")


def counter(name: str, text: str, example: str, values: Callable[[View], Values], *labels: str) -> Family[View]:
    """A family of counters."""
    return Family(name, "counter", text, example, (Part("_total", labels, values),))


def gauge(name: str, text: str, example: str, values: Callable[[View], Values], *labels: str) -> Family[View]:
    """A family of gauges."""
    return Family(name, "gauge", text, example, (Part("", labels, values),))


class _Beginnings(dict[Key, str]):
    """The text of each series up to its value, made when it is asked for first."""

    def __init__(self, name: str, labels: tuple[str, ...], fixed: Key) -> None:
        super().__init__()
        self._name = name
        self._labels = labels
        self._fixed = fixed

    def __missing__(self, key: Key) -> str:
        pairs = zip(self._labels, (*self._fixed, *key), strict=True)
        told = ",".join(f'{label}="{_escaped(str(value))}"' for label, value in pairs)
        made = self[key] = f"{self._name}{{{told}}} " if told else f"{self._name} "
        return made


class Writer(Generic[View]):
    """Writes the samples of one view after another, all with the same values of the first labels."""

    def __init__(self, families: Iterable[Family[View]], fixed: Key = ()) -> None:
        """`fixed` are the values of the first labels."""
        self._parts = [
            (family.name, part.values, _Beginnings(f"{family.name}{part.suffix}", part.labels, fixed))
            for family in families
            for part in family.parts
        ]

    def write(self, view: View) -> Iterator[tuple[str, str]]:
        """Yield a family's name and the text of its samples, each family perhaps more than once."""
        for name, values, beginnings in self._parts:
            found = values(view)
            if len(beginnings) > 2 * len(found) + 64:
                # Of peers that came and went.
                beginnings.clear()
            yield (
                name,
                "".join(
                    [
                        f"{beginnings[key]}{value if value.__class__ is int else _number(value)}\n"
                        for key, value in found.items()
                    ]
                ),
            )


def document(families: Iterable[Family[Any]], samples: Mapping[str, list[str]], *, open_metrics: bool) -> bytes:
    """All families with their samples; one without any is left out."""
    texts = []
    for family in families:
        written = "".join(samples.get(family.name, ()))
        if written:
            texts += [family.head(open_metrics=open_metrics), written]
    if open_metrics:
        texts.append("# EOF\n")
    return "".join(texts).encode()


def bucket(most: float) -> str:
    """An upper bound as the label `le` has it."""
    return "+Inf" if math.isinf(most) else repr(float(most))


def _number(value: float) -> object:
    if isinstance(value, int):
        # Also True and False.
        return int(value)
    return "+Inf" if value == math.inf else repr(value)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
