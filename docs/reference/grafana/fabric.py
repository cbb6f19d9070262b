"""The dashboard of one fabric: who rings whom, its peers by name, its switch, its fault rules and its worker."""

from __future__ import annotations

from collections.abc import Iterator

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Panel

from docs.reference.grafana.board import CHOSEN, FABRIC, OVERVIEW, TIME, Section, board, variables, written
from docs.reference.grafana.overview import BUSY_STEPS, DESCRIPTOR_STEPS
from docs.reference.grafana.panels import (
    BYTES,
    COUNT,
    FULL,
    NONE_IS_GOOD,
    RATE,
    SECONDS,
    SHARE,
    UP,
    Column,
    Frame,
    Query,
    bars,
    buckets,
    lines,
    link,
    matrix,
    rows,
    single,
)
from docs.reference.grafana.queries import FABRICS, by_peer, grown, pairs, rate, saturation

Panels = Iterator[Builder[Panel]]

OF_PAIRS = "Nobody rang, or this fabric exports no pairs: that takes `metrics.detail` pair in its file."
OF_PEERS = "Nobody is there, or this fabric exports no peers: that takes `metrics.detail` peer or pair in its file."
OF_SLOTS = "The mailbox of this fabric has no slots: its personality has no messages."


def fabric() -> str:
    """Its JSON."""
    made = board(FABRIC, "famezd: one fabric", "Who rings whom on a fabric, its peers, switch, faults and worker.")
    made.variables([*variables(many=False)])
    made.link(_to_overview())
    sections: list[Section] = [
        ("At a glance", _glance()),
        ("Who rings whom", _pairs()),
        ("Peers", _peers()),
        ("Doorbells", _doorbells()),
        ("The switch and the mailbox", _switch()),
        ("Faults on purpose", _faults()),
        ("Its worker", _worker()),
    ]
    return written(made, sections)


def _to_overview() -> build.DashboardLink:
    url = f"/d/{OVERVIEW}?{CHOSEN}&{TIME}"
    return link("All fabrics", url, "all fabrics of this Prometheus")


def _glance() -> Panels:
    yield single(
        Frame("Served", "Whether the fabric is being served now.", width=3, height=4),
        Query(f"famez_fabric_up{{{FABRICS}}}"),
        mappings=UP,
    )
    for title, text, expr, unit, steps in (
        ("Peers", "Peers that are there now.", f"famez_fabric_peers{{{FABRICS}}}", COUNT, ()),
        (
            "How full",
            "Of those that the fabric takes.",
            f"famez_fabric_peers{{{FABRICS}}} / famez_fabric_peers_limit{{{FABRICS}}}",
            SHARE,
            FULL,
        ),
        ("Doorbells", "Doorbells a second.", rate("famez_fabric_doorbells_total"), RATE, ()),
        (
            "How busy",
            "How much of its time the worker's loop is busy.",
            saturation(),
            SHARE,
            BUSY_STEPS,
        ),
        (
            "Worker deaths",
            "In the time that is shown. Peers notice nothing of one.",
            grown("famez_worker_restarts_total"),
            COUNT,
            NONE_IS_GOOD,
        ),
    ):
        yield single(Frame(title, text, width=3, height=4, unit=unit, steps=steps), Query(expr))
    settings = "{{personality}}, {{doorbells}} doorbells, {{ports}} ports, detail {{detail}}"
    yield single(
        Frame("Settings", "How the fabric is set; `detail` says how much of it is exported.", width=6, height=4),
        Query(f"famez_fabric_info{{{FABRICS}}}", settings),
        text=True,
    )


def _pairs() -> Panels:
    yield matrix(
        Frame(
            "Who rings whom",
            "Doorbells a second over the time that is shown, from the peer at the left to the one above, by id and"
            " name. Of a direct fabric only those from and to the switch.",
            width=16,
            height=12,
            unit=RATE,
            nothing=OF_PAIRS,
        ),
        Query(pairs()),
        row="from",
        column="to",
    )
    yield bars(
        Frame(
            "Top pairs",
            "The ten pairs with the most doorbells a second over the time that is shown.",
            width=8,
            height=12,
            unit=RATE,
            nothing=OF_PAIRS,
        ),
        Query(f"topk(10, {pairs()} > 0)", "{{from}} → {{to}}"),
    )


def _peers() -> Panels:
    there = f"group by (peer, name, kind, uid) (famez_peer_info{{{FABRICS}}})"
    known = f"and on (peer) famez_peer_info{{{FABRICS}}}"

    def renamed(metric: str, label: str) -> str:
        return f'sum by (peer) (label_replace({rate(metric)}, "peer", "$1", "{label}", "(.*)")) {known}'

    yield rows(
        Frame("Who is there", "Peers by name and kind, and how much each rings and is rung.", 8, 10, nothing=OF_PEERS),
        [there, renamed("famez_doorbells_from_total", "src"), renamed("famez_doorbells_to_total", "dst")],
        [
            Column("peer"),
            Column("name"),
            Column("kind"),
            Column("uid"),
            Column("Value #B", "rings", RATE),
            Column("Value #C", "is rung", RATE),
        ],
    )
    yield lines(
        Frame("By who rings", "Doorbells a second.", width=8, height=10, unit=RATE, nothing=OF_PEERS),
        Query(by_peer("famez_doorbells_from_total", "src"), "{{src}} {{src_name}}"),
    )
    yield lines(
        Frame("By who is rung", "Doorbells a second.", width=8, height=10, unit=RATE, nothing=OF_PEERS),
        Query(by_peer("famez_doorbells_to_total", "dst"), "{{dst}} {{dst_name}}"),
    )


def _doorbells() -> Panels:
    yield lines(
        Frame(
            "Doorbells, and what became of them",
            "All that were rung; of these, those to a port on which nobody was, or that could not be delivered; and"
            " bells that held an absurd count, which was cut.",
            width=8,
            unit=RATE,
        ),
        Query(rate("famez_fabric_doorbells_total"), "rung"),
        Query(rate("famez_doorbells_dropped_total"), "dropped"),
        Query(rate("famez_doorbells_clipped_total"), "clipped"),
    )
    yield lines(
        Frame("By vector", "Doorbells a second on each vector, to whomever.", 8, unit=RATE, nothing=OF_PAIRS),
        Query(f"sum by (vector) ({rate('famez_doorbell_vectors_total')})", "vector {{vector}}"),
    )
    yield lines(
        Frame(
            "Joins, departures, refusals",
            "Peers that join, leave and are turned away, by reason.",
            width=8,
            unit=RATE,
        ),
        Query(rate("famez_joins_total"), "joined"),
        Query(f"sum by (reason) ({rate('famez_leaves_total')})", "left: {{reason}}"),
        Query(f"sum by (reason) ({rate('famez_refusals_total')}) > 0", "refused: {{reason}}"),
    )


def _switch() -> Panels:
    yield lines(
        Frame(
            "Messages to the switch",
            "Messages a second by what they are and what became of them.",
            width=6,
            unit=RATE,
        ),
        Query(f"sum by (kind, result) ({rate('famez_switch_messages_total')}) > 0", "{{kind}} {{result}}"),
        Query(rate("famez_personality_errors_total"), "errors of the personality"),
    )
    yield lines(
        Frame(
            "Messages of the switch",
            "Messages a second by what became of them: taken by who they were for, not taken, or never sent.",
            width=6,
            unit=RATE,
        ),
        Query(f"sum by (result) ({rate('famez_switch_messages_sent_total')})", "{{result}}"),
    )
    yield lines(
        Frame(
            "What waits",
            "Messages of the switch that wait for those before them; messages that stand in slots and were not taken;"
            " announcements to peers that read slowly; doorbells that fault rules hold up.",
            width=6,
        ),
        Query(f"famez_switch_messages_queued{{{FABRICS}}}", "messages of the switch"),
        Query(f"famez_mailbox_messages{{{FABRICS}}}", "messages in slots"),
        Query(f"famez_announcements_queued{{{FABRICS}}}", "announcements"),
        Query(f"famez_doorbells_delayed{{{FABRICS}}}", "doorbells held up"),
    )
    yield lines(
        Frame("Slots of the mailbox", "Slots, and those whose peer is there.", width=6, nothing=OF_SLOTS),
        Query(f"famez_mailbox_slots_used{{{FABRICS}}}", "used"),
        Query(f"famez_mailbox_slots{{{FABRICS}}}", "all"),
    )


def _faults() -> Panels:
    yield lines(
        Frame(
            "Strikes",
            "Doorbells and messages a second that fault rules struck, by kind.",
            width=12,
            unit=RATE,
        ),
        Query(f"sum by (kind) ({rate('famez_faults_total')})", "{{kind}}"),
    )
    yield rows(
        Frame(
            "Fault rules",
            "The rules that are in force: what each could have struck in the time that is shown, and what it struck.",
            width=12,
            nothing="No fault rule is in force.",
        ),
        [
            f"group by (rule, text) (famez_fault_rule_info{{{FABRICS}}})",
            f"sum by (rule) ({grown('famez_fault_rule_seen_total')})",
            f"sum by (rule) ({grown('famez_fault_rule_struck_total')})",
        ],
        [Column("rule"), Column("text"), Column("Value #B", "seen"), Column("Value #C", "struck")],
    )


def _worker() -> Panels:
    yield lines(
        Frame(
            "Processor", "How busy its loop was, and processor time of its process.", 8, unit=SHARE, steps=BUSY_STEPS
        ),
        Query(rate("famez_loop_busy_seconds_total"), "loop"),
        Query(rate("famez_worker_cpu_seconds_total"), "process"),
    )
    yield buckets(
        Frame("Bells at once", "How many bells the relay found rung when it looked; many when it is late.", width=8),
        Query(f"sum by (le) ({rate('famez_relay_batch_bells_bucket')})", "{{le}}"),
    )
    yield lines(
        Frame("Memory", "Memory of its process: all, and what is its own.", width=8, unit=BYTES),
        Query(f"famez_worker_resident_memory_bytes{{{FABRICS}}}", "resident"),
        Query(f"famez_worker_private_memory_bytes{{{FABRICS}}}", "private"),
    )
    yield lines(
        Frame("Resumes", "Times that another worker went on, in each interval, by cause.", width=8),
        Query(
            f"sum by (cause) (increase(famez_worker_resume_seconds_count{{{FABRICS}}}[$__rate_interval]))",
            "{{cause}}",
        ),
    )
    took = f"sum by (cause) ({grown('famez_worker_resume_seconds_sum')})"
    times = f"sum by (cause) ({grown('famez_worker_resume_seconds_count')})"
    yield lines(
        Frame(
            "Time to resume",
            "How long nobody served then: the mean over the time that is shown. What was rung meanwhile waited.",
            width=8,
            unit=SECONDS,
            nothing="No worker was succeeded.",
        ),
        Query(f"{took} / {times} > 0", "{{cause}}"),
    )
    yield lines(
        Frame("Descriptors", "Open, of those that it may have.", 8, unit=SHARE, steps=DESCRIPTOR_STEPS),
        Query(f"famez_worker_open_fds{{{FABRICS}}} / famez_worker_max_fds{{{FABRICS}}}", "open"),
    )
