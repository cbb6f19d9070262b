"""famezd's own log, through structlog: for people at a terminal, for systemd's journal, or for machines."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Mapping
from typing import ClassVar, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from famezd.daemonlog import Syslog

_PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}


def configure(level: str, style: str, environ: Mapping[str, str] = os.environ) -> None:
    """Sends all that is logged at `level` or above to standard error.

    `style`: text, journal (one line, with syslog's priority in front), json, or auto: journal where standard error is
    the journal's or the system's log, text elsewhere.
    """
    if style == "auto":
        style = "journal" if _is_syslog() or is_journal(environ) else "text"
    common: list[Processor] = [structlog.processors.add_log_level]
    if style != "json":
        # In JSON it is escaped anyhow.
        common.append(_printable)
    dated = structlog.processors.TimeStamper(fmt="iso")
    styles: dict[str, list[Processor]] = {
        "text": [dated, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), sort_keys=False)],
        "journal": [_journal_line],
        "json": [dated, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
    }
    structlog.configure(
        processors=common + styles[style],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(_Lossy(sys.stderr)),  # type: ignore[arg-type]  # all that it uses
        cache_logger_on_first_use=False,
    )


def lines_lost() -> int:
    """How many lines of our own log nobody took since this process started."""
    return _Lossy.lost


class _Lossy:
    """A stream whose losses are nobody's error: a full disk under the log stops no fabric."""

    lost: ClassVar[int] = 0

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except OSError:
            _Lossy.lost += 1

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


def _is_syslog() -> bool:
    return isinstance(getattr(sys.stderr, "buffer", None), Syslog)


def is_journal(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether standard error goes to the journal; systemd names the stream in JOURNAL_STREAM, see systemd.exec(5)."""
    stream = os.fstat(sys.stderr.fileno())
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
    fields = structlog.processors.KeyValueRenderer(key_order=[], sort_keys=False)
    text = str(event.pop("event")).replace("\n", " ")
    values = str(fields(_logger, _method, event)) if event else ""
    return f"<{priority}>{text} {values}".rstrip().replace("\n", "\\n")
