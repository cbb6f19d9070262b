"""famezd's own log, through structlog: for people at a terminal, for systemd's journal, or for machines."""

from __future__ import annotations

import logging
import os
import socket
import stat
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from famezd.daemonlog import Syslog
from famezd.supervisor import journal
from famezd.supervisor.events import message_id

_PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
_IDENTIFIER = "famezd"
_PLAIN = {"fabric", "peer"}
"""What the journal has under these names; all other fields are FAMEZ_..., out of the way of systemd's own."""


class _Losses:
    """Lines that nobody took."""

    def __init__(self) -> None:
        self.lines = 0
        self.untold = 0
        """Those of them of which the log has said nothing yet."""

    def add(self) -> None:
        self.lines += 1
        self.untold += 1


_losses = _Losses()


class _Libraries(logging.Handler):
    """What libraries say by Python's own logging, as lines of our log: left alone, it is text on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        error = {} if record.exc_info is None else {"exc_info": record.exc_info[1]}
        structlog.get_logger().log(record.levelno, record.getMessage(), library=record.name, **error)


_libraries = _Libraries()


def lines_lost() -> int:
    """How many lines of our own log nobody took since this process started."""
    return _losses.lines


def configure(
    level: str, style: str, fabrics: Mapping[str, str | None] | None = None, environ: Mapping[str, str] = os.environ
) -> None:
    """Sends all that is logged at `level` or above to standard error; of `fabrics`, by name, at levels of their own.

    `style`: text, journal (one line, with syslog's priority in front), json, or auto: journal where standard error is
    the journal's or the system's log, text elsewhere. Where it is the journal's it is spoken to by its own protocol.
    """
    if style == "auto":
        style = "journal" if _is_syslog() or is_journal(environ) else "text"
    own = {name: _number(own) for name, own in (fabrics or {}).items() if own is not None}
    common: list[Processor] = [structlog.processors.add_log_level, _Levels(_number(level), own)]
    if style != "json":
        # In JSON it is escaped anyhow.
        common.append(_printable)
    dated = structlog.processors.TimeStamper(fmt="iso")
    styles: dict[str, list[Processor]] = {
        "text": [dated, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), sort_keys=False)],
        "journal": [_journal_line],
        "json": [dated, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
    }
    logger: _Lossy | _Native = _Lossy(sys.stderr)
    if style == "journal" and is_journal(environ) and stat.S_ISSOCK(os.fstat(sys.stderr.fileno()).st_mode):
        # As systemd has it; whoever else calls something the journal's wants lines there.
        styles[style], logger = [_journal_entry], _Native(sys.stderr.fileno())
    structlog.configure(
        processors=common + styles[style],
        wrapper_class=structlog.make_filtering_bound_logger(min([_number(level), *own.values()])),
        logger_factory=lambda *_: logger,
        cache_logger_on_first_use=False,
    )
    logging.getLogger().addHandler(_libraries)


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]


class _Levels:
    """Leaves out what is of too little importance, which fabrics may have their own opinion of."""

    def __init__(self, least: int, fabrics: Mapping[str, int]) -> None:
        self._least = least
        self._fabrics = fabrics

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        if _number(event["level"]) < self._fabrics.get(event.get("fabric", ""), self._least):
            raise structlog.DropEvent
        return event


class _Lossy:
    """A stream whose losses are nobody's error: a full disk under the log stops no fabric."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, text: str) -> None:
        try:
            self._stream.write(f"{text}\n")
            self._stream.flush()
        except OSError:
            _losses.add()

    debug = info = warning = error = critical = exception = msg


class _Native:
    """The journal. Where it takes no entries, lines on standard error, which waits for nobody either."""

    def __init__(self, stderr: int) -> None:
        self._stderr = stderr

    def msg(self, fields: Mapping[str, str], line: str) -> None:
        try:
            if _losses.untold:
                journal.send(_lost(_losses.untold))
                _losses.untold = 0
            journal.send(fields)
        except OSError:
            self._fall_back(line)

    debug = info = warning = error = critical = exception = msg

    def _fall_back(self, line: str) -> None:
        try:
            with socket.socket(fileno=os.dup(self._stderr)) as stream:
                told = f"{line}\n".encode(errors="backslashreplace")
                stream.send(told, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            _losses.add()


def _lost(lines: int) -> dict[str, str]:
    text = f"{lines} lines of famezd's log are lost: nobody took them"
    fields = {"MESSAGE": text, "PRIORITY": str(_PRIORITIES["warning"]), "SYSLOG_IDENTIFIER": _IDENTIFIER}
    return {**fields, "FAMEZ_LINES_LOST": str(lines)}


def _is_syslog() -> bool:
    return isinstance(getattr(sys.stderr, "buffer", None), Syslog)


def is_journal(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether standard error goes to the journal; systemd names the stream in JOURNAL_STREAM, see systemd.exec(5)."""
    try:
        stream = os.fstat(sys.stderr.fileno())
    except OSError:
        # It is no file, but the system's log.
        return False
    return environ.get("JOURNAL_STREAM") == f"{stream.st_dev}:{stream.st_ino}"


class _Escaped:
    """Text that is shown as Python writes it, by whatever renders it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return repr(self._text)


def _printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escapes what guests and plug-ins have written: a terminal that shows the log does what it is told."""
    for key, value in event.items():
        if key != "event" and isinstance(value, str) and not value.isprintable():
            event[key] = _Escaped(value)
    event["event"] = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in str(event["event"]))
    return event


def _journal_line(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    priority = _PRIORITIES[event.pop("level")]
    return f"<{priority}>{_told(event)}".replace("\n", "\\n")


def _journal_entry(
    _logger: WrappedLogger, _method: str, event: EventDict
) -> tuple[tuple[dict[str, str], str], dict[str, Any]]:
    """The entry, and the line that is to be read where it finds nobody."""
    level = event.pop("level")
    event = structlog.processors.format_exc_info(_logger, _method, event)
    fields = {"MESSAGE": "", "PRIORITY": str(_PRIORITIES[level]), "SYSLOG_IDENTIFIER": _IDENTIFIER}
    if (found := message_id(str(event["event"]))) is not None:
        fields["MESSAGE_ID"] = found
    for key, value in event.items():
        if key != "event":
            fields[key.upper() if key in _PLAIN else journal.field(key, "FAMEZ_")] = str(value)
    fields["MESSAGE"] = _told(event)
    line = f"<{_PRIORITIES[level]}>{fields['MESSAGE']}".replace("\n", "\\n")
    return (fields, line), {}


def _told(event: EventDict) -> str:
    """The event, which is taken out, and the fields, as people read them."""
    fields = structlog.processors.KeyValueRenderer(key_order=[], sort_keys=False)
    text = str(event.pop("event")).replace("\n", " ")
    values = str(fields(None, "", event)) if event else ""
    return f"{text} {values}".rstrip()
