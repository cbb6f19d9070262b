"""Completions for bash, zsh and fish: tables made from the commands' trees, and what reads them, kept in `shells`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from docs.reference.commands import Command, Option, all_commands

_COMMON = {shell: Path(__file__).with_name("shells").joinpath(f"common.{shell}") for shell in ("bash", "zsh", "fish")}
_HEAD = "# Completion for {}; made by `make reference` from its options."


def completions() -> dict[str, str]:
    """All files by their names below packaging/completions, as the shells want them called."""
    made = {}
    for command in all_commands():
        made[f"bash/{command.name}"] = _bash(command)
        made[f"zsh/_{command.name}"] = _zsh(command)
        made[f"fish/{command.name}.fish"] = _fish(command)
    return made


def _head(command: Command) -> str:
    return _HEAD.format(command.name)


def _flags(command: Command) -> Iterator[tuple[str, Option]]:
    return ((flag, option) for option in command.options for flag in option.flags)


def _table(name: str, rows: dict[str, str]) -> str:
    lines = [f"        [{shlex.quote(key)}]={shlex.quote(value)}" for key, value in rows.items()]
    return "\n".join([f"    local -A {name}=(", *lines, "    )"])


def _bash(command: Command) -> str:
    takes: dict[str, str] = {}
    offers: dict[str, str] = {}
    places: dict[str, str] = {}
    for path, sub in command.walk():
        takes |= {f"{path} {flag}": option.wanted for flag, option in _flags(sub) if option.takes}
        offers[path] = " ".join(flag for flag, _ in _flags(sub))
        places |= {f"{path} {n}": place.wanted for n, place in enumerate(sub.places, 1) if place.wanted}
        if sub.commands:
            places[f"{path} 1"] = " ".join(inner.name for inner in sub.commands)
    function = f"_{command.name.replace('-', '_')}"
    tables = [_table("takes", takes), _table("offers", offers), _table("places", places)]
    body = [f"{function}() {{", *tables, f"    _famez_complete {command.name}", "}"]
    lines = [_head(command), "", _COMMON["bash"].read_text(), *body, f"complete -F {function} {command.name}", ""]
    return "\n".join(lines)


_ZSH_ACTIONS = {"@files": "_files", "@directories": "_files -/", "@fabrics": "_famez_fabrics", "": " "}


def _zsh(command: Command) -> str:
    bodies = [_zsh_function(path, sub) for path, sub in command.walk()]
    lines = [f"#compdef {command.name}", _head(command), "", _COMMON["zsh"].read_text(), *bodies]
    return "\n".join([*lines, f'_{command.name} "$@"', ""])


def _zsh_function(path: str, sub: Command) -> str:
    """A function that completes the arguments of one command; those with subcommands hand on to theirs."""
    specs = [_zsh_option(option) for option in sub.options]
    for n, place in enumerate(sub.places, 1):
        specs.append(shlex.quote(f"{n}:{_zsh_escaped(place.name)}:{_zsh_action(place.wanted)}"))
    if sub.commands:
        specs += ["'1: :->command'", "'*:: :->rest'"]
    local = "    local curcontext=$curcontext state state_descr line\n    local -A opt_args\n"
    if "/" not in path:
        local += "    local control fabric\n"
    arguments = "    _arguments -C -s -S \\\n" + " \\\n".join(f"        {spec}" for spec in specs)
    return f"{_zsh_name(path)}() {{\n{local}{arguments}\n{_zsh_dispatch(path, sub)}}}\n"


def _zsh_name(path: str) -> str:
    return f"_{path.replace('/', '-')}"


_ZSH_CONTROL = """\
    control=${(Q)${opt_args[-s]:-${opt_args[--socket]}}}
"""
_ZSH_CLIENT = """\
    fabric=${(Q)${opt_args[-f]:-${opt_args[--fabric]}}} control=${(Q)${opt_args[-S]:-${opt_args[--socket]}}}
    # It is told the fabric's own socket; famezctl's is beside it.
    [[ -z $control ]] || fabric=${control:t:r} control=${control:h}/control.sock
"""
_ZSH_DISPATCH = """\
    case $state in
        (command)
            local -a commands=(
{described}
            )
            _describe command commands ;;
        (rest)
            case $words[1] in
{inner}
            esac ;;
    esac
"""


def _zsh_dispatch(path: str, sub: Command) -> str:
    if not sub.commands:
        return ""
    described = (f"                {shlex.quote(f'{_zsh_escaped(one.name)}:{one.help}')}" for one in sub.commands)
    inner = (f"                ({one.name}) {_zsh_name(f'{path}/{one.name}')} ;;" for one in sub.commands)
    who = {"famezctl": _ZSH_CONTROL, "famez-client": _ZSH_CLIENT}.get(path, "")
    return who + _ZSH_DISPATCH.format(described="\n".join(described), inner="\n".join(inner))


def _zsh_option(option: Option) -> str:
    text = f"[{_zsh_escaped(option.help)}]"
    if option.takes:
        text += f":{_zsh_escaped(option.value)}:{_zsh_action(option.wanted)}"
    others = f"({' '.join(option.flags)})"
    # With = behind it the value may stand in the same word.
    flags = [f"{flag}=" if option.takes and flag.startswith("--") else flag for flag in option.flags]
    if len(flags) == 1:
        return shlex.quote(f"{others}{flags[0]}{text}")
    return f"{shlex.quote(others)}{{{','.join(flags)}}}{shlex.quote(text)}"


def _zsh_action(wanted: str) -> str:
    first, _, words = wanted.partition(" ")
    if first == "@peers":
        return f"_famez_peers {words}".rstrip()
    return _ZSH_ACTIONS.get(first, f"({wanted})")


def _zsh_escaped(text: str) -> str:
    return "".join(f"\\{c}" if c in "[]:\\" else c for c in text)


def _fish(command: Command) -> str:
    name = command.name.replace("-", "_")
    found = command.walk()
    takes = [f"{path} {flag}" for path, sub in found for flag, option in _flags(sub) if option.takes]
    common = _COMMON["fish"].read_text().replace("NAME", name).replace("COMMAND", command.name)
    lines = [
        _head(command),
        "",
        f"set -g __{name}_takes {shlex.join(takes)}",
        f"set -g __{name}_paths {shlex.join(path for path, _ in found)}",
        "",
        common,
        f"complete -c {command.name} -f",
    ]
    lines += [f"complete -c {command.name} {line}" for path, sub in found for line in _fish_lines(name, path, sub)]
    return "\n".join([*lines, ""])


def _fish_lines(name: str, path: str, sub: Command) -> Iterator[str]:
    for option in sub.options:
        flags = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags)
        needed = ("-r " if option.wanted == "@files" else "-x ") if option.takes else ""
        wanted = _fish_wanted(name, option.wanted)
        yield f"-n '__{name}_in {path}' {flags} {needed}{wanted}-d {_fish_quote(option.help)}"
    for inner in sub.commands:
        yield f"-n '__{name}_at {path} 1' -a {inner.name} -d {_fish_quote(inner.help)}"
    for n, place in enumerate(sub.places, 1):
        if place.wanted:
            wanted = _fish_wanted(name, place.wanted)
            yield f"-n '__{name}_at {path} {n}' {wanted}-d {_fish_quote(place.help or place.name)}"


def _fish_wanted(name: str, wanted: str) -> str:
    first, _, words = wanted.partition(" ")
    looked_up = {
        "@files": "-F",
        "@directories": "-a '(__fish_complete_directories)'",
        "@fabrics": f"-a '(__{name}_ask status)'",
        "@peers": f"-a {shlex.quote(f'(__{name}_ask peers) {words}'.strip())}",
    }
    return looked_up.get(first, f"-a {shlex.quote(wanted)}") + " " if wanted else ""


def _fish_quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
