"""The fault rules that are in force on a fabric: those of its file, and those that famezctl added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from famezd.config import Fabric, FaultSettings
from famezd.errors import FamezError
from famezd.faults import MAX_RULES, Rule, rules_text
from famezd.stats import Page, rule_key


class UnknownRuleError(FamezError):
    """A fabric has no rule of this id."""


class TooManyRulesError(FamezError):
    """A fabric has as many rules as there can be."""


class Numbered(BaseModel):
    """A rule that is in force."""

    model_config = ConfigDict(frozen=True)

    id: int
    settings: FaultSettings
    configured: bool
    """Whether the fabric's file says so; else famezctl did."""

    @property
    def rule(self) -> Rule:
        """What the worker is told."""
        return self.settings.rule(self.id)


class FaultTable(BaseModel):
    """The rules of a fabric, in order: those of its file come first. No id is ever given twice."""

    model_config = ConfigDict(frozen=True)

    last: int = 0
    """The id that was given last."""
    rules: tuple[Numbered, ...] = ()

    @property
    def text(self) -> str:
        """What the worker is told."""
        return rules_text(numbered.rule for numbered in self.rules)

    def configured(self, faults: Sequence[FaultSettings]) -> FaultTable:
        """With these rules of the file: those that it had before keep their ids, and so go on where they are."""
        before = [numbered for numbered in self.rules if numbered.configured]
        last, rules = self.last, list[Numbered]()
        for settings in faults:
            same = next((numbered for numbered in before if numbered.settings == settings), None)
            if same is None:
                last += 1
                same = Numbered(id=last, settings=settings, configured=True)
            else:
                before.remove(same)
            rules.append(same)
        rules += [numbered for numbered in self.rules if not numbered.configured]
        return FaultTable(last=last, rules=tuple(rules[:MAX_RULES]))

    def fitting(self, fabric: Fabric) -> FaultTable:
        """As `fabric`'s file has it: its rules, and those of famezctl's that are right there still."""
        kept = [numbered for numbered in self.rules if numbered.configured or _fits(numbered.settings, fabric)]
        return FaultTable(last=self.last, rules=tuple(kept)).configured(fabric.faults)

    def added(self, settings: FaultSettings) -> FaultTable:
        """With one more rule, at the end; raises TooManyRulesError."""
        if len(self.rules) >= MAX_RULES:
            raise TooManyRulesError(f"there are {MAX_RULES} fault rules already, as many as there can be: clear some")
        numbered = Numbered(id=self.last + 1, settings=settings, configured=False)
        return FaultTable(last=numbered.id, rules=(*self.rules, numbered))

    def cleared(self, number: int | None) -> FaultTable:
        """Without the rule of this id, or without any; raises UnknownRuleError."""
        if number is not None and all(numbered.id != number for numbered in self.rules):
            there = ", ".join(str(numbered.id) for numbered in self.rules) or "none"
            raise UnknownRuleError(f"no fault rule {number}; there are: {there}")
        rules = tuple(numbered for numbered in self.rules if number not in (None, numbered.id))
        return FaultTable(last=self.last, rules=rules)


def _fits(settings: FaultSettings, fabric: Fabric) -> bool:
    return fabric.doorbells == "relayed" and not any(settings.mistakes(fabric))


@dataclass(frozen=True)
class FaultView:
    """A rule, and what it has done."""

    id: int
    rule: str
    """As text, without its id."""
    configured: bool
    seen: int
    """Doorbells, or messages, that it could have struck."""
    struck: int


def look_at_faults(table: FaultTable, page: Page | None) -> tuple[FaultView, ...]:
    """The rules of a fabric with this stats page, if it has one yet."""
    counted = {} if page is None else page.rules()
    views = []
    for numbered in table.rules:
        rule = numbered.rule
        seen, struck = counted.get(rule_key(rule), (0, 0))
        views.append(FaultView(rule.id, rule.text.partition(" ")[2], numbered.configured, seen, struck))
    return tuple(views)
