"""A worker's log: one line an event on standard error, with systemd's priority prefix where it is no terminal.

    <6>peer joined<TAB>peer=3 pid=4242 uid=64055

A tab, which neither the event nor a field contains, is where the fields begin: an event may well look like one, such as
a remedy with a setting. The supervisor reads these lines back; under systemd alone the journal takes them as they are.
"""

from __future__ import annotations

import os

DEBUG, INFO, WARNING, ERROR = 7, 6, 4, 3
"""syslog's priorities."""

_STDERR = 2


class Log:
    """Writes events; never waits for whoever reads them."""

    def __init__(self) -> None:
        self._bare = os.isatty(_STDERR)
        self._lost = 0

    def say(self, priority: int, event: str, **fields: object) -> None:
        """Logs one line. A pipe that is full loses it; the next line that fits says how many were lost."""
        if self._lost:
            fields["lines_lost"] = self._lost
        text = event.replace("\n", " ").replace("\t", " ")
        if fields:
            told = " ".join(f"{key}={_quoted(str(value))}" for key, value in fields.items())
            text += (" " if self._bare else "\t") + told
        line = text if self._bare else f"<{priority}>{text}"
        try:
            os.write(_STDERR, line.encode(errors="backslashreplace") + b"\n")
        except OSError:
            self._lost += 1
        else:
            self._lost = 0


def _quoted(value: str) -> str:
    if value and value.isprintable() and not any(c in value for c in ' ="\\'):
        return value
    escaped = value.encode("unicode_escape").decode("ascii").replace('"', '\\"')
    return f'"{escaped}"'
