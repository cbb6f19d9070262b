"""famezd --fabric: one fabric without a supervisor, in the foreground."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from pathlib import Path

import pytest
import yaml

from famezd.client import ClientError, Doorbell, Peer
from tests.daemon import BIN, PATIENCE

LAB = {"personality": "genz", "peers": 4, "vectors": 16, "pins": {4: {"socket": True}}}


def written(directory: Path, **settings: object) -> Path:
    """A fabric's file; returns where famezd.yaml would be beside it."""
    (directory / "standalone.d").mkdir(exist_ok=True)
    (directory / "standalone.d" / "lab.yaml").write_text(yaml.safe_dump(settings))
    return directory / "famezd.yaml"


def famezd(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs it to its end."""
    environ = os.environ | {"RUNTIME_DIRECTORY": str(config.parent)}
    command: list[str | Path] = [BIN / "famezd", "-c", config, "--fabric", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=PATIENCE)


def test_it_serves_and_leaves_nothing(tmp_path: Path) -> None:
    name = f"famez-test-{uuid.uuid4().hex[:12]}"
    faults = [{"src": 1, "dst": 2, "vector": 5, "drop": 1}]
    config = written(tmp_path, **LAB, mailbox={"name": name}, faults=faults)
    socket = tmp_path / "lab.sock"
    command: list[str | Path] = [BIN / "famezd", "-c", config, "--fabric", "lab"]
    environ = os.environ | {"RUNTIME_DIRECTORY": str(tmp_path)}
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == f"<6>fabric serves socket={socket} peers=4\n"
            with Peer.join(socket) as one, Peer.join(socket) as other, Peer.join(tmp_path / "lab.4.sock") as pinned:
                assert (one.id, other.id, pinned.id) == (1, 2, 4)
                one.ring(other.id, 5)
                one.ring(other.id, 3)
                assert other.wait(PATIENCE) == [Doorbell(3, 1)]
                process.send_signal(signal.SIGINT)
                with pytest.raises(ClientError, match="the server has ended the membership"):
                    one.wait(PATIENCE)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["standalone.d"]
    assert not Path("/dev/shm", name).exists()


def test_a_check_tells_what_a_machine_needs(tmp_path: Path) -> None:
    done = famezd(written(tmp_path, **LAB), "lab", "--check")
    assert done.returncode == 0, done.stderr
    assert f"-chardev socket,path={tmp_path}/lab.sock,id=famez-lab" in done.stdout


def test_mistakes_are_told_with_their_place(tmp_path: Path) -> None:
    config = written(tmp_path, **LAB | {"vectors": 1, "socket": {"group": "no-such-group"}})
    for arguments in (["lab"], ["lab", "--check"]):
        done = famezd(config, *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{tmp_path}/standalone.d/lab.yaml:8:10: vectors: personality genz with 4 peers needs" in done.stderr
        assert "this system has no group 'no-such-group'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["other"], "standalone.d/other.yaml:1:1: is not there: make it, or move the one in fabrics.d there"),
        (["../lab"], "a fabric's name must be"),
        (["lab", "--daemon"], "--fabric serves in the foreground: leave out --daemon, --pidfile and --logfile"),
        (["lab", "--pidfile", "a"], "--fabric serves in the foreground"),
    ],
)
def test_what_it_cannot_serve(arguments: list[str], told: str, tmp_path: Path) -> None:
    done = famezd(written(tmp_path, **LAB), *arguments)
    assert done.returncode == 2
    assert told in done.stderr


def test_no_fabric_has_two_files(tmp_path: Path) -> None:
    config = written(tmp_path, **LAB)
    (tmp_path / "fabrics.d").mkdir()
    (tmp_path / "fabrics.d/lab.yaml").write_text(yaml.safe_dump(LAB))
    config.write_text("")
    here, there = (tmp_path / directory / "lab.yaml" for directory in ("fabrics.d", "standalone.d"))
    assert (
        f"{there}:1:1: is the fabric that {here} defines for famezd.service: move one" in famezd(config, "lab").stderr
    )
    done = subprocess.run([BIN / "famezd", "-c", config, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{here}:1:1: is the fabric that {there} defines for famez-fabric@lab.service: move one" in done.stderr
