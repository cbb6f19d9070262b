"""A file of settings, checked against its pydantic model, with problems in plain words instead of an exception."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Generic, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from famezd.errors import FamezError
from famezd.yamlmarks import Document, Loc, Place, Problem, dotted


class ConfigError(FamezError):
    """The settings are wrong: `problems` are all mistakes of all files, in order; the text has one line for each."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Sort `problems` by file and place."""
        self.problems = tuple(sorted(set(problems)))
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True)
class Mistake:
    """Something wrong between settings: where, what, and the keys (dotted) that it was concluded from."""

    loc: Loc
    message: str
    because: frozenset[str] = frozenset()
    whole: bool = False
    """Whether it was concluded from all that is at `loc`, so that any problem in there may be what it comes from."""


_KEY = "[key]"
"""What pydantic puts after the place of a key that is not allowed."""
_STRUCTURES = {
    "model_type": "a mapping of settings",
    "dict_type": "a mapping of settings",
    "tuple_type": "a list",
}
"""What pydantic itself looks at, by the type of its complaint."""

Settings = TypeVar("Settings", bound=BaseModel)


class CheckedFile(Generic[Settings]):
    """A file of settings: what is right in it, as `settings`, and what is not, as `problems`."""

    def __init__(self, document: Document, model: type[Settings]) -> None:
        """Check the data of `document`, whose problems are the first."""
        self._document = document
        self._model = model
        self.problems = list(document.problems)
        self._meant: set[str] = set()
        try:
            self.settings = model.model_validate(document.data)
        except ValidationError as error:
            details = error.errors(include_url=False)
            for detail in details:
                self._report_detail(detail)
            wrong = {_of_key(detail["loc"]) or detail["loc"] for detail in details}
            self.settings = model.model_validate(_without(document.data, wrong))

    def report(self, loc: Loc, message: str) -> None:
        """Add a problem of the value at `loc`."""
        self._add(self._document.place(loc), loc, message)

    def report_mistake(self, mistake: Mistake) -> None:
        """Add a mistake, unless it only follows from others."""
        key = dotted(mistake.loc)
        follows = mistake.whole and any(problem.key.startswith(f"{key}.") for problem in self.problems)
        if not follows and all(map(self.is_right, {key, *mistake.because})):
            self.report(mistake.loc, mistake.message)

    def is_right(self, key: str) -> bool:
        """Whether what `key` says is known: it has no problem, nor has what it is a part of, and is not misspelt."""
        wrong = {problem.key for problem in self.problems} | self._meant
        parts = key.split(".")
        parents = {".".join(parts[: length + 1]) for length in range(len(parts))}
        return not self._document.is_broken and not parents & wrong

    def where(self, loc: Loc) -> str:
        """Show where the value at `loc` is, for a message about another."""
        return ":".join(map(str, (self._document.path, *self._document.place(loc))))

    def _add(self, place: Place, loc: Loc, message: str) -> None:
        self.problems.append(self._document.problem(place, loc, message))

    def _report_detail(self, detail: ErrorDetails) -> None:
        loc = detail["loc"]
        if detail["type"] == "extra_forbidden":
            self._report_unknown_key(loc)
            return
        context = detail.get("ctx", {})
        allowed = context.get("allowed") or context.get("expected") or _STRUCTURES[detail["type"]]
        if (key := _of_key(loc)) is not None:
            self._add(self._document.key_place(key), key, f"a key there must be {allowed}, not {key[-1]!r}")
            return
        remedy = context.get("remedy") or ("leave the key out for the default" if detail["input"] is None else "")
        self.report(loc, f"must be {allowed}, not {self._document.written(loc)}" + (f": {remedy}" if remedy else ""))

    def _report_unknown_key(self, loc: Loc) -> None:
        # The supervisor keeps what it imports, and most files have no mistakes.
        import difflib  # noqa: PLC0415

        known = _keys(self._model, loc[:-1])
        nearest = difflib.get_close_matches(str(loc[-1]).lower(), known, n=1)
        self._meant |= {dotted((*loc[:-1], key)) for key in nearest}
        why = f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(known)}"
        self._add(self._document.key_place(loc), loc, f"unknown key, {why}")


def _of_key(loc: Loc) -> Loc | None:
    """The place of the value whose key is meant by `loc`, None if it means a value."""
    return loc[:-1] if loc[-1] == _KEY else None


def _without(data: Mapping[str, object], wrong: set[Loc]) -> dict[str, object]:
    """Copy `data` without the values that are `wrong`."""
    return {key: _right(value, wrong, (key,)) for key, value in data.items() if (key,) not in wrong}


def _right(value: object, wrong: set[Loc], at: Loc) -> object:
    """Copy `value`, which is at `at`, without what is wrong in it."""
    if isinstance(value, dict):
        return {key: _right(inner, wrong, (*at, key)) for key, inner in value.items() if (*at, key) not in wrong}
    if isinstance(value, list):
        return [_right(inner, wrong, (*at, i)) for i, inner in enumerate(value) if (*at, i) not in wrong]
    return value


def _keys(model: type[BaseModel], loc: Loc) -> list[str]:
    """List the keys of the model at `loc` in `model`."""
    found: Any = model
    for part in loc:
        match get_origin(found):
            case origin if origin is dict:
                found = get_args(found)[1]
            case origin if origin is tuple:
                found = get_args(found)[0]
            case _:
                found = found.model_fields[str(part)].annotation
        if isinstance(found, UnionType):
            # A section that may be null as a whole.
            found = next(kind for kind in get_args(found) if kind is not NoneType)
    # Keys are only unknown where pydantic looked for them, in a model.
    return list(found.model_fields)
