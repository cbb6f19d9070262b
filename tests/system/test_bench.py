"""The benchmarks, as short as they can be: that they run, and what they tell."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from bench import machine
from bench.join import FIGURES
from bench.profile import sees_kernel, system_calls

# In a process of its own: a benchmark chooses its processor, and forks.
_JOINS = """
import sys
from pathlib import Path
from bench.join import FIGURES, Effort, measured
section = measured(Effort(1, joins=2, cycles=12, chunk=4, alone=3, seconds=2), sys.argv[2:])
section.draw(Path(sys.argv[1]))
print(section.markdown())
"""

_TOLD = {
    "join": ["| worker alone, fresh direct |", "at most 0.8: ", "*Processor time of the server for it*"],
    "growth": ["| fresh direct: open descriptors |", "the first 4 joins and leaves, and the last of 12"],
    "storm": ["| fresh relayed |", "at most 1.1: "],
    "rate": ["| sticky direct |", "at least 0.15: "],
    "profile": ["| the program itself |", "(famezd/fabric/"]
    if sees_kernel()
    else ["cannot be measured here: perf shows"],
}
_DRAWN = {"growth": ["performance-join-memory.svg", "performance-join-time.svg"]}

_FORKS = """
import os, time
from bench import process

def main():
    if os.fork() == 0:
        print("forked", flush=True)
    # Both are to be killed long before.
    time.sleep(600)

process.run(main)
"""


@pytest.mark.parametrize("figure", FIGURES)
def test_joins_are_measured(figure: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _JOINS, str(tmp_path), figure]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert [line for line in _TOLD[figure] if line not in told.stdout] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == _DRAWN.get(figure, [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_benchmark_that_is_interrupted_leaves_nothing_behind(number: int) -> None:
    # Sockets' paths have room for no more than that, and a session by which whatever it has started is found.
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [sys.executable, "-m", "bench.join", "storm", "--rounds", "10000"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"TMPDIR": folder},
            start_new_session=True,
            text=True,
        ) as process,
    ):
        while not list(Path(folder).glob("*/stock.sock")):
            assert process.poll() is None, process.communicate()
            # Nothing tells that the last server was started but its socket.
            time.sleep(0.01)
        process.send_signal(number)
        told, complained = process.communicate()
        assert (process.returncode, told, complained) == (130, "", "interrupted\n")
        assert not os.listdir(folder)
    assert not [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _session(pid) == process.pid]


def _session(pid: int) -> int:
    """Of a process, 0 if there is no such process."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def test_what_a_benchmark_forked_dies_with_it() -> None:
    with subprocess.Popen([sys.executable, "-c", _FORKS], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "forked\n"
        process.kill()
        # Which the child would hold open.
        assert process.stdout.read() == ""


def test_the_page_is_not_written_of_few_rounds() -> None:
    command = [sys.executable, "-m", "bench", "--rounds", "9"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--rounds must be at least 10 for docs/performance.md" in done.stderr


def test_the_machine_is_described() -> None:
    rows = {row[0]: row[1] for row in machine.described().rows}
    assert rows["Python"] == sys.version.partition(" ")[0]
    assert rows["stock ivshmem-server"].startswith("of Debian's qemu-")
    assert all(rows.values())


def test_system_calls_of_another_process_are_counted() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
        into, back = cat.stdin, cat.stdout
        assert into is not None
        assert back is not None

        def work() -> None:
            for _ in range(3):
                into.write(b"x\n")
                into.flush()
                back.readline()

        calls = system_calls(cat.pid, work)
        into.close()
    # It was reading already when it began to be looked at.
    assert calls.keys() == {"read", "write"}
    assert calls["write"] == 3
