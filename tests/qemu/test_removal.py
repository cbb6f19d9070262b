"""A fabric is taken away from under machines: not by a reload, and by force only after what was rung has arrived."""

from __future__ import annotations

from pathlib import Path

from tests.daemon import Famezd, eventually
from tests.qemu.machine import Machine

FABRIC = {"peers": 3, "vectors": 4}


def test_a_fabric_with_machines_goes_by_force_only_and_the_machines_live(tmp_path: Path) -> None:
    with (
        Famezd(tmp_path, {"lab": FABRIC, "other": FABRIC}) as famezd,
        Machine([*famezd.qemu("lab"), "-name", "web"], tmp_path) as web,
        Machine([*famezd.qemu("lab"), "-name", "db"], tmp_path) as db,
        Machine(famezd.qemu("other"), tmp_path) as other,
    ):
        mailbox = Path("/dev/shm", famezd.mailboxes["lab"])
        file = tmp_path / "fabrics.d" / "lab.yaml"
        file.unlink()
        done = famezd.ctl("reload")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"famezctl: {file}:1:1: has been removed, and there are peers on fabric lab: ")
        assert "0 web, 1 db; stop them or put the file back" in done.stderr
        web.ring(db.peer_id, 2)
        eventually(lambda: db.take_interrupts() == {2}, "the machines ring as before")
        db.ring(web.peer_id, 3)
        done = famezd.ctl("reload", "--force")
        assert (done.returncode, done.stdout) == (0, "removed: lab\nfabric lab had 2 peers, who were disconnected\n")
        eventually(lambda: web.take_interrupts() == {3}, "what was rung before has arrived")
        assert not mailbox.exists()
        # They have lost their fabric, not their lives: the memory is theirs still, and bells are rung in vain.
        web.memory_write(64, b"here")
        assert db.memory_read(64, 4) == b"here"
        web.ring(db.peer_id, 1)
        assert db.take_interrupts() == set()
        other.ring(other.peer_id, 1)
        eventually(lambda: other.take_interrupts() == {1}, "the other fabric is as it was")
