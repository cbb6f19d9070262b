"""What famezd tells the real journal, and how it is found there; and that it waits for no journal."""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from famezd.client import ClientError, Doorbell
from famezd.supervisor.events import EVENTS, catalog
from tests.daemon import PATIENCE, eventually
from tests.systemd.inside.scenario_crash import worker
from tests.systemd.inside.unit import NAME, Unit, run, systemctl

LAB = {"personality": "genz", "peers": 2, "vectors": 16}
OTHER = {"peers": 2, "vectors": 4}
TEXTS = {event.id: event.text for event in EVENTS}
JOURNALD = "systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket"

JOINS = 400

Entry = dict[str, str]


def entries(unit: Unit, *matches: str) -> list[Entry]:
    """What journalctl finds of this test."""
    run("journalctl", "--sync")
    # With --after-cursor Debian 12's passes over the first that matches. What is at the cursor itself is systemd's.
    command = ["journalctl", "-o", "json", "--all", f"--cursor={unit.cursor}", *matches]
    return [json.loads(line) for line in run(*command).stdout.splitlines()]


def events(unit: Unit, *matches: str) -> Counter[str]:
    """How many of each event there are; systemd's own have ids, too."""
    return Counter(text for entry in entries(unit, *matches) if (text := event(entry)))


def event(entry: Entry) -> str:
    """Which event an entry is; "" if none."""
    return TEXTS.get(entry.get("MESSAGE_ID", ""), "")


def test_a_fabric_and_its_events_are_found(tmp_path: Path) -> None:
    with Unit({"lab": LAB, "other": OTHER}) as unit, unit.join("lab") as one:
        with unit.join("lab") as two, unit.join("other"):
            with pytest.raises(ClientError):
                unit.join("lab")
            assert two.id == 2
        os.kill(worker(unit, "lab"), signal.SIGKILL)
        eventually(lambda: events(unit, "FABRIC=lab")["fabric resumed"], "it goes on")
        assert events(unit, "FABRIC=lab") == {
            "fabric serves": 1,
            "peer joined": 2,
            "peer left": 1,
            "peer refused": 1,
            "worker died, it is started again": 1,
            "fabric resumed": 1,
        }
        assert {entry["FABRIC"] for entry in entries(unit, "FABRIC=lab")} == {"lab"}
        assert events(unit, "FABRIC=other")["peer joined"] == 1
        first, *_ = entries(unit, "FABRIC=lab", "PEER=1")
        assert (first["PRIORITY"], first["SYSLOG_IDENTIFIER"], first["_SYSTEMD_UNIT"]) == ("6", "famezd", NAME)
        assert first["FAMEZ_PID"] == str(os.getpid())
        refusal = next(event.id for event in EVENTS if event.text == "peer refused")
        (refused,) = entries(unit, f"MESSAGE_ID={refusal}")
        assert refused["FAMEZ_REASON"] == "full"
        assert "all 2 ports are taken" in refused["MESSAGE"]
        unit.ctl("restart", "lab")
        assert events(unit, "FABRIC=lab")["worker succeeded"] == 1
        assert events(unit, "FABRIC=lab")["fabric resumed"] == 1, "one line tells of it"
        assert one.wait(0) == []


def test_reloads_are_found() -> None:
    with Unit({"lab": LAB}) as unit:
        unit.write("lab", **LAB | {"access": {"users": ["root"]}})
        systemctl("reload", NAME)
        assert events(unit)["configuration reloaded"] == 1
        unit.write("lab", **LAB | {"vectors": "many"})
        assert run("systemctl", "reload", NAME).returncode != 0
        assert events(unit)["configuration reloaded"] == 1
        (refused,) = (entry for entry in entries(unit) if event(entry) == "configuration refused")
        assert str(unit.file("lab")) in refused["FAMEZ_PROBLEM"]


def test_a_fabrics_level_is_changed_at_run_time() -> None:
    with Unit({"lab": LAB, "other": OTHER}) as unit, unit.join("lab"):
        process = worker(unit, "lab")
        for level, seen in (("error", False), ("debug", True)):
            unit.write("lab", **LAB | {"log": {"level": level}})
            systemctl("reload", NAME)
            before = events(unit, "FABRIC=lab")["peer joined"]
            for fabric in ("lab", "other"):
                with unit.join(fabric):
                    pass
            eventually(lambda: "peer joined" in events(unit, "FABRIC=other"), "other fabrics are as they were")
            assert (events(unit, "FABRIC=lab")["peer joined"] > before) == seen
        assert worker(unit, "lab") == process


def test_what_a_guest_writes_is_but_a_value() -> None:
    hostile = b'x"\nPRIORITY=0\nFABRIC=other\n'
    with Unit({"lab": LAB, "other": OTHER}) as unit:
        with unit.join("lab") as peer:
            os.pwrite(peer.memory, hostile.ljust(32, b"\0"), 512 * peer.id)
        eventually(lambda: events(unit, "FABRIC=lab")["peer left"], "it has left")
        (left,) = (entry for entry in entries(unit, "FABRIC=lab") if event(entry) == "peer left")
        assert (left["FABRIC"], left["PRIORITY"], left["PEER"]) == ("lab", "6", "1")
        assert "peer left" not in events(unit, "FABRIC=other")


@contextmanager
def stopped_journal() -> Iterator[None]:
    """While this lasts the journal reads nothing."""
    process = int(systemctl("show", "--value", "--property=MainPID", JOURNALD[0]))
    # Else its watchdog would see to it.
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def test_a_journal_that_reads_nothing_holds_up_nobody() -> None:
    with Unit({"lab": LAB}) as unit, unit.join("lab") as one:
        with stopped_journal():
            for _ in range(JOINS):
                with unit.join("lab") as two:
                    one.ring(two.id, 3)
                    assert two.wait(PATIENCE) == [Doorbell(3, 1)]
            eventually(lambda: unit.metrics("famez_fabric_peers")[()] == 1, "it goes on")
        with unit.join("lab") as two:
            pass
        eventually(lambda: events(unit, "FABRIC=lab")["peer left"], "it logs again")
        eventually(lambda: told_of(unit) >= JOINS + 2, "each is told of")
        lost = unit.metrics("famez_log_lines_lost_total")[()]
        assert sum(int(entry.get("FAMEZ_LINES_LOST", 0)) for entry in entries(unit)) == lost


def told_of(unit: Unit) -> int:
    """How many joins are: as an entry, as a line on standard error, in a sum of many, or as a line that is lost."""
    said = unit.journal()
    left_out = sum(map(int, re.findall(r"^peer joined: more .*left_out='(\d+)'", said, re.MULTILINE)))
    lost = unit.metrics("famez_log_lines_lost_total")[()]
    return len(re.findall(r"^peer joined fabric=", said, re.MULTILINE)) + left_out + lost


def test_a_journal_that_is_away_holds_up_nobody() -> None:
    with Unit({"lab": LAB}) as unit, unit.join("lab") as one:
        systemctl("stop", *JOURNALD)
        try:
            for _ in range(20):
                with unit.join("lab") as two:
                    one.ring(two.id, 3)
                    assert two.wait(PATIENCE) == [Doorbell(3, 1)]
        finally:
            systemctl("start", *reversed(JOURNALD))
        before = events(unit, "FABRIC=lab")["peer joined"]
        with unit.join("lab"):
            pass
        eventually(lambda: events(unit, "FABRIC=lab")["peer joined"] > before, "it logs again")


def test_the_catalog_explains() -> None:
    path = Path("/usr/lib/systemd/catalog/famezd.catalog")
    path.write_text(catalog())
    try:
        updated = run("journalctl", "--update-catalog")
        assert (updated.returncode, updated.stderr) == (0, "")
        with Unit({"lab": LAB}) as unit, unit.join("lab"):
            eventually(lambda: events(unit, "FABRIC=lab")["peer joined"], "it is logged")
            explained = run("journalctl", "-x", f"--cursor={unit.cursor}", "FABRIC=lab", "PEER=1").stdout
            assert "A machine or a program has become peer 1 of fabric lab." in explained
            for event in EVENTS:
                assert event.id in run("journalctl", "--list-catalog").stdout
    finally:
        path.unlink()
        run("journalctl", "--update-catalog")
