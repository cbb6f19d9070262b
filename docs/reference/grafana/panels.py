"""The kinds of panels, each with what all of ours have: a description, a unit, and what is said where no data is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import TypeVar

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
GREEN, YELLOW, RED = "green", "yellow", "red"
RATE, SHARE, SECONDS, BYTES, COUNT = "cps", "percentunit", "s", "bytes", "short"
"""Units: a second, of 1, and so on."""

ANY = Threshold(value=None, color=GREEN)
"""Where thresholds begin."""
NONE_IS_GOOD = (ANY, Threshold(value=1, color=RED))
FULL = (ANY, Threshold(value=1, color=YELLOW))
UP: list[ValueMap] = [
    ValueMap(
        {
            "0": ValueMappingResult(text="down", color=RED, index=0),
            "1": ValueMappingResult(text="up", color=GREEN, index=1),
        }
    )
]

Steps = Sequence[Threshold]
Kind = TypeVar("Kind", bargauge.Panel, heatmap.Panel, stat.Panel, statetimeline.Panel, table.Panel, timeseries.Panel)


@dataclass(frozen=True)
class Query:
    """A question to Prometheus."""

    expr: str
    legend: str = ""
    """What its series are called: labels in `{{ }}`."""


@dataclass(frozen=True)
class Frame:
    """What is around every panel."""

    title: str
    text: str
    """What it shows, and what to look for."""
    width: int
    """Of 24."""
    height: int = 8
    unit: str = COUNT
    steps: Steps = ()
    nothing: str = ""
    """What is said where there is no data, if that is not a mistake."""


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    label: str
    """A label of the queries, or `Value #A` and so on for what they count."""
    title: str = ""
    unit: str = COUNT
    steps: Steps = ()
    mappings: Sequence[ValueMap] = ()
    link: str = ""
    """Where a click on it leads."""


def warning(at: float, bad: float) -> Steps:
    """Yellow from `at` on, red from `bad`."""
    return ANY, Threshold(value=at, color=YELLOW), Threshold(value=bad, color=RED)


def single(frame: Frame, query: Query, *, mappings: Sequence[ValueMap] = (), text: bool = False) -> stat.Panel:
    """One number; or with `text` the query's legend."""
    mode = looks.BigValueTextMode.NAME if text else looks.BigValueTextMode.VALUE
    panel = _framed(stat.Panel(), frame).with_target(_target(query).instant()).text_mode(mode)
    panel.graph_mode(looks.BigValueGraphMode.NONE).mappings(list(mappings)).reduce_options(_last())
    return panel.color_mode(looks.BigValueColorMode.NONE if text else looks.BigValueColorMode.VALUE)


def lines(frame: Frame, *queries: Query, link: build.DashboardLink | None = None) -> timeseries.Panel:
    """Curves, from zero; thresholds are lines."""
    panel = _framed(timeseries.Panel(), frame)
    for ref, query in zip(ascii_uppercase, queries, strict=False):
        panel.with_target(_target(query).ref_id(ref).range())
    panel.color_scheme(build.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC_BY_NAME)).min(0)
    panel.legend(
        common.VizLegendOptions()
        .display_mode(looks.LegendDisplayMode.LIST)
        .placement(looks.LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    panel.tooltip(common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI).sort(looks.SortOrder.DESCENDING))
    panel.fill_opacity(10).show_points(looks.VisibilityMode.NEVER)
    if frame.steps:
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(looks.GraphThresholdsStyleMode.DASHED))
    return panel.data_links([link]) if link else panel


def states(frame: Frame, query: Query, mappings: Sequence[ValueMap]) -> statetimeline.Panel:
    """A bar for each series, coloured by its value at each time."""
    panel = _framed(statetimeline.Panel(), frame).with_target(_target(query).range()).mappings(list(mappings))
    return panel.show_value(looks.VisibilityMode.NEVER).merge_values(True).row_height(0.8)


def bars(frame: Frame, query: Query) -> bargauge.Panel:
    """A bar for each series, the longest first if the query says so."""
    panel = _framed(bargauge.Panel(), frame).with_target(_target(query).instant())
    panel.reduce_options(_last()).orientation(looks.VizOrientation.HORIZONTAL)
    panel.display_mode(looks.BarGaugeDisplayMode.GRADIENT)
    return panel.color_scheme(build.FieldColor().mode(FieldColorModeId.CONTINUOUS_BL_YL_RD)).min(0)


def buckets(frame: Frame, query: Query) -> heatmap.Panel:
    """A histogram over time."""
    target = _target(query).range().format(PromQueryFormat.HEATMAP)
    panel = _framed(heatmap.Panel(), frame).with_target(target).calculate(False)
    return panel.y_axis(heatmap.YAxisConfig().unit(COUNT)).color(heatmap.HeatmapColorOptions().scheme("Blues"))


def matrix(frame: Frame, query: Query, row: str, column: str) -> table.Panel:
    """A heat map whose rows and columns are the values of two labels, both in order."""
    panel = _framed(table.Panel(), frame).with_target(_target(query).instant().format(PromQueryFormat.TABLE))
    panel.with_transformation(DataTransformerConfig("sortBy", options={"sort": [{"field": column}]}))
    grouped = {"rowField": row, "columnField": column, "valueField": "Value", "emptyValue": "null"}
    panel.with_transformation(DataTransformerConfig("groupingToMatrix", options=grouped))
    head = f"{row}\\{column}"
    panel.sort_by([common.TableSortByFieldState().display_name(head).desc(False)])
    cells = looks.TableColoredBackgroundCellOptions(mode=looks.TableCellBackgroundDisplayMode.BASIC)
    panel.cell_options(cells).align(looks.FieldTextAlignment.CENTER).min_width(60).decimals(1)
    panel.color_scheme(build.FieldColor().mode(FieldColorModeId.CONTINUOUS_BL_YL_RD)).min(0)
    return _dashed(panel).override_by_name(head, [_setting("custom.cellOptions", {"type": "auto"})])


def rows(frame: Frame, queries: Sequence[str], columns: Sequence[Column]) -> table.Panel:
    """A row for each value of the labels that the queries have in common."""
    panel = _framed(table.Panel(), frame)
    for ref, expr in zip(ascii_uppercase, queries, strict=False):
        panel.with_target(_target(Query(expr)).ref_id(ref).instant().format(PromQueryFormat.TABLE))
    panel.with_transformation(DataTransformerConfig("merge", options={}))
    order = {column.label: at for at, column in enumerate(columns)}
    names = {column.label: column.title for column in columns if column.title}
    shown = {"include": {"names": list(order)}}
    panel.with_transformation(DataTransformerConfig("filterFieldsByName", options=shown))
    organized = {"indexByName": order, "renameByName": names, "excludeByName": {}}
    panel.with_transformation(DataTransformerConfig("organize", options=organized))
    _dashed(panel)
    for column in columns:
        panel.override_by_name(column.title or column.label, _settings(column))
    return panel


def _dashed(panel: table.Panel) -> table.Panel:
    """With a dash in empty cells: what is said where there is no data is said of the whole table only."""
    return panel.override_by_regexp(".*", [_setting("noValue", "-")])


def _settings(column: Column) -> list[DynamicConfigValue]:
    settings = [_setting("unit", column.unit)]
    if column.mappings:
        settings += [_setting("mappings", list(column.mappings))]
    if column.steps or column.mappings:
        settings += [_setting("custom.cellOptions", {"type": "color-text"})]
    if column.steps:
        steps = build.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(list(column.steps))
        settings += [_setting("thresholds", steps.build())]
    if column.link:
        settings += [_setting("links", [{"title": "Show this fabric", "url": column.link}])]
    return settings


def link(title: str, url: str, text: str = "") -> build.DashboardLink:
    """A link to another dashboard; its URL says what of the time and variables goes along."""
    return build.DashboardLink(title).type(DashboardLinkType.LINK).icon("dashboard").tooltip(text).url(url)


def _framed(panel: Kind, frame: Frame) -> Kind:
    panel.title(frame.title).description(frame.text).datasource(SOURCE)
    panel.span(frame.width).height(frame.height).unit(frame.unit)
    steps = list(frame.steps or [ANY])
    panel.thresholds(build.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    if frame.nothing:
        panel.no_value(frame.nothing)
    return panel


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"])


def _target(query: Query) -> prometheus.Dataquery:
    return prometheus.Dataquery().datasource(SOURCE).expr(query.expr).legend_format(query.legend).ref_id("A")


def _setting(name: str, value: object) -> DynamicConfigValue:
    return DynamicConfigValue(name, value)
