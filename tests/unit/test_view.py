"""What a scrape of the metrics costs, and must not."""

import asyncio
import os
from importlib import metadata
from pathlib import Path

import pytest

from famezd.stats import Occupant, Page, Shape
from famezd.supervisor.status import view
from famezd.supervisor.worker import State
from tests.unit.test_worker_log import a_worker


def test_a_look_searches_no_entry_points_and_reads_nothing_of_the_peers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        worker = await a_worker(tmp_path)
        worker.state, worker.page = State.SERVING, Page.create("test", Shape(14, 14, 16))
        try:
            worker.page.occupy(Occupant(0, 0, os.getpid(), 0, 1))
            view.look(worker)
            monkeypatch.setattr(metadata, "entry_points", None)
            monkeypatch.setattr("famezd.kinds.entry_points", None)
            monkeypatch.setattr(Path, "read_text", None)
            assert [peer.pid for peer in view.look(worker).peers] == [os.getpid()]
        finally:
            worker.page.close()

    asyncio.run(test())
