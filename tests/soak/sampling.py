"""What famezd's processes and files amount to, again and again, and whether it grows.

A process is compared with itself alone: one that was killed and succeeded begins anew. Of all processes that play one
part a common slope is fitted, each with a level of its own, and only samples count that were taken while nobody was on
any fabric: then what is there is the same each time, but for what leaks.
"""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from tests.descendants import children
from tests.soak.service import Soaked

WARM: Final = 3
"""Samples of each process that do not count: it has not done everything once yet."""
ENOUGH: Final = 4
"""Samples beyond these of one process, at least, that a slope is made of."""
CERTAIN: Final = 4.0
"""Standard errors by which a slope has to exceed what is usual: there are many quantities, and many runs."""
STILL: Final = 5
"""Times, one after the other, that famezd has as many descriptors, until what was closed is taken to be gone."""
HOUR: Final = 3600.0

Sample = Mapping[str, float]
"""What a process, or the files, amount to, by the quantity's name."""


class Limit(NamedTuple):
    """What growth is a leak."""

    unit: str
    slope: float
    """An hour: more than that, with certainty."""
    growth: float
    """And at least so much while it was watched: pages come and go."""


LIMITS: Final[Mapping[str, Limit]] = {
    "descriptors": Limit("", 1.0, 4.0),
    "sockets": Limit("", 1.0, 4.0),
    "threads": Limit("", 1.0, 2.0),
    "resident": Limit("MiB", 1.0, 3.0),
    "private": Limit("MiB", 1.0, 3.0),
    # No leak whatever it does: it grows when others, who share libraries with it, end.
    "proportional": Limit("MiB", math.inf, math.inf),
    "runtime files": Limit("", 1.0, 1.0),
    "mailbox files": Limit("", 1.0, 1.0),
    "children": Limit("", 1.0, 1.0),
}


class Slope(NamedTuple):
    """How a quantity changes."""

    quantity: str
    first: float
    """The mean of what each process had at first."""
    an_hour: float
    error: float
    """Standard error of that."""
    span: float
    """Hours for which a process was watched, at the longest."""
    samples: int

    @property
    def leaks(self) -> bool:
        """Whether it grows, beyond doubt and what is usual."""
        limit = LIMITS[self.quantity.rpartition(": ")[2]]
        return self.an_hour - CERTAIN * self.error > limit.slope and self.an_hour * self.span >= limit.growth


class Samples:
    """All samples, by who was sampled: a part, and which process plays it."""

    def __init__(self) -> None:
        self._quiet: dict[str, dict[int, list[tuple[float, Sample]]]] = defaultdict(lambda: defaultdict(list))

    def note(self, part: str, who: int, sample: Sample, at: float) -> None:
        """Adds a sample that was taken at a quiet time, `at` seconds of any clock."""
        self._quiet[part][who].append((at, sample))

    def slopes(self) -> list[Slope]:
        """Of each quantity of each part, where there are samples enough."""
        found = []
        for part, processes in self._quiet.items():
            lives = [life[WARM:] for life in processes.values() if len(life) >= WARM + ENOUGH]
            for quantity in lives[0][0][1] if lives else ():
                series = [[(at, sample[quantity]) for at, sample in life] for life in lives]
                found.append(fit(f"{part}: {quantity}", series))
        return found


def fit(quantity: str, lives: Sequence[Sequence[tuple[float, float]]]) -> Slope:
    """The least squares' slope that all lives, lists of times in seconds and values, have in common."""
    points = []
    for life in lives:
        mean_t, mean_y = (sum(values) / len(life) for values in zip(*life, strict=True))
        points += [((t - mean_t) / HOUR, y - mean_y) for t, y in life]
    spread = sum(t * t for t, _ in points)
    slope = sum(t * y for t, y in points) / spread if spread else 0.0
    free = len(points) - len(lives) - 1
    rest = sum((y - slope * t) ** 2 for t, y in points)
    error = math.sqrt(rest / free / spread) if free > 0 and spread else math.inf
    first = sum(life[0][1] for life in lives) / len(lives)
    span = max(life[-1][0] - life[0][0] for life in lives) / HOUR
    return Slope(quantity, first, slope, error, span, len(points))


def process(pid: int) -> Sample:
    """What a process uses; raises OSError if there is none."""
    links = []
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
    rollup = _kibibytes(Path(f"/proc/{pid}/smaps_rollup").read_text())
    return {
        "descriptors": len(links),
        "sockets": sum(link.startswith("socket:") for link in links),
        "threads": len(os.listdir(f"/proc/{pid}/task")),
        "resident": rollup["Rss"] / 1024,
        "private": (rollup["Private_Clean"] + rollup["Private_Dirty"]) / 1024,
        "proportional": rollup["Pss"] / 1024,
    }


def _kibibytes(rollup: str) -> dict[str, int]:
    words = (line.split() for line in rollup.splitlines()[1:])
    return {name.rstrip(":"): int(value) for name, value, *_ in words}


def take(service: Soaked, workers: Iterable[int]) -> dict[tuple[str, int], Sample]:
    """Samples of famezd, of each worker, and of the files, by part and process."""
    found: dict[tuple[str, int], Sample] = {("supervisor", service.pid): process(service.pid)}
    found |= {("workers", pid): process(pid) for pid in workers}
    found["files", 0] = {
        "runtime files": len(list(service.runtime.iterdir())),
        "mailbox files": len(service.files_in_shm()),
        "children": len(children(service.pid)),
    }
    return found


def await_stillness(pid: int) -> None:
    """Waits until a process has closed what its clients have, who are gone; of one that never rests, a while."""
    seen: list[int] = []
    for _ in range(100):
        seen.append(len(os.listdir(f"/proc/{pid}/fd")))
        if len(seen) >= STILL and len(set(seen[-STILL:])) == 1:
            return
        time.sleep(0.2)


def now() -> float:
    """Seconds of the clock that samples are taken by."""
    return time.monotonic()


def table(slopes: Iterable[Slope]) -> str:
    """The slopes, for people."""
    lines = [f"{'':28} {'at first':>10} {'an hour':>12} {'+-':>8} {'samples':>8}  verdict"]
    for slope in slopes:
        unit = LIMITS[slope.quantity.rpartition(": ")[2]].unit
        verdict = "LEAKS" if slope.leaks else "ok"
        lines.append(
            f"{slope.quantity:28} {slope.first:10.2f} {slope.an_hour:+12.2f} {CERTAIN * slope.error:8.2f} "
            f"{slope.samples:8}"
            f"  {verdict}{f' ({unit})' if unit else ''}"
        )
    return "\n".join(lines)
