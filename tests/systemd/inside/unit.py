"""famezd.service, as an administrator has it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from famezd.attach import qemu_arguments
from famezd.config import load
from tests.daemon import Famezd, eventually

NAME = "famezd.service"
ETC = Path("/etc/famez")
_DROP_INS = Path("/run/systemd/system/famezd.service.d")
_GATE = Path("/run/famezd-gate")


def run(*command: str, patience: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=patience)


def systemctl(*arguments: str) -> str:
    """Runs systemctl; what it printed. It has to succeed."""
    done = run("systemctl", *arguments)
    assert done.returncode == 0, f"systemctl {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


class Unit(Famezd):
    """The unit with a configuration of a test's own, active from the start of `with` to its end.

    At the end it is stopped, and nothing of it may be left.
    """

    def __init__(self, fabrics: Mapping[str, Mapping[str, Any]], **settings: object) -> None:
        self.runtime = Path("/run/famez")
        self.config = ETC / "famezd.yaml"
        shutil.rmtree(ETC, ignore_errors=True)
        (ETC / "fabrics.d").mkdir(parents=True)
        self.write_settings(**settings)
        for name, fabric in fabrics.items():
            self.write(name, **fabric)
        cursor = run("journalctl", "-n0", "--show-cursor").stdout
        self.cursor = cursor.partition("cursor: ")[2].strip()
        """Where its test begins in the journal."""

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        left: list[object] = []
        try:
            self.stop()
            left = self.left()
        finally:
            # What one test leaves must not make the next one fail.
            run("systemctl", "reset-failed", NAME)
            for mailbox in self._mailboxes():
                mailbox.unlink()
        if kind is None:
            assert left == []

    # Its configuration

    def write_settings(self, **settings: object) -> None:
        """Writes famezd.yaml."""
        self.config.write_text(yaml.safe_dump(settings))

    def write(self, fabric: str, **settings: object) -> None:
        """Writes a fabric's file."""
        self.file(fabric).write_text(yaml.safe_dump(settings))

    def file(self, fabric: str) -> Path:
        """A fabric's file."""
        return ETC / "fabrics.d" / f"{fabric}.yaml"

    # What is done with it

    def start(self) -> None:
        """Starts it, and returns when it is active."""
        systemctl("start", NAME)

    def stop(self) -> int:
        """Stops it, and returns when it is inactive."""
        systemctl("stop", NAME)
        return 0

    def restart(self) -> None:
        """Restarts it, and returns when it is active again."""
        systemctl("restart", NAME)

    def kill(self, signal: str = "KILL") -> None:
        """Sends a signal to the supervisor alone."""
        systemctl("kill", "--kill-whom=main", f"--signal={signal}", NAME)

    def await_active(self, other_than: int = 0) -> None:
        """Waits until it is active, with another main process than before."""
        eventually(lambda: self.main_pid != other_than and self.show("ActiveState") == "active", "it is active")

    @contextmanager
    def down(self) -> Iterator[None]:
        """A restart of which the old famezd has gone at the start of `with`, and the new one starts at its end."""
        _DROP_INS.mkdir(parents=True, exist_ok=True)
        os.mkfifo(_GATE)
        (_DROP_INS / "gate.conf").write_text(f"[Service]\nExecStartPre=+/bin/cat {_GATE}\n")
        systemctl("daemon-reload")
        try:
            systemctl("--no-block", "restart", NAME)
            eventually(lambda: self.show("SubState") == "start-pre", "it waits at the gate")
            yield
        finally:
            with _GATE.open("w"):
                pass
            _GATE.unlink()
            shutil.rmtree(_DROP_INS)
            systemctl("daemon-reload")

    # What is seen of it

    def show(self, key: str) -> str:
        """A property of the unit."""
        return systemctl("show", "--value", f"--property={key}", NAME)

    @property
    def main_pid(self) -> int:
        """The supervisor's process, 0 if there is none."""
        return int(self.show("MainPID"))

    def processes(self) -> list[int]:
        """All of its processes: the supervisor and the workers."""
        cgroup = Path(f"/proc/{self.main_pid}/cgroup").read_text()
        return [int(p.name) for p in Path("/proc").glob("[0-9]*") if (p / "cgroup").read_text() == cgroup]

    @property
    def stored(self) -> int:
        """How many descriptors systemd keeps for it."""
        return int(self.show("NFileDescriptorStore"))

    def journal(self) -> str:
        """What it has logged in this test, and what systemd has said about it."""
        run("journalctl", "--sync")
        return run("journalctl", "-u", NAME, "-o", "cat", f"--after-cursor={self.cursor}").stdout

    def left(self) -> list[object]:
        """What is there of it that should not be when it has stopped."""
        left: list[object] = [*self._mailboxes(), *([self.runtime] if self.runtime.exists() else [])]
        return left + ([f"{self.stored} descriptors in the store"] if self.stored else [])

    def _mailboxes(self) -> list[Path]:
        return sorted(Path("/dev/shm").glob("famez-*"))

    @property
    def url(self) -> str:
        """Where it serves HTTP."""
        return "http://127.0.0.1:9991"

    def socket(self, fabric: str) -> Path:
        """The socket of a fabric."""
        return self.runtime / f"{fabric}.sock"

    def qemu(self, fabric: str) -> list[str]:
        """The arguments that put a QEMU on a fabric."""
        return qemu_arguments(load(self.config, environ={"RUNTIME_DIRECTORY": str(self.runtime)}).fabrics[fabric])

    def ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs famezctl, as root."""
        return run("famezctl", *arguments)
