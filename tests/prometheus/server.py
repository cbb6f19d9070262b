"""A real Prometheus, with the scrape configuration and the rules that famezd comes with."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.daemon import PATIENCE, eventually
from tests.needs import need

SHIPPED = Path(__file__).parents[2] / "packaging" / "prometheus"
RULES = SHIPPED / "famezd.rules.yaml"

LONG = 180.0
"""Seconds for what takes many scrapes."""

Series = dict[str, Any]


def awaited(true: Callable[[], object], what: str) -> None:
    """Waits until Prometheus says so. It learns something once a second, and asking it costs those who are watched."""
    deadline = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < deadline, f"not within {LONG} s: {what}"
        time.sleep(0.2)


def hurried(rules: str) -> str:
    """The same rules in fast motion: they wait a second for each minute, and look back two."""
    waits = re.sub(r"(?<=for: )(\d+)m\b", r"\1s", rules)
    return re.sub(r"\[(\d+)m\]", lambda back: f"[{2 * int(back[1])}s]", waits)


def alerts() -> list[Series]:
    """The alert rules."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


class Prometheus:
    """A running Prometheus, which scrapes each second, and whose rules are in fast motion."""

    def __init__(self, directory: Path) -> None:
        self._log, self._targets = directory / "prometheus.log", directory / "targets.json"
        self._config, self._data = directory / "prometheus.yml", directory / "data"
        (directory / "famezd.rules.yaml").write_text(hurried(RULES.read_text()))
        config = yaml.safe_load((SHIPPED / "famezd.scrape.yaml").read_text())
        (job,) = config["scrape_configs"]
        del job["static_configs"]
        job["file_sd_configs"] = [{"files": [str(self._targets)], "refresh_interval": "1s"}]
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = ["famezd.rules.yaml"]
        self._config.write_text(yaml.safe_dump(config))
        self.look_at({})

    def __enter__(self) -> Self:
        options = ["--web.listen-address=127.0.0.1:0", f"--storage.tsdb.path={self._data}"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [need("prometheus", "prometheus"), f"--config.file={self._config}", *options], stderr=log
            )
        try:
            eventually(self._ready, "Prometheus is ready")
            found = re.search(r'msg="Listening on" address=(\S+)', self._log.read_text())
            assert found is not None, self._log.read_text()
        except BaseException:
            self._end()
            raise
        self.url = f"http://{found[1]}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _ready(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        return "Server is ready" in self._log.read_text()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()

    def look_at(self, targets: Mapping[str, str]) -> None:
        """Scrapes these from now on: addresses, by what they are called."""
        found = [{"targets": [address], "labels": {"instance": name}} for name, address in targets.items()]
        made = self._targets.with_suffix(".new")
        made.write_text(json.dumps(found))
        made.rename(self._targets)

    def _ask(self, what: str, **arguments: object) -> Any:
        url = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(arguments)}"
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            told = json.load(answer)
        assert told["status"] == "success", told
        return told["data"]

    def instant(self, query: str) -> dict[tuple[str, ...], float]:
        """What a query says now, by the values of its labels in the order of their names."""
        result: list[Series] = self._ask("query", query=query)["result"]
        return {
            tuple(value for _, value in sorted(series["metric"].items())): float(series["value"][1])
            for series in result
        }

    def over_time(self, query: str) -> list[float]:
        """All that a query says of the last half minute."""
        now = time.time()
        result: list[Series] = self._ask("query_range", query=query, start=now - 30, end=now, step=1)["result"]
        return [float(value) for series in result for _, value in series["values"]]

    def firing(self, alert: str, **labels: str) -> bool:
        """Whether an alert of this name with these labels fires now."""
        alerts: list[Series] = self._ask("alerts")["alerts"]
        return any(
            {"alertname": alert, **labels}.items() <= found["labels"].items()
            for found in alerts
            if found["state"] == "firing"
        )

    def fired(self, alert: str, **labels: str) -> bool:
        """Whether it fires, or has fired."""
        chosen = "".join(f', {name}="{value}"' for name, value in labels.items())
        return bool(self.instant(f'max_over_time(ALERTS{{alertname="{alert}", alertstate="firing"{chosen}}}[10m])'))
