"""YAML in which every value knows where it was written, for errors that point at the place.

Only what a settings file needs is understood: mappings, lists, text, integers, booleans and null. A key is text; an
integer in its place is the text that was written. Dates, fractions and base-60 numbers stay text. Nothing is ever
constructed from a tag: a tag that means anything else is a problem with its place. Aliases are refused too, and depth
and length bounded, so a small file cannot grow into a large structure.

A mistake does not end the reading where it can go on: what is wrong is noted and left out of the data.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn, Self, TypeAlias

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from famezd.remedies import remedy

MAX_BYTES = 1 << 20
"""The longest file that is read: a fabric takes less than a thousandth of it."""
MAX_DEPTH = 32
"""The deepest nesting that is read; the settings need three, and the composer recurses."""

Loc: TypeAlias = tuple[str | int, ...]
"""The keys and list indexes that lead from the top of a document to one value."""

_TAG = "tag:yaml.org,2002:"
_INTEGER = re.compile(r"[-+]?(?:0b[01]{1,64}|0x[0-9a-fA-F]{1,16}|0[0-7]{0,22}|[1-9][0-9_]{0,24})")
_BOOLEAN = re.compile(r"(?i:yes|no|true|false|on|off)")
_LINE_END = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # what PyYAML takes for one
_NULL = re.compile(r"~|null|Null|NULL|")


class Place(NamedTuple):
    """A position in a file; both count from 1, columns in characters."""

    line: int
    column: int


_START = Place(1, 1)
_WRONG = object()
"""Stands for a value that is a problem already, until it is left out."""


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake in a file of settings; `key` is dotted, and empty where the whole file is meant."""

    path: Path
    line: int
    column: int
    key: str
    message: str

    def __str__(self) -> str:
        """One line, whatever file names and keys contain."""
        key = f"{self.key}: " if self.key else ""
        return _printable(f"{self.path}:{self.line}:{self.column}: {key}{self.message}")


class Integer(int):
    """An integer of a file; the value alone does not tell 0660 from 432."""

    is_octal: bool
    """Whether it was written with a leading zero, YAML 1.1's way to write octal."""

    def __new__(cls, text: str) -> Self:
        """Read `text`, which `_INTEGER` matches."""
        text = text.replace("_", "")
        digits = text.lstrip("+-")
        base = {"0b": 2, "0x": 16}.get(digits[:2], 8 if digits.startswith("0") else 10)
        self = super().__new__(cls, int(text, base))
        self.is_octal = base == 8
        return self


class _RefusedError(Exception):
    """Valid YAML, but more of it than we take: why, and where."""

    def __init__(self, why: str, place: Place) -> None:
        super().__init__(why)
        self.place = place


class _Composer(Reader, Scanner, Parser, Composer, BaseResolver):
    """Text to nodes; PyYAML's loaders less their constructor and most of their implicit types."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        """Compose one node, refusing what could grow without bound."""
        if self.check_event(yaml.AliasEvent):
            self._refuse("aliases are not supported: write the value out")
        if self._depth == MAX_DEPTH:
            self._refuse(f"nested deeper than {MAX_DEPTH} levels")
        self._depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)  # type: ignore[arg-type]
        self._depth -= 1
        return node

    def _refuse(self, why: str) -> NoReturn:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        mark = event.start_mark
        raise _RefusedError(why, _START if mark is None else Place(mark.line + 1, mark.column + 1))


_Composer.add_implicit_resolver(_TAG + "null", re.compile(f"(?:{_NULL.pattern})$"), ["~", "n", "N", ""])
_Composer.add_implicit_resolver(_TAG + "bool", re.compile(f"(?:{_BOOLEAN.pattern})$"), list("yYnNtTfFoO"))
_Composer.add_implicit_resolver(_TAG + "int", re.compile(f"(?:{_INTEGER.pattern})$"), list("-+0123456789"))


class Document:
    """One file: its data, where each value stands, and what is wrong with it as YAML."""

    def __init__(self, path: Path, text: str) -> None:
        """Read `text`; never fails, see `problems` and `is_broken`."""
        self.path = path
        self.problems: list[Problem] = []
        self.is_broken = False
        """Whether nothing could be read of it, so that a missing setting says nothing."""
        self._nodes: dict[Loc, yaml.Node] = {}
        self._keys: dict[Loc, Place] = {}
        self.data: dict[str, object] = self._top(self._compose(text))

    @classmethod
    def read(cls, path: Path) -> Document:
        """Read the file at `path`; one that cannot be read is a broken document."""
        try:
            content = _content(path)
        except OSError as error:
            create = "create it, an empty file will do" if error.errno == errno.ENOENT else ""
            return cls.broken(path, _START, unreadable(path, error, os.R_OK, create))
        if len(content) > MAX_BYTES:
            return cls.broken(path, _START, f"is longer than {MAX_BYTES} bytes")
        try:
            return cls(path, content.decode().removeprefix("\ufeff"))
        except UnicodeDecodeError as error:
            place = _place_of_index(content[: error.start].decode(), error.start)
            return cls.broken(path, place, "is not UTF-8 text")

    @classmethod
    def broken(cls, path: Path, place: Place, why: str) -> Document:
        """Make a document of which nothing is known but why."""
        document = cls(path, "")
        document._break(place, why)
        return document

    def place(self, loc: Loc) -> Place:
        """Find where the value at `loc` begins; where it is missing, the mapping that lacks it."""
        while loc and loc not in self._nodes:
            loc = loc[:-1]
        return _place(self._nodes[loc].start_mark) if loc in self._nodes else _START

    def key_place(self, loc: Loc) -> Place:
        """Find where the key of the value at `loc` begins."""
        return self._keys.get(loc, _START)

    def written(self, loc: Loc) -> str:
        """Show what was written at `loc`, for a message."""
        return _written(self._nodes[loc]) if loc in self._nodes else "nothing"

    def problem(self, place: Place, loc: Loc, message: str) -> Problem:
        """Make a problem of this file."""
        return Problem(self.path, *place, dotted(loc), message)

    def _break(self, place: Place, why: str) -> None:
        self.is_broken = True
        self.problems.append(self.problem(place, (), why))

    def _compose(self, text: str) -> yaml.Node | None:
        composer = None
        try:
            composer = _Composer(text)
            return composer.get_single_node()
        except _RefusedError as error:
            self._break(error.place, str(error))
        except ReaderError as error:
            place = _place_of_index(text, error.position)
            self._break(place, f"not valid YAML: unacceptable character #x{ord(text[error.position]):04x}")
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            why = ", ".join(filter(None, (error.context, error.problem)))
            if "'\\t'" in why:
                why += "; indent with spaces"
            self._break(_place(mark) if mark else _START, f"not valid YAML: {why}")
        except (ValueError, OverflowError):  # PyYAML hands an escape such as "\UFFFFFFFF" to chr()
            place = _place(composer.get_mark()) if composer else _START
            self._break(place, "not valid YAML: an escape that is no character")
        return None

    def _top(self, root: yaml.Node | None) -> dict[str, object]:
        value = None if root is None else self._value(root, ())
        if isinstance(value, dict):
            return value
        if value is not None and value is not _WRONG:
            self._break(self.place(()), f"must be a mapping of settings, not {self.written(())}")
        return {}

    def _value(self, node: yaml.Node, loc: Loc) -> object:
        self._nodes[loc] = node
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return dict(self._pairs(node, loc))
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            items = [self._value(item, (*loc, index)) for index, item in enumerate(node.value)]
            return _WRONG if _WRONG in items else items
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, loc)
        return self._wrong_tag(node, loc)

    def _pairs(self, node: yaml.MappingNode, loc: Loc) -> Iterator[tuple[str, object]]:
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            place = _place(key_node.start_mark)
            key = self._scalar(key_node, loc) if isinstance(key_node, yaml.ScalarNode) else None
            if isinstance(key, Integer):
                key = key_node.value
            if key is _WRONG:
                continue
            if not isinstance(key, str):
                self._wrong(place, loc, f"a key must be text, not {_written(key_node)}")
            elif key in seen:
                message = f"duplicate key on line {place.line}, first given on line {seen[key]}"
                self._wrong(place, (*loc, key), message)
            else:
                seen[key] = place.line
                self._keys[*loc, key] = place
                value = self._value(value_node, (*loc, key))
                if value is not _WRONG:
                    yield key, value

    def _scalar(self, node: yaml.ScalarNode, loc: Loc) -> object:
        text: str = node.value
        match node.tag.removeprefix(_TAG):
            case "str" if _is_unicode(text):
                return text
            case "int" if _INTEGER.fullmatch(text):
                return Integer(text)
            case "bool" if _BOOLEAN.fullmatch(text):
                return text.lower() in ("yes", "true", "on")
            case "null" if _NULL.fullmatch(text):
                return None
        return self._wrong_tag(node, loc)

    def _wrong_tag(self, node: yaml.Node, loc: Loc) -> object:
        tag = node.tag.replace(_TAG, "!!", 1)
        known = "!!map, !!seq, !!str, !!int, !!bool and !!null"
        message = f"{_written(node)} cannot be a {tag}: the tags known here are {known}"
        return self._wrong(_place(node.start_mark), loc, message)

    def _wrong(self, place: Place, loc: Loc, message: str) -> object:
        self.problems.append(self.problem(place, loc, message))
        return _WRONG


def unreadable(path: Path, error: OSError, wanted: int, otherwise: str = "") -> str:
    """Say why the file or directory at `path` cannot be read, and what to do; `wanted` is as for access(2)."""
    if isinstance(error, PermissionError):
        otherwise = f"user id {os.geteuid()} must be able to read it"
    todo = remedy(error, otherwise, path, wanted)
    return f"cannot be read: {error.strerror}" + (f": {todo}" if todo else "")


def dotted(loc: Loc) -> str:
    """`loc` as operators write it: mailbox.size, users[2]."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")


def _content(path: Path) -> bytes:
    """Read the file, at most one byte too many; OSError also for what is no file, as a FIFO would block."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(None, "not a regular file")
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _written(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        return "a mapping" if isinstance(node, yaml.MappingNode) else "a list"
    text: str = node.value if len(node.value) <= 60 else node.value[:57] + "..."
    is_text = node.style in ("'", '"') or node.tag not in (_TAG + "int", _TAG + "bool", _TAG + "null")
    return repr(text) if is_text else text or "null"


def _place(mark: yaml.error.Mark) -> Place:
    return Place(mark.line + 1, mark.column + 1)


def _place_of_index(text: str, index: int) -> Place:
    lines = _LINE_END.split(text[:index])
    return Place(len(lines), len(lines[-1]) + 1)


def _is_unicode(text: str) -> bool:
    r"""Whether `text` is free of lone surrogates, which an escape such as "\ud800" makes."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
