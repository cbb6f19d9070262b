"""Scrapes: in two formats, of as much as is configured, however many at once, whatever happens meanwhile."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.daemon import OPEN_METRICS, PATIENCE, Famezd, eventually
from tests.needs import need
from tests.system.test_names import joined_by, write_nodename

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
LAB = {"personality": "genz", "peers": 4, "vectors": 16}
PLAIN = {"peers": 5, "vectors": 3}
HOSTILE = 'a"b\\n\\\nfamez_fabric_up{fabric="x"} 1\n# EOF'

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def famezd(tmp_path: Path) -> Iterator[Famezd]:
    with Famezd(tmp_path, {"lab": LAB, "plain": PLAIN}) as famezd:
        yield famezd
        assert "Traceback" not in famezd.log.read_text()


def lint(text: str) -> str:
    """What `promtool check metrics` has to say about a scrape."""
    checked = subprocess.run(
        [need("promtool", "prometheus"), "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0 or checked.stderr, checked
    return checked.stdout + checked.stderr


def samples(text: str) -> Samples:
    """What a scrape in the text format says."""
    return {
        (s.name, frozenset(s.labels.items())): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def open_samples(text: str) -> Samples:
    """The same of one in OpenMetrics, read by a parser that is strict."""
    return {
        (s.name, frozenset(s.labels.items())): s.value
        for family in openmetrics.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
        for s in family.samples
    }


def changing(found: Samples) -> Samples:
    """Without what grows all the time."""
    grows = re.compile("process_|famez_worker_|famez_loop_|famez_relay_batch")
    return {key: value for key, value in found.items() if not grows.match(key[0])}


def of(fabric: str, text: str) -> int:
    """How many series there are of a fabric."""
    return sum(("fabric", fabric) in labels for _, labels in samples(text))


# What is said


def test_prometheus_tool_finds_nothing_to_complain_of(famezd: Famezd) -> None:
    with famezd.join("lab") as peer:
        peer.ring(5, 0)
        assert lint(famezd.scrape()) == ""
        assert "no help text" in lint("famez_x_total 1\n"), "it does look"


def test_both_formats_say_the_same(famezd: Famezd) -> None:
    with famezd.join("lab") as one, famezd.join("lab") as other:
        one.ring(other.id, 3)
        eventually(lambda: famezd.pairs("lab").total() == 1, "it is counted")
        text, opened = famezd.scrape(), famezd.scrape(OPEN_METRICS)
        assert changing(samples(text)) == changing(open_samples(opened))
        assert set(samples(text)) == set(open_samples(opened))
        assert "_created" not in text + opened
        assert opened.endswith("\n# EOF\n")
        assert opened.count("# EOF") == 1


def test_whatever_peers_are_called(famezd: Famezd) -> None:
    long = "x" * 10_000
    with famezd.join("lab") as one, famezd.join("lab") as other:
        write_nodename(one, one.id, HOSTILE.encode()[:32])
        write_nodename(other, other.id, b'\\"}\n{,=')
        with joined_by(famezd, "plain", ["qemu-system-x86_64", "-name", HOSTILE]) as machine:
            for name in (long, f"{long}\n{HOSTILE}"):
                with joined_by(famezd, "plain", ["qemu-system-x86_64", "-name", name]):
                    assert lint(famezd.scrape()) == ""
                    found = samples(famezd.scrape())
                    assert found == open_samples(famezd.scrape(OPEN_METRICS)) | found
                    names = [dict(labels)["name"] for metric, labels in found if metric == "famez_peer_info"]
                    assert len(names) == 5
                    assert all(name.isprintable() and len(name.encode()) <= 70 for name in names), names
                    assert [dict(labels) for metric, labels in found if metric == "famez_fabric_up"] == [
                        {"fabric": "lab"},
                        {"fabric": "plain"},
                    ]
            assert machine in range(5)


# How much of it


def documented(detail: str, peers: int, vectors: int) -> int:
    """How many series docs/metrics.md says that a fabric without a switch makes."""
    formula = re.search(rf"^\| `{detail}` \| (.*?) \|", PAGE.read_text(), re.MULTILINE)
    assert formula is not None
    least, *terms = formula[1].split(" + ")
    worth = {"3P": 3 * peers, "P(P - 1)": peers * (peers - 1), "PV": peers * vectors}
    return int(least) + sum(worth[term] for term in terms)


def test_the_series_are_as_many_as_the_docs_say(tmp_path: Path) -> None:
    details = ("pair", "peer", "fabric")
    fabrics = {detail: {**PLAIN, "metrics": {"detail": detail}} for detail in details}
    with Famezd(tmp_path, {**fabrics, "lab": LAB}) as famezd, ExitStack() as stack:
        for fabric in (*details, *details, *details, *details, *details, *["lab"] * 4):
            stack.enter_context(famezd.join(fabric))
        text = famezd.scrape()
        for detail in details:
            assert of(detail, text) == documented(detail, 5, 3)
        assert of("lab", text) == documented("pair", 5, 16) + 3, "the switch is one, and the mailbox has slots"


def test_the_detail_is_changed_at_run_time(famezd: Famezd) -> None:
    with famezd.join("plain") as one, famezd.join("plain") as other:
        one.ring(other.id, 2)
        eventually(lambda: famezd.vectors("plain").total() == 1, "it is counted")
        process = pid(famezd, "plain")
        for detail, pairs, peers in (("peer", 0, 1), ("fabric", 0, 0), ("pair", 1, 1)):
            path = famezd.config.parent / "fabrics.d" / "plain.yaml"
            path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"metrics": {"detail": detail}}))
            assert famezd.ctl("reload").stdout == "changed: plain\n"
            assert famezd.pairs("plain").total() == pairs
            assert famezd.vectors("plain").total() == pairs
            assert famezd.metrics("famez_doorbells_to_total").total() == peers
            assert famezd.metrics("famez_doorbells_from_total").total() == peers
            assert bool(famezd.metrics("famez_peer_info", "fabric")["plain",]) == bool(peers)
            assert famezd.metrics("famez_fabric_doorbells_total", "fabric")["plain",] == 1
        assert pid(famezd, "plain") == process
        assert famezd.metrics("famez_config_reloads_total", "result")["accepted",] == 3


def pid(famezd: Famezd, fabric: str) -> int:
    """The process of a fabric's worker."""
    fabrics = json.loads(famezd.ctl("--json", "status").stdout)["fabrics"]
    return next(int(f["pid"]) for f in fabrics if f["name"] == fabric)


# Whatever happens meanwhile


def test_two_hundred_at_once(famezd: Famezd) -> None:
    with famezd.join("plain") as one, famezd.join("plain") as other:
        one.ring(other.id, 2)
        eventually(lambda: famezd.vectors("plain").total() == 1, "it is counted")
        with ThreadPoolExecutor(200) as pool:
            texts = list(pool.map(famezd.scrape, [OPEN_METRICS, "*/*"] * 100))
        assert all(changing(open_samples(text)) == changing(open_samples(texts[0])) for text in texts[::2])
        assert all(changing(samples(text)) == changing(samples(texts[1])) for text in texts[1::2])


def test_scrapes_that_are_cut_off(famezd: Famezd) -> None:
    address = urlsplit(famezd.url)
    asked = b"GET /metrics HTTP/1.1\r\nHost: " + address.netloc.encode() + b"\r\n\r\n"
    with ThreadPoolExecutor(8) as pool:
        honest = [pool.submit(famezd.scrape) for _ in range(20)]
        for cut in range(60):
            with socket.create_connection((address.hostname or "", address.port or 0), PATIENCE) as client:
                client.sendall(asked[: 1 + cut] if cut % 3 == 0 else asked)
                if cut % 3 == 1:
                    client.recv(100)
                # Not even a FIN: what is under way is reset.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, (1).to_bytes(4, "little") + bytes(4))
        for scrape in honest:
            assert of("plain", scrape.result()) > 50
    assert of("plain", famezd.scrape()) > 50


@contextmanager
def scraping(famezd: Famezd) -> Iterator[list[str]]:
    """Scrapes all the time; the texts, of which each has to be right."""
    texts: list[str] = []
    over = threading.Event()

    def scrape() -> None:
        while not over.is_set():
            texts.append(famezd.scrape())

    with ThreadPoolExecutor(2) as pool:
        scrapers = [pool.submit(scrape) for _ in range(2)]
        try:
            yield texts
        finally:
            over.set()
        for scraper in scrapers:
            scraper.result()


def test_a_fabric_that_is_removed_during_a_scrape(famezd: Famezd) -> None:
    folder = famezd.config.parent / "fabrics.d"
    text = (folder / "plain.yaml").read_text()
    with scraping(famezd) as texts:
        for _ in range(4):
            (folder / "plain.yaml").unlink()
            assert famezd.ctl("reload", "--force").stdout == "removed: plain\n"
            (folder / "plain.yaml").write_text(text)
            assert famezd.ctl("reload").stdout == "added: plain\n"
    counted = {of("plain", text) for text in texts}
    assert 0 in counted
    assert max(counted) > 50
    assert {of("lab", text) for text in texts} - {of("lab", famezd.scrape())} == set()


def test_the_counters_of_a_dead_worker(famezd: Famezd) -> None:
    with famezd.join("plain") as one, famezd.join("plain") as other:
        one.ring(other.id, 2)
        eventually(lambda: famezd.vectors("plain").total() == 1, "it is counted")
        dead: list[Samples] = []

        def kill() -> bool:
            """Kills it over and over, until it is caught dead by a scrape: it is started again more and more slowly."""
            if process := pid(famezd, "plain"):
                os.kill(process, signal.SIGKILL)
            found = samples(famezd.scrape())
            if found["famez_fabric_up", frozenset({("fabric", "plain")})] == 0:
                dead.append(found)
            return bool(dead)

        eventually(kill, "a scrape finds it dead")
        plain = {name: value for (name, labels), value in dead[0].items() if labels == {("fabric", "plain")}}
        assert plain["famez_joins_total"] == 2
        assert plain["famez_fabric_doorbells_total"] == 1
        assert plain["famez_fabric_peers"] == 0, "nobody is served"
        assert "famez_announcements_queued" not in plain
        eventually(lambda: famezd.metrics("famez_fabric_up", "fabric")["plain",], "it serves again")
        restarts = famezd.metrics("famez_worker_restarts_total", "fabric")["plain",]
        resumes = famezd.metrics("famez_worker_resume_seconds_count", "fabric", "cause")
        assert 0 < resumes["plain", "death"] <= restarts
        seconds = samples(famezd.scrape())[
            "famez_worker_resume_seconds_sum", frozenset({("fabric", "plain"), ("cause", "death")})
        ]
        assert seconds > 0
        assert famezd.vectors("plain").total() == 1


def test_a_planned_restart_and_refused_reloads_are_counted(famezd: Famezd) -> None:
    assert famezd.ctl("restart", "plain").returncode == 0
    assert famezd.metrics("famez_worker_resume_seconds_count", "fabric", "cause") == {
        ("lab", "death"): 0,
        ("lab", "restart"): 0,
        ("plain", "death"): 0,
        ("plain", "restart"): 1,
    }
    (famezd.config.parent / "fabrics.d" / "plain.yaml").write_text("metrics: {detail: everything}\n")
    refused = famezd.ctl("reload")
    assert refused.returncode != 0
    assert "plain.yaml:1:19: metrics.detail: must be 'pair', 'peer' or 'fabric', not 'everything'" in refused.stderr
    assert famezd.metrics("famez_config_reloads_total", "result") == {("accepted",): 0, ("refused",): 1}


# What a worker uses


def test_a_workers_process_is_seen(famezd: Famezd) -> None:
    process = pid(famezd, "plain")
    one = frozenset({("fabric", "plain")})
    before = samples(famezd.scrape())
    with famezd.join("plain"):
        after = samples(famezd.scrape())
        assert after["famez_worker_open_fds", one] == len(os.listdir(f"/proc/{process}/fd"))
    assert after["famez_worker_max_fds", one] > after["famez_worker_open_fds", one]
    assert after["famez_worker_cpu_seconds_total", one] > 0
    private = after["famez_worker_private_memory_bytes", one]
    assert 1 << 20 < private < after["famez_worker_resident_memory_bytes", one]
    assert before["famez_worker_start_time_seconds", one] < os.stat(famezd.runtime / "plain.sock").st_mtime + 1
