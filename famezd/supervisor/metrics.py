"""The metrics: a Prometheus collector that reads the stats pages when it is asked, and never a worker."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from famezd import __version__
from famezd.supervisor.view import ConfigView, FabricView

# What the stats page's totals are called: metric, its help, and the prefix of the totals that its label tells apart.
_TOTALS = (
    ("famez_joins", "Peers that joined.", "joins"),
    ("famez_doorbells_dropped", "Doorbells to a port on which nobody was, or that could not be delivered.", "dropped"),
    ("famez_doorbells_clipped", "Times that a bell held an absurd count, which was cut to 2^32.", "clipped"),
    (
        "famez_mailbox_resizes",
        "Times that somebody had changed the size of the mailbox's file, and it was given back.",
        "resized",
    ),
    ("famez_personality_errors", "Times that a personality raised an error.", "personality_errors"),
    (
        "famez_messages_malformed",
        "Messages to the switch that were none: no text, a length beyond the buffer, a malformed control message.",
        "messages_malformed",
    ),
    ("famez_loop_turns", "Turns of the worker's loop.", "turns"),
)
_BY_LABEL = (
    ("famez_leaves", "Peers that left, by reason.", "left_", "reason"),
    ("famez_refusals", "Newcomers that were turned away, by reason.", "refused_", "reason"),
    ("famez_faults", "Doorbells and messages that fault rules struck, by kind.", "fault_", "kind"),
)


class FabricCollector(Collector):
    """Metrics of all fabrics, from a fresh look at each scrape."""

    def __init__(self, look: Callable[[], Iterable[FabricView]], config: Callable[[], ConfigView]) -> None:
        self._look = look
        self._config = config

    def collect(self) -> Iterator[Metric]:
        """All metric families."""
        views = list(self._look())
        yield _build_info()
        yield from _config(self._config())
        yield _gauge("famez_fabric_up", "Whether the fabric is being served.", views, lambda v: v.up)
        yield _gauge("famez_fabric_peers", "Peers on the fabric.", views, lambda v: len(v.peers))
        yield _peer_info(views)
        yield _gauge("famez_fabric_peers_limit", "Peers that the fabric takes.", views, lambda v: v.fabric.peers)
        restarts = CounterMetricFamily(
            "famez_worker_restarts",
            "Times that the fabric's worker died, or hung and was killed, and was started again; since famezd started.",
            labels=["fabric"],
        )
        for view in views:
            restarts.add_metric([view.fabric.name], view.restarts)
        yield restarts
        yield _pairs(views)
        yield _vectors(views)
        yield from _totals(views)

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering must not look at any fabric yet."""
        return iter(())


def registry(look: Callable[[], Iterable[FabricView]], config: Callable[[], ConfigView]) -> CollectorRegistry:
    """A registry of our own with famezd's metrics."""
    made = CollectorRegistry(auto_describe=False)
    made.register(FabricCollector(look, config))
    return made


def _build_info() -> Metric:
    info = GaugeMetricFamily("famez_build_info", "Always 1; the labels tell the version.", labels=["version", "python"])
    info.add_metric([__version__, platform.python_version()], 1)
    return info


def _config(view: ConfigView) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "famez_config_last_reload_successful",
        "Whether the configuration was right when it was read last; if not, the one before it is served.",
        value=view.successful,
    )
    yield GaugeMetricFamily(
        "famez_config_last_reload_success_timestamp_seconds",
        "When a configuration was accepted last.",
        value=view.accepted,
    )


def _gauge(name: str, text: str, views: list[FabricView], value: Callable[[FabricView], float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["fabric"])
    for view in views:
        family.add_metric([view.fabric.name], value(view))
    return family


def _peer_info(views: list[FabricView]) -> Metric:
    family = GaugeMetricFamily(
        "famez_peer_info",
        "Always 1; the labels tell what a peer is called, by itself, and what it is; peer is what src and dst are.",
        labels=["fabric", "peer", "name", "uid", "kind"],
    )
    for view in views:
        for peer in view.everybody:
            family.add_metric([view.fabric.name, str(peer.id), peer.name, str(peer.uid), peer.kind], 1)
    return family


def _pairs(views: list[FabricView]) -> Metric:
    family = CounterMetricFamily(
        "famez_doorbells",
        "Doorbells by the ids of who rang and who was rung; of a direct fabric only the switch's own.",
        labels=["fabric", "src", "dst"],
    )
    for view in views:
        for (src, dst), rung in view.pairs.items():
            family.add_metric([view.fabric.name, str(src), str(dst)], rung)
    return family


def _vectors(views: list[FabricView]) -> Metric:
    family = CounterMetricFamily(
        "famez_doorbell_vectors",
        "Doorbells by the id of who was rung, and the vector; of a direct fabric only the switch's.",
        labels=["fabric", "dst", "vector"],
    )
    for view in views:
        for (dst, vector), rung in view.vectors.items():
            family.add_metric([view.fabric.name, str(dst), str(vector)], rung)
    return family


def _totals(views: list[FabricView]) -> Iterator[Metric]:
    counted = [view for view in views if view.totals]
    for name, text, total in _TOTALS:
        family = CounterMetricFamily(name, text, labels=["fabric"])
        for view in counted:
            family.add_metric([view.fabric.name], view.totals[total])
        yield family
    busy = CounterMetricFamily(
        "famez_loop_busy_seconds", "Time that the worker's loop was not waiting.", labels=["fabric"]
    )
    for view in counted:
        busy.add_metric([view.fabric.name], view.totals["busy_ns"] / 1e9)
    yield busy
    for name, text, prefix, label in _BY_LABEL:
        family = CounterMetricFamily(name, text, labels=["fabric", label])
        for view in counted:
            for total, n in view.totals.items():
                if total.startswith(prefix):
                    family.add_metric([view.fabric.name, total.removeprefix(prefix)], n)
        yield family
