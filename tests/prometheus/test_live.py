"""A real Prometheus scrapes a real famezd under load: every panel has data, every alert fires and clears again."""

from __future__ import annotations

import math
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
import yaml

from famezd.client import ClientError
from tests.daemon import Famezd
from tests.prometheus.boards import Asked, asked, query
from tests.prometheus.faults import crowded, cut, dying, few_descriptors, mistaken, not_startable, process
from tests.prometheus.load import RINGS, Load
from tests.prometheus.server import Prometheus, alerts, awaited

SMALL = {"peers": 3, "vectors": 2}
FABRICS: dict[str, dict[str, Any]] = {
    "lab": {
        "personality": "genz",
        "peers": 3,
        "vectors": 8,
        "faults": [{"src": 1, "dst": 2, "vector": 5, "delay": "1ms..5ms"}],
    },
    "coarse": {**SMALL, "metrics": {"detail": "fabric"}},
    "busy": {"peers": 14, "vectors": 16},
    "flaps": SMALL,
    "few": SMALL,
    "cut": SMALL,
    "plain": SMALL,
}


@pytest.fixture(scope="module")
def famezd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Famezd]:
    with Famezd(tmp_path_factory.mktemp("one"), FABRICS) as famezd:
        yield famezd


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory, famezd: Famezd) -> Iterator[Prometheus]:
    with Prometheus(tmp_path_factory.mktemp("prometheus")) as prometheus:
        prometheus.look_at({"one": address(famezd)})
        awaited(lambda: prometheus.instant("famez_fabric_up"), "it has scraped")
        yield prometheus


def address(famezd: Famezd) -> str:
    return famezd.url.removeprefix("http://")


@pytest.fixture(scope="module")
def load(famezd: Famezd, prometheus: Prometheus) -> Iterator[Load]:
    """Peers at work, one of whose workers has died before."""
    with Load(famezd) as load:
        os.kill(process(famezd, "lab"), signal.SIGKILL)
        yield load


# Dashboards


def chosen(asked: Asked, fabric: str) -> str:
    """A query where one fabric, or on the overview all, is chosen."""
    every = "|".join(FABRICS)
    return asked.with_values(job="famezd", instance="one", fabric=f"({every})" if "overview" in asked.board else fabric)


def data(prometheus: Prometheus, asked: Asked, fabric: str = "lab") -> list[float]:
    """What a panel has to show."""
    text = chosen(asked, fabric)
    found = prometheus.instant(text).values() if asked.instant else prometheus.over_time(text)
    return [value for value in found if not math.isnan(value)]


@pytest.mark.usefixtures("load")
@pytest.mark.parametrize("asked", asked(), ids=lambda asked: f"{asked.board}: {asked.panel}: {asked.ref}")
def test_every_query_of_every_panel_has_data(prometheus: Prometheus, asked: Asked) -> None:
    assert "$" not in re.sub(r'"\$1"|"0\$1"', "", chosen(asked, "lab")), "all variables are known"
    awaited(lambda: data(prometheus, asked), "there is data")


@pytest.mark.usefixtures("load")
def test_the_matrix_says_who_rings_whom(prometheus: Prometheus) -> None:
    text = chosen(query("famezd-fabric", "Who rings whom"), "lab")
    names = {place: f"0{place} {name}" for place, name in enumerate(Load.NAMES, 1)}
    rung = [(names[src], names[dst]) for src, dst in sorted(RINGS, key=lambda pair: RINGS[pair])]

    def right() -> bool:
        found = {pair: n for pair, n in prometheus.instant(text).items() if n and "04 Z-switch" not in pair}
        return sorted(found, key=lambda pair: found[pair]) == rung

    awaited(right, "exactly these pairs are rung, by name, the first the least")


def test_who_has_left_stays_in_the_matrix(famezd: Famezd, prometheus: Prometheus) -> None:
    with famezd.join("plain") as one, famezd.join("plain") as other:
        text = chosen(query("famezd-fabric", "Who rings whom"), "plain")

        def rung() -> bool:
            one.ring(other.id, 1)
            return any(prometheus.instant(text).values())

        awaited(rung, "it is rung")
    gone = 'famez_fabric_peers{fabric="plain"} == 0'
    awaited(lambda: prometheus.instant(gone), "they have left")
    assert any(prometheus.instant(text).values())


def test_a_fabric_of_less_detail_says_so(famezd: Famezd, prometheus: Prometheus) -> None:
    of_fabric = [a for a in asked() if a.board == "famezd-fabric"]
    with famezd.join("coarse") as one, famezd.join("coarse") as other:
        one.ring(other.id, 1)
        there = 'famez_fabric_peers{fabric="coarse"} == 2'
        awaited(lambda: prometheus.instant(there), "they are there")
        nothing = {a.panel: a.nothing for a in of_fabric}
        full = {a.panel for a in of_fabric if data(prometheus, a, "coarse")}
        detailed = {panel for panel, said in nothing.items() if "metrics.detail" in said}
        assert detailed == {
            "Who rings whom",
            "Top pairs",
            "Who is there",
            "By who rings",
            "By who is rung",
            "By vector",
        }
        assert detailed & full == set()
        assert {panel for panel, said in nothing.items() if panel not in full and not said} == set()


# Alerts

OF: dict[str, dict[str, str]] = {
    "FamezFabricDown": {"fabric": "down"},
    "FamezWorkerFlapping": {"fabric": "flaps"},
    "FamezPeersRefused": {"fabric": "coarse", "reason": "full"},
    "FamezRelaySaturated": {"fabric": "busy"},
    "FamezReloadFailed": {"instance": "one"},
    "FamezWorkerDescriptors": {"fabric": "few"},
    "FamezdDescriptors": {"instance": "one"},
    "FamezMailboxResized": {"fabric": "cut"},
    "FamezdRestarting": {"instance": "other"},
    "FamezdDown": {"instance": "other"},
}
"""What each alert is about in these tests; FamezdAbsent is about everything."""


def refused(famezd: Famezd) -> None:
    """A full fabric gets one peer too many."""
    with ExitStack() as stack:
        for _ in range(SMALL["peers"]):
            stack.enter_context(famezd.join("coarse"))
        with pytest.raises(ClientError):
            famezd.join("coarse")


def start_again(famezd: Famezd, prometheus: Prometheus) -> None:
    """Kills famezd, and starts another in its place, until Prometheus has seen it."""
    seen = 'process_start_time_seconds{instance="other"}'
    awaited(lambda: prometheus.instant(seen), "it is scraped")
    (before,) = prometheus.instant(seen).values()
    famezd.process.kill()
    famezd.stop()
    famezd.start()
    awaited(lambda: set(prometheus.instant(seen).values()) - {before}, "it is seen to be another")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, famezd: Famezd, prometheus: Prometheus) -> Iterator[Famezd]:
    """Another famezd, which keeps its port when it is started again."""
    with Famezd(tmp_path_factory.mktemp("other"), {}) as other:
        other.config.write_text(yaml.safe_dump({"http": {"listen": address(other)}}))
        prometheus.look_at({"one": address(famezd), "other": address(other)})
        yield other


@pytest.fixture(scope="module")
def broken(famezd: Famezd, other: Famezd, prometheus: Prometheus) -> Iterator[Callable[[], None]]:
    """All that there are alerts for happens, until what this is is called."""
    # The first of all, while there is a processor for it.
    repeated(prometheus, "FamezdRestarting", lambda: start_again(other, prometheus))
    assert other.stop() == 0
    with ExitStack() as stack:
        stack.enter_context(not_startable(famezd, "down"))
        stack.enter_context(mistaken(famezd, "plain"))
        stack.enter_context(dying(famezd, "flaps"))
        stack.enter_context(few_descriptors(process(famezd, "few")))
        stack.enter_context(few_descriptors(famezd.process.pid))
        repeated(prometheus, "FamezPeersRefused", lambda: refused(famezd))
        repeated(prometheus, "FamezMailboxResized", lambda: cut(famezd, "cut"))
        stack.enter_context(crowded(famezd, "busy"))
        yield stack.close


def repeated(prometheus: Prometheus, alert: str, do: Callable[[], None]) -> None:
    """Does that until an alert fires."""
    awaited(lambda: do() or has_fired(prometheus, alert), f"{alert} fires")  # type: ignore[func-returns-value]


def has_fired(prometheus: Prometheus, alert: str) -> bool:
    """Whether an alert has fired about what is broken."""
    return prometheus.fired(alert, **OF[alert])


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("alert", OF)
def test_an_alert_fires(prometheus: Prometheus, alert: str) -> None:
    awaited(lambda: has_fired(prometheus, alert), f"{alert} fires")


@pytest.fixture(scope="module")
def repaired(broken: Callable[[], None], other: Famezd, prometheus: Prometheus) -> None:
    """All alerts have fired, and nothing is broken any longer."""
    for alert in OF:
        awaited(partial(has_fired, prometheus, alert), f"{alert} fires")
    broken()
    other.start()


@pytest.mark.usefixtures("repaired")
@pytest.mark.parametrize("alert", OF)
def test_an_alert_clears(prometheus: Prometheus, alert: str) -> None:
    awaited(lambda: not prometheus.firing(alert, **OF[alert]), f"{alert} clears")


def test_an_alert_says_that_there_is_no_famezd(famezd: Famezd, prometheus: Prometheus) -> None:
    awaited(lambda: not prometheus.firing("FamezdAbsent"), "it does not fire while there is one")
    prometheus.look_at({})
    awaited(lambda: prometheus.firing("FamezdAbsent"), "it fires")
    prometheus.look_at({"one": address(famezd)})
    awaited(lambda: not prometheus.firing("FamezdAbsent"), "it clears")


def test_every_alert_is_tested() -> None:
    assert {*OF, "FamezdAbsent"} == {rule["alert"] for rule in alerts()}
