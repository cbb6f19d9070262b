"""The settings as texts, taken from the models of `famezd.config`."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from famezd.kinds import Kind

OCTAL = r"0[0-7]+"


class Setting(NamedTuple):
    """One setting."""

    key: str
    """Dotted, from the top of its file: mailbox.size, faults[].src, pins.PORT.user."""
    allowed: str
    default: str
    """As in YAML."""
    text: str
    examples: list[str]
    """As in YAML."""


class Section(NamedTuple):
    """Settings that stand together."""

    key: str
    """"" for those at the top."""
    text: str
    settings: list[Setting]


def sections(model: type[BaseModel]) -> list[Section]:
    """A file's settings: those at the top, then each group of them."""
    top = Section("", (model.__doc__ or "").strip(), [])
    groups = []
    for name, field in model.model_fields.items():
        suffix, inner = _inner_model(field.annotation)
        if inner is not None:
            groups.append(Section(name + suffix, _text(field), list(_settings(inner, f"{name}{suffix}."))))
        if inner is None or suffix:
            top.settings.append(_setting(name, field))
    return [top, *groups]


def _settings(model: type[BaseModel], prefix: str) -> Iterator[Setting]:
    for name, field in model.model_fields.items():
        yield _setting(prefix + name, field)
        inner = _optional_model(field.annotation)
        if inner is not None:
            yield from _settings(inner, f"{prefix}{name}.")


def _optional_model(annotation: Any) -> type[BaseModel] | None:  # noqa: ANN401 (any type there is)
    """The model of settings that may be null as a whole."""
    models = [a for a in get_args(annotation) if isinstance(a, type) and issubclass(a, BaseModel)]
    return models[0] if isinstance(annotation, types.UnionType) and models else None


def _setting(key: str, field: FieldInfo) -> Setting:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    default = extra.get("default", field.get_default())
    default = str(default) if isinstance(default, Path) else default
    examples = [in_yaml(example) for example in field.examples or []]
    return Setting(key, _allowed(field.annotation, field.metadata), in_yaml(default), _text(field), examples)


def _text(field: FieldInfo) -> str:
    return field.description or ""


def _inner_model(annotation: Any) -> tuple[str, type[BaseModel] | None]:  # noqa: ANN401 (any type there is)
    """The model of a group, and what stands between its key and those of its settings."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "", annotation
    arguments = get_args(annotation)
    if get_origin(annotation) is tuple and isinstance(arguments[0], type) and issubclass(arguments[0], BaseModel):
        return "[]", arguments[0]
    if get_origin(annotation) is dict and isinstance(arguments[1], type) and issubclass(arguments[1], BaseModel):
        return ".PORT", arguments[1]
    return "", None


def _allowed(annotation: Any, metadata: list[Any]) -> str:  # noqa: ANN401, PLR0911 (one for each kind of type)
    """What a value must be, in the words of the error that says it is not."""
    for kind in metadata:
        if isinstance(kind, Kind):
            return kind.allowed
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _allowed(arguments[0], list(arguments[1:]))
    if origin is Literal:
        return ", ".join(arguments[:-1]) + f" or {arguments[-1]}"
    if _optional_model(annotation) is not None:
        return "a mapping of the next settings; or null"
    if origin in (Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        allowed = _allowed(inner, [])
        return allowed if allowed.endswith("or null") else f"{allowed}; or null"
    if _inner_model(annotation)[1] is not None:
        return "a list of rules" if origin is tuple else "rules by a port's number"
    if origin is tuple:
        return f"a list, of which each is {_allowed(arguments[0], [])}"
    raise TypeError(f"no words for {annotation}")


def in_yaml(value: object) -> str:
    """A value as it may stand in a file, on one line."""
    if isinstance(value, str) and re.fullmatch(OCTAL, value):
        return value  # quoted it would be right, too, but nobody writes a mode so
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=1000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")
