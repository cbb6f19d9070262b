"""What a process uses, as it is seen from outside."""

import os
import resource
import subprocess
import sys
import time

import pytest

from famezd.supervisor.metrics.processes import look_at_process

BUSY = """
import os, sys, time
while time.process_time() < 0.1:
    pass
print(flush=True)
sys.stdin.read()
"""


def test_ourselves() -> None:
    seen = look_at_process(os.getpid())
    assert seen is not None
    assert seen.descriptors in range(len(os.listdir("/proc/self/fd")) - 2, len(os.listdir("/proc/self/fd")) + 3)
    assert seen.descriptors_limit == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert 1 << 20 < seen.private < seen.resident
    assert seen.started < time.time()


@pytest.mark.parametrize("name", ["plain", "a) S 1 1 1 (b"])
def test_another_process_whatever_it_is_called(name: str) -> None:
    code = f"open('/proc/self/comm', 'w').write({name!r})\n{BUSY}"
    before = time.time()
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        seen = look_at_process(process.pid)
        assert seen is not None
        assert seen.cpu >= 0.09
        # The clock of its start has a second's precision at worst.
        assert seen.started >= before - 2
        process.communicate()
    assert look_at_process(process.pid) is None, "it has gone"


def test_one_that_has_ended_and_is_not_reaped() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        seen = look_at_process(process.pid)
        assert seen is None or seen.resident == 0
