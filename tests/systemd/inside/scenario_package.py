"""The package: installed, upgraded, removed and purged, with peers on the fabrics."""

from __future__ import annotations

import grp
import json
import pwd
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from famezd.client import ClientError, Doorbell, Peer
from tests.daemon import PATIENCE
from tests.systemd.inside.leftovers import leftovers
from tests.systemd.inside.package import NEXT, THIS, apt_get, install
from tests.systemd.inside.traffic import Traffic
from tests.systemd.inside.unit import ETC, HTTP, NAME, Installed, Unit, run, systemctl

LAB = {"personality": "genz", "peers": 8, "vectors": 16}
CHANGED, UNCHANGED = ETC / "fabrics.d/lab.yaml", ETC / "fabrics.d/plain.yaml"
"""Of the configuration that is installed. The next version has other ones of both."""
THIS_VERSION = run("dpkg-query", "--show", "famezd").stdout
OWN = "personality: genz\npeers: 3\n"


@pytest.fixture
def this_version() -> Iterator[None]:
    """In the end it is as all tests expect it."""
    yield
    if run("dpkg-query", "--show", "famezd").stdout != THIS_VERSION:
        install(THIS)
    systemctl("stop", NAME)


def works(one: Peer, other: Peer) -> None:
    """They are what they were to each other."""
    one.ring(other.id, 3)
    assert other.wait(PATIENCE) == [Doorbell(3, 1)]


def has_ended(peer: Peer) -> bool:
    """Whether the peer's membership is ended, at the latest in a while."""
    with pytest.raises(ClientError, match="the server has ended the membership"):
        peer.wait(PATIENCE)
    return True


def serves_as_installed(unit: Unit) -> None:
    """It serves the fabrics that come with it, and will after a boot."""
    assert systemctl("is-enabled", NAME, HTTP).split() == ["enabled", "enabled"]
    assert systemctl("is-active", NAME, HTTP).split() == ["active", "active"]
    assert unit.metrics("famez_fabric_up", "fabric") == {("lab",): 1, ("plain",): 1}
    with unit.join("lab") as one, unit.join("lab") as other:
        works(one, other)
    for command in ("famez-client -f lab ping -c1 switch", "famezd --check", "famezctl status"):
        done = run(*command.split())
        assert done.returncode == 0, f"{command}: {done.stderr}"


def keeps_configuration_that_was_changed() -> None:
    """Of the administrator's changes and the next version's, those of the administrator count."""
    CHANGED.write_text(OWN)
    told = install(NEXT)
    assert f"Configuration file '{CHANGED}'" in told
    assert CHANGED.read_text() == OWN
    assert UNCHANGED.read_text().endswith("# Of the next version.\n")


@pytest.mark.usefixtures("this_version")
def test_it_is_installed_removed_and_purged() -> None:
    apt_get("purge", "famezd")
    install(THIS)
    unit = Installed()
    serves_as_installed(unit)
    keeps_configuration_that_was_changed()
    unit.write("mine", **LAB)
    systemctl("reload", NAME)
    (ETC / "standalone.d/own.yaml").write_text("peers: 4\n")
    systemctl("enable", "--now", "famez-fabric@own")
    drop_in = Path("/etc/systemd/system/famezd.service.d/groups.conf")
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\nSupplementaryGroups=kvm\n")
    with unit.join("mine") as one, unit.join("own") as other:
        apt_get("remove", "famezd")
        assert has_ended(one)
        assert has_ended(other)
    assert list(Path("/dev/shm").glob("famez-*")) == []
    assert CHANGED.read_text() == OWN
    assert unit.file("mine").exists()
    install(THIS)
    assert systemctl("is-active", NAME, HTTP, "famez-fabric@own").split() == ["active"] * 3
    apt_get("remove", "famezd")
    # As after a famezd that was killed when it could not be started again.
    lost, others = Path("/dev/shm/famez-lost"), Path("/dev/shm/famez-of-a-user")
    lost.touch()
    shutil.chown(lost, "famez")
    others.touch()
    apt_get("purge", "famezd")
    others.unlink()
    assert leftovers() == set()
    for database in (pwd.getpwall, grp.getgrall):
        assert [entry for entry in database() if "famez" in str(entry)] == []


@pytest.fixture
def namesake() -> Iterator[str]:
    """Somebody whose name is famez, since before famezd was installed."""
    apt_get("purge", "famezd")
    assert run("useradd", "--system", "--user-group", "--comment", "Fam Ez", "famez").returncode == 0
    yield "famez"
    assert run("userdel", "famez").returncode == 0


@pytest.mark.usefixtures("this_version")
def test_a_user_who_was_called_famez_before_outlives_the_package(namesake: str) -> None:
    install(THIS)
    serves_as_installed(Installed())
    apt_get("purge", "famezd")
    assert pwd.getpwnam(namesake).pw_gecos == "Fam Ez"


@pytest.mark.usefixtures("this_version")
def test_upgrades_disturb_nobody_not_even_with_a_mistake_in_the_configuration(tmp_path: Path) -> None:
    with Unit({"lab": LAB}) as unit, Traffic(unit, "lab", tmp_path, programs=2) as lab:
        (ETC / "standalone.d/own.yaml").write_text("peers: 4\n")
        systemctl("start", "famez-fabric@own")
        with unit.join("own") as one, unit.join("own") as other:
            mains = unit.main_pid, main_pid("famez-fabric@own")
            install(NEXT)
            assert not {*mains} & {unit.main_pid, main_pid("famez-fabric@own")}
            lab.flows()
            works(one, other)
            assert json.loads(unit.ctl("--json", "status").stdout)["version"] == "99.0"
            unit.file("lab").write_text("personality: genz\nvectors: many\n")
            told = install(THIS)
            mistake = f"{unit.file('lab')}:2:10: vectors: "
            assert mistake in told
            assert "systemctl reload famezd" in told
            assert mistake in unit.journal()
            assert run("dpkg-query", "--show", "--showformat=${db:Status-Abbrev}", "famezd").stdout == "ii "
            lab.flows()
            works(one, other)
            assert json.loads(unit.ctl("--json", "status").stdout)["version"] != "99.0"
            unit.write("lab", **LAB)
            systemctl("reload", NAME)
            lab.settle()
        systemctl("stop", "famez-fabric@own")


def main_pid(unit: str) -> int:
    """The main process of a unit."""
    return int(systemctl("show", "--value", "--property=MainPID", unit))


@pytest.mark.usefixtures("this_version")
def test_apt_does_not_fail_where_famezd_cannot_start() -> None:
    unit = Unit({"lab": LAB | {"vectors": 1}})
    told = install(THIS)
    assert f"{unit.file('lab')}:3:10: vectors: " in told
    assert f"{unit.file('lab')}:3:10: vectors: " in unit.journal()
    systemctl("stop", NAME)
