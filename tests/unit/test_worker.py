"""What the supervisor's side of a worker decides by itself."""

import asyncio
import os
import socket
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from famezd.fabric.listener import identity, unlink
from famezd.fabric.settings import Settings
from famezd.notify import Notification
from famezd.supervisor.process import Process
from famezd.supervisor.worker import Worker
from tests.unit.test_worker_log import a_worker


def test_a_timer_that_is_late_kills_nobody_until_it_is_due_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[Worker] = []

    def kill(worker: Worker) -> None:
        killed.append(worker)

    monkeypatch.setattr(Worker, "_kill", kill)

    async def test() -> None:
        worker = await a_worker(tmp_path)
        now = asyncio.get_running_loop().time()
        worker._overdue(now - 60.0, 0.01)
        assert killed == []
        while not killed:
            await asyncio.sleep(0.001)
        assert killed == [worker]

    with capture_logs():
        asyncio.run(asyncio.wait_for(test(), 60))


def test_what_there_was_no_descriptor_for_takes_the_place_of_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        worker = await a_worker(tmp_path)
        descriptor = os.open(tmp_path, os.O_RDONLY)
        worker.hear(Notification(1, {"FDSTORE": "1", "FDNAME": "mailbox"}, [descriptor]))
        worker.hear(Notification(1, {"FDSTORE": "1", "FDNAME": "mailbox"}, []))
        worker.hear(Notification(1, {"FDSTORE": "1", "FDNAME": "stats"}, []))
        assert dict(worker._shelf.kept) == {"mailbox": [descriptor]}
        worker._shelf.forget("mailbox")

    with capture_logs():
        asyncio.run(asyncio.wait_for(test(), 60))


def test_who_is_started_again_is_not_over(tmp_path: Path) -> None:
    """A successor must not go on while it may still do something."""
    settings = Settings(
        name="lab", socket=str(tmp_path / "nowhere" / "socket"), memory="lab", size=4096, backing="memfd"
    )

    async def test() -> None:
        process = Process(lambda _: None, lambda: None, lambda *_: None)
        for _ in range(2):
            process.start(settings, {}, {})
            assert not process.over.is_set()
            await process.over.wait()

    asyncio.run(asyncio.wait_for(test(), 60))


def test_a_socket_is_removed_only_if_it_is_still_the_same(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    assert identity(path) is None
    with socket.socket(socket.AF_UNIX) as ours, socket.socket(socket.AF_UNIX) as theirs:
        ours.bind(path)
        own = identity(path)
        unlink(path, None)
        assert identity(path) == own
        Path(path).rename(tmp_path / "moved")
        theirs.bind(path)
        unlink(path, own)
        assert Path(path).is_socket()
        unlink(path, identity(path))
        assert identity(path) is None
        unlink(path, own)
