"""The metrics of fabrics: a table, of which docs/metrics.md is made, and which `exposition` writes.

Those of famezd itself are in `ownmetrics`.
"""

from __future__ import annotations

from famezd.stats import QUEUED, UNSENT
from famezd.supervisor.metrics.exposition import Family, Part, counter, gauge
from famezd.supervisor.metrics.readings import (
    FabricFamily,
    Read,
    always,
    batch_count,
    batch_sum,
    batches,
    detailed,
    info,
    messages,
    of_process,
    of_slots,
    peers,
    resumes,
    rung_by,
    rung_to,
    total,
    totals_by,
    while_up,
)
from famezd.supervisor.worker import DEATH, RESTART


def _counter(name: str, text: str, example: str, read: Read, *labels: str) -> FabricFamily:
    return counter(name, text, example, read, "fabric", *labels)


def _gauge(name: str, text: str, example: str, read: Read, *labels: str) -> FabricFamily:
    return gauge(name, text, example, read, "fabric", *labels)


FABRIC: tuple[FabricFamily, ...] = (
    _gauge(
        "famez_fabric_info",
        "Always 1; the labels tell how the fabric is set.",
        "count by (doorbells) (famez_fabric_info)",
        info,
        "personality",
        "doorbells",
        "ports",
        "detail",
    ),
    _gauge(
        "famez_fabric_up",
        "Whether the fabric is being served.",
        "famez_fabric_up == 0",
        always(lambda v: v.up),
    ),
    _gauge(
        "famez_fabric_peers",
        "Peers on the fabric.",
        "famez_fabric_peers / famez_fabric_peers_limit",
        always(lambda v: len(v.peers)),
    ),
    _gauge(
        "famez_fabric_peers_limit",
        "Peers that the fabric takes.",
        "famez_fabric_peers_limit - famez_fabric_peers < 1",
        always(lambda v: v.fabric.peers),
    ),
    _gauge(
        "famez_peer_info",
        "Always 1; the labels tell what a peer is called, by itself, and what it is; peer is what src and dst are."
        " With detail peer or pair.",
        "count by (fabric, kind) (famez_peer_info)",
        detailed("peer", peers),
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
        detailed("pair", lambda s: s.fabric.pairs),
        "src",
        "dst",
    ),
    _counter(
        "famez_doorbell_vectors",
        "Doorbells by the id of who was rung, and the vector; of a direct fabric only the switch's. With detail pair.",
        "sum by (fabric, vector) (rate(famez_doorbell_vectors_total[1m]))",
        detailed("pair", lambda s: s.fabric.vectors),
        "dst",
        "vector",
    ),
    _counter(
        "famez_doorbells_from",
        "Doorbells by the id of who rang; as famez_doorbells_total, summed up. With detail peer or pair.",
        "topk(5, rate(famez_doorbells_from_total[1m]))",
        detailed("peer", rung_by),
        "src",
    ),
    _counter(
        "famez_doorbells_to",
        "Doorbells by the id of who was rung; as famez_doorbell_vectors_total, summed up. With detail peer or pair.",
        "topk(5, rate(famez_doorbells_to_total[1m]))",
        detailed("peer", rung_to),
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
        total("dropped"),
    ),
    _counter(
        "famez_doorbells_clipped",
        "Times that a bell held an absurd count, which was cut to 2^32.",
        "increase(famez_doorbells_clipped_total[1h]) > 0",
        total("clipped"),
    ),
    _gauge(
        "famez_doorbells_delayed",
        "Doorbells that fault rules hold up now.",
        "famez_doorbells_delayed > 0",
        while_up(lambda v: v.held),
    ),
    _counter(
        "famez_faults",
        "Doorbells and messages that fault rules struck, by kind.",
        "sum by (fabric, kind) (rate(famez_faults_total[1m]))",
        totals_by("fault_"),
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
        total("joins"),
    ),
    _counter(
        "famez_leaves",
        "Peers that left, by reason.",
        'increase(famez_leaves_total{reason!="hangup"}[1h]) > 0',
        totals_by("left_"),
        "reason",
    ),
    _counter(
        "famez_refusals",
        "Newcomers that were turned away, by reason.",
        "sum by (fabric, reason) (increase(famez_refusals_total[10m])) > 0",
        totals_by("refused_"),
        "reason",
    ),
    _gauge(
        "famez_announcements_queued",
        "Announcements (of an id, the memory, all bells of a peer, a departure) that wait to be sent to peers.",
        "min_over_time(famez_announcements_queued[5m]) > 0",
        while_up(lambda v: v.gauges.get(UNSENT, 0)),
    ),
    _counter(
        "famez_switch_messages",
        "Messages to the switch, by what they are, and by what its personality made of them.",
        "sum by (fabric, kind) (rate(famez_switch_messages_total[5m]))",
        messages,
        "kind",
        "result",
    ),
    _counter(
        "famez_switch_messages_sent",
        "Messages of the switch, by what became of them.",
        'rate(famez_switch_messages_sent_total{result!="taken"}[5m]) > 0',
        totals_by("said_"),
        "result",
    ),
    _gauge(
        "famez_switch_messages_queued",
        "Messages of the switch that wait until those before them are taken.",
        "max_over_time(famez_switch_messages_queued[5m])",
        while_up(lambda v: v.gauges.get(QUEUED, 0)),
    ),
    _counter(
        "famez_messages_malformed",
        "Messages to the switch that were none: no text, a length beyond the buffer, a malformed control message.",
        "increase(famez_messages_malformed_total[1h]) > 0",
        total("messages_malformed"),
    ),
    _counter(
        "famez_personality_errors",
        "Times that a personality raised an error.",
        "increase(famez_personality_errors_total[1h]) > 0",
        total("personality_errors"),
    ),
    _gauge(
        "famez_mailbox_bytes",
        "Size of the mailbox.",
        "sum(famez_mailbox_bytes)",
        always(lambda v: v.fabric.mailbox.size),
    ),
    _gauge(
        "famez_mailbox_slots",
        "Slots of the mailbox, that of the switch included, where its personality has any.",
        "famez_mailbox_slots",
        of_slots(lambda v: v.fabric.peers + 1),
    ),
    _gauge(
        "famez_mailbox_slots_used",
        "Slots whose peer, or switch, is there.",
        "famez_mailbox_slots_used / famez_mailbox_slots",
        of_slots(lambda v: len(v.everybody)),
    ),
    _gauge(
        "famez_mailbox_messages",
        "Messages that stand in slots, and were not taken yet.",
        "min_over_time(famez_mailbox_messages[1m]) > 0",
        of_slots(lambda v: v.standing),
    ),
    _counter(
        "famez_mailbox_resizes",
        "Times that somebody had changed the size of the mailbox's file, and it was given back.",
        "increase(famez_mailbox_resizes_total[10m]) > 0",
        total("resized"),
    ),
    Family(
        "famez_relay_batch_bells",
        "histogram",
        "Bells that the relay saw to in one turn of the worker's loop, of turns in which there were any; each may have"
        " been rung more than once. Those that it saw to amid something longer, as a join, are not among them.",
        "rate(famez_relay_batch_bells_sum[1m]) / rate(famez_relay_batch_bells_count[1m])",
        (
            Part("_bucket", ("fabric", "le"), batches),
            Part("_sum", ("fabric",), batch_sum),
            Part("_count", ("fabric",), batch_count),
        ),
    ),
    _counter(
        "famez_loop_turns",
        "Turns of the worker's loop.",
        "rate(famez_loop_turns_total[1m])",
        total("turns"),
    ),
    _counter(
        "famez_loop_busy_seconds",
        "Time that the worker's loop was not waiting: its rate is how much of a processor it used, of 1.",
        "rate(famez_loop_busy_seconds_total[1m]) > 0.8",
        total("busy_ns", 1e-9),
    ),
    _counter(
        "famez_worker_restarts",
        "Times that the fabric's worker died, or hung and was killed, and was started again; since famezd started.",
        "increase(famez_worker_restarts_total[10m]) > 2",
        always(lambda v: v.restarts),
    ),
    Family(
        "famez_worker_resume_seconds",
        "summary",
        "Time for which nobody served the fabric, until another worker went on, by cause; since famezd started.",
        "rate(famez_worker_resume_seconds_sum[1h]) / rate(famez_worker_resume_seconds_count[1h])",
        (*resumes(DEATH), *resumes(RESTART)),
    ),
    _counter(
        "famez_worker_cpu_seconds",
        "Processor time of the worker's process.",
        "rate(famez_worker_cpu_seconds_total[1m])",
        of_process(lambda p: p.cpu),
    ),
    _gauge(
        "famez_worker_resident_memory_bytes",
        "Memory of the worker's process that is in RAM, with what it shares with others, such as the interpreter.",
        "max(famez_worker_resident_memory_bytes)",
        of_process(lambda p: p.resident),
    ),
    _gauge(
        "famez_worker_private_memory_bytes",
        "Of that, what is its own: all workers' may be summed up.",
        "sum(famez_worker_private_memory_bytes)",
        of_process(lambda p: p.private),
    ),
    _gauge(
        "famez_worker_open_fds",
        "Descriptors that the worker's process has open; relayed, up to 4,096 of them are eventfds for peers to come.",
        "famez_worker_open_fds / famez_worker_max_fds > 0.9",
        of_process(lambda p: p.descriptors),
    ),
    _gauge(
        "famez_worker_max_fds",
        "Descriptors that it may have open.",
        "famez_worker_max_fds",
        of_process(lambda p: p.descriptors_limit),
    ),
    _gauge(
        "famez_worker_start_time_seconds",
        "When the worker's process was started, since the Unix epoch.",
        "time() - famez_worker_start_time_seconds",
        of_process(lambda p: p.started),
    ),
)
"""All metrics of fabrics; the first label of each is the fabric's name."""
