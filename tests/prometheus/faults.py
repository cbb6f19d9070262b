"""What alerts are about, done to a real famezd and undone again."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.daemon import PATIENCE, Famezd, eventually

CROWD = """
import contextlib, sys
from famezd.client import ClientError, Peer
while True:
    with contextlib.suppress(ClientError):
        Peer.join(sys.argv[1]).leave()
"""


def process(famezd: Famezd, fabric: str) -> int:
    """The process of a fabric's worker, 0 while there is none."""
    with urllib.request.urlopen(f"{famezd.url}/api/v1/status", timeout=PATIENCE) as answer:
        fabrics: list[dict[str, Any]] = json.load(answer)["fabrics"]
    return next(int(f["pid"]) for f in fabrics if f["name"] == fabric)


@contextmanager
def dying(famezd: Famezd, fabric: str) -> Iterator[None]:
    """Its worker is killed over and over."""
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.3):
            if pid := process(famezd, fabric):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    # It would be tried again by itself, but later.
    eventually(lambda: famezd.ctl("restart", fabric).returncode == 0, f"{fabric} is served again")


@contextmanager
def crowded(famezd: Famezd, fabric: str) -> Iterator[None]:
    """Peers join and leave without end, so many that its loop never waits, whatever share of a processor it has."""
    command = [sys.executable, "-c", CROWD, str(famezd.socket(fabric))]
    with ExitStack() as stack:
        for _ in range(6):
            peer = stack.enter_context(subprocess.Popen(command))
            stack.callback(peer.kill)
        yield


@contextmanager
def few_descriptors(pid: int) -> Iterator[None]:
    """A process may have hardly more descriptors than it has."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (int(len(os.listdir(f"/proc/{pid}/fd")) / 0.85), before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@contextmanager
def not_startable(famezd: Famezd, fabric: str) -> Iterator[None]:
    """There is a fabric whose socket cannot be made."""
    folder = famezd.config.parent / "not there yet"
    define(famezd, fabric, {"socket": {"path": str(folder / "it.sock")}, "mailbox": {"backing": "memfd"}})
    assert famezd.ctl("reload").returncode == 3
    try:
        yield
    finally:
        folder.mkdir()
        assert famezd.ctl("reload").returncode == 0


@contextmanager
def mistaken(famezd: Famezd, fabric: str) -> Iterator[None]:
    """A fabric's file has a mistake."""
    file = famezd.config.parent / "fabrics.d" / f"{fabric}.yaml"
    before = file.read_text()
    file.write_text("peers: many\n")
    assert famezd.ctl("reload").returncode == 1
    try:
        yield
    finally:
        # A reload follows: what else was wrong is right by then, too.
        file.write_text(before)


def cut(famezd: Famezd, fabric: str) -> None:
    """Cuts a mailbox's file, once, as any peer can."""
    os.truncate(Path("/dev/shm", famezd.mailboxes[fabric]), 4096)


def define(famezd: Famezd, fabric: str, settings: Mapping[str, object]) -> None:
    """Writes a fabric's file."""
    (famezd.config.parent / "fabrics.d" / f"{fabric}.yaml").write_text(yaml.safe_dump(dict(settings)))
