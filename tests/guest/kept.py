"""famezd under a manager that keeps what it is given to store, as systemd does: it can die, and come back."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from famezd.notify import NotifySocket
from famezd.supervisor.spawn import spawn
from tests.daemon import BIN, PATIENCE, Famezd


class Kept(Famezd):
    """A famezd whose descriptors outlive it until `stop`."""

    def __init__(self, directory: Path, fabrics: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(directory, fabrics)
        self._notifications = NotifySocket(str(directory / "notify"))
        self._store: dict[str, list[int]] = {}
        self._ready = threading.Event()
        self._http = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._manager = threading.Thread(target=self._manage)
        self._manager.start()

    def start(self) -> None:
        """Starts it, with what its predecessor left, and returns when it is ready."""
        self._begin()
        assert self._ready.wait(PATIENCE), self.log.read_text()

    def _begin(self) -> None:
        self._ready.clear()
        # What it said with its last breath is in the socket still.
        self._drain()
        command = [*map(str, self.under), str(BIN / "famezd"), "-c", str(self.config)]
        environ = {"RUNTIME_DIRECTORY": str(self.runtime), "NOTIFY_SOCKET": self._notifications.path}
        with self.log.open("ab") as log:
            descriptors = {"http": [self._http.fileno()], **self._store}
            self.pid = spawn(command, descriptors, log.fileno(), environ)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Kills it."""
        os.kill(self.pid, number)
        os.waitpid(self.pid, 0)

    def stop(self) -> int:
        """Stops it for good; returns its exit status."""
        os.kill(self.pid, signal.SIGTERM)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.let_go()
        return status

    def let_go(self) -> None:
        """Its manager ends."""
        self._over.set()
        self._manager.join()
        self._notifications.close()
        self._http.close()
        for name in list(self._store):
            self._forget(name)

    @property
    def url(self) -> str:
        """Where it serves HTTP."""
        return f"http://127.0.0.1:{self._http.getsockname()[1]}"

    def socket(self, fabric: str) -> Path:
        """A fabric's socket."""
        return self.runtime / f"{fabric}.sock"

    def _manage(self) -> None:
        while not self._over.is_set():
            if select.select([self._notifications], [], [], 0.02)[0]:
                self._drain()

    def _drain(self) -> None:
        with self._lock, suppress(BlockingIOError):
            while True:
                self._take()

    def _take(self) -> None:
        told = self._notifications.receive()
        name = told.assignments.get("FDNAME", "stored")
        if "FDSTORE" in told.assignments:
            self._store.setdefault(name, []).extend(told.descriptors)
            return
        if "FDSTOREREMOVE" in told.assignments:
            self._forget(name)
        if "READY" in told.assignments:
            self._ready.set()
        told.close()

    def _forget(self, name: str) -> None:
        for descriptor in self._store.pop(name, ()):
            os.close(descriptor)
