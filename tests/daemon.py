"""famezd as a whole, started the way a user starts it, and read the way a user reads it."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from prometheus_client.parser import text_string_to_metric_families

from famezd.client import Peer

PATIENCE = 60.0
"""Seconds until something that should happen is taken for failed."""
BIN = Path(sys.executable).parent
"""Where the commands are installed."""

OPEN_METRICS = "application/openmetrics-text"
"""What to accept for a scrape in that format."""

Labels = tuple[str, ...]


class Famezd:
    """A running famezd, from the start of `with` to its end, where it must stop cleanly and leave nothing behind."""

    def __init__(self, directory: Path, fabrics: Mapping[str, Mapping[str, Any]], **settings: object) -> None:
        self.runtime = directory / "run"
        self.config = directory / "famezd.yaml"
        self.log = directory / "famezd.log"
        self.mailboxes = {name: f"famez-test-{uuid.uuid4().hex[:12]}" for name in fabrics}
        (directory / "fabrics.d").mkdir(exist_ok=True)
        self.config.write_text(yaml.safe_dump({"http": {"listen": "127.0.0.1:0"}, **settings}))
        for name, fabric in fabrics.items():
            named = {"mailbox": {"name": self.mailboxes[name]}, **fabric}
            (directory / "fabrics.d" / f"{name}.yaml").write_text(yaml.safe_dump(named))
        self.options: list[str | Path] = []
        """Further ones."""
        self.under: list[str | Path] = []
        """What runs it, such as setpriv with its options."""
        self.printed = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = self.stop()
        if kind is None:
            assert status == 0, f"famezd ended with status {status}:\n{self.log.read_text()}"
            assert list(self.runtime.iterdir()) == []
            assert [name for name in self.mailboxes.values() if Path("/dev/shm", name).exists()] == []

    def start(self) -> None:
        """Starts it and returns when it has said what to do next."""
        environ = os.environ | {"RUNTIME_DIRECTORY": str(self.runtime)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.under, BIN / "famezd", "-c", self.config, *self.options],
                stdout=subprocess.PIPE,
                stderr=log,
                env=environ,
                text=True,
            )
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if line.startswith("status"):
                break
        else:
            raise AssertionError(f"famezd ended, status {self.process.wait()}:\n{self.log.read_text()}")
        self.printed = "".join(lines)

    def stop(self) -> int:
        """Stops it as Ctrl-C does; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            if self.process.stdout is not None:
                self.process.stdout.close()

    @property
    def url(self) -> str:
        """Where it serves HTTP."""
        found = re.search(r"^metrics\s+(https?://\S+)/metrics$", self.printed, re.MULTILINE)
        assert found is not None, self.printed
        return found[1]

    def socket(self, fabric: str) -> Path:
        """The socket that it printed for a fabric."""
        return Path(self._printed(fabric, "socket"))

    def qemu(self, fabric: str) -> list[str]:
        """The QEMU arguments that it printed for a fabric."""
        return shlex.split(self._printed(fabric, "QEMU"))

    def _printed(self, fabric: str, what: str) -> str:
        block = self.printed.partition(f"\nfabric {fabric}:")[2].partition("\n\n")[0].replace("\\\n", " ")
        found = re.search(rf"^  {what}\s+(.*)$", block, re.MULTILINE)
        assert found is not None, self.printed
        return found[1]

    def join(self, fabric: str) -> Peer:
        """A host program as a peer."""
        return Peer.join(self.socket(fabric))

    def ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs famezctl."""
        command = [str(BIN / "famezctl"), "-s", str(self.runtime / "control.sock"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)

    def scrape(self, accept: str = "*/*") -> str:
        """What /metrics answers to who accepts that."""
        request = urllib.request.Request(f"{self.url}/metrics", headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            text: str = answer.read().decode()
            return text

    def metrics(self, name: str, *labels: str) -> Counter[Labels]:
        """The values of a metric, by the values of some of its labels; what is not exported counts as 0."""
        values: Counter[Labels] = Counter()
        for family in text_string_to_metric_families(self.scrape()):
            for sample in family.samples:
                if sample.name == name:
                    values[tuple(sample.labels[label] for label in labels)] += int(sample.value)
        return values

    def pairs(self, fabric: str) -> Counter[tuple[int, int]]:
        """Doorbells by src and dst, without the pairs that were never rung."""
        counted = self.metrics("famez_doorbells_total", "fabric", "src", "dst")
        return Counter({(int(s), int(d)): n for (name, s, d), n in counted.items() if name == fabric and n})

    def vectors(self, fabric: str) -> Counter[tuple[int, int]]:
        """Doorbells by dst and vector, without those that were never rung."""
        counted = self.metrics("famez_doorbell_vectors_total", "fabric", "dst", "vector")
        return Counter({(int(d), int(v)): n for (name, d, v), n in counted.items() if name == fabric and n})


def eventually(true: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Waits until `true()`, by looking again; for what tells nobody when it has happened."""
    deadline = time.monotonic() + patience
    pause = 0.005
    while not true():
        assert time.monotonic() < deadline, f"not within {patience} s: {what}"
        time.sleep(pause)
        # A look costs those who are looked at, and who else there is.
        pause = min(1.5 * pause, 0.1)
