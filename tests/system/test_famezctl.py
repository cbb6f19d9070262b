"""famezctl as operators use it, on a famezd that runs; and docs/famezctl.md, held against what it really answers."""

from __future__ import annotations

import grp
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from famezd.cli.famezctl import FABRIC_DOWN, NOT_DONE
from famezd.client import ClientError, Peer
from tests.daemon import BIN, Famezd, eventually
from tests.terminal import Terminal

LAB: dict[str, Any] = {"personality": "genz", "peers": 14, "vectors": 16}
PLAIN: dict[str, Any] = {"peers": 3, "vectors": 2}
SWITCH_ID = LAB["peers"] + 1
DOCUMENT = Path(__file__).parents[2] / "docs" / "famezctl.md"


@pytest.fixture
def famezd(tmp_path: Path) -> Iterator[Famezd]:
    with Famezd(tmp_path, {"lab": LAB, "plain": PLAIN, "old": PLAIN}) as famezd:
        yield famezd


def file(famezd: Famezd, name: str) -> Path:
    return famezd.config.parent / "fabrics.d" / f"{name}.yaml"


def define(famezd: Famezd, name: str, **changes: object) -> None:
    """Writes a fabric's file, as it was but for what is changed."""
    before = yaml.safe_load(file(famezd, name).read_text()) if file(famezd, name).exists() else {}
    file(famezd, name).write_text(yaml.safe_dump(before | changes))


def ctl(famezd: Famezd, *arguments: str) -> list[str]:
    """The command for famezctl where it is not only run and waited for."""
    return [str(BIN / "famezctl"), "-s", str(famezd.runtime / "control.sock"), *arguments]


def answer(famezd: Famezd, *arguments: str, status: int = 0) -> Any:
    """What famezctl answers in JSON."""
    done = famezd.ctl(*arguments, "--json")
    assert (done.returncode, done.stderr) == (status, "")
    return json.loads(done.stdout)


def fabric(famezd: Famezd, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(f for f in answer(famezd, "status")["fabrics"] if f["name"] == name)
    return found


# status


def test_the_status_tells_how_much_is_rung(famezd: Famezd) -> None:
    eventually(lambda: fabric(famezd, "lab")["rates"], "there are rates")
    with famezd.join("lab") as one, famezd.join("lab") as other:
        for _ in range(100):
            one.ring(other.id, 3)

        def rung(name: str) -> int:
            rates: dict[str, float] = fabric(famezd, name)["rates"]
            return round(rates["doorbells"] * rates["over"])

        eventually(lambda: rung("lab") == 100, "they are in the rate")
        assert rung("plain") == 0
        assert "RUNG/S: doorbells a second, over the last " in famezd.ctl("status").stdout


def test_the_status_tells_what_to_look_at(famezd: Famezd) -> None:
    assert {f["health"] for f in answer(famezd, "status")["fabrics"]} == {"ok"}
    peers = [famezd.join("plain") for _ in range(3)]
    try:
        eventually(lambda: fabric(famezd, "plain")["rates"], "there was time to look")
        with pytest.raises(ClientError, match="refuses"):
            famezd.join("plain")
        full, refused = "there is no room for another peer", r"in the last \d+ s newcomers were refused \(full 1\)"
        seen = fabric(famezd, "plain")
        assert seen["health"] == "warning"
        assert full in seen["remarks"]
        assert any(re.fullmatch(refused, remark) for remark in seen["remarks"])
        assert f"fabric plain: {full}" in famezd.ctl("status").stdout.splitlines()
    finally:
        for peer in peers:
            peer.leave()
    eventually(lambda: full not in fabric(famezd, "plain")["remarks"], "there is room again")


def test_fault_rules_in_force_are_a_remark(famezd: Famezd) -> None:
    famezd.ctl("fault", "add", "lab", "1", "2", "--block")
    assert fabric(famezd, "lab")["remarks"] == ["doorbells or messages fail on purpose: see `famezctl fault list lab`"]


def test_a_fabric_that_is_not_served_is_down(famezd: Famezd) -> None:
    define(famezd, "new", socket={"path": str(famezd.runtime / "nowhere" / "new.sock")}, mailbox={"backing": "memfd"})
    assert famezd.ctl("reload").returncode == FABRIC_DOWN
    assert {f["name"]: f["health"] for f in answer(famezd, "status", status=FABRIC_DOWN)["fabrics"]} == {
        "lab": "ok",
        "new": "down",
        "old": "ok",
        "plain": "ok",
    }


# doorbells


def test_a_matrix_as_wide_as_the_terminal(famezd: Famezd, monkeypatch: pytest.MonkeyPatch) -> None:
    with famezd.join("lab") as one, famezd.join("lab") as other:
        one.ring(other.id, 3)
        other.ring(SWITCH_ID, 2)
        eventually(lambda: famezd.pairs("lab").total() == 2, "all are counted")
        matrix = ["SRC \\ DST    1  2  15", "1            .  1   .", "2            .  .   1", "15 Z-switch  .  .   ."]
        assert famezd.ctl("doorbells", "lab").stdout.splitlines() == matrix
        monkeypatch.setenv("COLUMNS", str(len(matrix[0])))
        assert famezd.ctl("doorbells", "lab").stdout.splitlines() == matrix
        monkeypatch.setenv("COLUMNS", str(len(matrix[0]) - 1))
        listed = famezd.ctl("doorbells", "lab").stdout
        assert listed.splitlines()[0].split() == ["SRC", "DST", "DOORBELLS"]
        assert listed == famezd.ctl("doorbells", "lab", "--list").stdout
        assert "VECTOR" in famezd.ctl("doorbells", "lab", "--vectors").stdout


# check, diff and schema


def test_check_finds_what_the_running_famezd_would_read(famezd: Famezd) -> None:
    done = famezd.ctl("check")
    assert (done.returncode, done.stdout) == (0, f"{famezd.config}: 3 fabrics, no mistakes: lab, old, plain\n")
    define(famezd, "lab", peers=0, vectors="many", socket={"group": "nosuchgroup"})
    for arguments in (["check"], ["check", str(famezd.config)], ["check", str(file(famezd, "plain"))]):
        done = famezd.ctl(*arguments)
        assert (done.returncode, done.stdout) == (NOT_DONE, "")
        lines = done.stderr.splitlines()
        assert len(lines) == 3
        assert all(line.startswith(f"{file(famezd, 'lab')}:") for line in lines)
        assert any(line.endswith("this system has no group 'nosuchgroup'; make it, or name another") for line in lines)
    assert [p["key"] for p in answer(famezd, "check", status=NOT_DONE)["problems"]] == [
        "peers",
        "socket.group",
        "vectors",
    ]
    # It was no more than a look.
    assert famezd.metrics("famez_config_last_reload_successful").total() == 1
    assert "this system has no group 'nosuchgroup'" in famezd.ctl("reload").stderr
    assert fabric(famezd, "lab")["state"] == "serving"


def test_check_needs_no_famezd_for_a_file(tmp_path: Path) -> None:
    (tmp_path / "fabrics.d").mkdir()
    (tmp_path / "famezd.yaml").write_text("log: {level: loud}\n")
    nobody = [str(BIN / "famezctl"), "-s", str(tmp_path / "nobody"), "check"]
    environ = os.environ | {"RUNTIME_DIRECTORY": str(tmp_path)}
    done = subprocess.run(
        [*nobody, "famezd.yaml"], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == NOT_DONE
    assert done.stderr.startswith("famezd.yaml:1:14: log.level: must be ")
    done = subprocess.run(nobody, capture_output=True, text=True, check=False)
    assert done.returncode == NOT_DONE
    assert "is famezd running?" in done.stderr
    assert "name the file, as in `famezctl check /etc/famez/famezd.yaml`" in done.stderr


def test_diff_tells_what_a_reload_would_do_and_does_not_do_it(famezd: Famezd) -> None:
    assert famezd.ctl("diff").stdout == "a reload would change nothing\n"
    with famezd.join("plain") as peer, famezd.join("old"):
        pid = fabric(famezd, "lab")["pid"]
        change_all(famezd)
        done = famezd.ctl("diff")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines() == [
            "famezd.yaml: changed",
            "  log.level  info -> debug",
            "fabric lab: changed in place, its peers notice nothing",
            "  socket.mode            0660 -> 0600",
            "  access.peers_per_user  null -> 4",
            "fabric new: added",
            "fabric old: removed, and refused as long as there are peers: 0; `famezctl reload --force` disconnects"
            " them",
            "fabric plain: waits for `famezctl restart plain`, which disconnects peers 0: vectors is 4, was 2",
            "  vectors  2 -> 4",
        ]
        assert fabric(famezd, "lab")["pid"] == pid
        assert not (famezd.runtime / "new.sock").exists()
        assert fabric(famezd, "plain")["waiting"] == []
        # What it says is what a reload does.
        assert famezd.ctl("reload").returncode == NOT_DONE
        done = famezd.ctl("reload", "--force")
        assert done.stdout.splitlines()[:3] == ["added: new", "removed: old", "changed: lab"]
        assert "waits for `famezctl restart plain`" in done.stdout
        # What waits is still to be done.
        assert [line for line in famezd.ctl("diff").stdout.splitlines() if line[0] != " "] == [
            "fabric plain: waits for `famezctl restart plain`, which disconnects peers 0: vectors is 4, was 2"
        ]
        define(famezd, "plain", vectors=2)
        assert famezd.ctl("diff").stdout == "a reload would change nothing\n"
        assert peer.vectors == 2


def test_diff_and_check_refuse_what_a_reload_refuses(famezd: Famezd) -> None:
    settings = yaml.safe_load(famezd.config.read_text())
    famezd.config.write_text(yaml.safe_dump(settings | {"runtime_directory": "/elsewhere"}))
    for verb in ("diff", "check", "reload"):
        done = famezd.ctl(verb)
        assert done.returncode == NOT_DONE
        assert f"runtime_directory: is {famezd.runtime} as long as famezd runs: restart famezd" in done.stderr


@pytest.mark.parametrize(
    ("redirection", "status", "told"),
    [(">&-", 0, ""), (">/dev/full", NOT_DONE, "famezctl: cannot write the output: No space left on device\n")],
)
@pytest.mark.parametrize("verb", [["status"], ["doorbells", "lab"], ["status", "--json"]])
def test_output_that_nobody_takes(famezd: Famezd, redirection: str, status: int, told: str, verb: list[str]) -> None:
    line = f"{shlex.join(ctl(famezd, *verb))} {redirection}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, told)


@pytest.mark.parametrize(
    ("verb", "told"),
    [
        (["peers", ""], "FABRIC"),
        (["watch", ""], "FABRIC"),
        (["kick", "lab", ""], "PEER"),
        (["attach", "", "lab"], "DOMAIN"),
    ],
)
def test_names_that_are_empty(famezd: Famezd, verb: list[str], told: str) -> None:
    done = famezd.ctl(*verb)
    assert done.returncode == 2
    assert f"famezctl: error: {told} must not be empty" in done.stderr


def test_what_stands_in_the_files_is_not_for_everybody(famezd: Famezd) -> None:
    for resource in ("check", "diff"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{famezd.url}/api/v1/{resource}")
        with refused.value as answer:
            assert answer.code == 404


def change_all(famezd: Famezd) -> None:
    """Changes the files so that there is one of each kind of change."""
    famezd.config.write_text(yaml.safe_dump(yaml.safe_load(famezd.config.read_text()) | {"log": {"level": "debug"}}))
    define(famezd, "lab", access={"peers_per_user": 4}, socket={"mode": "0600"})
    define(famezd, "plain", vectors=4)
    define(famezd, "new", mailbox={"backing": "memfd"})
    file(famezd, "old").unlink()


def test_what_failed_is_tried_again(famezd: Famezd) -> None:
    folder = famezd.config.parent / "not there yet"
    define(famezd, "new", socket={"path": str(folder / "new.sock")}, mailbox={"backing": "memfd"})
    assert famezd.ctl("reload").returncode == FABRIC_DOWN
    assert famezd.ctl("diff").stdout == "fabric new: tried again\n"


def test_diff_tells_of_fault_rules(famezd: Famezd) -> None:
    define(famezd, "lab", faults=[{"src": 1, "drop": "10%"}])
    assert famezd.ctl("reload").returncode == 0
    assert famezd.ctl("diff").stdout == "a reload would change nothing\n"
    famezd.ctl("fault", "clear", "lab")
    assert famezd.ctl("diff").stdout.splitlines()[1] == '  faults  [] -> [{"src": 1, "drop": 0.1}]'


def test_the_schemas_are_those_of_the_files(tmp_path: Path) -> None:
    def schema(*which: str) -> Any:
        # No famezd is needed.
        command = [str(BIN / "famezctl"), "-s", str(tmp_path / "nobody"), "schema", *which]
        return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)

    both = schema()
    assert both == {"main": schema("main"), "fabric": schema("fabric")}
    assert {"personality", "mailbox", "access"} <= both["fabric"]["properties"].keys()
    assert both["main"]["properties"].keys() == {"runtime_directory", "http", "log", "control"}
    shipped = DOCUMENT.parents[1] / "packaging" / "schema"
    assert both["main"] == json.loads((shipped / "famezd.schema.json").read_text())
    assert both["fabric"] == json.loads((shipped / "fabric.schema.json").read_text())


# watch


def shell(famezd: Famezd, directory: Path) -> Terminal:
    """A terminal with a shell for which famezd is the system's."""
    environ = {"PS1": "$ ", "PATH": f"{BIN}:{os.environ['PATH']}", "RUNTIME_DIRECTORY": str(famezd.runtime)}
    return Terminal(directory, ["bash", "--norc", "--noprofile"], environ)


def has(terminal: Terminal, text: str) -> bool:
    return any(text in line for line in terminal.screen())


def test_watch_fills_a_screen_of_another_size_at_once(famezd: Famezd, tmp_path: Path) -> None:
    with shell(famezd, tmp_path) as terminal:
        terminal.resize(250)
        terminal.type("famezctl watch -n 3600")
        eventually(lambda: has(terminal, "  SOCKET"), "there is room for all")
        terminal.resize(80)
        eventually(lambda: not has(terminal, "  SOCKET") and has(terminal, "  HEALTH"), "there is not")
        terminal.resize(250)
        eventually(lambda: has(terminal, "  SOCKET"), "there is again")
        terminal.press("C-c")
        terminal.type("echo status $?")
        terminal.expect("status 0", "$")


def test_watch_gives_the_screen_back_to_whoever_ends_it(famezd: Famezd, tmp_path: Path) -> None:
    with shell(famezd, tmp_path) as terminal:
        terminal.expect("$")
        terminal.type("bash -c 'echo $$ > pid; exec famezctl watch -n 3600'")
        eventually(lambda: has(terminal, "famezctl watch, every 3600 s: "), "it has the screen")
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
        eventually(lambda: terminal.screen()[-1] == "$", "it ends")
        assert terminal.screen()[0].startswith("$ bash -c")
        terminal.type("echo status $?")
        terminal.expect("status 143", "$")


def test_watch_has_the_screen_until_it_is_interrupted(famezd: Famezd, tmp_path: Path) -> None:
    with shell(famezd, tmp_path) as terminal:
        terminal.expect("$")
        terminal.type("famezctl watch -n 0.1")
        eventually(lambda: has(terminal, "famezctl watch, every 0.1 s: "), "it shows what it does")
        with famezd.join("lab"):
            eventually(lambda: has(terminal, " 1/14 "), "it shows the peer")
        eventually(lambda: has(terminal, " 0/14 ") and not has(terminal, " 1/14 "), "and that it has left")
        terminal.press("C-c")
        eventually(lambda: terminal.screen()[-1] == "$", "it ends")
        assert terminal.screen()[0] == "$ famezctl watch -n 0.1"
        assert has(terminal, "FABRIC  STATE ")
        terminal.type("echo status $?")
        terminal.expect("status 0", "$")


def test_watch_goes_on_when_famezd_is_restarted(famezd: Famezd) -> None:
    command = ctl(famezd, "watch", "-n", "0.1")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        try:
            assert watch.stdout is not None
            lines = iter(watch.stdout)
            assert next(lines).startswith("famezctl watch, every 0.1 s: ")
            assert next(line for line in lines if line.startswith("lab "))
            assert famezd.stop() == 0
            assert "\x1b" not in next(line for line in lines if "is famezd running?" in line)
            famezd.start()
            assert next(line for line in lines if line.startswith("lab "))
        finally:
            watch.kill()


def test_watch_of_a_fabric_tells_who_rings(famezd: Famezd) -> None:
    with famezd.join("lab") as one, famezd.join("lab") as other:
        command = ctl(famezd, "watch", "lab", "-n", "0.1", "--json")
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
            try:
                assert watch.stdout is not None
                seen = map(json.loads, watch.stdout)
                first = next(seen)
                assert [(p["id"], p["rang"], p["rang_rate"]) for p in first["peers"]] == [
                    (1, 0, None),
                    (2, 0, None),
                    (SWITCH_ID, 0, None),
                ]
                one.ring(other.id, 3)
                rung = next(look for look in seen if look["peers"][0]["rang"])
                assert (rung["peers"][0]["rang"], rung["peers"][1]["was_rung"]) == (1, 1)
                assert rung["peers"][0]["rang_rate"] == pytest.approx(1 / rung["over"])
            finally:
                watch.kill()
    done = famezd.ctl("watch", "nosuch")
    assert (done.returncode, done.stderr) == (1, "famezctl: no fabric 'nosuch'; there are: lab, old, plain\n")


@pytest.mark.parametrize("period", ["0", "-1", "nan", "soon", "1e9"])
def test_a_period_that_is_none(famezd: Famezd, period: str) -> None:
    done = famezd.ctl("watch", f"-n{period}")
    assert done.returncode == 2
    assert f"argument -n: must be 0.1 to 86400 seconds, not {period}" in done.stderr


# Terminals


def on_a_terminal(famezd: Famezd, **environ: str) -> str:
    """What `famezctl status` prints there."""
    ours, theirs = pty.openpty()
    try:
        command = ctl(famezd, "status")
        subprocess.run(command, stdout=theirs, env=os.environ | {"TERM": "xterm"} | environ, check=True)
        return os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)


def test_colours_are_for_terminals_only(famezd: Famezd) -> None:
    assert "\x1b[32mok\x1b[0m" in on_a_terminal(famezd)
    assert "\x1b" not in on_a_terminal(famezd, NO_COLOR="1")
    assert "\x1b" not in famezd.ctl("status").stdout


def test_a_status_is_as_wide_as_the_terminal(famezd: Famezd) -> None:
    wide = on_a_terminal(famezd, COLUMNS="250", NO_COLOR="1").splitlines()
    assert {"VECTORS", "SOCKET"} <= set(wide[0].split())
    narrow = on_a_terminal(famezd, COLUMNS="80", NO_COLOR="1").splitlines()
    assert max(map(len, narrow)) <= 80
    assert "SOCKET" not in narrow[0].split()
    assert {"FABRIC", "STATE", "PEERS", "RUNG/S", "RESTARTS", "HEALTH"} <= set(narrow[0].split())
    # Whoever reads it elsewhere finds all.
    assert "SOCKET" in famezd.ctl("status").stdout


# Whom nobody lets in


def as_nobody(famezd: Famezd, *arguments: str) -> str:
    """What famezctl complains of if nobody runs it; as root, who may everything, it becomes another user first."""
    become = "os.setgroups([]); os.setgid(65534); os.setuid(65534)" if os.geteuid() == 0 else ""
    program = f"import os, sys; from famezd.cli.famezctl import main; {become}\nsys.exit(main())"
    command = [sys.executable, "-c", program, "-s", str(famezd.runtime / "control.sock"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (NOT_DONE, "")
    return done.stderr


def test_who_may_not_is_told_what_to_run() -> None:
    root = os.geteuid() == 0
    group = grp.getgrnam("users") if root else grp.getgrgid(os.getegid())
    with tempfile.TemporaryDirectory(prefix="famez") as name:
        os.chmod(name, 0o755)
        with Famezd(Path(name), {"lab": LAB}, control={"group": group.gr_name}) as famezd:
            control = famezd.runtime / "control.sock"
            if not root:
                # Its owner is of the group, too, and has not its rights.
                control.chmod(0o060)
            denied = f"famezctl: permission denied: {control}; run `sudo famezctl -s {control} peers lab`"
            joins = f", or join the socket's group: `sudo usermod -aG {group.gr_name} $USER`"
            assert as_nobody(famezd, "peers", "lab") == f"{denied}{joins}\n"
            control.chmod(0o600 if root else 0)
            assert as_nobody(famezd, "peers", "lab") == f"{denied}\n"


# docs/famezctl.md


def documented(name: str) -> Any:
    """The JSON that the document shows for a verb."""
    found = re.search(rf"^```json {name}\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return json.loads(found[1])


def assert_same_shape(shown: Any, real: Any, where: str) -> None:
    """Keys and kinds are the same; what is null in one place may be something in the other."""
    if isinstance(shown, dict):
        assert isinstance(real, dict), where
        assert shown.keys() == real.keys(), where
        for key in shown:
            assert_same_shape(shown[key], real[key], f"{where}.{key}")
    elif isinstance(shown, list):
        assert isinstance(real, list), where
        for item in real:
            assert_same_shape(shown[0], item, f"{where}[]")
    elif None not in (shown, real):
        numbers = int, float
        kinds = [numbers if type(value) in numbers else type(value) for value in (shown, real)]
        assert kinds[0] == kinds[1], where


def test_the_document_shows_the_json_that_there_is(famezd: Famezd) -> None:
    eventually(lambda: fabric(famezd, "lab")["rates"], "there are rates")
    real: dict[str, Any] = {}
    with famezd.join("lab") as one, famezd.join("lab") as other, famezd.join("plain"), Peer.join(famezd.socket("old")):
        one.ring(other.id, 1)
        real["fault-add"] = answer(famezd, "fault", "add", "lab", "1", "2", "--drop", "10%")
        real["fault-list"] = answer(famezd, "fault", "list", "lab")
        real["fault-clear"] = answer(famezd, "fault", "clear", "lab")
        for verb in ("peers", "doorbells", "qemu", "libvirt", "switch"):
            real[verb] = answer(famezd, verb, "lab")
        real["status"] = answer(famezd, "status")
        command = ctl(famezd, "watch", "lab", "--json")
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
            assert watch.stdout is not None
            real["watch"] = json.loads(watch.stdout.readline())
            watch.kill()
        real["restart"] = answer(famezd, "restart", "lab")
        real["kick"] = answer(famezd, "kick", "lab", "1")
        change_all(famezd)
        define(famezd, "lab", socket={})
        real["diff"] = answer(famezd, "diff")
        real["reload"] = answer(famezd, "reload", "--force")
        define(famezd, "lab", peers=0)
        real["check"] = answer(famezd, "check", status=NOT_DONE)
    # What `attach` answers is held against the document where there is a libvirt.
    assert {*real, "attach"} == set(re.findall(r"^```json (\S+)$", DOCUMENT.read_text(), re.MULTILINE))
    for name, found in real.items():
        assert_same_shape(documented(name), found, name)


def test_the_document_tells_every_verb_and_every_exit_status() -> None:
    text = DOCUMENT.read_text()
    help_text = subprocess.run([str(BIN / "famezctl"), "--help"], capture_output=True, text=True, check=True).stdout
    verbs = set(re.findall(r"^    ([a-z]+) ", help_text, re.MULTILINE))
    assert {"status", "watch", "diff", "schema"} <= verbs
    table = text.partition("## What it shows")[0]
    assert {verb for verb in verbs if not re.search(rf"`{verb}\b", table)} == set()
    statuses = re.findall(r"^\| (\d+) \|", text.partition("## Exit status")[2], re.MULTILINE)
    assert statuses == ["0", "1", "2", "3", "130", "141"]
    assert all(f"{status} " in help_text for status in statuses[:4])
