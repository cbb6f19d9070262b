"""famezd as it is installed, run as systemd runs it: with its watchdog in force, and HTTP served."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from famezd.notify import NotifySocket
from tests.built import ROOT, run

WATCHDOG = 10
"""Seconds, as famezd.service has it."""


class Kind(NamedTuple):
    """A way to install famezd."""

    name: str
    folder: Path
    """Of its commands."""

    @property
    def python(self) -> str:
        """Its Python."""
        return str(self.folder / "python3")


class Service:
    """A famezd that runs, with this process in the place of systemd."""

    def __init__(self, kind: Kind, folder: Path, fabrics: Mapping[str, str], notify: NotifySocket) -> None:
        (folder / "fabrics.d").mkdir()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            # Under systemd famezd does not print which it chose.
            self._port = listener.getsockname()[1]
        (folder / "famezd.yaml").write_text(f"http: {{listen: '127.0.0.1:{self._port}'}}\nlog: {{level: warning}}\n")
        for name, text in fabrics.items():
            (folder / "fabrics.d" / f"{name}.yaml").write_text(text)
        self.run = folder / "run"
        self._notify = notify
        environ = os.environ | {"RUNTIME_DIRECTORY": str(self.run), "NOTIFY_SOCKET": notify.path}
        environ |= {"WATCHDOG_USEC": str(WATCHDOG * 1_000_000)}
        # An installed famezd is compiled; here it compiles itself.
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        command = [str(kind.folder / "famezd"), "-c", str(folder / "famezd.yaml")]
        self._process = subprocess.Popen(command, env=environ)
        while "READY" not in (told := self._hear(60)):
            if not told:
                self.stop()
                raise RuntimeError("famezd does not start: see what it said")

    def _hear(self, within: float) -> Mapping[str, str]:
        """What it tells systemd next, nothing if it says nothing for so many seconds."""
        if not select.select([self._notify], [], [], within)[0]:
            return {}
        told = self._notify.receive()
        told.close()
        return told.assignments

    @property
    def pids(self) -> list[int]:
        """The supervisor's, and then the workers', in the order of their fabrics' names."""
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *sorted(map(int, children), key=lambda child: Path(f"/proc/{child}/cmdline").read_bytes())]

    def listen(self, seconds: float) -> int:
        """Lets time pass; how many signs of life systemd was given."""
        signs, over = 0, time.monotonic() + seconds
        while (left := over - time.monotonic()) > 0:
            signs += "WATCHDOG" in self._hear(left)
        return signs

    def ask(self, path: str) -> float:
        """Asks by HTTP, and reads the answer; the seconds that takes."""
        began = time.perf_counter()
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}") as answer:
            answer.read()
        return time.perf_counter() - began

    @contextmanager
    def watched(self, fabric: str) -> Iterator[None]:
        """Meanwhile somebody looks at the page, and at this fabric."""
        url = f"http://127.0.0.1:{self._port}/api/v1/events?fabric={fabric}"
        with subprocess.Popen(["curl", "-sN", url], stdout=subprocess.DEVNULL) as reader:
            try:
                yield
            finally:
                reader.terminate()

    def stop(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait()


@contextmanager
def service(kind: Kind, fabrics: Mapping[str, str]) -> Iterator[Service]:
    """A famezd with these fabrics, by name what their files say, that is ready."""
    with tempfile.TemporaryDirectory() as folder:
        notify = NotifySocket(f"{folder}/systemd")
        running = Service(kind, Path(folder), fabrics, notify)
        try:
            yield running
        finally:
            running.stop()
            notify.close()


def kinds(folder: Path) -> list[Kind]:
    """Installs famezd below `folder` as a package does; returns that, and what `make run` uses."""
    base = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    run(sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT))
    # A copy: that of another user of it would be shared with us, and famezd might be all that uses Python.
    run(base, "-m", "venv", "--copies", str(folder / "venv"))
    bin_folder, wheel = folder / "venv/bin", next(folder.glob("*.whl"))
    run(str(bin_folder / "pip"), "install", "--disable-pip-version-check", str(wheel))
    version = run(str(bin_folder / "python3"), "-V").split()[1]
    return [
        Kind(f"installed, Python {version}", bin_folder),
        Kind(f"`make run`, Python {sys.version.split()[0]}", Path(sys.executable).parent),
    ]
