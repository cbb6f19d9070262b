"""The famezd that is soaked, under a manager that keeps its descriptors.

It is the installed command, run as a user of its own where that is possible.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from famezd.cli.control import ControlError, get
from famezd.stats import Page
from tests.daemon import BIN
from tests.descendants import children, parent
from tests.guest.kept import Kept
from tests.needs import need
from tests.soak.model import Kind, Rule

PATIENCE = 240.0
"""Seconds for whatever has to happen: only what never does is a failure, not what is slow."""
USER = 61850
"""Who famezd is, if we are root: nobody else's number (systemd's dynamic users have those from 61184 to 65519)."""

Metrics = Mapping[str, list[tuple[Mapping[str, str], float]]]
"""The samples of a scrape, by the metric's name: labels and value."""


class Wrong(Exception):  # noqa: N818 (what the soak is there to find, not an error of its own)
    """Something is not as the model says."""


def until(true: Callable[[], object], what: str | Callable[[], str], patience: float | None = None) -> None:
    """Waits until `true()`, by looking again, ever more seldom; raises Wrong if that is not so within `PATIENCE`."""
    patience = PATIENCE if patience is None else patience
    deadline, pause = time.monotonic() + patience, 0.002
    while not true():
        if time.monotonic() > deadline:
            raise Wrong(f"not within {patience:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(pause)
        pause = min(0.1, pause * 1.5)


class Soaked(Kept):
    """A famezd with these fabrics, from `start` on."""

    def __init__(self, directory: Path, kinds: Mapping[str, Kind]) -> None:
        super().__init__(directory, {name: {} for name in kinds})
        self.mailboxes = {}
        self.runtime.mkdir()
        self.config.write_text(yaml.safe_dump({"http": {"listen": "127.0.0.1:0"}, "log": {"format": "text"}}))
        for name, kind in kinds.items():
            self.define(name, kind)
        self._become_another()
        self.pid = 0
        self.slow = 0
        """How often a worker did not do in time what it should, on a machine that was too busy."""
        self._read = 0

    def _become_another(self) -> None:
        """Has famezd run as a user who may do nothing else, if we are root and that one can read the program."""
        if os.geteuid() != 0:
            return
        under: list[str | Path] = [need("setpriv", "util-linux"), f"--reuid={USER}", f"--regid={USER}"]
        under.append("--clear-groups")
        # By a shell, as workers are started: what comes right after setpriv still has some of our privileges.
        can_run = [*under, "sh", "-c", 'exec "$0" --version', BIN / "famezd"]
        if subprocess.run(can_run, capture_output=True, check=False).returncode == 0:
            self.under = under
            for path in (self.runtime, Path(self._notifications.path)):
                os.chown(path, USER, USER)

    # Its configuration

    def define(self, name: str, kind: Kind, rules: tuple[Rule, ...] = (), **more: object) -> None:
        """Writes a fabric's file."""
        mailbox: dict[str, object] = {"size": "64K", "backing": kind.backing}
        if kind.backing == "shm":
            self.mailboxes[name] = mailbox["name"] = f"famez-soak-{os.getpid()}-{name}"
        settings = kind._asdict() | {"mailbox": mailbox, "faults": [rule.yaml() for rule in rules]} | more
        del settings["backing"]
        self.file(name).write_text(yaml.safe_dump(settings))

    def file(self, name: str) -> Path:
        """A fabric's file."""
        return self.config.parent / "fabrics.d" / f"{name}.yaml"

    # What it says of itself

    def ask(self, resource: str) -> Any:
        """What the API answers on the control socket, be it that it is asked again."""
        answers: list[Any] = []

        def answered() -> bool:
            with contextlib.suppress(ControlError):
                answers.append(get(self.runtime / "control.sock", f"/api/v1/{resource}"))
            return bool(answers)

        until(answered, f"famezd answers {resource}")
        return answers[0]

    def ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs famezctl."""
        command = [str(BIN / "famezctl"), "-s", str(self.runtime / "control.sock"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)

    def must(self, *arguments: str) -> str:
        """Runs famezctl, which has to succeed, until no worker was too busy for it; returns what it prints."""
        deadline = time.monotonic() + PATIENCE
        while True:
            done = self.ctl(*arguments)
            said = (done.stdout + done.stderr).strip()
            if not done.returncode:
                return said
            # A worker has seconds to answer to an order, and a busy machine may not give it as many.
            if "does not answer" not in said or time.monotonic() > deadline:
                raise Wrong(f"famezctl {' '.join(arguments)} ended with status {done.returncode}: {said}")
            self.slow += 1

    def pids(self) -> dict[str, int]:
        """The workers' pids, 0 of a fabric that is not served."""
        fabrics = self.ask("status")["fabrics"]
        return {f["name"]: f["pid"] if f["state"] == "serving" else 0 for f in fabrics}

    def await_served(self, *names: str) -> dict[str, int]:
        """Waits until these fabrics, or all, are served; returns all pids."""
        pids: dict[str, int] = {}

        def served() -> bool:
            pids.update(self.pids())
            return all(pids.get(name) for name in names or pids)

        until(served, lambda: f"all fabrics are served; pids are {pids}")
        return pids

    def fetch(self, what: str) -> str:
        """What HTTP answers, be it that it is asked again."""
        answers: list[str] = []

        def answered() -> bool:
            with (
                contextlib.suppress(OSError, http.client.HTTPException),
                urllib.request.urlopen(f"{self.url}/{what}", timeout=PATIENCE) as answer,
            ):
                answers.append(answer.read().decode())
            return bool(answers)

        until(answered, f"GET /{what} is answered")
        return answers[0]

    def samples(self) -> Metrics:
        """A scrape."""
        found: dict[str, list[tuple[Mapping[str, str], float]]] = {}
        for family in text_string_to_metric_families(self.fetch("metrics")):
            for sample in family.samples:
                found.setdefault(sample.name, []).append((sample.labels, sample.value))
        return found

    def page(self, name: str) -> contextlib.AbstractContextManager[Page]:
        """A fabric's stats page, as the manager was given it."""
        with self._lock:
            page = Page.open(os.dup(self._store[f"{name}.stats"][0]))
        return contextlib.closing(page)

    def settle(self, name: str) -> None:
        """Returns when a fabric's worker has done all that it had to do before this call, and disturbs nobody."""
        pid = self.await_served(name)[name]
        for _ in range(2):
            with self.page(name) as page:
                turns = page.totals()["turns"]
                # The signal by which the relay watches itself: it makes the loop turn, and does nothing else.
                self.signal(pid, signal.SIGALRM)
                until(lambda: page.totals()["turns"] > turns, f"fabric {name}'s worker turns once more")  # noqa: B023

    # Its life

    def start(self) -> None:
        """Starts it, with what its predecessor left, and returns when it is ready; raises Wrong if it ends."""
        self._begin()
        until(lambda: self._ready.wait(0.05) or not self.alive(), "famezd is ready")
        if not self.alive():
            raise Wrong(f"famezd does not start; its log: {self.log}")

    def crash(self, number: int = signal.SIGKILL) -> None:
        """It dies, and its manager starts it again, with what it was given to keep."""
        workers = children(self.pid)
        self.kill(number)
        self.start()
        for worker in workers:
            self._reap(worker)

    def _reap(self, orphan: int) -> None:
        """Waits for a worker whose famezd is dead: it ends by itself."""
        status: list[int] = []

        def over() -> bool:
            with contextlib.suppress(ChildProcessError):
                pid, _ = os.waitpid(orphan, os.WNOHANG)
                status.append(pid)
                return bool(pid)
            return True

        until(over, f"worker {orphan} ends when its famezd is dead")

    def signal(self, worker: int, number: int) -> None:
        """Sends one of its workers a signal, and never somebody else who has got that one's pid."""
        try:
            pidfd = os.pidfd_open(worker)
        except ProcessLookupError as e:
            raise Wrong(f"worker {worker} is dead, which nobody killed") from e
        try:
            if parent(worker) != self.pid:
                raise Wrong(f"worker {worker} is dead, which nobody killed")
            signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)

    def alive(self) -> bool:
        """Whether it runs."""
        if self.pid and os.waitpid(self.pid, os.WNOHANG)[0]:
            # From now on the number may be anybody's.
            self.pid = 0
        return bool(self.pid)

    def end(self) -> int:
        """Stops it for good; returns its exit status. Raises Wrong if it does not end, or leaves anything behind."""
        os.kill(self.pid, signal.SIGTERM)
        until(lambda: os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT), "famezd stops")
        self.pid, pid = 0, self.pid
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        left = [str(path) for path in (*self.runtime.iterdir(), *self.files_in_shm())]
        if left:
            raise Wrong(f"famezd has stopped and left behind: {', '.join(left)}")
        return status

    def files_in_shm(self) -> list[Path]:
        """Mailboxes that are there."""
        return list(Path("/dev/shm").glob(f"famez-soak-{os.getpid()}-*"))

    def discard(self) -> None:
        """Ends whatever of it still runs, and removes what it made outside of its directory."""
        for pid in (*(children(self.pid) if self.pid else ()), self.pid):
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)
        self.pid = 0
        self.let_go()
        for path in self.files_in_shm():
            path.unlink(missing_ok=True)

    def news(self) -> str:
        """What it has logged since this was last asked."""
        with self.log.open() as log:
            log.seek(self._read)
            said = log.read()
            self._read = log.tell()
        return said


def traces(log: str) -> list[str]:
    """Lines of a log that tell of an error of famezd's own."""
    return re.findall(r"^.*(?:Traceback|personality failed|what goes on beside).*$", log, re.M)


def given_up(log: str) -> list[str]:
    """The fabrics whose worker gave no sign of life, and was killed."""
    return re.findall(r"worker gives no sign of life, it is killed\s+fabric=(\S+)", log)


def remove(directory: Path) -> None:
    """Removes a directory and all that is in it."""
    shutil.rmtree(directory, ignore_errors=True)


def counter(metrics: Metrics, name: str, fabric: str, *labels: str) -> Counter[tuple[str, ...]]:
    """A metric of one fabric, by some of its labels."""
    found: Counter[tuple[str, ...]] = Counter()
    for by, value in metrics.get(name, ()):
        if by.get("fabric") == fabric:
            found[tuple(by[label] for label in labels)] += int(value)
    return found
