"""Asking a running famezd: HTTP on its control socket."""

from __future__ import annotations

import grp
import http.client
import json
import os
import shlex
import socket
import stat
import sys
from pathlib import Path
from typing import Any

from famezd.errors import FamezError
from famezd.remedies import remedy

ANSWERS_WITHIN = 10.0
"""Seconds for a question."""
DONE_WITHIN = 120.0
"""Seconds for what has to be done first: new workers are waited for."""


class ControlError(FamezError):
    """famezd cannot be asked, or does not know the answer."""


class NobodyAnswersError(ControlError):
    """There is no famezd at the socket."""


def default_control_socket() -> Path:
    """The control socket of the famezd that is meant where none is named: the system's, else the user's own."""
    system = Path("/run/famez/control.sock")
    own = os.environ.get("RUNTIME_DIRECTORY") or os.environ.get("XDG_RUNTIME_DIR", "")
    if "RUNTIME_DIRECTORY" in os.environ:
        return Path(own.split(":")[0], "control.sock")
    return system if os.geteuid() == 0 or system.exists() or not own else Path(own, "famez", "control.sock")


def get(control: Path, resource: str) -> Any:  # noqa: ANN401 (whatever JSON it is)
    """What famezd answers to a GET of `resource`; raises ControlError if it cannot be asked, or says no."""
    return _request(control, "GET", resource, ANSWERS_WITHIN)


def post(control: Path, resource: str, data: object = None) -> Any:  # noqa: ANN401
    """The same for a POST, which has something done; `data` go with it as JSON."""
    return _request(control, "POST", resource, DONE_WITHIN, None if data is None else json.dumps(data))


def _request(control: Path, method: str, resource: str, timeout: float, body: str | None = None) -> Any:  # noqa: ANN401
    connection = _Unix(control, timeout)
    try:
        connection.request(method, resource, body)
        response = connection.getresponse()
        said = response.read()
        # What there is no such resource for is not answered by us, and so not in JSON.
        answer = json.loads(said) if response.headers.get_content_type() == "application/json" else {}
    except PermissionError as e:
        raise ControlError(f"permission denied: {control}; {remedy(e, _way_in(control), control, os.W_OK)}") from e
    except (FileNotFoundError, ConnectionRefusedError) as e:
        raise NobodyAnswersError(
            f"nobody answers at {control}; is famezd running? `systemctl status famezd` tells"
        ) from e
    except TimeoutError as e:
        raise ControlError(
            f"famezd does not answer at {control} within {timeout:.0f} s; `journalctl -u famezd` may tell why"
        ) from e
    except (OSError, http.client.HTTPException, ValueError) as e:
        raise ControlError(f"cannot ask famezd at {control}: {e}") from e
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise ControlError(answer.get("error", f"famezd answers {response.status} {response.reason}"))
    return answer


def _way_in(control: Path) -> str:
    """What to run for somebody who may not use the socket."""
    again = f"run `{shlex.join(['sudo', 'famezctl', *sys.argv[1:]])}`"
    group = _group(control)
    return f"{again}, or join the socket's group: `sudo usermod -aG {group} $USER`" if group else again


def _group(control: Path) -> str:
    """The group whose members may use the socket, "" if there is none, or none that anybody should join."""
    try:
        found = os.stat(control)
        name = grp.getgrgid(found.st_gid).gr_name
    except (OSError, KeyError):
        return ""
    return name if found.st_gid != 0 and found.st_mode & stat.S_IWGRP else ""


class _Unix(http.client.HTTPConnection):
    """HTTP over an AF_UNIX socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
