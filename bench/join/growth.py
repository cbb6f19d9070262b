"""Joins while more and more peers have come and gone: nothing shall grow."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import NamedTuple

from bench.join.crowd import Crowd
from bench.join.server import Server, join, timed
from bench.join.servers import CLAIMED, FULL, Effort, Servers, crowded
from bench.mmsg import Messages
from bench.report import Grid, Part, Plot, Series

NO_GROWTH = 1.2
"""The most that the last joins may be of the first ones: two halves of the same differ by as much."""


class Look(NamedTuple):
    """At a server, after so many joins."""

    joins: int
    latency: float
    """Seconds of a join."""
    processor: float
    """Seconds of a join and a leave, with whatever had to be done because of them."""
    memory: float
    """MiB."""
    descriptors: float


def measure_growth(effort: Effort) -> list[Part]:
    """How joins change while more and more have come and gone."""
    with crowded() as (those, crowd):
        looks = _looks(those, crowd, effort)
    return [growth_table(looks), _time_plot(looks), _memory_plot(looks)]


def _looks(those: Servers, crowd: Crowd, effort: Effort) -> dict[str, list[Look]]:
    """At all servers in turns."""
    names = ["stock", *(kind.name for kind in CLAIMED)]
    messages = Messages(FULL)
    looks: dict[str, list[Look]] = {name: [] for name in names}
    for name in names:
        # The first joins of a process are slower than all others.
        timed(those[name], messages, effort.joins)
        crowd.catch_up()
    for done in range(0, effort.cycles, effort.chunk):
        for name in names:
            looks[name].append(_grown(those[name], crowd, messages, done, effort))
    return looks


def _grown(server: Server, crowd: Crowd, messages: Messages, done: int, effort: Effort) -> Look:
    before = server.settle()
    for n in range(effort.chunk - effort.joins):
        join(server, messages)[0].close()
        if n % effort.joins == 0:
            crowd.catch_up()
    crowd.catch_up()
    latency = timed(server, messages, effort.joins).latency
    crowd.catch_up()
    processor = (server.processor_time() - before) / effort.chunk
    return Look(done + effort.chunk, latency, processor, server.memory(), server.descriptors())


def _times(looks: Mapping[str, list[Look]]) -> dict[str, list[float]]:
    """What takes time, as ratios to the stock server at the same time, by what it is."""
    return {
        f"{name}: {said}": [getattr(a, field) / getattr(b, field) for a, b in zip(those, looks["stock"], strict=True)]
        for name, those in looks.items()
        for field, said in (("latency", "latency of a join"), ("processor", "processor time of a join and a leave"))
        if name != "stock"
    }


def growth_table(looks: Mapping[str, list[Look]]) -> Grid:
    """The last joins beside the first ones."""
    figures = {f"{what}, of the stock server's": values for what, values in _times(looks).items()}
    for name, those in looks.items():
        figures[f"{name}: memory (PSS), MiB"] = [look.memory for look in those]
        figures[f"{name}: open descriptors"] = [look.descriptors for look in those]
    joins = [look.joins for look in looks["stock"]]
    some = max(1, len(joins) // 5)
    rows = []
    for what, values in figures.items():
        first, last = statistics.median(values[:some]), statistics.median(values[-some:])
        verdict = "met" if last / first <= NO_GROWTH else "**missed**"
        target = "" if what.startswith("stock") else f"at most {NO_GROWTH}: {verdict}"
        rows.append([what, f"{first:,.4g}", f"{last:,.4g}", f"{last / first:.2f}", target])
    caption = f"Growth: the first {joins[some - 1]:,} joins and leaves, and the last of {joins[-1]:,}"
    return Grid(caption, ["", "first", "last", "ratio", "target"], rows)


def _time_plot(looks: Mapping[str, list[Look]]) -> Plot:
    xs = [look.joins for look in looks["stock"]]
    series = [Series(what, xs, values, fit_from=0) for what, values in _times(looks).items()]
    return Plot("join-time", "Joins while peers come and go", _X, "of the stock server's", series)


def _memory_plot(looks: Mapping[str, list[Look]]) -> Plot:
    series = [
        Series(name, [look.joins for look in those], [look.memory for look in those], fit_from=0)
        for name, those in looks.items()
    ]
    return Plot("join-memory", "Memory while peers come and go", _X, "PSS, MiB", series)


_X = "joins and leaves that there have been"
