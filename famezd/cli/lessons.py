"""What famezctl's verbs teach in their `--help`, and in famezctl(1): what to know before, and a line to try."""

from __future__ import annotations

import argparse
from typing import Final, NamedTuple


class Lesson(NamedTuple):
    """What there is to know of a verb."""

    text: str
    examples: tuple[tuple[str, str], ...]
    """Lines to try, each with what it does."""


LESSONS: Final = {
    "": Lesson(
        "",
        (
            ("famezctl status", "all fabrics, and whether they are served"),
            ("famezctl peers lab", "who is on the fabric lab"),
            ("famezctl qemu lab", "what to start QEMU with, for a machine there"),
            ("famezctl fault add lab 1 2 --drop 10%", "lose a tenth of what peer 1 rings peer 2"),
            ("famezctl diff", "what a reload would change"),
            ("famezctl reload", "have changed files in force, unless there is a mistake in them"),
        ),
    ),
    "status": Lesson(
        "What waits for a restart, why a fabric has failed, and what else to look at, stands below the table.\n"
        "Rates are of the last ten seconds or so.",
        (("famezctl status", "exit status 3 if a fabric is not served"),),
    ),
    "watch": Lesson(
        "It draws on the whole terminal; elsewhere it prints one look after the other, with --json each in a line.",
        (
            ("famezctl watch", "all fabrics, every two seconds"),
            ("famezctl watch lab -n 0.5", "who rings on lab, and how much, twice a second"),
        ),
    ),
    "peers": Lesson(
        "An id is a port, unless ports are fresh. A name is what the peer claims: by its slot, or by QEMU's -name.",
        (("famezctl peers lab", "with kind, program, process and user"),),
    ),
    "doorbells": Lesson(
        "They are counted since the fabric began, through deaths of its worker and restarts of famezd.\n"
        "Direct doorbells pass famezd by, and are not counted. A matrix that is wider than the terminal is a list.",
        (
            ("famezctl doorbells lab", "a row for who rang, a column for who was rung"),
            ("famezctl doorbells lab --vectors --list", "as lists, also by vectors"),
        ),
    ),
    "switch": Lesson("With a plug-in it is what that keeps.", (("famezctl switch lab", "a drawing of its ports"),)),
    "reload": Lesson(
        "It returns when all is in force. What would disconnect peers waits for `famezctl restart FABRIC`; where a\n"
        "fabric that has peers would be removed the whole reload is refused, unless it is forced.",
        (
            ("famezctl reload", "what was added, removed and changed, and what waits"),
            ("famezctl reload --force", "removes also what is in use"),
        ),
    ),
    "check": Lesson(
        "Each mistake is a line with file, line, column, key and what would be right; then the exit status is 1.",
        (
            ("famezctl check", "what the running famezd would read"),
            ("famezctl check /etc/famez/famezd.yaml", "this file, and fabrics.d beside it; no famezd is needed"),
        ),
    ),
    "diff": Lesson(
        "The running famezd reads the files, and compares them with what is in force.",
        (("famezctl diff", "for each fabric what would happen to it, and each setting, old -> new"),),
    ),
    "schema": Lesson(
        "Editors complete and check by it; no famezd is needed.",
        (
            ("famezctl schema fabric", "of a file in fabrics.d"),
            ("famezctl schema", "both, by name"),
        ),
    ),
    "restart": Lesson(
        "Doorbells pass on meanwhile, but for a pause of some milliseconds.",
        (("famezctl restart lab", "have settings in force that wait"),),
    ),
    "kick": Lesson(
        "A machine that is disconnected has to be started again: QEMU does not connect a second time.",
        (("famezctl kick lab 3", "by its id"), ("famezctl kick lab vm7", "by its name")),
    ),
    "fault": Lesson(
        "Each of its verbs explains itself with --help; docs/faults.md tells what can be done by it.",
        (
            ("famezctl fault add lab 1 2 --drop 10%", "lose a tenth of what 1 rings 2"),
            ("famezctl fault list lab", "the rules, and how often each struck"),
            ("famezctl fault clear lab", "all is well again"),
        ),
    ),
    "fault add": Lesson(
        "The rule is in force at once, and until it is cleared.",
        (
            ("famezctl fault add lab 1 2 --drop 10%", "lose a tenth of what 1 rings 2"),
            ("famezctl fault add lab '*' switch --delay 1ms..5ms", "what the switch is rung comes late"),
            ("famezctl fault add lab 1 2 --message --drop 1 --seed 7", "messages are lost, as if taken"),
        ),
    ),
    "fault list": Lesson(
        "SEEN is how many doorbells a rule was asked about, STRUCK how many of them it struck.",
        (("famezctl fault list lab", "with the ids that `clear` takes"),),
    ),
    "fault clear": Lesson(
        "Rules of the fabric's file are there again after a reload.",
        (("famezctl fault clear lab 1", "the rule 1"), ("famezctl fault clear lab", "all")),
    ),
    "qemu": Lesson(
        "They are printed as a shell takes them.",
        (
            ("famezctl qemu lab", "any port"),
            ("famezctl qemu lab --port 4", "the port that is pinned to its own socket"),
        ),
    ),
    "libvirt": Lesson(
        "It stands in the domain's <devices>.",
        (
            ("famezctl libvirt lab", "any port"),
            ("famezctl libvirt lab --port 4", "the port that is pinned to its own socket"),
        ),
    ),
    "attach": Lesson(
        "It needs Python's libvirt bindings (python3-libvirt).",
        (
            ("famezctl attach vm7 lab", "at once, if vm7 runs"),
            ("famezctl attach vm7 lab --config", "from its next start on"),
        ),
    ),
}


def taught(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser of famezctl, which teaches all that there is."""
    _teach(parser, "", "")
    return parser


def _teach(parser: argparse.ArgumentParser, verb: str, said: str) -> None:
    """Gives famezctl's parser examples, and each verb below it examples and a description.

    `verb` is which it is, "" for famezctl itself, and `said` what stands in the list of verbs.
    """
    text, examples = LESSONS.get(verb, Lesson("", ()))
    if verb:
        parser.description = f"{said[:1].upper()}{said[1:]}.\n\n{text}".strip()
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
    if examples:
        width = max(len(line) for line, _ in examples)
        shown = "\n".join(f"  {line:<{width}}  {what}" for line, what in examples)
        parser.epilog = f"examples:\n{shown}\n\n{parser.epilog or ''}".rstrip()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                _teach(action.choices[choice.dest], f"{verb} {choice.dest}".strip(), choice.help or "")
        elif action.metavar == "FABRIC" and action.help is None:
            action.help = "the fabric's name"
