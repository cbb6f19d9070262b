"""A worker's lines in the supervisor's log, whatever they contain."""

import asyncio
import json
import os
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from famezd.config import load
from famezd.notify import Manager
from famezd.supervisor.logs import configure
from famezd.supervisor.store import Shelf
from famezd.supervisor.worker import Worker
from tests.unit.conftest import closing


def write_config(folder: Path, **fabrics: str) -> Path:
    """Writes famezd.yaml and its fabrics."""
    (folder / "fabrics.d").mkdir()
    for name, text in fabrics.items():
        (folder / "fabrics.d" / f"{name}.yaml").write_text(text)
    path = folder / "famezd.yaml"
    path.write_text(f"runtime_directory: {folder}\n")
    return path


async def a_worker(folder: Path) -> Worker:
    config = load(write_config(folder, lab=""))
    return Worker(config.fabrics["lab"], Shelf("lab", Manager()), str(config.notify_socket), lambda: None)


@pytest.mark.parametrize("name", ["event", "level", "self", "fabric", "exc_info", "stack_info", "timestamp"])
def test_a_field_cannot_take_the_place_of_what_the_log_needs(tmp_path: Path, name: str) -> None:
    async def test() -> None:
        worker = await a_worker(tmp_path)
        worker._repeat(f"<4>a plug-in said\t{name}=x other=y")

    with capture_logs() as entries:
        asyncio.run(test())
    said = {"event": "a plug-in said", "log_level": "warning", "fabric": "lab", f"{name}_": "x", "other": "y"}
    assert entries == [said]


def test_a_remedy_that_looks_like_a_field_stays_in_the_text(tmp_path: Path) -> None:
    async def test() -> str:
        worker = await a_worker(tmp_path)
        worker._repeat("<3>too few descriptors: raise the limit with LimitNOFILE=3182")
        return worker._last_line

    with capture_logs():
        assert asyncio.run(test()) == "too few descriptors: raise the limit with LimitNOFILE=3182"


@pytest.mark.parametrize("style", ["text", "journal", "json"])
@pytest.mark.parametrize("text", ["\x1b[2J", "evil\u202e", "\x9b2J", "a\u2028b", "two\nlines", "two words\x07"])
def test_what_a_guest_wrote_does_nothing_to_a_terminal(
    style: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def test() -> None:
        worker = await a_worker(tmp_path)
        escaped = text.encode("unicode_escape").decode()
        worker._repeat(f'<6>peer attributes\tcclass="{escaped}"')
        worker._repeat(f"<3>{text.replace(chr(10), ' ')} from a plug-in")

    configure("info", style)
    asyncio.run(test())
    lines = capsys.readouterr().err.split("\n")
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert json.dumps(text)[1:-1] in lines[0] if style == "json" else repr(text)[1:-1] in lines[0]
    structlog.reset_defaults()


@pytest.mark.parametrize("style", ["text", "journal", "json"])
def test_a_log_that_nobody_can_take_stops_nobody(style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with closing(reading), open(writing, "w", buffering=1) as stream:
        monkeypatch.setattr("sys.stderr", stream)
        configure("info", style)
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, writing)
        os.close(full)
        try:
            structlog.get_logger().error("worker died")
        finally:
            structlog.reset_defaults()
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), writing)
