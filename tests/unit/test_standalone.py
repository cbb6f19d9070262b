"""What a fabric without a supervisor leaves with its manager: the settings that were accepted last."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from famezd.notify import Manager, NotifySocket
from famezd.supervisor.standalone import journal, keep, recall
from tests.unit.conftest import closing
from tests.unit.test_log import standard_error

ARGUMENTS = ["lab", "socket=/run/famez/lab.sock", os.fsdecode(b"memory=/dev/shm/a \xff"), "size=4096"]
ARK = {"ark.0.0": [0, 1]}


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NotifySocket]:
    listening = NotifySocket(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", listening.path)
    yield listening
    listening.close()


def keep_for(given: dict[str, list[int]]) -> None:
    """Keeps the arguments, as a worker that has started."""
    service = Manager()
    try:
        keep(ARGUMENTS, given, service)
    finally:
        assert service._socket is not None
        service._socket.close()


def told(manager: NotifySocket) -> list[tuple[dict[str, str], list[int]]]:
    """All that it was told."""
    found: list[tuple[dict[str, str], list[int]]] = []
    while True:
        try:
            notification = manager.receive()
        except BlockingIOError:
            return found
        found.append((notification.assignments, notification.descriptors))


def test_what_is_kept_is_recalled_if_there_is_a_fabric_to_go_on_with(manager: NotifySocket) -> None:
    keep_for({})
    [(assignments, descriptors)] = told(manager)
    with closing(*descriptors):
        assert assignments["FDNAME"] == "settings.0"
        given = {"settings.0": descriptors}
        assert recall(given) is None
        assert recall(given | ARK) == ARGUMENTS
    assert recall(ARK) is None


def test_the_newer_is_there_before_the_older_goes(manager: NotifySocket) -> None:
    old = os.memfd_create("old")
    os.write(old, b"lab\0size=1")
    keep_for({"settings.9": [old]})
    stored, forgotten = told(manager)
    with closing(old, *stored[1]):
        assert (stored[0]["FDNAME"], stored[0]["FDSTORE"]) == ("settings.10", "1")
        assert forgotten == ({"FDSTOREREMOVE": "1", "FDNAME": "settings.9"}, [])
        assert recall({"settings.9": [old], "settings.10": stored[1]} | ARK) == ARGUMENTS


def test_what_it_logs_is_for_people() -> None:
    reading, writing = os.pipe2(os.O_NONBLOCK)
    with closing(reading, writing), standard_error(writing):
        log = journal()
        log.say(6, "peer joined", peer=3)
        log.close()
        assert os.read(reading, 100) == b"<6>peer joined peer=3\n"


def test_it_is_as_small_as_any_worker() -> None:
    heavy = {
        "yaml",
        "pydantic",
        "aiohttp",
        "asyncio",
        "prometheus_client",
        "logging",
        "json",
        "argparse",
        "dataclasses",
    }
    code = (
        "import sys; before = set(sys.modules); import famezd.supervisor.standalone; print(*set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert heavy & set(done.stdout.split()) == set()
