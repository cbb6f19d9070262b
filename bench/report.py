"""What the benchmarks tell: tables, plots and texts, as the sections of docs/performance.md.

Machines are noisy, and another one is another: a time or a rate is told for orientation, a ratio of two that were
measured in turns in the same run (A B A B ...) is a claim. A ratio is the median of the ratios pair by pair.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, NoReturn

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from bench import process

WIDTH = 120
ROUNDS = 10
"""Pairs of measurements that a claim is the median of, at least."""

# The same picture, byte by byte, of the same figures; its text stays text.
mpl.rcParams["svg.hashsalt"] = "famezd"
mpl.rcParams["svg.fonttype"] = "none"


class Ratio(NamedTuple):
    """How much of something one takes of what another takes."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
        """Of what was measured in turns, pair by pair."""
        pairs = [a / b for a, b in zip(ours, theirs, strict=True)]
        return cls(statistics.median(pairs), min(pairs), max(pairs))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Row:
    """One thing that was measured of famezd, and in turns of what it is compared with."""

    what: str
    ours: Sequence[float]
    theirs: Sequence[float]
    """Of the column's program; empty if it has no such figure."""
    limit: Sequence[float] = ()
    """Of the bare thing, done by as little as possible: what a figure is to be seen beside; empty if not measured."""
    most: float | None = None
    """The ratio that shall not be passed."""
    least: float | None = None
    """The ratio that shall be reached."""

    @property
    def ratio(self) -> Ratio | None:
        """Of ours to theirs."""
        return Ratio.of(self.ours, self.theirs) if self.theirs else None

    @property
    def target(self) -> str:
        """In words, with a verdict."""
        if self.ratio is None:
            return ""
        if self.most is not None:
            return f"at most {self.most:g}: {'met' if self.ratio.median <= self.most else '**missed**'}"
        if self.least is not None:
            return f"at least {self.least:g}: {'met' if self.ratio.median >= self.least else '**missed**'}"
        return ""


@dataclass(frozen=True)
class Comparison:
    """A table of ratios, all of the same unit."""

    caption: str
    unit: str
    """Of all values, such as `ms`."""
    theirs: str
    """Whom famezd is compared with."""
    rows: Sequence[Row]
    limit: str = ""
    """What the bare thing is."""
    ours: str = "famezd"

    def markdown(self) -> str:
        """The table."""
        limited = any(row.limit for row in self.rows)
        head = [self.unit, self.ours, self.theirs, "ratio", "target"]
        rows = [[row.what, _value(row.ours), _value(row.theirs), str(row.ratio or ""), row.target] for row in self.rows]
        if limited:
            head += [f"limit: {self.limit}", "of the limit"]
            for cells, row in zip(rows, self.rows, strict=True):
                cells += [_value(row.limit), str(Ratio.of(row.ours, row.limit)) if row.limit else ""]
        return Grid(self.caption, head, rows).markdown()


@dataclass(frozen=True)
class Grid:
    """Any other table."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """The table, its first column to the left and the others to the right."""
        lines = [f"*{self.caption}*", ""] if self.caption else []
        lines += [_line(self.head), _line(["---", *["---:"] * (len(self.head) - 1)])]
        return "\n".join(lines + [_line(row) for row in self.rows])


class Power(NamedTuple):
    """y = factor * x ** order, fitted to points in logarithms by least squares."""

    factor: float
    order: float

    @classmethod
    def fit(cls, xs: Sequence[float], ys: Sequence[float]) -> Power:
        """The curve that fits best."""
        order, factor = np.polyfit(np.log(xs), np.log(ys), 1)
        return cls(float(np.exp(factor)), float(order))


@dataclass(frozen=True)
class Series:
    """Points of a plot that belong together."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    fit_from: float | None = None
    """The order of growth is fitted to the points from this x on, if given: below, what is constant hides it."""

    @property
    def power(self) -> Power | None:
        """The fitted curve."""
        if self.fit_from is None:
            return None
        points = [(x, y) for x, y in zip(self.xs, self.ys, strict=True) if x >= self.fit_from]
        return Power.fit(*zip(*points, strict=True))


@dataclass(frozen=True)
class Plot:
    """How something grows, both axes logarithmic."""

    name: str
    """Of the file, docs/images/performance-NAME.svg."""
    title: str
    x: str
    y: str
    series: Sequence[Series]

    def markdown(self) -> str:
        """The picture, and the fitted orders in words."""
        orders = [f"{s.label}: order {s.power.order:.2f}" for s in self.series if s.power is not None]
        told = "\n\n" + fill(f"Fitted: {'; '.join(orders)}.") if orders else ""
        return f"![{self.title}](images/performance-{self.name}.svg){told}"

    def draw(self, directory: Path) -> None:
        """Writes the picture."""
        figure = Figure(figsize=(7.5, 4.5), layout="constrained")
        axes = figure.subplots()
        for series in self.series:
            power = series.power
            label = series.label if power is None else f"{series.label} (order {power.order:.2f})"
            (line,) = axes.loglog(series.xs, series.ys, "o", markersize=4, label=label)
            if power is not None:
                xs = [x for x in series.xs if series.fit_from is not None and x >= series.fit_from]
                axes.loglog(xs, [power.factor * x**power.order for x in xs], "-", linewidth=1, color=line.get_color())
        axes.set(title=self.title, xlabel=self.x, ylabel=self.y)
        axes.grid(visible=True, which="major", alpha=0.3)
        axes.legend()
        figure.savefig(directory / f"performance-{self.name}.svg", metadata={"Date": None})


Part = Comparison | Grid | Plot | str


@dataclass(frozen=True)
class Section:
    """What one module of bench/ tells: a title, and texts, tables and plots in their order."""

    title: str
    parts: Sequence[Part] = field(default_factory=list)

    def markdown(self) -> str:
        """As a section of a page."""
        told = (fill(part) if isinstance(part, str) else part.markdown() for part in self.parts)
        return "\n\n".join([f"## {self.title}", *told])

    def draw(self, directory: Path) -> None:
        """Writes its pictures."""
        for part in self.parts:
            if isinstance(part, Plot):
                part.draw(directory)


def at_least_one(text: str) -> int:
    """The number that an argument is; raises ArgumentTypeError if it is none that something can be the median of."""
    if not text.isdecimal() or (n := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 1 on, not {text!r}")
    return n


def parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Of the command line of a module of bench/."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_rounds(to: argparse.ArgumentParser) -> None:
    """Lets who calls it choose how often it is measured."""
    to.add_argument("--rounds", type=at_least_one, default=ROUNDS, help="pairs of measurements (%(default)s)")


def main(module: str, section: Callable[[int], Section], description: str | None) -> NoReturn:
    """Measures one section alone, and prints it."""

    def measure() -> None:
        options = parser(module, description)
        add_rounds(options)
        rounds = options.parse_args().rounds
        raise_limit()
        print(section(rounds).markdown())

    process.run(measure)


def raise_limit() -> None:
    """Allows this process as many open files as it may have: those who measure are many peers."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _value(measured: Sequence[float]) -> str:
    """The median, in three digits or as an integer."""
    if not measured:
        return ""
    value = statistics.median(measured)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def fill(text: str) -> str:
    """A text of paragraphs and lists; what is indented stays as it is."""
    paragraphs = textwrap.dedent(text).strip().split("\n\n")
    return "\n\n".join(p if p.startswith((" ", "|")) else _filled(p) for p in paragraphs)


def _filled(paragraph: str) -> str:
    items = paragraph.split("\n- ") if paragraph.startswith("- ") else [paragraph]
    if len(items) == 1 and not paragraph.startswith("- "):
        return textwrap.fill(" ".join(paragraph.split()), WIDTH, break_on_hyphens=False, break_long_words=False)
    return "\n".join(
        textwrap.fill(
            " ".join(item.removeprefix("- ").split()),
            WIDTH,
            initial_indent="- ",
            subsequent_indent="  ",
            break_on_hyphens=False,
            break_long_words=False,
        )
        for item in items
    )
