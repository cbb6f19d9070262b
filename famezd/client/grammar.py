"""What a command is, and how a line or the shell's words become a call of one.

Importing `famezd.client.commands` fills the list.
"""

from __future__ import annotations

import argparse
import difflib
import math
import shlex
from collections.abc import Callable
from typing import Any, Final, NamedTuple, NoReturn

from famezd.client.peer import ClientError
from famezd.client.results import Emit
from famezd.client.session import Session


class UsageError(ClientError):
    """There is no such command, or it has no such arguments."""


class Quit(Exception):  # noqa: N818 (what is wanted, not an error)
    """The prompt or the script is to end."""


Arguments = argparse.Namespace
Run = Callable[[Session, Arguments, Emit], None]


class Command(NamedTuple):
    """A command."""

    name: str
    run: Run
    parser: argparse.ArgumentParser
    endless: bool
    """Whether Ctrl-C is how it ends, and no failure."""

    @property
    def usage(self) -> str:
        """How it is called."""
        return self.parser.format_usage().removeprefix("usage: ").strip()

    @property
    def help(self) -> str:
        """What it does, in one sentence."""
        return (self.run.__doc__ or "").partition("\n")[0]


class Call(NamedTuple):
    """A command with its arguments."""

    command: Command
    arguments: Arguments

    def run(self, session: Session, emit: Emit) -> None:
        """Runs it; raises FamezError if it could not do what it is for, and Quit if it is the last.

        Ctrl-C ends what is endless, and is passed on where it ends something unfinished.
        """
        try:
            self.command.run(session, self.arguments, emit)
        except KeyboardInterrupt:
            if not self.command.endless:
                raise


COMMANDS: dict[str, Command] = {}
"""All commands by name, in the order in which help shows them."""
DESTINATIONS: Final = """\
DEST is a peer's id, its node name, `switch`, `all` (everybody who is there, this client and the switch included) or
`others` (everybody but this client). Quotes and backslashes are those of a shell. `int` is another name for ring."""
ALIASES: Final = {"int": "ring"}
"""Names that the stock client has for them."""


def understand(words: list[str]) -> Call:
    """The call that words mean; raises UsageError, with the nearest right command, if they mean none."""
    meant = lookup(words[0])
    if words[1:2] in (["-h"], ["--help"]):
        return Call(COMMANDS["help"], Arguments(command=meant.name))
    return Call(meant, meant.parser.parse_args(words[1:]))


def lookup(name: str) -> Command:
    """The command of that name; raises UsageError, with the nearest right one, if there is none."""
    found = COMMANDS.get(ALIASES.get(name, name))
    if found is None:
        near = difflib.get_close_matches(name, [*COMMANDS, *ALIASES], 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UsageError(f"no command {_quoted(name)}{hint}; `help` lists all")
    return found


def split(line: str) -> list[str]:
    """The words of a line, quoted as in a shell; none if it is empty or a comment.

    Raises UsageError if it is cut off.
    """
    if line.lstrip().startswith("#"):
        return []
    try:
        return shlex.split(line)
    except ValueError as e:
        if "quotation" in str(e):
            raise UsageError("a quote is left open; close it, or put a backslash before it") from e
        raise UsageError("a backslash stands at the end; put another before it if it is meant as it is") from e


def _quoted(word: str) -> str:
    return repr(word if len(word) <= 40 else word[:40] + "...")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}; usage: {self.format_usage().removeprefix('usage: ').strip()}")


Argument = tuple[tuple[str, ...], dict[str, Any]]


def argument(*flags: str, **settings: Any) -> Argument:  # noqa: ANN401 (argparse's)
    """An argument of a command, described as to argparse."""
    return flags, settings


def command(*arguments: Argument, rest: str = "", endless: bool = False) -> Callable[[Run], Run]:
    """Makes a function a command, with its own name; `rest` is what its last arguments are, taken as they stand."""

    def register(run: Run) -> Run:
        name = run.__name__.strip("_")
        parser = _Parser(prog=name, add_help=False, allow_abbrev=False, description=run.__doc__)
        for flags, settings in arguments:
            parser.add_argument(*flags, **settings)
        if rest:
            parser.add_argument(rest.lower(), nargs=argparse.REMAINDER, help="taken as it stands")
            # argparse would call it "...".
            parser.usage = parser.format_usage().removeprefix("usage: ").strip().replace("...", rest)
        COMMANDS[name] = Command(name, run, parser, endless)
        return run

    return register


def duration(text: str) -> float:
    """Seconds, more than none."""
    seconds = _number(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, not {text!r}")
    return seconds


def interval(text: str) -> float:
    """Seconds, perhaps none."""
    seconds = _number(text)
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds, 0 or more, not {text!r}")
    return seconds


def whole_number(text: str) -> int:
    """A number of things, perhaps 0."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}")
    return int(text)


def microseconds(text: str) -> int:
    """A whole number, with or without its unit."""
    return whole_number(text.removesuffix("us"))


def vector_or_all(text: str) -> int | None:
    """A vector's number, None for `all`."""
    return None if text == "all" else whole_number(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def explain(name: str | None) -> str:
    """The help of one command, or of all; raises UsageError if there is no such command."""
    if name is None:
        width = max(len(one.usage) for one in COMMANDS.values())
        lines = [f"  {one.usage:<{width}}  {one.help}" for one in COMMANDS.values()]
        return "\n".join([*lines, "", DESTINATIONS])
    return lookup(name).parser.format_help().strip()
