"""The kinds of values that settings take: each knows what is allowed, in words, in Python and in JSON Schema.

A kind stands in an annotation, `Annotated[int, whole_number(1, 65535)]`, and does all of the checking there: pydantic
sees to the structure only, so nothing is coerced and every message is in our words.
"""

from __future__ import annotations

import grp
import ipaddress
import os
import pwd
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path, PurePath

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from famezd.errors import FamezError
from famezd.faults import FaultError, parse_delay, parse_peer, parse_probability
from famezd.mailbox import PAGE
from famezd.protocol import MAX_PEER_ID
from famezd.switch.personality import FAILURES, Personality, wrong
from famezd.yamlmarks import Integer

MAX_MAILBOX_BYTES = 1 << 40

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_HOST_AND_PORT = r"(?P<host>\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+):(?P<port>[0-9]{1,5})"
_MAX_NAME_BYTES = 255  # NAME_MAX of Linux
_PORT = "0|[1-9][0-9]{0,4}"
_MAX_MODE = 0o777
_MAX_TCP_PORT = 65535
_PERSONALITIES = "famezd.personalities"
ACCOUNTS: dict[str, int] = {}
"""Numbers of users and groups, by `user NAME` and `group NAME`, as they were when they were looked up last."""
_RECALLS = ContextVar("recalls", default=False)
"""Whether what is checked was right once."""


class NotAllowedError(FamezError):
    """A value is not of its kind; the text, if any, adds the remedy to what is allowed."""


@dataclass(frozen=True, eq=False)  # hashed by identity, as a schema cannot be, but typing hashes annotations
class Kind:
    """One kind of value."""

    allowed: str
    """What it must be, to follow "must be"."""
    check: Callable[[object], object]
    """Returns the value as Python code wants it, or raises NotAllowedError."""
    schema: JsonSchemaValue
    """What it may be in a file."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Tell pydantic how to check, which is all that it does with the value."""
        return core_schema.no_info_plain_validator_function(self._checked)

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Tell pydantic what a file may say."""
        return dict(self.schema)

    def _checked(self, value: object) -> object:
        try:
            return self.check(value)
        except NotAllowedError as error:
            context = {"allowed": self.allowed, "remedy": str(error)}
            raise PydanticCustomError("kind", "must be {allowed}", context) from error


def whole_number(least: int, most: int) -> Kind:
    """Make the kind of integers from `least` to `most`; true and false are none."""

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise NotAllowedError
        return int(value)

    schema: JsonSchemaValue = {"type": "integer", "minimum": least, "maximum": most}
    return Kind(f"an integer from {least} to {most}", check, schema)


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise NotAllowedError
    return value


def _port(value: object) -> int:
    # As a key it is text, in YAML as in JSON.
    if isinstance(value, str) and re.fullmatch(_PORT, value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_PEER_ID:
        raise NotAllowedError
    return value


def file_name(allowed: str, pattern: str) -> Kind:
    """Make the kind of names of one file in some directory, which match `pattern` as a whole."""

    def check(value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise NotAllowedError
        if value in (".", "..") or len(os.fsencode(value)) > _MAX_NAME_BYTES:
            raise NotAllowedError
        return value

    return Kind(allowed, check, {"type": "string", "pattern": f"^{pattern}$"})


def _absolute_path(value: object) -> Path:
    if not isinstance(value, str | PurePath) or "\0" in str(value) or not Path(value).is_absolute():
        raise NotAllowedError
    return Path(value)


def _mode(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"0o?[0-7]{1,4}", value):
        value = int(value.replace("o", ""), 8)
    elif isinstance(value, str | Integer) and not getattr(value, "is_octal", False):
        # 660 is 01224 in octal: surely not what was meant.
        digits = str(value)
        raise NotAllowedError(f"write 0{digits}" if re.fullmatch(r"[0-7]{3}", digits) else "")
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_MODE:
        raise NotAllowedError
    return int(value)


def _size(value: object) -> int:
    size = 0
    if isinstance(value, int) and not isinstance(value, bool):
        size = int(value)
    elif isinstance(value, str) and (match := re.fullmatch(r"([1-9][0-9]{0,12})([KMGT])", value.upper())):
        size = int(match[1]) * _UNITS[match[2]]
    elif isinstance(value, str) and (match := re.fullmatch(r"([1-9][0-9]{0,12}) ?([KMGT])(?:I?B)?", value.upper())):
        raise NotAllowedError(f"write {match[1]}{match[2]}")
    if not PAGE <= size <= MAX_MAILBOX_BYTES:
        raise NotAllowedError
    if size & (size - 1):
        above = 1 << size.bit_length()
        raise NotAllowedError(f"the nearest are {in_units(above // 2)} and {in_units(above)}")
    return size


def in_units(size: int) -> str:
    """Write `size`, in bytes, in the largest unit that leaves it whole: 4M, 1536K, 4097."""
    unit = max((unit for unit, factor in _UNITS.items() if size % factor == 0), key=_UNITS.__getitem__)
    return f"{size // _UNITS[unit]}{unit}"


def _listen(value: object) -> str:
    match = re.fullmatch(_HOST_AND_PORT, value) if isinstance(value, str) else None
    if match is None or int(match["port"]) > _MAX_TCP_PORT:
        raise NotAllowedError
    host = match["host"]
    try:
        if host.startswith("["):
            ipaddress.IPv6Address(host[1:-1])
        elif re.fullmatch(r"[0-9.]+", host):
            ipaddress.IPv4Address(host)
    except ValueError as error:
        raise NotAllowedError(str(error)) from None
    return match[0]


def _host_name(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9A-Za-z]([0-9A-Za-z_.-]*[0-9A-Za-z])?", value):
        raise NotAllowedError
    return value.lower()


def _users(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise NotAllowedError
    if any(not isinstance(name, str) or not re.fullmatch("[^:]+", name) or not name.isprintable() for name in value):
        raise NotAllowedError
    # A value that is no text is no hash, which is for others to say: the message of a kind would show it.
    return {str(name): str(hashed) if isinstance(hashed, str) else "" for name, hashed in value.items()}


def host_and_port(listen: str) -> tuple[str, int]:
    """Split what `LISTEN` allows: "[::1]:9991" is ("::1", 9991)."""
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


def user_id(user: str | int) -> int:
    """Look up a user's number; NotAllowedError says that there is no such user."""
    try:
        number = pwd.getpwuid(user).pw_uid if isinstance(user, int) else pwd.getpwnam(user).pw_uid
    except (KeyError, OverflowError, ValueError):
        raise NotAllowedError(f"this system has no user {user!r}; make it, or name another") from None
    ACCOUNTS[f"user {user}"] = number
    return number


def group_id(group: str | int) -> int:
    """Look up a group's number; NotAllowedError says that there is no such group."""
    try:
        number = grp.getgrgid(group).gr_gid if isinstance(group, int) else grp.getgrnam(group).gr_gid
    except (KeyError, OverflowError, ValueError):
        raise NotAllowedError(f"this system has no group {group!r}; make it, or name another") from None
    ACCOUNTS[f"group {group}"] = number
    return number


def last_user_id(user: str | int) -> int:
    """A user's number, also of one that has gone: what it was when it was looked up last, by us or by a predecessor."""
    return _last(user_id, f"user {user}", user)


def last_group_id(group: str | int) -> int:
    """The same for a group."""
    return _last(group_id, f"group {group}", group)


def _last(look_up: Callable[[str | int], int], key: str, account: str | int) -> int:
    try:
        return look_up(account)
    except NotAllowedError:
        if key not in ACCOUNTS:
            raise
        return ACCOUNTS[key]


def _account(look_up: Callable[[str | int], int], last: Callable[[str | int], int]) -> Callable[[object], str | int]:
    def check(value: object) -> str | int:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise NotAllowedError
        account = value if isinstance(value, str) else int(value)
        (last if _RECALLS.get() else look_up)(account)
        return account

    return check


@contextmanager
def recalled(accounts: Mapping[str, int]) -> Iterator[None]:
    """What is checked meanwhile was right once: its users and groups may have gone since, who had these numbers."""
    for key, number in accounts.items():
        ACCOUNTS.setdefault(key, number)
    before = _RECALLS.set(True)
    try:
        yield
    finally:
        _RECALLS.reset(before)


def personality_reference(name: str) -> str:
    """Return where a personality is implemented, as "module:attribute"; NotAllowedError names those that exist."""
    return _entry_point(name).value


def personality_class(name: str) -> type[Personality]:
    """Load a personality; NotAllowedError says why it cannot be."""
    point = _entry_point(name)
    try:
        loaded = point.load()
    except FAILURES as error:  # a plug-in's import may raise anything
        raise NotAllowedError(f"{point.value} cannot be loaded: {error!r}") from error
    if why := wrong(loaded):
        raise NotAllowedError(f"{point.value} {why}")
    found: type[Personality] = loaded
    return found


@cache
def _installed() -> Mapping[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=_PERSONALITIES)}


def look_again() -> None:
    """Find personalities anew when one is named next: some may have been installed.

    To look through what is installed takes milliseconds, and a fabric's personality is asked for a dozen times.
    """
    _installed.cache_clear()


def _entry_point(name: str) -> EntryPoint:
    known = _installed()
    if name not in known:
        raise NotAllowedError(f"those installed are {', '.join(sorted(known))}")
    return known[name]


def _personality(value: object) -> str:
    if not isinstance(value, str):
        raise NotAllowedError
    personality_class(value)
    return value


def _peer(value: object) -> int | str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise NotAllowedError
    try:
        peer = parse_peer(str(value))
    except FaultError:
        raise NotAllowedError from None
    return peer if peer >= 0 else str(value)


def _vector(value: object) -> int | None:
    if value == "*":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int) or not re.fullmatch(r"[0-9]{1,4}", str(value)):
        raise NotAllowedError
    return int(value)


def _probability(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise NotAllowedError
    try:
        return parse_probability(str(value))
    except FaultError:
        raise NotAllowedError from None


def _delay(value: object) -> str:
    if not isinstance(value, str):
        raise NotAllowedError
    try:
        return parse_delay(value).text
    except FaultError as error:
        raise NotAllowedError(str(error)) from error


def _options(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise NotAllowedError
    options = {}
    for name, option in value.items():
        if not isinstance(name, str) or not isinstance(option, str | int) or "\0" in f"{name}{option}":
            raise NotAllowedError
        options[str(name)] = str(option).lower() if isinstance(option, bool) else str(option)
    return options


_ACCOUNT: JsonSchemaValue = {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 0}]}

ABSOLUTE_PATH = Kind("an absolute path", _absolute_path, {"type": "string", "pattern": "^/"})
FABRIC_NAME = file_name(
    "letters, digits, '_', '.' and '-', beginning with a letter or digit, at most 64",
    r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}",
)
SHM_NAME = file_name("the name of a file in /dev/shm, without a slash", r"[^/\x00-\x1f\x7f]+")
BOOLEAN = Kind("true or false", _boolean, {"type": "boolean"})
PORT = Kind(f"the number of a port, from 0 to {MAX_PEER_ID}", _port, {"type": "string", "pattern": f"^({_PORT})$"})
MODE = Kind(
    "a mode in octal with a leading 0, such as 0660",
    _mode,
    # YAML 1.1 tools see the number 432 in 0660, others the text or the number 660: it is for us to tell them apart.
    {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^0o?[0-7]{1,4}$"}]},
)
SIZE = Kind(
    "a power of two of bytes from 4096 to 1T, such as 65536, 64K, 4M or 1G",
    _size,
    {
        "anyOf": [
            {"type": "integer", "minimum": PAGE, "maximum": MAX_MAILBOX_BYTES},
            {"type": "string", "pattern": "^[1-9][0-9]*[KMGTkmgt]$"},
        ]
    },
)
LISTEN = Kind(
    "HOST:PORT, such as 127.0.0.1:9991 or [::1]:9991, or null",
    _listen,
    {"type": "string", "pattern": r"^(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+):[0-9]{1,5}$"},
)
HOST_NAME = Kind(
    "the name of a host, without a port, such as fabrics.example.org",
    _host_name,
    {"type": "string", "pattern": "^[0-9A-Za-z]([0-9A-Za-z_.-]*[0-9A-Za-z])?$"},
)
USERS = Kind(
    "a mapping of names, without a colon, to bcrypt hashes",
    _users,
    {"type": "object", "propertyNames": {"pattern": "^[^:]+$"}, "additionalProperties": {"type": "string"}},
)
USER = Kind("the name or number of a user", _account(user_id, last_user_id), _ACCOUNT)
GROUP = Kind("the name or number of a group", _account(group_id, last_group_id), _ACCOUNT)
OPTIONS = Kind(
    "a mapping of names to text, integers, true or false",
    _options,
    {"type": "object", "additionalProperties": {"type": ["string", "integer", "boolean"]}},
)
PERSONALITY = Kind("the name of a personality", _personality, {"type": "string"})
PEER = Kind(
    "a peer's id, switch or *",
    _peer,
    {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 65535}, {"type": "string", "pattern": r"^(\*|switch)$"}]},
)
VECTOR = Kind(
    "a vector's number, or * for all",
    _vector,
    {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^\*$"}]},
)
PROBABILITY = Kind(
    "a probability from 0 to 1, such as 0.1 or 10%",
    _probability,
    {
        "anyOf": [
            {"type": "number", "minimum": 0, "maximum": 1},
            {"type": "string", "pattern": r"^([0-9]+\.?[0-9]*|\.[0-9]+)%?$"},
        ]
    },
)
DELAY = Kind(
    "5ms, 1ms..5ms (evenly between) or 5ms+-1ms (mean and standard deviation), with units us, ms or s",
    _delay,
    {
        "type": "string",
        "pattern": r"^[0-9]+(\.[0-9]+)?(us|ms|s)((\.\.|\+-)[0-9]+(\.[0-9]+)?(us|ms|s))?$",
    },
)
