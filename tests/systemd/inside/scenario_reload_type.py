"""Type=notify-reload, known to systemd since 253: by a drop-in, which the package puts in force where it is known."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from famezd.client import Doorbell
from tests.daemon import PATIENCE
from tests.systemd.inside.unit import EXAMPLES, NAME, Unit, drop_in, run, systemctl

LAB = {"personality": "genz", "peers": 4, "vectors": 16}
DROP_IN = (EXAMPLES / "famezd.service.d/notify-reload.conf").read_text()
KNOWN_SINCE = 253


def is_known() -> bool:
    """Whether this systemd knows it."""
    found = re.search(r"\d+", run("systemctl", "--version").stdout)
    assert found is not None
    return int(found[0]) >= KNOWN_SINCE


@contextmanager
def in_force() -> Iterator[Unit]:
    """The unit, which has the drop-in."""
    with Unit({"lab": LAB}) as unit:
        assert unit.show("Type") == "notify-reload"
        yield unit


def test_it_is_a_mistake_just_where_it_is_not_known() -> None:
    with drop_in(NAME, DROP_IN):
        done = run("systemd-analyze", "verify", NAME)
        assert (done.stderr == "") is is_known(), done.stderr


@pytest.mark.skipif(not is_known(), reason="systemd knows Type=notify-reload since 253 only")
class TestWhereItIsKnown:
    """Where the drop-in is in force."""

    def test_a_reload_is_done_once_when_it_returns(self) -> None:
        with in_force() as unit:
            unit.write("new", **LAB)
            systemctl("reload", NAME)
            with unit.join("new"):
                pass
            assert unit.journal().count("configuration reloaded") == 1
            assert (unit.show("ActiveState"), unit.show("SubState")) == ("active", "running")

    def test_a_reload_that_is_refused_fails_and_says_why_once(self) -> None:
        with in_force() as unit, unit.join("lab") as one, unit.join("lab") as other:
            main = unit.main_pid
            unit.write("lab", **LAB | {"vectors": 1})
            assert run("systemctl", "reload", NAME).returncode != 0
            assert unit.journal().count(" configuration refused") + unit.journal().count("\nconfiguration refused") == 1
            unit.file("lab").unlink()
            assert run("systemctl", "reload", NAME).returncode != 0
            assert "has been removed, and there are peers on fabric lab" in unit.journal()
            one.ring(other.id, 3)
            assert other.wait(PATIENCE) == [Doorbell(3, 1)]
            unit.write("lab", **LAB)
            systemctl("reload", NAME)
            assert (unit.main_pid, unit.show("ActiveState")) == (main, "active")

    def test_restarts_and_sighup_are_what_they_were(self) -> None:
        with in_force() as unit, unit.join("lab") as one, unit.join("lab") as other:
            for verb in ("restart", "reload-or-restart"):
                systemctl(verb, NAME)
                one.ring(other.id, 3)
                assert other.wait(PATIENCE) == [Doorbell(3, 1)]
            main = unit.main_pid
            unit.kill("HUP")
            systemctl("reload", NAME)
            one.ring(other.id, 3)
            assert other.wait(PATIENCE) == [Doorbell(3, 1)]
            assert unit.main_pid == main

    def test_systemd_alone_would_not_say_that_a_reload_was_refused(self) -> None:
        """What speaks against the type without ExecReload=, and against its own signal with it."""
        by_signal = "[Service]\nType=notify-reload\nReloadSignal=SIGHUP\n"
        with drop_in(NAME, by_signal), Unit({"lab": LAB}) as unit:
            systemctl("reload", NAME)
            assert unit.journal().count("configuration reloaded") == 2
        with drop_in(NAME, by_signal + "ExecReload=\n"), Unit({"lab": LAB}) as unit:
            unit.write("lab", **LAB | {"vectors": 1})
            systemctl("reload", NAME)
            assert "configuration refused" in unit.journal()
