"""What the dashboards ask Prometheus: their variables, and peers by their names."""

from __future__ import annotations

BUSY = 0.8
"""How saturated a worker may be, of 1; as the alert FamezRelaySaturated has it."""
DESCRIPTORS = 0.8
"""How much of its descriptors a process may use, of 1; as the alerts FamezWorkerDescriptors and FamezdDescriptors."""

SERVICE = 'job=~"$job", instance=~"$instance"'
"""Selects the chosen famezds."""
FABRICS = f'{SERVICE}, fabric=~"$fabric"'
"""Selects the chosen fabrics."""


def rate(metric: str, selected: str = FABRICS) -> str:
    """The growth of a counter in a second."""
    return f"rate({metric}{{{selected}}}[$__rate_interval])"


def grown(metric: str, selected: str = FABRICS) -> str:
    """The growth of a counter in the time that is shown."""
    return f"increase({metric}{{{selected}}}[$__range])"


def saturation() -> str:
    """How much of its time a worker's loop is busy: see the rule fabric:famez_worker_saturation:ratio_rate5m."""
    loop, process = rate("famez_loop_busy_seconds_total"), rate("famez_worker_cpu_seconds_total")
    return f"({loop} > {process} or {process} or {loop})"


def named(expr: str, peer: str, metric: str) -> str:
    """`expr`, whose label `peer` is a peer's id, with a label `PEER_name`: what it is called, if by more than its id.

    Who is on the fabric no longer has no name, but it stays: it has a series of `metric` still. Of one fabric only.
    """
    info = f'label_replace(famez_peer_info{{{FABRICS}}}, "{peer}", "$1", "peer", "(.*)")'
    there = f'label_replace({info}, "{peer}_name", "$1", "name", "(.*[^0-9].*)")'
    gone = f"group by ({peer}) ({metric}{{{FABRICS}}})"
    return f"({expr}) * on ({peer}) group_left ({peer}_name) ({there} or on ({peer}) {gone})"


def _headed(expr: str, peer: str, heading: str) -> str:
    """With a label that says id and name at once, by which ids of one and two digits are in order."""
    joined = f'label_join({expr}, "{heading}", " ", "{peer}", "{peer}_name")'
    return f'label_replace({joined}, "{heading}", "0$1", "{heading}", "([0-9] .*)")'


def pairs() -> str:
    """Doorbells a second by `from` and `to`, over the time that is shown: who they are in words."""
    metric = "famez_doorbells_total"
    expr = f"sum by (src, dst) (rate({metric}{{{FABRICS}}}[$__range]))"
    for peer in ("src", "dst"):
        expr = named(expr, peer, metric)
    return f"sum by (from, to) ({_headed(_headed(expr, 'src', 'from'), 'dst', 'to')})"


def by_peer(metric: str, peer: str) -> str:
    """The growth in a second of a counter that has a label `peer`, with names."""
    return named(f"sum by ({peer}) ({rate(metric)})", peer, metric)
