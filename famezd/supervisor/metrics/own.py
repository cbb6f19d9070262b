"""The metrics of famezd itself, which are few: prometheus_client writes them, and knows those of any process."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from famezd import __version__
from famezd.supervisor.logs import lines_lost
from famezd.supervisor.status.view import ConfigView

EXAMPLES = {
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


class OwnCollector(Collector):
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
    made.register(OwnCollector(config))
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
