"""The benchmarks, as short as they can be: that they run, and what they tell."""

from __future__ import annotations

import subprocess
import sys
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


@pytest.mark.parametrize("figure", FIGURES)
def test_joins_are_measured(figure: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _JOINS, str(tmp_path), figure]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert [line for line in _TOLD[figure] if line not in told.stdout] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == _DRAWN.get(figure, [])


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
