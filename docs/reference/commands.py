"""The commands as trees of options, places and subcommands, taken from their parsers."""

from __future__ import annotations

import argparse
import inspect
import re
from typing import NamedTuple

from famezd.cli import famez_client, famez_server, famezctl, famezd
from famezd.client.grammar import ALIASES, COMMANDS

_FIRST_WORDS = "all", "others", "switch"
_KINDS: dict[str | None, str] = {
    "FILE": "@files",
    "PATH": "@files",
    "SOCKET": "@files",
    "DIR": "@directories",
    "FABRIC": "@fabrics",
    "PEER": "@peers",
    "SRC": "@peers switch",
    "DST": "@peers switch",
    "DEST": f"@peers {' '.join(_FIRST_WORDS)}",
    "COMMAND": " ".join(COMMANDS),
    "VECTOR|all": "all",
}
"""What an argument can be, by its name: words, and what begins with @ is to be looked up."""


class Option(NamedTuple):
    """An option."""

    flags: tuple[str, ...]
    value: str
    """What its argument is called, "" if it takes none."""
    wanted: str
    """What its argument can be, as in `Place`."""
    help: str
    optional: bool
    """Whether it does without its argument, so that the word that follows may be another's."""

    @property
    def takes(self) -> bool:
        """Whether the word that follows is its argument."""
        return bool(self.value) and not self.optional


class Place(NamedTuple):
    """An argument that is no option."""

    name: str
    wanted: str
    """Words to complete it from; those that begin with @ stand for what is to be looked up."""
    optional: bool
    help: str


class Example(NamedTuple):
    """A command line to try, from the command's help."""

    line: str
    text: str


class Command(NamedTuple):
    """A command, or one of its subcommands."""

    name: str
    help: str
    """One sentence."""
    description: str
    """All that there is to say, "" if it is no more than that."""
    options: tuple[Option, ...]
    places: tuple[Place, ...]
    commands: tuple[Command, ...]
    statuses: tuple[tuple[str, str], ...]
    """Exit statuses, and what they mean."""
    examples: tuple[Example, ...]

    def walk(self, above: str = "") -> list[tuple[str, Command]]:
        """All, itself first, each with the path to it, such as "famezctl/fault/add"."""
        path = above + self.name
        return [(path, self), *(found for sub in self.commands for found in sub.walk(f"{path}/"))]


def all_commands() -> list[Command]:
    """The four programs."""
    client = from_parser(famez_client.make_parser())
    verbs = [from_parser(command.parser, command.help) for command in COMMANDS.values()]
    # The client says what its commands are itself, rather than by its parser.
    help_option = next(option for option in client.options if "--help" in option.flags)
    verbs += [verb._replace(name=alias) for alias, name in ALIASES.items() for verb in verbs if verb.name == name]
    verbs = [verb._replace(options=(help_option, *verb.options)) for verb in verbs]
    return [
        from_parser(famezd.make_parser()),
        from_parser(famezctl.make_parser()),
        client._replace(places=(), commands=tuple(verbs)),
        from_parser(famez_server.make_parser()),
    ]


def from_parser(parser: argparse.ArgumentParser, text: str = "") -> Command:
    """The tree of a parser; `text` is what its parent says of it."""
    options, places, commands = [], [], []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            commands = [from_parser(sub, helps[name]) for name, sub in action.choices.items()]
        elif action.option_strings:
            options.append(_option(action))
        else:
            name = str(action.metavar or action.dest.upper())
            places.append(Place(name, _wanted(action, name), action.nargs in ("?", "*"), _help(action)))
    name = parser.prog.rpartition(" ")[2]
    description = inspect.cleandoc(parser.description or "")
    return Command(
        name,
        text or description,
        description,
        tuple(options),
        tuple(places),
        tuple(commands),
        _statuses(parser.epilog or ""),
        _examples(parser.epilog or ""),
    )


def _statuses(epilog: str) -> tuple[tuple[str, str], ...]:
    """Those of "exit status: 0 done; 1 not done", a sentence that begins a line."""
    found = re.search(r"^exit status: (.*?)(?:\.\s|\n\n|\Z)", epilog, re.MULTILINE | re.DOTALL)
    statuses = re.split(r"; (?=[0-9]+ )", " ".join(found[1].split())) if found else []
    return tuple((number, meaning) for number, _, meaning in (status.partition(" ") for status in statuses))


def _examples(epilog: str) -> tuple[Example, ...]:
    """Those of the paragraph "examples:", a line each, with what it does behind two blanks or more."""
    found = re.search(r"^examples:\n(.*?)(?:\n\n|\Z)", epilog, re.MULTILINE | re.DOTALL)
    lines = found[1].splitlines() if found else []
    return tuple(Example(*re.split(" {2,}", line.strip(), maxsplit=1)) for line in lines)


def _option(action: argparse.Action) -> Option:
    takes = action.nargs != 0
    value = str(action.metavar or ("|".join(action.choices) if action.choices else action.dest.upper()))
    wanted = _wanted(action, value)
    flags, optional = tuple(action.option_strings), action.nargs == "?"
    return Option(flags, value if takes else "", wanted if takes else "", _help(action), optional)


def _wanted(action: argparse.Action, name: str) -> str:
    return " ".join(map(str, action.choices)) if action.choices else _KINDS.get(name, "")


def _help(action: argparse.Action) -> str:
    return (action.help or "") % vars(action)
