"""How many series a fabric makes in Prometheus: counted of one that is full, and has no switch."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

from famezd.config import Fabric, FabricSettings
from famezd.stats import TOTALS
from famezd.supervisor.metrics.exposition import Writer
from famezd.supervisor.metrics.fabrics import FABRIC
from famezd.supervisor.metrics.processes import ProcessView
from famezd.supervisor.metrics.readings import DETAILS, Scraped
from famezd.supervisor.status.view import FabricView, PeerView
from famezd.supervisor.worker import CAUSES, Resumes, State

PEERS, VECTORS = 14, 16
"""Of the example."""
FORMULAS = {"fabric": "{0}", "peer": "{0} + 3P", "pair": "{0} + 3P + P(P - 1) + PV"}


def series() -> str:
    """A table of the formulas, and what they make of the example."""
    least = _count(0, 0, "fabric")
    lines = [
        f"| `metrics.detail` | series | of {PEERS} peers, {VECTORS} vectors | of 100 such fabrics |",
        "|---|---|---|---|",
    ]
    for detail in reversed(DETAILS):
        n = _count(PEERS, VECTORS, detail)
        lines.append(f"| `{detail}` | {FORMULAS[detail].format(least)} | {n} | {100 * n:,} |")
    return "\n".join(lines)


def _count(peers: int, vectors: int, detail: str) -> int:
    settings = FabricSettings.model_validate({"metrics": {"detail": detail}})
    view = _full(settings.resolve("lab", Path("/")), peers, vectors)
    process = ProcessView(cpu=0.0, started=0.0, resident=0, private=0, descriptors=0, descriptors_limit=0)
    return sum(text.count("\n") for _, text in Writer(FABRIC, ("lab",)).write(Scraped(view, process)))


def _full(fabric: Fabric, peers: int, vectors: int) -> FabricView:
    """So many peers, all of whom have rung each other."""
    return FabricView(
        fabric,
        State.SERVING,
        pid=1,
        restarts=0,
        peers=tuple(PeerView(peer, 1, 0, 0.0, str(peer), "host") for peer in range(peers)),
        totals=dict.fromkeys(TOTALS, 0),
        pairs=dict.fromkeys(permutations(range(peers), 2), 0),
        vectors=dict.fromkeys(product(range(peers), range(vectors)), 0),
        resumes=dict.fromkeys(CAUSES, Resumes(0, 0.0)),
    )
