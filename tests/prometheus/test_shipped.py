"""What is in packaging/prometheus and packaging/grafana: right by the tools' own checks, and consistent."""

from __future__ import annotations

import json
import re
import subprocess
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from docs.reference.grafana.queries import BUSY, DESCRIPTORS
from tests.needs import need
from tests.prometheus.boards import BOARDS, GRAFANA, asked, panels
from tests.prometheus.server import RULES, SHIPPED, alerts
from tests.system.test_metrics_page import listed

DOCS = Path(__file__).parents[2] / "docs"
TESTS = Path(__file__).parent / "alerts.test.yaml"
INSTALLED = "/usr/share/famezd"
VARIABLES = ["datasource", "job", "instance", "fabric"]


def promtool(*arguments: str | Path) -> str:
    """Runs it; what it says, where it finds fault."""
    done = subprocess.run([need("promtool", "prometheus"), *arguments], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


# Rules


def test_rules_are_right() -> None:
    assert promtool("check", "rules", RULES) == ""


def test_each_alert_fires_when_it_should_and_not_else() -> None:
    assert promtool("test", "rules", TESTS) == ""
    tested = {alert["alertname"] for test in yaml.safe_load(TESTS.read_text())["tests"] for alert in fired(test)}
    assert tested == {alert["alert"] for alert in alerts()}


def fired(test: dict[str, Any]) -> list[dict[str, Any]]:
    """The alerts that a test has fire."""
    return [alert for alert in test.get("alert_rule_test", ()) if alert["exp_alerts"]]


@pytest.mark.parametrize(("right", "wrong"), [("> 0.8", "> 0.95"), ("for: 5m", "for: 30m"), ("> 2", "> 4")])
def test_a_wrong_rule_is_found(tmp_path: Path, right: str, wrong: str) -> None:
    rules = RULES.read_text()
    assert right in rules
    (tmp_path / RULES.name).write_text(rules.replace(right, wrong))
    (tmp_path / TESTS.name).write_text(re.sub(r"\.\./\.\./packaging/prometheus/", "", TESTS.read_text()))
    assert "FAILED" in promtool("test", "rules", tmp_path / TESTS.name)


def test_the_scrape_configuration_is_right(tmp_path: Path) -> None:
    config = yaml.safe_load((SHIPPED / "famezd.scrape.yaml").read_text())
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump({**config, "rule_files": [str(RULES)]}))
    assert promtool("check", "config", tmp_path / "prometheus.yml") == ""


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_has_a_runbook(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
    page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    assert page == "file:///usr/share/doc/famezd/docs/runbooks.md"
    section = re.search(rf"^## {alert['alert']}\n(.*?)(?=^## |\Z)", (DOCS / "runbooks.md").read_text(), re.M | re.S)
    assert section is not None
    assert anchor == alert["alert"].lower()
    for part in ("**What it means.**", "**How to see.**", "**What to do.**"):
        assert part in section[1]
    assert re.search(r"^    \w", section[1], re.MULTILINE), "there are commands"


def test_thresholds_are_those_of_the_alerts() -> None:
    exprs = {alert["alert"]: alert["expr"] for alert in alerts()}
    assert exprs["FamezRelaySaturated"].endswith(f"> {BUSY}")
    assert exprs["FamezWorkerDescriptors"].endswith(f"> {DESCRIPTORS}")
    assert exprs["FamezdDescriptors"].endswith(f"> {DESCRIPTORS}")


def test_all_metrics_exist() -> None:
    series = {f"{name}{part}" for name in listed() for part in ("", "_bucket", "_sum", "_count")}
    recorded = set(re.findall(r"record: (\S+)", RULES.read_text()))
    for expr in [rule["expr"] for rule in alerts()] + [a.expr for a in asked()]:
        assert set(re.findall(r"(?<![:\w])famez_\w+|process_\w+", expr)) <= series, expr
        assert set(re.findall(r"\w+:\w+:\w+", expr)) <= recorded, expr


# Dashboards


@pytest.mark.parametrize("name", BOARDS)
class TestBoards:
    def test_grafana_knows_all_of_it(self, name: str) -> None:
        board = BOARDS[name]
        again = json.loads(JSONEncoder().encode(Dashboard.from_json(board)))
        assert again == board, "nothing is lost by the models of Grafana's own schema"
        assert board["uid"] == name
        assert board["schemaVersion"] >= 39

    def test_panels_are_explained(self, name: str) -> None:
        for panel in panels(name):
            assert panel["description"].endswith("."), panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert panel["targets"], panel["title"]

    def test_panels_are_told_apart(self, name: str) -> None:
        found = BOARDS[name]["panels"]
        assert len({panel["id"] for panel in found}) == len(found)
        titles = [panel["title"] for panel in panels(name)]
        assert len(set(titles)) == len(titles)

    def test_panels_fill_the_page_and_do_not_overlap(self, name: str) -> None:
        places = [panel["gridPos"] for panel in BOARDS[name]["panels"]]
        cells = [cells_of(place) for place in places]
        assert all(not one & other for one, other in combinations(cells, 2))
        assert len(set().union(*cells)) == 24 * max(place["y"] + place["h"] for place in places)

    def test_variables(self, name: str) -> None:
        variables = BOARDS[name]["templating"]["list"]
        assert [variable["name"] for variable in variables] == VARIABLES
        used = set(re.findall(r"\$(?!\d)(\w+)", " ".join(a.expr for a in asked() if a.board == name)))
        assert used == {"job", "instance", "fabric", "__rate_interval", "__range"}

    def test_links_lead_to_dashboards_and_keep_the_time(self, name: str) -> None:
        urls = re.findall(r'"url": "(.*?)"', json.dumps(BOARDS[name]))
        assert urls
        for url in urls:
            board, _, arguments = url.removeprefix("/d/").partition("?")
            assert board in BOARDS
            assert "${datasource:queryparam}" in arguments
            assert "${__url_time_range}" in arguments
            assert set(re.findall(r"var-(\w+)=", arguments)) <= set(VARIABLES)


def cells_of(place: dict[str, int]) -> set[tuple[int, int]]:
    """The cells of the grid that a panel covers."""
    columns, lines = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
    return set(product(columns, lines))


def test_every_fabric_leads_to_its_own_dashboard() -> None:
    links = re.findall(r"/d/famezd-fabric\?[^\"]*", json.dumps(BOARDS["famezd-overview"]))
    assert any("var-fabric=${__data.fields.fabric}" in link for link in links), "from the table"
    assert any("var-fabric=${__field.labels.fabric}" in link for link in links), "from a curve"


def test_provisioning() -> None:
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/famezd.yaml").read_text())["providers"]
    assert provider["options"]["path"] == f"{INSTALLED}/grafana/dashboards"
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/famezd.yaml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://127.0.0.1:9090")
