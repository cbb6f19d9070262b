"""A service that has nothing to do sleeps: nothing in it wakes up but to give a sign of life."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import Famezd

FABRIC = {"peers": 4, "vectors": 2}
GENZ = {"personality": "genz", "peers": 4, "vectors": 6}
DIRECT = {"peers": 4, "vectors": 2, "doorbells": "direct", "ports": "fresh"}
WATCHED = 12.0
"""Seconds."""
MOST = 8
"""Wake-ups meanwhile: a sign of life every three seconds or so makes four, and more fabrics make no more."""


def processes(famezd: Famezd) -> list[int]:
    """The supervisor's pid, and its workers'."""
    pid = famezd.process.pid
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def slept(pid: int) -> int:
    """How often all threads of a process together have begun to wait for something."""
    statuses = (task.joinpath("status").read_text() for task in Path(f"/proc/{pid}/task").iterdir())
    return sum(int(n) for text in statuses for n in re.findall(r"^voluntary_ctxt_switches:\s+(\d+)$", text, re.M))


@pytest.mark.parametrize("fabrics", [1, 6], ids=["one fabric of each kind", "six of each"])
def test_a_process_that_has_nothing_to_do_wakes_up_for_its_sign_of_life_only(tmp_path: Path, fabrics: int) -> None:
    kinds: dict[str, dict[str, Any]] = {"relayed": FABRIC, "genz": GENZ, "direct": DIRECT}
    with (
        Famezd(tmp_path, {f"{kind}{n}": fabric for kind, fabric in kinds.items() for n in range(fabrics)}) as famezd,
        ExitStack() as stack,
    ):
        for kind in kinds:
            for _ in range(2):
                stack.enter_context(famezd.join(f"{kind}0"))
        famezd.scrape()
        pids = processes(famezd)
        assert len(pids) == 1 + 3 * fabrics
        # By then what is told and written a little after the joins is over.
        time.sleep(7)
        before = {pid: slept(pid) for pid in pids}
        time.sleep(WATCHED)
        assert {pid: n for pid in pids if (n := slept(pid) - before[pid]) > MOST} == {}
        assert processes(famezd) == pids
