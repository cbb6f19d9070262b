"""The dashboard of all fabrics: which are served, what is rung, what comes near its limit, and what went wrong."""

from __future__ import annotations

from collections.abc import Iterator

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Panel

from docs.reference.grafana.board import CHOSEN, FABRIC, OVERVIEW, TIME, Section, board, variables, written
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
    lines,
    link,
    rows,
    single,
    states,
    warning,
)
from docs.reference.grafana.queries import BUSY, DESCRIPTORS, FABRICS, SERVICE, grown, rate, saturation

Panels = Iterator[Builder[Panel]]

LEGEND = "{{fabric}} ({{instance}})"
BUSY_STEPS = warning(BUSY / 2, BUSY)
DESCRIPTOR_STEPS = warning(DESCRIPTORS * 0.75, DESCRIPTORS)
OF_SERIES = link(
    "Show fabric ${__field.labels.fabric}",
    f"/d/{FABRIC}?{CHOSEN}&var-instance=${{__field.labels.instance}}&var-fabric=${{__field.labels.fabric}}&{TIME}",
)
OF_ROW = f"/d/{FABRIC}?{CHOSEN}&var-instance=${{__data.fields.instance}}&var-fabric=${{__data.fields.fabric}}&{TIME}"


def overview() -> str:
    """Its JSON."""
    made = board(
        OVERVIEW, "famezd: all fabrics", "All fabrics of one or more famezds: service, rates, saturation, health."
    )
    made.variables([*variables(many=True)])
    made.link(_to_fabric())
    sections: list[Section] = [
        ("At a glance", _glance()),
        ("Fabrics", _fabrics()),
        ("Doorbells and peers", _traffic()),
        ("Saturation", _saturation()),
        ("Refusals and departures", _refusals()),
        ("Health", _health()),
    ]
    return written(made, sections)


def _to_fabric() -> build.DashboardLink:
    url = f"/d/{FABRIC}?{CHOSEN}&{TIME}"
    return link("One fabric", url, "who rings whom on it, its switch, faults and worker")


def _glance() -> Panels:
    up = f"famez_fabric_up{{{FABRICS}}}"
    for title, text, expr, unit, steps in (
        ("Fabrics", "Fabrics that are configured.", f"count({up})", COUNT, ()),
        ("Not served", "Of these, those that are not being served now.", f"sum({up} == bool 0)", COUNT, NONE_IS_GOOD),
        ("Peers", "Peers on all fabrics.", f"sum(famez_fabric_peers{{{FABRICS}}})", COUNT, ()),
        ("Doorbells", "Doorbells a second.", f"sum({rate('famez_fabric_doorbells_total')})", RATE, ()),
        (
            "Busiest worker",
            "How much of its time the busiest worker's loop is busy; there is one loop for a fabric.",
            f"max({saturation()})",
            SHARE,
            BUSY_STEPS,
        ),
        (
            "Worker deaths",
            "Workers that died, or hung and were killed, in the time that is shown. Peers notice nothing of one.",
            f"sum({grown('famez_worker_restarts_total')})",
            COUNT,
            NONE_IS_GOOD,
        ),
        (
            "Refusals",
            "Newcomers that were turned away in the time that is shown.",
            f"sum({grown('famez_refusals_total')})",
            COUNT,
            NONE_IS_GOOD,
        ),
        (
            "Refused reloads",
            "famezds whose configuration was wrong when it was read last: they serve the one before it.",
            f"sum(famez_config_last_reload_successful{{{SERVICE}}} == bool 0)",
            COUNT,
            NONE_IS_GOOD,
        ),
    ):
        yield single(Frame(title, text, width=3, height=4, unit=unit, steps=steps), Query(expr))


def _fabrics() -> Panels:
    by = "sum by (instance, fabric)"
    full = f"{by} (famez_fabric_peers{{{FABRICS}}}) / {by} (famez_fabric_peers_limit{{{FABRICS}}})"
    yield rows(
        Frame("Each fabric", "A row for each; a click on a fabric's name shows it alone.", width=24),
        [
            f"{by} (famez_fabric_up{{{FABRICS}}})",
            f"{by} (famez_fabric_peers{{{FABRICS}}})",
            full,
            f"{by} ({rate('famez_fabric_doorbells_total')})",
            f"{by} ({rate('famez_doorbells_dropped_total')})",
            f"{by} ({saturation()})",
            f"{by} ({grown('famez_worker_restarts_total')})",
            f"{by} ({grown('famez_refusals_total')})",
        ],
        [
            Column("fabric", link=OF_ROW),
            Column("instance"),
            Column("Value #A", "served", mappings=UP),
            Column("Value #B", "peers"),
            Column("Value #C", "full", SHARE, FULL),
            Column("Value #D", "doorbells", RATE),
            Column("Value #E", "dropped", RATE),
            Column("Value #F", "busy", SHARE, BUSY_STEPS),
            Column("Value #G", "worker deaths", COUNT, NONE_IS_GOOD),
            Column("Value #H", "refusals", COUNT, NONE_IS_GOOD),
        ],
    )
    yield states(
        Frame("Served", "Whether each fabric was served, over time.", width=14, height=6),
        Query(f"famez_fabric_up{{{FABRICS}}}", LEGEND),
        UP,
    )
    yield rows(
        Frame(
            "Alerts that fire",
            "Those of packaging/prometheus/famezd.rules.yaml; what to do about each is in docs/runbooks.md.",
            width=10,
            height=6,
            nothing="None, or Prometheus has not loaded famezd.rules.yaml.",
        ),
        ['max by (alertname, severity, instance, fabric) (ALERTS{alertstate="firing", alertname=~"Famez.*"})'],
        [Column("alertname", "alert"), Column("severity"), Column("fabric"), Column("instance")],
    )


def _traffic() -> Panels:
    yield lines(
        Frame("Doorbells by fabric", "Doorbells a second; of a direct one only the switch's.", width=8, unit=RATE),
        Query(rate("famez_fabric_doorbells_total"), LEGEND),
        link=OF_SERIES,
    )
    yield lines(
        Frame(
            "Doorbells that were dropped",
            "Doorbells a second to a port on which nobody was, or that could not be delivered.",
            width=8,
            unit=RATE,
        ),
        Query(rate("famez_doorbells_dropped_total"), LEGEND),
        link=OF_SERIES,
    )
    yield lines(
        Frame("How full", "Peers on each fabric, of those that it takes.", 8, unit=SHARE, steps=FULL),
        Query(f"famez_fabric_peers{{{FABRICS}}} / famez_fabric_peers_limit{{{FABRICS}}}", LEGEND),
        link=OF_SERIES,
    )


def _saturation() -> Panels:
    yield lines(
        Frame(
            "How busy workers are",
            "How much of its time each worker's loop is busy: near 100% doorbells wait.",
            width=8,
            unit=SHARE,
            steps=BUSY_STEPS,
        ),
        Query(saturation(), LEGEND),
        link=OF_SERIES,
    )
    batches = rate("famez_relay_batch_bells_bucket")
    yield lines(
        Frame(
            "Bells at once",
            "How many bells the relay finds rung when it looks: of ten looks nine find fewer. It grows when a relay is"
            " late.",
            width=8,
            nothing="Nobody rang.",
        ),
        Query(f"histogram_quantile(0.9, sum by (instance, fabric, le) ({batches}))", LEGEND),
        link=OF_SERIES,
    )
    yield lines(
        Frame(
            "Descriptors",
            "Descriptors that each worker has open, of those that it may have: without any left it takes no newcomer.",
            width=8,
            unit=SHARE,
            steps=DESCRIPTOR_STEPS,
        ),
        Query(f"famez_worker_open_fds{{{FABRICS}}} / famez_worker_max_fds{{{FABRICS}}}", LEGEND),
        Query(
            f"process_open_fds{{{SERVICE}}} / process_max_fds{{{SERVICE}}} and on (job, instance) famez_build_info",
            "famezd ({{instance}})",
        ),
        link=OF_SERIES,
    )


def _refusals() -> Panels:
    yield lines(
        Frame(
            "Refusals by reason",
            "Newcomers that are turned away; docs/metrics.md has the reasons.",
            width=12,
            unit=RATE,
            nothing="Nobody was refused.",
        ),
        Query(f"sum by (fabric, reason) ({rate('famez_refusals_total')}) > 0", "{{fabric}} {{reason}}"),
    )
    yield lines(
        Frame("Joins and departures", "Peers that join, and that leave, by reason.", width=12, unit=RATE),
        Query(f"sum({rate('famez_joins_total')})", "joined"),
        Query(f"sum by (reason) ({rate('famez_leaves_total')})", "left: {{reason}}"),
    )


def _health() -> Panels:
    resumed = "famez_worker_resume_seconds"
    mean = f"sum by (fabric, cause) ({grown(f'{resumed}_sum')}) / sum by (fabric, cause) ({grown(f'{resumed}_count')})"
    yield lines(
        Frame("Deaths of workers", "Workers that died, or hung and were killed, in each interval.", width=8),
        Query(f"increase(famez_worker_restarts_total{{{FABRICS}}}[$__rate_interval])", LEGEND),
        link=OF_SERIES,
    )
    yield lines(
        Frame(
            "Time to resume",
            "How long nobody served a fabric when another worker took over: the mean over the time that is shown, by"
            " cause. What was rung meanwhile waited.",
            width=8,
            unit=SECONDS,
            nothing="No worker was succeeded.",
        ),
        Query(f"{mean} > 0", "{{fabric}} {{cause}}"),
    )
    yield lines(
        Frame(
            "Reloads",
            "Reloads by result, and 1 while a famezd has a configuration that it refused.",
            width=8,
            steps=NONE_IS_GOOD,
        ),
        Query(f"sum by (result) (increase(famez_config_reloads_total{{{SERVICE}}}[$__rate_interval]))", "{{result}}"),
        Query(f"famez_config_last_reload_successful{{{SERVICE}}} == bool 0", "refused configuration ({{instance}})"),
    )
    own = "and on (job, instance) famez_build_info"
    yield lines(
        Frame("Processors", "Processor time of each worker, and of famezd itself.", width=12, unit=SHARE),
        Query(rate("famez_worker_cpu_seconds_total"), LEGEND),
        Query(f"{rate('process_cpu_seconds_total', SERVICE)} {own}", "famezd ({{instance}})"),
        link=OF_SERIES,
    )
    yield lines(
        Frame("Memory", "Memory of each worker that is its own, and that of famezd itself.", width=12, unit=BYTES),
        Query(f"famez_worker_private_memory_bytes{{{FABRICS}}}", LEGEND),
        Query(f"process_resident_memory_bytes{{{SERVICE}}} {own}", "famezd ({{instance}})"),
        link=OF_SERIES,
    )
