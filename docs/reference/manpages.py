"""The man pages, in mdoc(7): what is written by hand in `pages`, with what the parsers and the settings' models say."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from docs.reference.commands import Command, Option, all_commands
from docs.reference.examples import EXAMPLES
from docs.reference.settings import Section, Setting, sections
from famezd.config import FabricSettings, MainSettings

PAGES = Path(__file__).parent / "pages"
_WIDTH = 78
_NOT_IN_SYNOPSIS = {"--help", "--version"}


def man_pages() -> dict[str, str]:
    """All pages by the names of their files, such as famezd.8."""
    commands = {command.name: command for command in all_commands()}
    fragments: dict[str, Callable[[str], str]] = {
        "SYNOPSIS": lambda name: _synopsis(commands[name]),
        "OPTIONS": lambda name: _options(commands[name].options),
        "COMMANDS": lambda name: _commands(commands[name]),
        "MAIN-SETTINGS": lambda _: _settings(sections(MainSettings)),
        "FABRIC-SETTINGS": lambda _: _settings(sections(FabricSettings)),
        "FILES": lambda _: "\n.Pp\n".join(_file(name, text) for name, text in EXAMPLES.items()),
        "EXAMPLES": lambda name: _examples(commands[name]),
        "EXIT-STATUS": lambda name: _statuses(commands[name]),
    }

    def filled(page: Path) -> str:
        lines = page.read_text().splitlines()
        made = [fragments[line.strip("@")](page.stem) if re.fullmatch("@[A-Z-]+@", line) else line for line in lines]
        return "\n".join([f'.\\" Made by `make reference` from docs/reference/pages/{page.name}.', *made, ""])

    return {page.name: filled(page) for page in sorted(PAGES.glob("*.[158]"))}


def _synopsis(command: Command) -> str:
    lines = [".Nm"]
    for option in command.options:
        if not _NOT_IN_SYNOPSIS & set(option.flags):
            lines.append(f".Op {_flag(option, option.flags[0])}")
    return "\n".join(lines)


def _options(options: Sequence[Option]) -> str:
    if not options:
        return ""
    items = [".Bl -tag -width Ds"]
    for option in options:
        items += [".It " + " , ".join(_flag(option, flag) for flag in option.flags), text(option.help)]
    return "\n".join([*items, ".El"])


def _flag(option: Option, flag: str) -> str:
    argument = f" {'Op ' if option.optional else ''}Ar {option.value}" if option.value else ""
    return f"Fl {flag[1:]}{argument}"


def _commands(command: Command) -> str:
    items = [".Bl -tag -width Ds"]
    for path, sub in command.walk()[1:]:
        if sub.commands:
            continue
        options = [option for option in sub.options if "--help" not in option.flags]
        head = [".It Cm", *path.split("/")[1:]]
        if options:
            head.append("Oo Ar options Oc")
        for place in sub.places:
            head.append(f"Oo Ar {place.name} Oc" if place.optional else f"Ar {place.name}")
        items += [" ".join(head), text(sub.description or sub.help)]
        if options:
            items.append(_options(options))
        items += [f".Dl {escaped(example.line)}" for example in sub.examples]
    return "\n".join([*items, ".El"])


def _settings(found: list[Section]) -> str:
    lines = []
    for section in found:
        if section.key:
            lines += [f".Ss {section.key}", text(section.text)]
        lines.append(".Bl -tag -width Ds")
        lines += [_setting(setting) for setting in section.settings]
        lines.append(".El")
    return "\n".join(lines)


def _setting(setting: Setting) -> str:
    lines = [f".It Ic {setting.key}", text(setting.text), ".br", text(f"Allowed: {setting.allowed}.")]
    lines.append(text(f"Default: {setting.default}."))
    if setting.examples:
        lines.append(text(f"Examples: {'; '.join(setting.examples)}"))
    return "\n".join(lines)


def _examples(command: Command) -> str:
    return "\n.Pp\n".join(f"{text(shown.text)}:\n.Pp\n.Dl {escaped(shown.line)}" for shown in command.examples)


def _statuses(command: Command) -> str:
    items = [f".It {status}\n{text(meaning)}" for status, meaning in command.statuses]
    return "\n".join([".Bl -tag -width Ds", *items, ".El"])


def _file(name: str, example: str) -> str:
    lines = [escaped(line) for line in example.rstrip().splitlines()]
    return "\n".join([f".Pa /etc/famez/{name} :", ".Bd -literal -offset indent", *lines, ".Ed"])


def text(prose: str) -> str:
    """Prose as lines of mdoc, of which each sentence begins one; a paragraph's end is an empty line."""
    paragraphs = re.split(r"\n\s*\n", prose.strip())
    return "\n.Pp\n".join(_paragraph(paragraph) for paragraph in paragraphs)


def _paragraph(prose: str) -> str:
    sentences = re.split(r"(?<=[.;])\s+(?=[A-Z])", " ".join(prose.split()))
    lines = [line for sentence in sentences for line in textwrap.wrap(sentence, _WIDTH, break_on_hyphens=False)]
    return "\n".join(map(escaped, lines))


def escaped(line: str) -> str:
    r"""A line that is no macro, and in which nothing is one: "-" is the ASCII one, to be copied."""
    line = line.replace("\\", r"\e").replace("-", r"\-").replace("`", r"\(ga").replace("'", r"\(aq")
    return rf"\&{line}" if line.startswith((".", "\\(aq")) else line
