"""What is around the panels: a dashboard with its variables and links, made into JSON."""

from __future__ import annotations

from collections.abc import Iterable

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    Panel,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from docs.reference.grafana.panels import SOURCE
from docs.reference.grafana.queries import SERVICE

OVERVIEW, FABRIC = "famezd-overview", "famezd-fabric"
"""The dashboards' uids, which are in their addresses, and the names of their files."""
CHOSEN = "${datasource:queryparam}&${job:queryparam}"
"""In an address: what was chosen, but for the instance and the fabric."""
TIME = "${__url_time_range}"
"""In an address: the time that is shown."""

Section = tuple[str, Iterable[Builder[Panel]]]
"""A heading, and what is below it."""


def variables(*, many: bool) -> list[build.QueryVariable | build.DatasourceVariable]:
    """Prometheus, then which famezd and which fabric: with `many` any number of each."""
    source = build.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
    return [
        source,
        _variable("job", "Job", "label_values(famez_build_info, job)", many=True),
        _variable("instance", "famezd", 'label_values(famez_build_info{job=~"$job"}, instance)', many=many),
        _variable("fabric", "Fabric", f"label_values(famez_fabric_up{{{SERVICE}}}, fabric)", many=many),
    ]


def _variable(name: str, label: str, query: str, *, many: bool) -> build.QueryVariable:
    variable = build.QueryVariable(name).label(label).datasource(SOURCE).query(query)
    variable.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.NATURAL_ASC)
    if many:
        everything = VariableOption(selected=True, text=["All"], value=["$__all"])
        variable.multi(True).include_all(True).current(everything)
    return variable


def board(uid: str, title: str, text: str) -> build.Dashboard:
    """An empty dashboard that looks at the last half hour, and is refreshed."""
    empty = build.Dashboard(title).uid(uid).description(text).tags(["famezd"]).timezone("browser")
    return empty.readonly().time("now-30m", "now").refresh("30s").tooltip(DashboardCursorSync.CROSSHAIR)


def written(dashboard: build.Dashboard, sections: Iterable[Section]) -> str:
    """The JSON of a dashboard with these sections; its panels are numbered, so that links to one of them stay right."""
    for heading, panels in sections:
        dashboard.with_row(build.Row(heading))
        for panel in panels:
            dashboard.with_panel(panel)
    made = dashboard.build()
    for number, placed in enumerate(made.panels or (), 1):
        placed.id_val = number
    return JSONEncoder(sort_keys=True, indent=2, ensure_ascii=False).encode(made) + "\n"
