"""The metrics: which there are, and how they are read from views of the fabrics.

All that is of fabrics is a table of families, FABRIC; docs/metrics.md is made of it, and `exposition` writes it. What
is of famezd itself is little, and prometheus_client's.
"""

from __future__ import annotations

import math
import platform
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from famezd import __version__
from famezd.messages import KINDS as MESSAGES
from famezd.stats import BATCHES, QUEUED, TOTALS, UNSENT
from famezd.supervisor.exposition import Family, Key, Part, Values, bucket, counter, gauge
from famezd.supervisor.logs import lines_lost
from famezd.supervisor.processes import ProcessView
from famezd.supervisor.view import ConfigView, FabricView
from famezd.supervisor.worker import DEATH, RESTART

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


def _always(value: Callable[[FabricView], float]) -> Read:
    """One series, whatever the state of the fabric."""
    return lambda s: {(): value(s.fabric)}


def _up(value: Callable[[FabricView], float]) -> Read:
    """One series, of a fabric that is served."""
    return lambda s: {(): value(s.fabric)} if s.fabric.up else {}


def _total(name: str, scale: float = 1) -> Read:
    """One of the stats page's totals."""

    def read(scraped: Scraped) -> Values:
        totals = scraped.fabric.totals
        return {(): totals[name] * scale if scale != 1 else totals[name]} if totals else {}

    return read


def _totals(prefix: str) -> Read:
    """Those of the stats page's totals whose names begin so, by what comes after it."""
    keys: dict[str, Key] = {name: (name.removeprefix(prefix),) for name in TOTALS if name.startswith(prefix)}

    def read(scraped: Scraped) -> Values:
        totals = scraped.fabric.totals
        return {key: totals[name] for name, key in keys.items()} if totals else {}

    return read


def _slots(value: Callable[[FabricView], float]) -> Read:
    """One series, of a fabric whose mailbox has slots."""
    return lambda s: {(): value(s.fabric)} if s.fabric.slots is not None else {}


def _process(value: Callable[[ProcessView], float]) -> Read:
    """One series, of a fabric whose worker runs."""
    return lambda s: {(): value(s.process)} if s.process is not None else {}


def _detailed(detail: str, read: Read) -> Read:
    """Only where at least so much of the fabric is to be exported."""
    least = DETAILS.index(detail)
    return lambda s: read(s) if DETAILS.index(s.fabric.fabric.metrics.detail) >= least else {}


def _info(scraped: Scraped) -> Values:
    fabric = scraped.fabric.fabric
    return {(fabric.personality, fabric.doorbells, fabric.ports, fabric.metrics.detail): 1}


def _peers(scraped: Scraped) -> Values:
    return {(peer.id, peer.name, peer.uid, peer.kind): 1 for peer in scraped.fabric.everybody}


def _from(scraped: Scraped) -> Values:
    summed: Counter[Key] = Counter()
    for (src, _), rung in scraped.fabric.pairs.items():
        summed[src,] += rung
    return summed


def _to(scraped: Scraped) -> Values:
    summed: Counter[Key] = Counter()
    for (dst, _), rung in scraped.fabric.vectors.items():
        summed[dst,] += rung
    return summed


def _messages(scraped: Scraped) -> Values:
    totals = scraped.fabric.totals
    if not totals:
        return {}
    found: dict[Key, float] = {("unknown", "malformed"): totals["messages_malformed"]}
    for kind in MESSAGES:
        found[kind, "handled"], found[kind, "failed"] = totals[f"heard_{kind}"], totals[f"failed_{kind}"]
    return found


def _batches(scraped: Scraped) -> Values:
    totals = scraped.fabric.totals
    if not totals:
        return {}
    bounds = (*BATCHES, math.inf)
    counted = accumulate(totals[f"batch_{most}"] for most in bounds)
    return {(bucket(most),): n for most, n in zip(bounds, counted, strict=True)}


def _batch_count(scraped: Scraped) -> Values:
    totals = scraped.fabric.totals
    return {(): sum(totals[f"batch_{most}"] for most in (*BATCHES, "inf"))} if totals else {}


def _resumes(cause: str) -> tuple[Part[Scraped], Part[Scraped]]:
    # One cause after the other: series of one summary belong together.
    labels = "fabric", "cause"
    return (
        Part("_sum", labels, lambda s: {(cause,): s.fabric.resumes[cause].seconds}),
        Part("_count", labels, lambda s: {(cause,): s.fabric.resumes[cause].times}),
    )


def _counter(name: str, text: str, example: str, read: Read, *labels: str) -> FabricFamily:
    return counter(name, text, example, read, "fabric", *labels)


def _gauge(name: str, text: str, example: str, read: Read, *labels: str) -> FabricFamily:
    return gauge(name, text, example, read, "fabric", *labels)


FABRIC: tuple[FabricFamily, ...] = (
    _gauge(
        "famez_fabric_info",
        "Always 1; the labels tell how the fabric is set.",
        "count by (doorbells) (famez_fabric_info)",
        _info,
        "personality",
        "doorbells",
        "ports",
        "detail",
    ),
    _gauge(
        "famez_fabric_up",
        "Whether the fabric is being served.",
        "famez_fabric_up == 0",
        _always(lambda v: v.up),
    ),
    _gauge(
        "famez_fabric_peers",
        "Peers on the fabric.",
        "famez_fabric_peers / famez_fabric_peers_limit",
        _always(lambda v: len(v.peers)),
    ),
    _gauge(
        "famez_fabric_peers_limit",
        "Peers that the fabric takes.",
        "famez_fabric_peers_limit - famez_fabric_peers < 1",
        _always(lambda v: v.fabric.peers),
    ),
    _gauge(
        "famez_peer_info",
        "Always 1; the labels tell what a peer is called, by itself, and what it is; peer is what src and dst are."
        " With detail peer or pair.",
        "count by (fabric, kind) (famez_peer_info)",
        _detailed("peer", _peers),
        "peer",
        "name",
        "uid",
        "kind",
    ),
    _counter(
        "famez_doorbells",
        "Doorbells by the ids of who rang and who was rung; of a direct fabric only the switch's own."
        " With detail pair.",
        "topk(10, rate(famez_doorbells_total[1m]))",
        _detailed("pair", lambda s: s.fabric.pairs),
        "src",
        "dst",
    ),
    _counter(
        "famez_doorbell_vectors",
        "Doorbells by the id of who was rung, and the vector; of a direct fabric only the switch's. With detail pair.",
        "sum by (fabric, vector) (rate(famez_doorbell_vectors_total[1m]))",
        _detailed("pair", lambda s: s.fabric.vectors),
        "dst",
        "vector",
    ),
    _counter(
        "famez_doorbells_from",
        "Doorbells by the id of who rang; as famez_doorbells_total, summed up. With detail peer or pair.",
        "topk(5, rate(famez_doorbells_from_total[1m]))",
        _detailed("peer", _from),
        "src",
    ),
    _counter(
        "famez_doorbells_to",
        "Doorbells by the id of who was rung; as famez_doorbell_vectors_total, summed up. With detail peer or pair.",
        "topk(5, rate(famez_doorbells_to_total[1m]))",
        _detailed("peer", _to),
        "dst",
    ),
    _counter(
        "famez_fabric_doorbells",
        "All doorbells that were counted on the fabric, those that were dropped then included.",
        "rate(famez_fabric_doorbells_total[1m])",
        lambda s: {(): s.fabric.doorbells} if s.fabric.totals else {},
    ),
    _counter(
        "famez_doorbells_dropped",
        "Doorbells to a port on which nobody was, or that could not be delivered.",
        "rate(famez_doorbells_dropped_total[5m]) / rate(famez_fabric_doorbells_total[5m])",
        _total("dropped"),
    ),
    _counter(
        "famez_doorbells_clipped",
        "Times that a bell held an absurd count, which was cut to 2^32.",
        "increase(famez_doorbells_clipped_total[1h]) > 0",
        _total("clipped"),
    ),
    _gauge(
        "famez_doorbells_delayed",
        "Doorbells that fault rules hold up now.",
        "famez_doorbells_delayed > 0",
        _up(lambda v: v.held),
    ),
    _counter(
        "famez_faults",
        "Doorbells and messages that fault rules struck, by kind.",
        "sum by (fabric, kind) (rate(famez_faults_total[1m]))",
        _totals("fault_"),
        "kind",
    ),
    _gauge(
        "famez_fault_rule_info",
        "Always 1, of a fault rule that is in force; rule is its id, text the rule.",
        "count by (fabric) (famez_fault_rule_info)",
        lambda s: {(fault.id, fault.rule): 1 for fault in s.fabric.faults},
        "rule",
        "text",
    ),
    _counter(
        "famez_fault_rule_seen",
        "Doorbells and messages that a fault rule could have struck.",
        "rate(famez_fault_rule_struck_total[1m]) / rate(famez_fault_rule_seen_total[1m])",
        lambda s: {(fault.id,): fault.seen for fault in s.fabric.faults},
        "rule",
    ),
    _counter(
        "famez_fault_rule_struck",
        "Doorbells and messages that a fault rule struck: dropped, delayed, doubled, blocked or changed.",
        "rate(famez_fault_rule_struck_total[1m]) * on (fabric, rule) group_left (text) famez_fault_rule_info",
        lambda s: {(fault.id,): fault.struck for fault in s.fabric.faults},
        "rule",
    ),
    _counter(
        "famez_joins",
        "Peers that joined.",
        "increase(famez_joins_total[1h])",
        _total("joins"),
    ),
    _counter(
        "famez_leaves",
        "Peers that left, by reason.",
        'increase(famez_leaves_total{reason!="hangup"}[1h]) > 0',
        _totals("left_"),
        "reason",
    ),
    _counter(
        "famez_refusals",
        "Newcomers that were turned away, by reason.",
        "sum by (fabric, reason) (increase(famez_refusals_total[10m])) > 0",
        _totals("refused_"),
        "reason",
    ),
    _gauge(
        "famez_announcements_queued",
        "Announcements (of an id, the memory, all bells of a peer, a departure) that wait to be sent to peers.",
        "min_over_time(famez_announcements_queued[5m]) > 0",
        _up(lambda v: v.gauges.get(UNSENT, 0)),
    ),
    _counter(
        "famez_switch_messages",
        "Messages to the switch, by what they are, and by what its personality made of them.",
        "sum by (fabric, kind) (rate(famez_switch_messages_total[5m]))",
        _messages,
        "kind",
        "result",
    ),
    _counter(
        "famez_switch_messages_sent",
        "Messages of the switch, by what became of them.",
        'rate(famez_switch_messages_sent_total{result!="taken"}[5m]) > 0',
        _totals("said_"),
        "result",
    ),
    _gauge(
        "famez_switch_messages_queued",
        "Messages of the switch that wait until those before them are taken.",
        "max_over_time(famez_switch_messages_queued[5m])",
        _up(lambda v: v.gauges.get(QUEUED, 0)),
    ),
    _counter(
        "famez_messages_malformed",
        "Messages to the switch that were none: no text, a length beyond the buffer, a malformed control message.",
        "increase(famez_messages_malformed_total[1h]) > 0",
        _total("messages_malformed"),
    ),
    _counter(
        "famez_personality_errors",
        "Times that a personality raised an error.",
        "increase(famez_personality_errors_total[1h]) > 0",
        _total("personality_errors"),
    ),
    _gauge(
        "famez_mailbox_bytes",
        "Size of the mailbox.",
        "sum(famez_mailbox_bytes)",
        _always(lambda v: v.fabric.mailbox.size),
    ),
    _gauge(
        "famez_mailbox_slots",
        "Slots of the mailbox, that of the switch included, where its personality has any.",
        "famez_mailbox_slots",
        _slots(lambda v: v.fabric.peers + 1),
    ),
    _gauge(
        "famez_mailbox_slots_used",
        "Slots whose peer, or switch, is there.",
        "famez_mailbox_slots_used / famez_mailbox_slots",
        _slots(lambda v: len(v.everybody)),
    ),
    _gauge(
        "famez_mailbox_messages",
        "Messages that stand in slots, and were not taken yet.",
        "min_over_time(famez_mailbox_messages[1m]) > 0",
        _slots(lambda v: v.standing),
    ),
    _counter(
        "famez_mailbox_resizes",
        "Times that somebody had changed the size of the mailbox's file, and it was given back.",
        "increase(famez_mailbox_resizes_total[10m]) > 0",
        _total("resized"),
    ),
    Family(
        "famez_relay_batch_bells",
        "histogram",
        "Bells that the relay saw to in one turn of the worker's loop, of turns in which there were any; each may have"
        " been rung more than once.",
        "rate(famez_relay_batch_bells_sum[1m]) / rate(famez_relay_batch_bells_count[1m])",
        (
            Part("_bucket", ("fabric", "le"), _batches),
            Part("_sum", ("fabric",), _total("batch_bells")),
            Part("_count", ("fabric",), _batch_count),
        ),
    ),
    _counter(
        "famez_loop_turns",
        "Turns of the worker's loop.",
        "rate(famez_loop_turns_total[1m])",
        _total("turns"),
    ),
    _counter(
        "famez_loop_busy_seconds",
        "Time that the worker's loop was not waiting: its rate is how much of a processor it used, of 1.",
        "rate(famez_loop_busy_seconds_total[1m]) > 0.8",
        _total("busy_ns", 1e-9),
    ),
    _counter(
        "famez_worker_restarts",
        "Times that the fabric's worker died, or hung and was killed, and was started again; since famezd started.",
        "increase(famez_worker_restarts_total[10m]) > 2",
        _always(lambda v: v.restarts),
    ),
    Family(
        "famez_worker_resume_seconds",
        "summary",
        "Time for which nobody served the fabric, until another worker went on, by cause; since famezd started.",
        "rate(famez_worker_resume_seconds_sum[1h]) / rate(famez_worker_resume_seconds_count[1h])",
        (*_resumes(DEATH), *_resumes(RESTART)),
    ),
    _counter(
        "famez_worker_cpu_seconds",
        "Processor time of the worker's process.",
        "rate(famez_worker_cpu_seconds_total[1m])",
        _process(lambda p: p.cpu),
    ),
    _gauge(
        "famez_worker_resident_memory_bytes",
        "Memory of the worker's process that is in RAM, with what it shares with others, such as the interpreter.",
        "max(famez_worker_resident_memory_bytes)",
        _process(lambda p: p.resident),
    ),
    _gauge(
        "famez_worker_private_memory_bytes",
        "Of that, what is its own: all workers' may be summed up.",
        "sum(famez_worker_private_memory_bytes)",
        _process(lambda p: p.private),
    ),
    _gauge(
        "famez_worker_open_fds",
        "Descriptors that the worker's process has open.",
        "famez_worker_open_fds / famez_worker_max_fds > 0.9",
        _process(lambda p: p.descriptors),
    ),
    _gauge(
        "famez_worker_max_fds",
        "Descriptors that it may have open.",
        "famez_worker_max_fds",
        _process(lambda p: p.descriptors_limit),
    ),
    _gauge(
        "famez_worker_start_time_seconds",
        "When the worker's process was started, since the Unix epoch.",
        "time() - famez_worker_start_time_seconds",
        _process(lambda p: p.started),
    ),
)
"""All metrics of fabrics; the first label of each is the fabric's name."""

SERVICE_EXAMPLES = {
    "famez_build_info": "count by (version) (famez_build_info)",
    "famez_config_last_reload_successful": "famez_config_last_reload_successful == 0",
    "famez_config_last_reload_success_timestamp_seconds": (
        "time() - famez_config_last_reload_success_timestamp_seconds"
    ),
    "famez_config_last_reload_duration_seconds": "famez_config_last_reload_duration_seconds > 5",
    "famez_config_reloads": "increase(famez_config_reloads_total[1d])",
    "famez_log_lines_lost": "increase(famez_log_lines_lost_total[10m]) > 0",
    "process_virtual_memory_bytes": "process_virtual_memory_bytes",
    "process_resident_memory_bytes": "process_resident_memory_bytes",
    "process_start_time_seconds": "time() - process_start_time_seconds",
    "process_cpu_seconds": "rate(process_cpu_seconds_total[1m])",
    "process_open_fds": "process_open_fds / process_max_fds > 0.9",
    "process_max_fds": "process_max_fds",
}
"""A question to Prometheus for each metric of famezd itself."""


class ServiceCollector(Collector):
    """The metrics of famezd itself; those of its process are the library's."""

    def __init__(self, config: Callable[[], ConfigView]) -> None:
        self._config = config
        self._process = ProcessCollector(registry=None)

    def collect(self) -> Iterator[Metric]:
        """All metric families."""
        info = GaugeMetricFamily(
            "famez_build_info", "Always 1; the labels tell the version.", labels=["version", "python"]
        )
        info.add_metric([__version__, platform.python_version()], 1)
        yield info
        yield from _config(self._config())
        yield CounterMetricFamily(
            "famez_log_lines_lost", "Lines of famezd's own log that nobody took, and are lost.", value=lines_lost()
        )
        yield from self._process.collect()

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering must not look at anything yet."""
        return iter(())


def registry(config: Callable[[], ConfigView]) -> CollectorRegistry:
    """A registry of our own with the metrics of famezd itself."""
    made = CollectorRegistry(auto_describe=False)
    made.register(ServiceCollector(config))
    return made


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
    yield GaugeMetricFamily(
        "famez_config_last_reload_duration_seconds",
        "Time that the last reload took, be it refused; 0 before the first.",
        value=view.reload_seconds,
    )
    reloads = CounterMetricFamily("famez_config_reloads", "Reloads since famezd started, by result.", labels=["result"])
    for result, n in view.reloads.items():
        reloads.add_metric([result], n)
    yield reloads
