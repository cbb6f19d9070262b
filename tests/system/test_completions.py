"""Completions: what bash, zsh and fish themselves offer on a line, of a famezd that runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from famezd.client import Mailbox
from tests.daemon import BIN, Famezd, eventually
from tests.needs import need
from tests.terminal import Terminal

COMPLETIONS = Path(__file__).parents[2] / "packaging" / "completions"
Ask = Callable[[str], set[str]]

NAMES = ("first", "$(touch hacked)", "`touch hacked`", "-s")
"""Of peers 1 to 4; a guest chooses its name."""
PEERS = {"1", "first", "2", "3", "4", "5", "Z-switch"}
"""What is offered of them, and of the switch."""

BASH = """\
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
complete -p "$1" >/dev/null || exit
"_${1//-/_}"
[[ ${#COMPREPLY[@]} == 0 ]] || printf '%s\\n' "${COMPREPLY[@]}"
"""
ZSH = """\
fpath=({completions} $fpath)
autoload -U compinit && compinit -u -D
# What becomes a match is written down; what zsh's own functions only ask (-O, -A, -D) does not become one.
compadd() {{
    if [[ -z ${{(M)@:#-[OAD]}} ]]; then
        local -a found
        builtin compadd -O found "$@"
        print -rl -- $found >> {offered}
    fi
    builtin compadd "$@"
}}
offer() {{ zle complete-word; : > {done} }}
zle -N offer
bindkey '^I' offer
: > {ready}
"""


class Place:
    """A running famezd with two fabrics, and a directory in which the shells run."""

    def __init__(self, directory: Path, famezd: Famezd) -> None:
        self.directory = directory
        self.control = famezd.runtime / "control.sock"
        self.lab = famezd.socket("lab")
        self.environ = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOME": str(directory),
            "RUNTIME_DIRECTORY": str(famezd.runtime),
            "LC_ALL": "C.UTF-8",
        }

    def run(self, *command: str | Path) -> list[str]:
        done = subprocess.run(
            command, cwd=self.directory, env=self.environ, capture_output=True, text=True, check=False, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    def bash(self, line: str) -> list[str]:
        words = shlex.split(line) + ([""] if line.endswith(" ") else [])
        # As bash does at what is in COMP_WORDBREAKS.
        words = [part for word in words for part in re.split("(=)", word)]
        return self.run("bash", "-c", BASH, "bash", COMPLETIONS / "bash" / words[0], *words)

    def fish(self, line: str) -> list[str]:
        fish, file = need("fish", "fish"), COMPLETIONS / "fish" / f"{line.split(maxsplit=1)[0]}.fish"
        offered = self.run(fish, "--no-config", "-c", f"source {file}; complete -C {shlex.quote(line)}")
        return [word.partition("\t")[0] for word in offered]

    def zsh(self, line: str) -> list[str]:
        files = {name: self.directory / f"zsh-{name}" for name in ("ready", "done", "offered")}
        for file in files.values():
            file.unlink(missing_ok=True)
        (self.directory / ".zshrc").write_text(ZSH.format(completions=COMPLETIONS / "zsh", **files))
        with Terminal(self.directory, [need("zsh", "zsh"), "-d", "-i"], self.environ) as terminal:
            eventually(files["ready"].exists, "zsh's first prompt")
            terminal.keys(line)
            terminal.press("Tab")
            eventually(files["done"].exists, f"the completion of {line}")
        return files["offered"].read_text().split() if files["offered"].exists() else []


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("completions")
    lab = {"personality": "genz", "peers": len(NAMES), "vectors": 16}
    with Famezd(directory, {"lab": lab, "little": {"peers": 2}}) as famezd, ExitStack() as peers:
        for name in NAMES:
            Mailbox(peers.enter_context(famezd.join("lab")), nodename=name)
        yield Place(directory, famezd)


@pytest.fixture(params=["bash", "zsh", "fish"])
def offered(request: pytest.FixtureRequest, place: Place) -> Ask:
    """What a shell offers on a line, in which {control} and {lab} are those sockets."""

    def ask(line: str) -> set[str]:
        words: list[str] = getattr(place, request.param)(line.format(control=place.control, lab=place.lab))
        return set(words)

    return ask


def test_verbs_and_options(offered: Ask) -> None:
    assert offered("famezctl st") == {"status"}
    assert offered("famezctl fault ") == {"add", "clear", "list"}
    assert offered("famezctl fault add lab 1 2 --d") == {"--delay", "--drop", "--duplicate"}
    assert offered("famezd --ch") == {"--check"}
    assert offered("famez-client wi") == {"withdraw"}
    assert offered("famez-server --personality ") == {"genz", "plain"}


def test_fabrics(offered: Ask) -> None:
    assert offered("famezctl -s {control} peers ") == {"lab", "little"}
    assert offered("famezctl fault add li") == {"little"}
    assert offered("famez-client -f ") == {"lab", "little"}


def test_peers(offered: Ask, place: Place) -> None:
    assert offered("famezctl -s {control} kick lab ") == PEERS
    assert offered("famezctl fault add --drop 10% lab ") == PEERS | {"switch"}
    assert offered("famez-client -f lab ring ") == PEERS | {"all", "others", "switch"}
    assert offered("famez-client -S {lab} send -t 1 Z") == {"Z-switch"}
    assert not (place.directory / "hacked").exists()


def test_what_is_typed_is_not_run(offered: Ask, place: Place) -> None:
    offered("famezctl '$(touch hacked)' '$(touch hacked)' ")
    offered("famezctl -s '$(touch hacked)' peers ")
    assert not (place.directory / "hacked").exists()


def test_files(offered: Ask) -> None:
    assert offered("famezd -c famezd.y") == {"famezd.yaml"}
    assert "run" in [word.rstrip("/") for word in offered("famez-server -m r")]


def test_nobody_to_ask(offered: Ask) -> None:
    assert offered("famezctl -s /nowhere.sock peers ") == set()
    assert offered("famezctl --socket=/nowhere.sock peers ") == set()
