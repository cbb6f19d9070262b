"""Text in fields: what could end a field, or a line, is written as %XX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_PLAIN: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:;/ !?()[]+*@#")
_HEX: Final = frozenset("0123456789ABCDEF")


def escape(text: str) -> str:
    """The text in ASCII without control characters, commas, equals signs and other percent signs than ours."""
    if _PLAIN.issuperset(text):
        return text
    # A lone surrogate is no text; who reads this back gets a question mark.
    return "".join(c if c in _PLAIN else "".join(f"%{byte:02X}" for byte in c.encode(errors="replace")) for c in text)


def unescape(text: str) -> str:
    """What was escaped; a percent sign that begins no byte stands for itself."""
    if "%" not in text:
        return text
    first, *rest = text.split("%")
    found = bytearray(first.encode(errors="replace"))
    for part in rest:
        if len(part) >= 2 and _HEX.issuperset(part[:2]):
            found += bytes.fromhex(part[:2]) + part[2:].encode(errors="replace")
        else:
            found += b"%" + part.encode(errors="replace")
    return found.decode(errors="replace")


def joined(fields: Mapping[str, str], separator: str) -> str:
    """Fields as `KEY=VALUE`, with the separator between."""
    return separator.join(f"{escape(key)}={escape(value)}" for key, value in fields.items())


def split(text: str, separator: str) -> dict[str, str]:
    """The fields that were `joined`; raises ValueError where one is no KEY=VALUE."""
    fields = {}
    for field in text.split(separator) if text else ():
        key, equals, value = field.partition("=")
        if not equals:
            raise ValueError(f"{field!r} is no KEY=VALUE")
        fields[unescape(key)] = unescape(value)
    return fields
