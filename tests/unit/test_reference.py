"""What users look things up in: it is up to date, well-formed, and its examples are right."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from docs.reference.commands import Command, all_commands, from_parser
from docs.reference.completions import completions
from docs.reference.examples import EXAMPLES
from docs.reference.outputs import ROOT, outputs
from docs.reference.settings import Setting, sections
from famezd.cli import famez_client, famez_server, famezctl, famezd
from famezd.cli.lessons import LESSONS
from famezd.client.grammar import understand
from famezd.config import ConfigError, FabricSettings, MainSettings, Problem, load
from famezd.faults import KINDS
from famezd.stats import LEAVES, REFUSALS, TOTALS
from tests.needs import need

ENVIRON = {"RUNTIME_DIRECTORY": "/run/famez"}
COMMANDS = {command.name: command for command in all_commands()}
MAKERS = {"famezd": famezd, "famezctl": famezctl, "famez-client": famez_client, "famez-server": famez_server}
OUTPUTS = outputs()
PAGES = sorted(ROOT.glob("packaging/man/*"))
GENERATED = (
    "packaging/man",
    "packaging/completions",
    "packaging/schema",
    "packaging/journal",
    "packaging/grafana/dashboards",
)


class TestUpToDate:
    @pytest.mark.parametrize("name", OUTPUTS)
    def test_as_made_now(self, name: str) -> None:
        path = ROOT / name
        there = path.read_text() if path.exists() else ""
        assert there == OUTPUTS[name], f"{name} is out of date: run `make reference`"

    def test_nothing_else_is_there(self) -> None:
        there = {str(path.relative_to(ROOT)) for d in GENERATED for path in (ROOT / d).rglob("*") if path.is_file()}
        assert there == {name for name in OUTPUTS if name.startswith("packaging/")}


def settings(model: type[BaseModel]) -> list[Setting]:
    return [setting for section in sections(model) for setting in section.settings]


def leaves(schema: dict[str, Any], node: dict[str, Any]) -> int:
    """How many settings a JSON Schema describes, each place that uses a model counted."""
    count = 0
    for setting in node["properties"].values():
        inner = re.findall(r'"#/\$defs/(\w+)"', json.dumps(setting))
        count += sum(leaves(schema, schema["$defs"][name]) for name in inner)
        count += "$ref" not in setting
    return count


class TestSettings:
    @pytest.mark.parametrize("model", [MainSettings, FabricSettings])
    def test_every_setting_is_there(self, model: type[BaseModel]) -> None:
        schema = model.model_json_schema()
        assert len(settings(model)) == leaves(schema, schema)
        assert all(setting.text and setting.allowed for setting in settings(model))

    @pytest.mark.parametrize(
        ("model", "key", "value"),
        [
            (model, setting.key, value)
            for model in (MainSettings, FabricSettings)
            for setting in settings(model)
            for value in setting.examples
        ],
    )
    def test_examples_are_right(self, tmp_path: Path, model: type[BaseModel], key: str, value: str) -> None:
        (tmp_path / "fabrics.d").mkdir()
        main, fabric = tmp_path / "famezd.yaml", tmp_path / "fabrics.d" / "lab.yaml"
        main.write_text(nested(key, value) if model is MainSettings else "")
        personality = "" if key == "personality" else "personality: genz\n"
        fabric.write_text(personality + nested(key, value) if model is FabricSettings else "")
        problems = list_problems(main)
        # Not every system has the users, groups and certificates that serve as examples.
        absent = r"this system has no (user|group) '|No such file or directory"
        assert [p for p in problems if not re.search(absent, p.message)] == []

    def test_example_files(self, tmp_path: Path) -> None:
        for name, text in EXAMPLES.items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        config = load(tmp_path / "famezd.yaml", environ=ENVIRON)
        assert [*config.fabrics] == ["fast", "gang"]
        assert str(config.fabrics["gang"].pins[1].path) == "/run/famez/gang.1.sock"


def list_problems(path: Path) -> Sequence[Problem]:
    try:
        load(path, environ=ENVIRON)
    except ConfigError as e:
        return e.problems
    return ()


def nested(key: str, value: str) -> str:
    """One setting as YAML, with what must stand beside it: a file has a path, and a rule does something."""
    group, _, name = key.rpartition(".")
    beside = {"mailbox.path": ", backing: file"}.get(key, "")
    if group == "faults[]" and name not in KINDS:
        beside = ", drop: 1"
    text = f"{name}: {value}{beside}"
    for part in reversed(group.split(".") if group else []):
        inner = f"[{{{text}}}]" if part.endswith("[]") else f"{{{text}}}"
        text = f"{part.removesuffix('[]').replace('PORT', '1')}: {inner}"
    return f"{text}\n"


class TestSchemas:
    """What editors go by is right about every file that we show, and about mistakes."""

    @staticmethod
    def schema(path: str) -> Any:
        schema = json.loads((ROOT / "packaging" / "schema" / Path(path).name).read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        return schema

    @pytest.mark.parametrize("path", sorted((ROOT / "etc" / "famez").rglob("*.yaml")), ids=lambda path: path.name)
    def test_installed_examples(self, path: Path) -> None:
        first, _, rest = path.read_text().partition("\n")
        found = re.fullmatch(r"# yaml-language-server: \$schema=/usr/share/famezd/schema/(\S+)", first)
        assert found is not None
        # With all that is commented out, too.
        shown = yaml.safe_load(re.sub("^#(?=(  )?[a-z_]+:( |$))", "", rest, flags=re.MULTILINE))
        jsonschema.validate(shown, self.schema(found[1]))

    @pytest.mark.parametrize("name", EXAMPLES)
    def test_examples(self, name: str) -> None:
        schema = "fabric.schema.json" if name.startswith("fabrics.d") else "famezd.schema.json"
        # In JSON every key is text.
        jsonschema.validate(json.loads(json.dumps(yaml.safe_load(EXAMPLES[name]))), self.schema(schema))

    @pytest.mark.parametrize(
        "wrong",
        ["peers: 0", "ports: stiky", "pears: 3", "mailbox: {size: 4Q}", "faults: [{drop: 2}]", "pins: {x: {user: a}}"],
    )
    def test_mistakes(self, wrong: str) -> None:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(yaml.safe_load(wrong), self.schema("fabric.schema.json"))


class TestManPages:
    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_no_warnings(self, page: Path) -> None:
        for linter in (
            [str(need("mandoc", "mandoc")), "-T", "lint", "-W", "warning", str(page)],
            [str(need("man", "man-db")), "--warnings", "-E", "UTF-8", "-P", "cat", "-l", str(page)],
        ):
            environ = os.environ | {"LC_ALL": "C.UTF-8", "MANWIDTH": "100", "MAN_KEEP_FORMATTING": ""}
            done = subprocess.run(linter, env=environ, capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert page.stem in done.stdout

    @pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
    def test_tell_every_option_and_command(self, command: Command) -> None:
        (page,) = ROOT.glob(f"packaging/man/{command.name}.[18]")
        shown = rendered(page)
        for path, sub in command.walk():
            assert " ".join(path.split("/")[1:]) in shown
            for option in sub.options:
                if "--help" not in option.flags:
                    assert all(flag in shown for flag in option.flags)
        assert len(command.statuses) >= 2
        assert all(meaning in shown for _, meaning in command.statuses)

    def test_tell_every_setting(self) -> None:
        shown = rendered(ROOT / "packaging" / "man" / "famezd.yaml.5")
        for model in (MainSettings, FabricSettings):
            assert [setting.key for setting in settings(model) if f" {setting.key} " not in shown] == []


def rendered(page: Path) -> str:
    """A page as it is read, on one line."""
    man = [str(need("man", "man-db")), "-E", "ascii", "-P", "cat", "-l", str(page)]
    environ = os.environ | {"LC_ALL": "C.UTF-8", "MANWIDTH": "2000"}
    done = subprocess.run(man, env=environ, capture_output=True, text=True, check=True)
    return " ".join(re.sub(".\b", "", done.stdout).split())


class TestHelp:
    @pytest.mark.parametrize(("path", "command"), [found for command in COMMANDS.values() for found in command.walk()])
    def test_examples_are_right(self, path: str, command: Command) -> None:
        if path.startswith("famezctl") or "/" not in path:
            assert command.examples or command.commands
        for example in command.examples:
            name, *words = shlex.split(example.line)
            assert example.text
            assert " ".join([name, *words]).startswith(path.replace("/", " "))
            arguments = MAKERS[name].make_parser().parse_args(words)
            if name == "famez-client" and arguments.command:
                understand(arguments.command)

    @pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
    def test_everything_is_explained(self, command: Command) -> None:
        for path, sub in command.walk():
            assert sub.help, path
            assert all(option.help for option in sub.options), path

    def test_every_lesson_is_of_a_verb(self) -> None:
        verbs = {" ".join(path.split("/")[1:]) for path, _ in COMMANDS["famezctl"].walk()}
        assert LESSONS.keys() - verbs == set()

    def test_verbs_are_explained_in_sentences_and_by_examples(self) -> None:
        for path, sub in COMMANDS["famezctl"].walk():
            assert sub.description[0].isupper(), path
            assert sub.description.endswith("."), path
            assert [place for place in sub.places if not place.help] == [], path

    def test_trees_are_the_parsers(self) -> None:
        assert from_parser(famezd.make_parser()) == COMMANDS["famezd"]
        assert {sub.name for sub in COMMANDS["famez-client"].commands} > {"ping", "send", "int"}


class TestDocs:
    def test_readme_links_to_all_pages(self) -> None:
        linked = set(re.findall(r"\]\((docs/[a-z-]+\.md)", (ROOT / "README.md").read_text()))
        assert {str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md")} == linked

    def test_the_architecture_names_every_module(self) -> None:
        modules = (ROOT / "docs/architecture.md").read_text().partition("## Modules")[2].partition("## Glossary")[0]
        named = {word.replace("-", "_") for word in re.findall(r"[a-z_-]+", modules)}
        there = {path.stem for path in ROOT.glob("famezd/**/*.py") if not path.stem.startswith("__")}
        assert there - named == set()

    @pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))], ids=lambda page: page.name)
    def test_links_lead_somewhere(self, page: Path) -> None:
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text()):
            there = page.parent / target if target else page
            assert there.exists(), target
            if anchor:
                headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
                assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]

    def test_metrics_tell_every_reason(self) -> None:
        page = (ROOT / "docs" / "metrics.md").read_text()
        refusals = {*REFUSALS, *(total for total in TOTALS if total.startswith("refused_"))}
        reasons = {reason.partition("_")[2] for reason in (*LEAVES, *refusals)}
        assert {reason for reason in reasons if f"| `{reason}` |" not in page} == set()
        assert {kind for kind in KINDS if f"`{kind}`" not in page} == set()


def test_completions_are_for_every_command_and_shell() -> None:
    assert len(completions()) == 3 * len(COMMANDS)
