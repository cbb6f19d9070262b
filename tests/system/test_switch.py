"""The switch as people and programs see it: famezctl switch, /system, metrics, and a plug-in that is installed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from famezd.client import Mailbox, Message
from tests.daemon import PATIENCE, Famezd, eventually

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "famez-hub"
LAB = {"personality": "genz", "peers": 4, "vectors": 6, "genz": {"sid": 9}}


@pytest.fixture
def famezd(tmp_path: Path) -> Iterator[Famezd]:
    with Famezd(tmp_path, {"lab": LAB, "plain": {"peers": 3}, "quiet": LAB | {"genz": {"silent": True}}}) as famezd:
        yield famezd


def ask(famezd: Famezd, resource: str) -> Any:
    with urllib.request.urlopen(f"{famezd.url}{resource}", timeout=PATIENCE) as answer:
        return json.load(answer)


def refusal(famezd: Famezd, resource: str) -> str:
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(famezd, resource)
    with closing(refused.value) as answer:
        assert answer.code == 404
        error: str = json.load(answer)["error"]
        return error


def say(mailbox: Mailbox, text: str) -> None:
    mailbox.send(mailbox.switch, text, timeout=PATIENCE)


def hear(mailbox: Mailbox) -> str:
    message = mailbox.receive(timeout=PATIENCE)
    assert message is not None
    return message.text


def port(famezd: Famezd, n: int) -> dict[str, Any]:
    (found,) = [port for port in ask(famezd, "/api/v1/fabrics/lab/switch")["ports"] if port["id"] == n]
    return dict(found)


def test_ports_are_drawn_and_told(famezd: Famezd) -> None:
    with famezd.join("lab") as one, closing(Mailbox(one)) as mailbox, famezd.join("lab") as two:
        say(mailbox, "Link RFC TTC=1us")
        assert hear(mailbox) == "CTL-Write Space=0,PFMCID=500,PFMSID=9,CID=100,SID=9,Tag=1"
        outstanding = ask(famezd, "/api/v1/fabrics/lab/switch")["outstanding"]
        assert outstanding == [{"tag": 1, "peer": 1, "cid": 100, "sid": 9}]
        assert "port 1 has still to acknowledge CTL-Write, tag 1" in famezd.ctl("switch", "lab").stdout
        say(mailbox, "Standalone Acknowledgment Tag=1,Reason=OK")
        assert hear(mailbox) == "Link CTL Peer-Attribute"
        say(mailbox, "Link CTL ACK cclass=Debugger,CID0=100,SID0=9")
        with closing(Mailbox(two, nodename="27")) as other:
            say(other, "Link CTL NAK not now")
            say(other, "Link CTL ACK cclass=x,CID0=7,SID0=8")
            say(other, "Link CTL NAK not now")
        eventually(lambda: port(famezd, 2)["nak"], "the refusal is recorded")
        shown = famezd.ctl("switch", "lab")
        assert (shown.returncode, shown.stderr) == (0, "")
        assert shown.stdout.splitlines() == [
            "lab: Z-switch (FabricSwitch), id 5, CID.SID 500.9, primary fabric manager",
            "+------------------+------------------+------------------+------------------+",
            "| 1     configured | 2             up | 3           down | 4           down |",
            "| z01              | 27               |                  |                  |",
            "| Debugger         | Debugger         |                  |                  |",
            "| CID.SID 100.9    | CID.SID 7.8      |                  |                  |",
            "+------------------+------------------+------------------+------------------+",
            "port 2 refused a request: not now",
        ]
        told = json.loads(famezd.ctl("--json", "switch", "lab").stdout)
        assert told == ask(famezd, "/api/v1/fabrics/lab/switch")
        assert (told["fabric"], told["personality"], told["outstanding"]) == ("lab", "genz", [])
        assert told["switch"] == {
            "id": 5,
            "nodename": "Z-switch",
            "cclass": "FabricSwitch",
            "cid": 500,
            "sid": 9,
            "manager": True,
            "silent": False,
        }
        assert told["ports"][0] == {
            "id": 1,
            "link": "configured",
            "nodename": "z01",
            "cclass": "Debugger",
            "cid": 100,
            "sid": 9,
            "attributes": {"cclass": "Debugger", "cid": 100, "sid": 9},
            "nak": None,
        }
        assert told["ports"][1]["nodename"] == "27"


def test_system_is_as_fame_z_has_it(famezd: Famezd) -> None:
    with ExitStack() as stack:
        one, two, _ = (stack.enter_context(famezd.join("lab")) for _ in range(3))
        mailbox, other = (stack.enter_context(closing(Mailbox(peer, nodename="host"))) for peer in (one, two))
        say(mailbox, "ping")
        say(other, "ping")
        assert ask(famezd, "/system") == {
            "nClients": 4,
            "server_ivshmsg_id": 5,
            "nodes": [
                {"ivshmsg_id": 1, "id": "host", "cclass": "Debugger", "hardware": "debugger", "group": "port_1"},
                {
                    "ivshmsg_id": 2,
                    "id": "host (port_2)",
                    "cclass": "Debugger",
                    "hardware": "debugger",
                    "group": "port_2",
                },
                {
                    "ivshmsg_id": 3,
                    "id": "port_3",
                    "cclass": "Driverless QEMU",
                    "hardware": "qemu",
                    "group": "port_3",
                },
                {
                    "ivshmsg_id": 5,
                    "id": "Z-switch",
                    "cclass": "FabricSwitch",
                    "hardware": "switch",
                    "group": "port_5",
                },
            ],
            "links": [
                {"source": "host", "target": "Z-switch"},
                {"source": "host (port_2)", "target": "Z-switch"},
                {"source": "port_3", "target": "Z-switch"},
            ],
        }
    assert ask(famezd, "/system?fabric=quiet") == {"nClients": 4, "server_ivshmsg_id": 5, "nodes": [], "links": []}
    assert ask(famezd, "/system?fabric=lab")["server_ivshmsg_id"] == 5


def test_where_there_is_no_such_switch_that_is_said(famezd: Famezd) -> None:
    plain = famezd.ctl("switch", "plain")
    assert (plain.returncode, plain.stdout) == (1, "")
    assert plain.stderr == "famezctl: fabric plain: its switch keeps no state, with personality plain\n"
    assert famezd.ctl("switch", "nowhere").stderr.startswith("famezctl: no fabric 'nowhere'")
    assert refusal(famezd, "/system?fabric=plain") == "fabric plain has personality plain, not genz"
    assert refusal(famezd, "/system?fabric=x").startswith("no fabric 'x'")
    assert famezd.ctl("switch", "quiet").stdout.startswith("quiet: the switch is silent, it is no peer\n")


def test_system_without_any_genz_fabric(tmp_path: Path) -> None:
    with Famezd(tmp_path, {"plain": {"peers": 3}}) as famezd:
        assert refusal(famezd, "/system") == "no fabric has personality genz"


def test_malformed_messages_are_counted(famezd: Famezd) -> None:
    with famezd.join("lab") as one, closing(Mailbox(one)) as mailbox:
        say(mailbox, "Link RFC TTC=1ms")
        counted = famezd.metrics("famez_messages_malformed_total", "fabric")
        assert counted == {("lab",): 1, ("plain",): 0, ("quiet",): 0}
        assert famezd.metrics("famez_personality_errors_total", "fabric")["lab",] == 0


def test_settings_of_the_switch_change_at_a_reload_and_silence_at_a_restart(famezd: Famezd) -> None:
    file = famezd.config.parent / "fabrics.d" / "lab.yaml"
    settings = file.read_text()
    with famezd.join("lab") as one, closing(Mailbox(one)) as mailbox:
        file.write_text(settings.replace("sid: 9", "sid: 10\n  manager: false"))
        assert famezd.ctl("reload").stdout == "changed: lab\n"
        say(mailbox, "Link CTL Peer-Attribute")
        assert hear(mailbox) == "Link CTL ACK cclass=FabricSwitch,CID0=500,SID0=10"
        file.write_text(settings.replace("sid: 9", "silent: true"))
        assert "genz.silent is true, was false" in famezd.ctl("reload").stdout
        say(mailbox, "ping")
        assert hear(mailbox) == "pong"
        assert "disconnected" in famezd.ctl("restart", "lab").stdout
    with famezd.join("lab") as one:
        assert 5 not in one.peers


def test_another_personality_shows_nothing_of_the_one_before(famezd: Famezd) -> None:
    file = famezd.config.parent / "fabrics.d" / "lab.yaml"
    file.write_text(
        file.read_text().replace("personality: genz", "personality: plain").replace("genz:\n  sid: 9\n", "")
    )
    assert famezd.ctl("reload").stdout == "changed: lab\n"
    assert (
        famezd.ctl("switch", "lab").stderr
        == "famezctl: fabric lab: its switch keeps no state, with personality plain\n"
    )


# A plug-in that comes in a distribution of its own


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of docs/personalities.md, installed beside famezd as anybody would."""
    source, target = shutil.copytree(EXAMPLE, tmp_path / "source"), tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(source)]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(target.glob("famez_hub-1.dist-info/entry_points.txt"))
    monkeypatch.setenv("PYTHONPATH", str(target))


def test_the_example_is_as_short_as_the_docs_say() -> None:
    assert len((EXAMPLE / "famez_hub.py").read_text().splitlines()) < 40
    docs = (EXAMPLE.parents[1] / "personalities.md").read_text()
    for file in ("famez_hub.py", "pyproject.toml"):
        shown = "".join(f"    {line}\n" if line else "\n" for line in (EXAMPLE / file).read_text().splitlines())
        assert shown in docs, f"docs/personalities.md shows another {file}"


def test_a_hub_that_is_installed_is_served(tmp_path: Path, hub: None) -> None:
    with Famezd(tmp_path, {"party": {"personality": "hub", "peers": 3, "vectors": 5}}) as famezd:
        peers = [famezd.join("party") for _ in range(3)]
        boxes = [Mailbox(peer) for peer in peers]
        try:
            say(boxes[0], "hello, everybody")
            for box in boxes[1:]:
                assert box.receive(timeout=PATIENCE) == Message(4, "hello, everybody")
            assert famezd.ctl("switch", "party").stdout == "hub: messages 1\n"
            assert boxes[0].names()[4] == ("hub", "Hub")
            status = json.loads(famezd.ctl("--json", "status").stdout)
            os.kill(status["fabrics"][0]["pid"], signal.SIGKILL)
            say(boxes[1], "x" * 383)
            assert hear(boxes[0]) == hear(boxes[2]) == "x" * 383
            assert famezd.ctl("switch", "party").stdout == "hub: messages 2\n"
            assert boxes[0].receive(timeout=0) is None
        finally:
            for box, peer in zip(boxes, peers, strict=True):
                box.close()
                peer.leave()


def test_what_is_wrong_with_a_hub_is_told_by_file_and_line(tmp_path: Path, hub: None) -> None:
    famezd = Famezd(tmp_path, {"party": {"personality": "hub", "peers": 3, "vectors": 4, "options": {"loud": True}}})
    check = [str(Path(sys.executable).parent / "famezd"), "--check", "-c", str(famezd.config)]
    done = subprocess.run(check, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode != 0
    assert "options.loud: this personality has no such option: leave it out" in done.stderr + done.stdout
    assert "vectors: personality hub with 3 peers needs at least 5 (peers + 2), not 4" in done.stderr + done.stdout
