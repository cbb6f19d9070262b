"""What the units forbid, and that nothing which famezd is for is forbidden by it."""

from __future__ import annotations

import grp
import os
import pwd
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from famezd.client import Doorbell, Mailbox, Peer
from tests.daemon import PATIENCE, eventually
from tests.qemu.machine import Machine
from tests.systemd.inside.unit import EXAMPLES, HTTP, NAME, Unit, drop_in, run

TEMPLATE = "famez-fabric@lab.service"
UNITS = (NAME, HTTP, TEMPLATE)
MOST_EXPOSED = 0.7
LAB = {"personality": "genz", "peers": 4, "vectors": 16}
GROUP = "libvirt-qemu"
HUGE = Path("/dev/hugepages/famez-lab")


def exposure(unit: str) -> float:
    """What systemd makes of a unit, as it is installed."""
    told = run("systemd-analyze", "security", "--no-pager", unit).stdout
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", told)
    assert found is not None, told
    return float(found[1])


@pytest.mark.parametrize("unit", [NAME, TEMPLATE])
def test_it_is_hardly_exposed(unit: str) -> None:
    assert exposure(unit) <= MOST_EXPOSED


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_no_mistake(unit: str) -> None:
    done = run("systemd-analyze", "verify", unit)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_its_directory_is_there_before_any_unit_is_started() -> None:
    runtime = Path("/run/famez")
    shutil.rmtree(runtime, ignore_errors=True)
    assert run("systemd-tmpfiles", "--create", "famezd.conf").returncode == 0
    assert (runtime.owner(), runtime.group(), runtime.stat().st_mode & 0o777) == ("famez", "famez", 0o755)


# Who peers are


def test_users_and_limits_of_others_are_known() -> None:
    access = {"users": ["nobody", "root"]}
    with Unit({"lab": LAB | {"socket": {"mode": "0666"}, "access": access}}) as unit:
        client = ("famez-client", "-S", str(unit.socket("lab")), "who")
        assert run("runuser", "-u", "nobody", "--", *client).returncode == 0
        assert run("runuser", "-u", "daemon", "--", *client).returncode != 0
        assert f"uid='{pwd.getpwnam('daemon').pw_uid}'" in unit.journal()
        assert run("prlimit", "--nofile=40", *client).returncode != 0
        assert "reason='own_limit'" in unit.journal()


# Groups


@contextmanager
def qemus_group() -> Iterator[None]:
    """The group that libvirt's machines run with, which this system does not have by itself."""
    assert run("groupadd", "--system", GROUP).returncode == 0
    try:
        yield
    finally:
        assert run("groupdel", GROUP).returncode == 0


def test_a_host_without_libvirt_starts_and_one_with_it_gives_its_group_a_socket() -> None:
    groups = (EXAMPLES / "examples/groups.conf").read_text()
    with Unit({"lab": LAB}) as unit:
        assert GROUP not in {group.gr_name for group in grp.getgrall()}
        with qemus_group():
            unit.write("lab", **LAB | {"socket": {"group": GROUP}, "mailbox": {"group": GROUP}})
            # One that it is not in: it goes on as it was, and says so.
            assert run("systemctl", "reload", NAME).returncode != 0
            assert "cannot give" in unit.journal()
            assert f"lab.sock has group famez, not {GROUP}" in unit.ctl("status").stdout
            assert "SupplementaryGroups=" in unit.journal()
            with drop_in(NAME, groups), unit.join("lab"):
                unit.restart()
                assert unit.socket("lab").group() == Path("/dev/shm/famez-lab").group() == GROUP
                assert "has group" not in unit.ctl("status").stdout
                unit.stop()
        with drop_in(NAME, groups):
            assert run("systemctl", "start", NAME).returncode != 0
            assert unit.show("ExecMainStatus") == "216"
        unit.write("lab", **LAB | {"socket": {"group": GROUP}})
        unit.stop()
        assert run("systemctl", "start", NAME).returncode != 0
        assert f"{unit.file('lab')}:" in unit.journal()
        assert f"this system has no group '{GROUP}'" in unit.journal()
        unit.write("lab", **LAB)
        unit.await_active()


# Places of one's own


@contextmanager
def directory(path: str) -> Iterator[Path]:
    """A directory for sockets, of famezd's user."""
    Path(path).mkdir(parents=True)
    shutil.chown(path, "famez", "famez")
    try:
        yield Path(path)
    finally:
        shutil.rmtree(path)


@pytest.mark.parametrize(
    ("place", "lines"),
    [
        ("/srv/fabrics", "ReadWritePaths=/srv/fabrics"),
        ("/home/alice", "ProtectHome=tmpfs and BindPaths=/home/alice"),
        ("/tmp/fabrics", "PrivateTmp=no and ReadWritePaths=/tmp"),
    ],
)
@pytest.mark.parametrize("backing", ["shm", "file"])
def test_a_place_that_the_unit_hides_is_told_with_what_shows_it(place: str, lines: str, backing: str) -> None:
    with directory(place) as home:
        mailbox = {"backing": backing, "path": str(home / "lab.memory")} if backing == "file" else {}
        unit = Unit({"lab": LAB | {"socket": {"path": str(home / "lab.sock")}, "mailbox": mailbox}})
        try:
            assert run("systemctl", "start", NAME).returncode != 0
            assert f"`systemctl edit {NAME}`, with [Service] and {lines}, and restart it" in unit.journal()
            with drop_in(NAME, "[Service]\n" + lines.replace(" and ", "\n") + "\n"):
                unit.restart()
                with unit, Peer.join(home / "lab.sock") as one, Peer.join(home / "lab.sock") as other:
                    unit.restart()
                    one.ring(other.id, 3)
                    assert other.wait(PATIENCE) == [Doorbell(3, 1)]
        finally:
            run("systemctl", "stop", NAME)
        assert list(home.iterdir()) == []


def test_the_example_for_places_is_what_it_says() -> None:
    paths = (EXAMPLES / "examples/paths.conf").read_text()
    with directory("/srv/fabrics") as home, drop_in(NAME, paths):
        unit = Unit({"lab": LAB | {"socket": {"path": str(home / "lab.sock")}}})
        with unit, Peer.join(home / "lab.sock"):
            pass


def test_huge_pages_are_the_hosts(tmp_path: Path) -> None:
    if "HugePages_Free:        0" in Path("/proc/meminfo").read_text():
        pytest.skip("this kernel has no huge pages: sysctl vm.nr_hugepages=4 gives it some")
    assert run("mountpoint", "/dev/hugepages").returncode == 0
    shutil.chown("/dev/hugepages", "famez")
    backed = {"backing": "file", "path": str(HUGE), "size": "2M"}
    with Unit({"lab": LAB | {"mailbox": backed}}) as unit:
        assert HUGE.stat().st_size == 2 << 20
        with Machine(unit.qemu("lab"), tmp_path) as machine, unit.join("lab") as one, unit.join("lab") as other:
            unit.restart()
            assert Mailbox(one).names()[5][0] == "Z-switch"
            assert os.fstat(other.memory).st_ino == HUGE.stat().st_ino
            one.ring(machine.peer_id, 3)
            machine.wait_interrupts({3}, PATIENCE)
            # The switch answers by what stands there.
            done = run("famez-client", "-S", str(unit.socket("lab")), "ping", "-c1", "switch")
            assert done.returncode == 0, done.stderr
    assert not HUGE.exists()


# The mount namespace itself


def test_mailboxes_and_sockets_are_the_hosts_and_nothing_else_can_be_written() -> None:
    with Unit({"lab": LAB}) as unit:
        assert Path("/dev/shm/famez-lab").exists()
        for pid in unit.processes():
            for path in ("/etc/famez", "/usr", "/srv", "/dev"):
                inside = ("nsenter", "--mount", f"--target={pid}", "touch", f"{path}/famez-test")
                assert "Read-only file system" in run(*inside).stderr
        eventually(lambda: unit.show("StatusText") == "1 of 1 fabrics serve 0 peers", "it serves")
