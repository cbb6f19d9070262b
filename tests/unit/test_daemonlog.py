"""A daemon's log, in the system's log and in a file."""

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import structlog

from famezd.daemonlog import LogError, LogFile, Syslog
from famezd.fabric.log import ERROR, INFO, WARNING, Log
from famezd.supervisor.logs import configure


class Listener:
    """What listens at /dev/log elsewhere."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.open()

    def open(self) -> None:
        self.path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(self.path))

    def close(self) -> None:
        self._socket.close()

    def heard(self) -> list[str]:
        lines = []
        while True:
            try:
                lines.append(self._socket.recv(65536).decode())
            except BlockingIOError:
                return lines


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    with closing(Listener(tmp_path / "log")) as listener:
        yield listener


def message(priority: int, text: str) -> re.Pattern[str]:
    """One of ours, as glibc's syslog(3) would have sent it."""
    dated = r"[A-Z][a-z]{2} [ 1-3][0-9] [0-9]{2}:[0-9]{2}:[0-9]{2}"
    return re.compile(rf"<{priority}>{dated} famezd\[{os.getpid()}\]: {re.escape(text)}")


def test_a_workers_lines_have_facility_daemon_and_their_own_priority(listener: Listener) -> None:
    with closing(Syslog("famezd", str(listener.path))) as syslog:
        log = Log(syslog)
        log.say(ERROR, "mailbox resized")
        log.say(INFO, "peer joined", peer=3, program="qemu system")
    first, second = listener.heard()
    assert message(8 * 3 + 3, "mailbox resized").fullmatch(first)
    assert message(8 * 3 + 6, 'peer joined peer=3 program="qemu system"').fullmatch(second)


def test_what_is_less_urgent_than_asked_for_is_left_out(listener: Listener) -> None:
    with closing(Syslog("famezd", str(listener.path))) as syslog:
        log = Log(syslog, WARNING)
        log.say(INFO, "peer joined")
        log.say(WARNING, "peer refused")
    (only,) = listener.heard()
    assert "peer refused" in only


def test_a_log_that_was_started_anew_is_found_and_one_that_is_away_holds_up_nobody(listener: Listener) -> None:
    with closing(Syslog("famezd", str(listener.path))) as syslog:
        log = Log(syslog)
        log.say(INFO, "first")
        listener.close()
        log.say(INFO, "lost")
        listener.open()
        log.say(INFO, "third")
    (only,) = listener.heard()
    assert "third lines_lost=1" in only


def warn(listener: Listener, style: str) -> None:
    """Logs a line as famezd does whose log is the system's."""
    with closing(Syslog("famezd", str(listener.path))) as syslog, contextlib.redirect_stderr(syslog.text):
        configure("info", style)
        try:
            structlog.get_logger().warning("peer refused", fabric="lab")
        finally:
            structlog.reset_defaults()


def test_famezds_own_log_goes_there_with_its_levels(listener: Listener) -> None:
    warn(listener, "auto")
    (only,) = listener.heard()
    assert message(8 * 3 + 4, "peer refused fabric='lab'").fullmatch(only)


def test_any_other_format_is_sent_line_by_line(listener: Listener) -> None:
    warn(listener, "json")
    (only,) = listener.heard()
    assert only.startswith(f"<{8 * 3 + 6}>")
    assert '"event": "peer refused"' in only


def test_a_file_is_added_to_and_a_workers_lines_get_the_time(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    with closing(LogFile(str(path))) as file:
        Log(file).say(WARNING, "peer refused: full", reason="full")
        print("Traceback", file=file.text)
    before, said, other = path.read_text().splitlines()
    assert (before, other) == ("before", "Traceback")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} warning: peer refused: full reason=full", said)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=f"cannot write the log to {tmp_path}: Is a directory"):
        LogFile(str(tmp_path))
