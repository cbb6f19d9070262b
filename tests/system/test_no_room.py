"""A /run or a /dev/shm that is read-only, or full: told as such, with what to do."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.daemon import BIN, PATIENCE, Famezd
from tests.needs import need

LAB = {"personality": "genz", "peers": 4, "vectors": 16}
SHM = "/dev/shm"
FULL = "No space left on device"
READ_ONLY = "Read-only file system"
FREE = "free space or inodes there; `df -h` and `df -i` tell which"
WRITABLE = "have that file system mounted writable"


def with_mount(options: str, where: str | Path, command: list[str], **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs a command that sees a tmpfs of its own there; nobody else does."""
    unshare, mount = need("unshare", "util-linux"), need("mount", "mount")
    script = f"{mount} -t tmpfs -o {options} tmpfs {shlex.quote(str(where))} && exec {shlex.join(command)}"
    # Root stays what it is: in a user namespace of its own it is not exempt from limits, as on what is in flight.
    become = [] if os.geteuid() == 0 else ["--map-root-user"]
    return subprocess.run(
        [unshare, "--mount", *become, "sh", "-c", script],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


@pytest.fixture
def famezd(tmp_path: Path) -> Famezd:
    famezd = Famezd(tmp_path, {"lab": LAB})
    famezd.runtime.mkdir()
    return famezd


def fails(famezd: Famezd, options: str, where: str | Path) -> str:
    """What a famezd says that cannot start."""
    command = [str(BIN / "famezd"), "-c", str(famezd.config)]
    done = with_mount(options, where, command, RUNTIME_DIRECTORY=str(famezd.runtime))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_a_runtime_directory_that_is_read_only(famezd: Famezd) -> None:
    said = fails(famezd, "ro", famezd.runtime)
    assert f"cannot use the runtime directory {famezd.runtime}: {READ_ONLY}" in said
    assert WRITABLE in said
    assert "or set runtime_directory to one that user id " in said


@pytest.mark.parametrize(("inodes", "what"), [(1, "famezd.lock"), (2, "notify"), (3, "control.sock"), (4, "lab.sock")])
def test_a_runtime_directory_that_is_full(famezd: Famezd, inodes: int, what: str) -> None:
    said = fails(famezd, f"nr_inodes={inodes}", famezd.runtime)
    assert str(famezd.runtime / what) in said
    assert f": {FULL}" in said
    assert FREE in said


@pytest.mark.parametrize(
    ("options", "why", "remedy"),
    [
        ("ro", READ_ONLY, WRITABLE),
        ("nr_inodes=1", FULL, FREE),
        ("size=4k", FULL, "free space there or choose a smaller mailbox.size"),
    ],
)
def test_no_room_for_a_mailbox(famezd: Famezd, options: str, why: str, remedy: str) -> None:
    file = famezd.config.parent / "fabrics.d" / "lab.yaml"
    file.write_text(file.read_text().replace("peers: 4", "peers: 14"))
    said = fails(famezd, options, SHM)
    assert re.fullmatch(rf"famezd: fabric lab: cannot make the mailbox /dev/shm/\S+( of 8192 bytes)?: {why}; .*", said)
    assert remedy in said


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("full", f" of 4194304 bytes: {FULL}; free space there or choose a smaller mailbox.size"),
        ("read-only", f": {READ_ONLY}; {WRITABLE}"),
    ],
)
def test_a_fabric_for_which_there_is_no_room_harms_no_other(famezd: Famezd, what: str, why: str) -> None:
    done = with_mount("size=64k", SHM, [sys.executable, "-m", __name__, what, str(famezd.config.parent)])
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["status"] == 3
    # Where the tests run as a unit, what to change in that follows.
    assert told["said"].startswith(f"fabric big failed: cannot make the mailbox /dev/shm/famez-big{why}")
    assert told["states"] == {"big": "failed", "lab": "serving"}
    assert told["id"] == 1


def reload_without_room(what: str, directory: Path) -> dict[str, object]:
    """What a famezd says that is to serve one fabric more than there is room for."""
    with Famezd(directory, {"lab": LAB}) as famezd:
        (directory / "fabrics.d" / "big.yaml").write_text(yaml.safe_dump({"mailbox": {"size": "4M"}}))
        if what == "read-only":
            # One in which files are open to be written to cannot be made read-only, but another can stand before it.
            subprocess.run([need("mount", "mount"), "-t", "tmpfs", "-o", "ro", "tmpfs", SHM], check=True)
        done = famezd.ctl("reload")
        fabrics = json.loads(famezd.ctl("--json", "status").stdout)["fabrics"]
        with famezd.join("lab") as peer:
            if what == "read-only":
                subprocess.run([need("umount", "mount"), SHM], check=True)
            return {
                "status": done.returncode,
                "said": done.stdout.strip(),
                "states": {fabric["name"]: fabric["state"] for fabric in fabrics},
                "id": peer.id,
            }


if __name__ == "__main__":
    print(json.dumps(reload_without_room(sys.argv[1], Path(sys.argv[2]))))
