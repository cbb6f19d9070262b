"""Starting a program as systemd does: descriptors by name and number, and nothing of ours that is not its."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pytest

from famezd.supervisor.spawn import spawn
from tests.unit.conftest import closing

REPORT = """
import json, os, signal, sys
from famezd.notify import inherited
# Those of the tests are memfds: whoever started them may have left others open in us.
open_now = {int(fd): os.path.realpath("/proc/self/fd/" + fd) for fd in os.listdir("/proc/self/fd")}
open_now = {fd: target for fd, target in open_now.items() if "/memfd:" in target}
print("to standard error", file=sys.stderr, flush=True)
print(json.dumps({
    "pid": os.getpid(), "group": os.getpgrp(), "environ": dict(os.environ), "open": open_now,
    "inherited": inherited(), "arguments": sys.argv[1:], "stdin": os.readlink("/proc/self/fd/0"),
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
}))
"""


class Report(NamedTuple):
    """What a started program says of itself."""

    pid: int
    status: int
    said: dict[str, Any]
    log: list[str]


def started(
    descriptors: Mapping[str, Sequence[int]], environ: Mapping[str, str] | None = None, arguments: Sequence[str] = ()
) -> Report:
    """Starts the program above with a pipe for its log, and waits for it."""
    reading, writing = os.pipe()
    try:
        pid = spawn([sys.executable, "-c", REPORT, *arguments], descriptors, writing, environ or {})
    finally:
        os.close(writing)
    with open(reading) as log:
        lines = log.read().splitlines()
    _, status = os.waitpid(pid, 0)
    return Report(pid, status, json.loads(lines[-1]), lines[:-1])


def test_descriptors_arrive_by_name_and_number() -> None:
    files = [os.memfd_create(name) for name in ("a", "b", "c")]
    with closing(*files):
        report = started({"socket": files[:1], "ark": files[1:]})
        # Ours are still open, and only ours.
        assert [os.readlink(f"/proc/self/fd/{fd}") for fd in files] == [f"/memfd:{n} (deleted)" for n in "abc"]
        assert not any(os.get_inheritable(fd) for fd in files)
    assert report.status == 0
    assert report.said["inherited"] == {"socket": [3], "ark": [4, 5]}
    assert report.said["open"] == {str(n): f"/memfd:{name} (deleted)" for n, name in enumerate("abc", 3)}
    environ = report.said["environ"]
    assert environ["LISTEN_PID"] == str(report.pid) == str(report.said["pid"])
    assert (environ["LISTEN_FDS"], environ["LISTEN_FDNAMES"]) == ("3", "socket:ark:ark")


def test_a_program_can_be_given_no_descriptors() -> None:
    report = started({})
    assert (report.said["inherited"], report.said["open"]) == ({}, {})
    assert report.said["environ"]["LISTEN_FDS"] == "0"


def test_one_descriptor_can_be_given_twice() -> None:
    file = os.memfd_create("a")
    with closing(file):
        assert started({"x": [file, file]}).said["open"] == dict.fromkeys("34", "/memfd:a (deleted)")


OVERLAPPING = f"""
import os, sys
from famezd.supervisor.spawn import spawn
log = os.dup(1)
os.closerange(3, 20)
# They have the very numbers that are handed on, in another order.
files = [os.memfd_create(name) for name in ("a", "b", "c", "log")]
assert files == [3, 4, 5, 6]
os.dup2(1, 6, inheritable=False)
spawned = spawn([sys.executable, "-c", {REPORT!r}], {{"x": [5, 3], "y": [4, 4]}}, 6, {{}})
sys.exit(os.waitstatus_to_exitcode(os.waitpid(spawned, 0)[1]))
"""


def test_descriptors_whose_numbers_overlap_do_not_overwrite_each_other() -> None:
    done = subprocess.run([sys.executable, "-c", OVERLAPPING], check=True, stdout=subprocess.PIPE, text=True)
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["open"] == {str(n): f"/memfd:{name} (deleted)" for n, name in enumerate("cabb", 3)}
    assert said["inherited"] == {"x": [3, 4], "y": [5, 6]}


def test_both_outputs_go_to_the_log_and_the_input_is_empty() -> None:
    report = started({})
    assert report.log == ["to standard error"]
    assert report.said["stdin"] == os.devnull


def test_what_our_own_manager_told_us_is_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    for key in (*ours, "JOURNAL_STREAM", "FAMEZ_TEST"):
        monkeypatch.setenv(key, "ours")
    environ = started({}).said["environ"]
    assert {key for key, value in environ.items() if value == "ours"} == {"FAMEZ_TEST"}
    assert environ["PATH"] == os.environ["PATH"]


def test_what_the_program_is_told_comes_on_top(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAMEZ_TEST", "ours")
    environ = started({}, {"NOTIFY_SOCKET": "/run/theirs", "FAMEZ_TEST": "theirs"}).said["environ"]
    assert (environ["NOTIFY_SOCKET"], environ["FAMEZ_TEST"]) == ("/run/theirs", "theirs")


def test_a_program_is_in_a_process_group_of_its_own_with_no_signal_blocked() -> None:
    report = started({})
    assert report.said["group"] == report.pid != os.getpgrp()
    assert report.said["blocked"] == []


def test_arguments_arrive_as_they_are() -> None:
    arguments = ["two words", "$HOME", "`id`", "a'b\"c", "", "*", "-x"]
    assert started({}, arguments=arguments).said["arguments"] == arguments


def test_a_program_that_is_not_there_ends_as_a_shell_says() -> None:
    reading, writing = os.pipe()
    with closing(reading):
        pid = spawn(["/nonexistent/program"], {}, writing, {})
        os.close(writing)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 127
        assert b"/nonexistent/program" in os.read(reading, 1000)


def test_nothing_is_left_open_here() -> None:
    file = os.memfd_create("a")
    with closing(file):
        before = os.listdir("/proc/self/fd")
        started({"x": [file]})
        assert os.listdir("/proc/self/fd") == before
