"""The unit: when it is active, as whom it runs, what it leaves when it is stopped."""

from __future__ import annotations

import pwd
import resource
from pathlib import Path

import pytest

from famezd.client import ClientError
from tests.daemon import PATIENCE, eventually
from tests.systemd.inside.unit import NAME, Unit, run

LAB = {"personality": "genz", "peers": 4, "vectors": 16}
FRESH = {"peers": 4, "vectors": 4, "ports": "fresh"}


def test_systemd_finds_no_mistake_in_it() -> None:
    done = run("systemd-analyze", "verify", NAME)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_is_active_when_its_fabrics_listen() -> None:
    with Unit({"lab": LAB, "fresh": FRESH}) as unit:
        with unit.join("lab") as one, unit.join("fresh") as other:
            assert (one.id, other.id) == (1, 0)
            eventually(lambda: unit.show("StatusText") == "2 of 2 fabrics serve 2 peers", "the status tells of them")
        assert unit.metrics("famez_fabric_up", "fabric") == {("lab",): 1, ("fresh",): 1}
        assert unit.show("ActiveState") == "active"


def test_no_process_of_it_has_any_privilege() -> None:
    user = pwd.getpwnam("famez").pw_uid
    with Unit({"lab": LAB}) as unit:
        texts = [Path(f"/proc/{pid}/status").read_text() for pid in unit.processes()]
        statuses = [dict(line.split(":\t", 1) for line in text.splitlines()) for text in texts]
        assert len(statuses) == 2
        assert {int(status["Uid"].split()[0]) for status in statuses} == {user}
        assert {int(status["CapBnd"], 16) for status in statuses} == {0}
        assert {status["NoNewPrivs"] for status in statuses} == {"1"}


def test_root_and_its_own_user_may_control_it() -> None:
    with Unit({"lab": LAB}) as unit:
        assert unit.ctl("status").returncode == 0
        assert run("runuser", "-u", "famez", "famezctl", "status").returncode == 0
        done = run("runuser", "-u", "nobody", "famezctl", "status")
        assert done.returncode == 1
        assert "permission denied: /run/famez/control.sock" in done.stderr


def test_a_socket_can_be_given_to_the_group_of_qemu() -> None:
    for_kvm = {"group": "kvm"}
    with Unit({"lab": LAB | {"socket": for_kvm, "mailbox": for_kvm.copy()}}) as unit:
        assert unit.socket("lab").group() == Path("/dev/shm/famez-lab").group() == "kvm"
        as_member = ("runuser", "-u", "nobody", "-g", "kvm", "--")
        done = run(*as_member, "famez-client", "-S", str(unit.socket("lab")), "who")
        assert done.returncode == 0, done.stderr


def test_a_stop_ends_all_memberships_and_leaves_nothing() -> None:
    with Unit({"lab": LAB, "fresh": FRESH}) as unit, unit.join("lab") as one, unit.join("fresh") as other:
        main = unit.main_pid
        unit.stop()
        for peer in (one, other):
            with pytest.raises(ClientError, match="the server has ended the membership"):
                peer.wait(PATIENCE)
        assert unit.left() == []
        assert not Path(f"/proc/{main}").exists()
        assert unit.show("Result") == "success"


def test_sigterm_alone_is_a_stop() -> None:
    with Unit({"lab": LAB}) as unit, unit.join("lab") as peer:
        unit.kill("TERM")
        with pytest.raises(ClientError, match="the server has ended the membership"):
            peer.wait(PATIENCE)
        eventually(lambda: unit.show("ActiveState") == "inactive", "it has stopped")
        assert unit.left() == []


def test_a_start_that_failed_is_tried_again_until_it_succeeds() -> None:
    unit = Unit({"lab": LAB | {"vectors": 1}})
    assert run("systemctl", "start", NAME).returncode != 0
    with_mistake = unit.journal()
    assert f"{unit.file('lab')}:" in with_mistake
    tried = "it is tried more often than systemd does by itself"
    eventually(lambda: int(unit.show("NRestarts")) > 5, tried, patience=120.0)
    unit.write("lab", **LAB)
    unit.await_active()
    with unit, unit.join("lab"):
        pass


def test_workers_have_the_limit_of_open_files_that_is_in_the_unit() -> None:
    with Unit({"lab": LAB}) as unit:
        # Where systemd itself has a lower one, as in some containers, it gives what it has.
        most = min(int(unit.show("LimitNOFILE")), resource.prlimit(1, resource.RLIMIT_NOFILE)[1])
        assert most >= 4096
        texts = [Path(f"/proc/{pid}/limits").read_text() for pid in unit.processes()]
        limits = [
            line.split()[3:5] for text in texts for line in text.splitlines() if line.startswith("Max open files")
        ]
        assert limits == [[str(most), str(most)]] * 2
