"""How the values of metrics are read from a view of a fabric, and of its worker's process."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

from famezd.messages import KINDS as MESSAGES
from famezd.stats import BATCHES, BELLS, TOTALS
from famezd.supervisor.metrics.exposition import Family, Key, Part, Values, bucket
from famezd.supervisor.metrics.processes import ProcessView
from famezd.supervisor.status.view import FabricView

DETAILS = ("fabric", "peer", "pair")
"""How much of a fabric is exported, the least first; see `famezd.config.Metrics`."""


@dataclass(frozen=True)
class Scraped:
    """A fabric, and its worker's process."""

    fabric: FabricView
    process: ProcessView | None
    """None where there is none."""


Read = Callable[[Scraped], Values]
FabricFamily = Family[Scraped]


def always(value: Callable[[FabricView], float]) -> Read:
    """One series, whatever the state of the fabric."""
    return lambda s: {(): value(s.fabric)}


def while_up(value: Callable[[FabricView], float]) -> Read:
    """One series, of a fabric that is served."""
    return lambda s: {(): value(s.fabric)} if s.fabric.up else {}


def total(name: str, scale: float = 1) -> Read:
    """One of the stats page's totals."""

    def read(scraped: Scraped) -> Values:
        totals = scraped.fabric.totals
        return {(): totals[name] * scale if scale != 1 else totals[name]} if totals else {}

    return read


def totals_by(prefix: str) -> Read:
    """Those of the stats page's totals whose names begin so, by what comes after it."""
    keys: dict[str, Key] = {name: (name.removeprefix(prefix),) for name in TOTALS if name.startswith(prefix)}

    def read(scraped: Scraped) -> Values:
        totals = scraped.fabric.totals
        return {key: totals[name] for name, key in keys.items()} if totals else {}

    return read


def of_slots(value: Callable[[FabricView], float]) -> Read:
    """One series, of a fabric whose mailbox has slots."""
    return lambda s: {(): value(s.fabric)} if s.fabric.slots is not None else {}


def of_process(value: Callable[[ProcessView], float]) -> Read:
    """One series, of a fabric whose worker runs."""
    return lambda s: {(): value(s.process)} if s.process is not None else {}


def detailed(detail: str, read: Read) -> Read:
    """Only where at least so much of the fabric is to be exported."""
    least = DETAILS.index(detail)
    return lambda s: read(s) if DETAILS.index(s.fabric.fabric.metrics.detail) >= least else {}


def info(scraped: Scraped) -> Values:
    """How the fabric is set."""
    fabric = scraped.fabric.fabric
    return {(fabric.personality, fabric.doorbells, fabric.ports, fabric.metrics.detail): 1}


def peers(scraped: Scraped) -> Values:
    """Who is there, and what they are called."""
    return {(peer.id, peer.name, peer.uid, peer.kind): 1 for peer in scraped.fabric.everybody}


def rung_by(scraped: Scraped) -> Values:
    """Doorbells by who rang."""
    summed: Counter[Key] = Counter()
    for (src, _), rung in scraped.fabric.pairs.items():
        summed[src,] += rung
    return summed


def rung_to(scraped: Scraped) -> Values:
    """Doorbells by who was rung."""
    summed: Counter[Key] = Counter()
    for (dst, _), rung in scraped.fabric.vectors.items():
        summed[dst,] += rung
    return summed


def messages(scraped: Scraped) -> Values:
    """Messages to the switch by kind and result."""
    totals = scraped.fabric.totals
    if not totals:
        return {}
    found: dict[Key, float] = {("unknown", "malformed"): totals["messages_malformed"]}
    for kind in MESSAGES:
        found[kind, "handled"], found[kind, "failed"] = totals[f"heard_{kind}"], totals[f"failed_{kind}"]
    return found


def batches(scraped: Scraped) -> Values:
    """How many batches were at most so large."""
    totals = scraped.fabric.totals
    if not totals:
        return {}
    bounds = (*BATCHES, math.inf)
    counted = accumulate(totals[f"batch_{most}"] for most in bounds)
    return {(bucket(most),): n for most, n in zip(bounds, counted, strict=True)}


def batch_sum(scraped: Scraped) -> Values:
    """How many bells there were in all batches."""
    totals = scraped.fabric.totals
    return {(): totals["batch_1"] + totals[BELLS]} if totals else {}


def batch_count(scraped: Scraped) -> Values:
    """How many batches there were."""
    totals = scraped.fabric.totals
    return {(): sum(totals[f"batch_{most}"] for most in (*BATCHES, "inf"))} if totals else {}


def resumes(cause: str) -> tuple[Part[Scraped], Part[Scraped]]:
    """How often another worker went on with the fabric for this cause, and how long that took."""
    # One cause after the other: series of one summary belong together.
    labels = "fabric", "cause"
    return (
        Part("_sum", labels, lambda s: {(cause,): s.fabric.resumes[cause].seconds}),
        Part("_count", labels, lambda s: {(cause,): s.fabric.resumes[cause].times}),
    )
