"""The settings: what files may say, what becomes of it, and what is reported of every mistake, to the column."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from famezd import kinds
from famezd.config import (
    Access,
    Config,
    ConfigError,
    Fabric,
    FabricSettings,
    FaultSettings,
    Mailbox,
    MainSettings,
    Pin,
    Problem,
    Socket,
    fabric_schema,
    load,
    main_schema,
    personality_class,
    personality_reference,
)
from famezd.fabric.pins import Pins
from famezd.supervisor.settings import worker_settings
from famezd.switch.personality import Personality
from famezd.switch.plain import Plain
from tests.unit.users import unprivileged

SHM = Path("/dev/shm")
EXAMPLES = Path(__file__).parents[2] / "etc" / "famez"
ENVIRON = {"RUNTIME_DIRECTORY": "/run/test"}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write famezd.yaml and, by keyword, fabrics; returns the path of the first."""

    def write(main: str | bytes = "", /, **fabrics: str | bytes) -> Path:
        return write_in(tmp_path, main, fabrics)

    return write


def write_in(directory: Path, main: str | bytes, fabrics: dict[str, str | bytes]) -> Path:
    (directory / "fabrics.d").mkdir(exist_ok=True)
    files = {"famezd": main} | {f"fabrics.d/{name}": text for name, text in fabrics.items()}
    for name, text in files.items():
        (directory / f"{name}.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return directory / "famezd.yaml"


def problems(path: Path, environ: dict[str, str] = ENVIRON) -> list[str]:
    """Load what must fail, and return the lines of the error, with paths relative to the directory of `path`."""
    with pytest.raises(ConfigError) as caught:
        load(path, environ=environ)
    lines = str(caught.value).replace(f"{path.parent}/", "").splitlines()
    assert len(lines) == len(caught.value.problems)
    return lines


def fabric_of(path: Path) -> Fabric:
    (fabric,) = load(path, environ=ENVIRON).fabrics.values()
    return fabric


class TestDefaults:
    def test_empty_files(self, write: Write) -> None:
        config = load(write("# nothing\n", a=""), environ=ENVIRON)
        assert config.http.address == ("127.0.0.1", 9991)
        assert (config.log.level, config.log.format) == ("info", "auto")
        assert config.control.mode == 0o660
        assert config.control_socket == Path("/run/test/control.sock")
        assert config.fabrics == {
            "a": Fabric(
                name="a",
                socket=Socket(path=Path("/run/test/a.sock")),
                mailbox=Mailbox(name="famez-a", size=4 << 20),
            )
        }
        fabric = config.fabrics["a"]
        assert (fabric.personality, fabric.peers, fabric.vectors) == ("plain", 14, 16)
        assert (fabric.doorbells, fabric.ports) == ("relayed", "sticky")
        assert (fabric.socket.mode, fabric.socket.uid, fabric.socket.gid) == (0o660, None, None)
        assert fabric.mailbox.file == SHM / "famez-a"

    def test_no_fabrics(self, write: Write) -> None:
        assert load(write(), environ=ENVIRON).fabrics == {}

    def test_fabrics_come_sorted_and_only_from_yaml_files(self, write: Write) -> None:
        path = write(b="", a="", c="")
        for name in ("d.yaml~", "e.yaml.off", ".f.yaml", "README"):
            (path.parent / "fabrics.d" / name).write_text("nonsense")
        assert list(load(path, environ=ENVIRON).fabrics) == ["a", "b", "c"]

    @pytest.mark.parametrize(("peers", "size"), [(1, 4096), (6, 4096), (7, 8192), (14, 8192), (62, 32768)])
    def test_mailbox_is_as_large_as_the_personality_needs(self, write: Write, peers: int, size: int) -> None:
        fabric = fabric_of(write(a=f"personality: genz\npeers: {peers}\nvectors: 64\n"))
        assert fabric.mailbox.size == size

    def test_everything_set(self, write: Write) -> None:
        path = write(
            "runtime_directory: /r\nhttp: {listen: '[::1]:0'}\n"
            "log: {level: debug, format: json}\ncontrol: {mode: 0600}\n",
            a="socket: {path: /s/a, owner: root, group: 0, mode: '0o600'}\n"
            "mailbox: {size: 64k, owner: 0, group: root, mode: '0640', backing: file, path: /dev/hugepages/a}\n",
            b="mailbox: {name: shared, size: 65536}\n",
            c="mailbox: {backing: memfd}\naccess: {users: [root, 0], groups: [0], peers_per_user: 4}\n",
        )
        config = load(path, environ=ENVIRON)
        assert config.runtime_directory == Path("/r")
        assert config.http.address == ("::1", 0)
        assert config.control.mode == 0o600
        a, b, c = config.fabrics.values()
        assert a.socket == Socket(path=Path("/s/a"), owner="root", group=0, mode=0o600)
        assert (a.socket.uid, a.socket.gid, a.mailbox.uid, a.mailbox.gid) == (0, 0, 0, 0)
        assert (a.mailbox.size, a.mailbox.mode, a.mailbox.file) == (65536, 0o640, Path("/dev/hugepages/a"))
        assert (b.mailbox.name, b.mailbox.file) == ("shared", SHM / "shared")
        assert (c.mailbox.name, c.mailbox.file) == ("famez-c", None)
        assert c.access == Access(users=("root", 0), groups=(0,), peers_per_user=4)
        assert (c.access.user_ids, c.access.group_ids) == ([0, 0], [0])
        assert (a.access.users, a.access.groups, a.access.peers_per_user) == ((), (), None)

    def test_http_off(self, write: Write) -> None:
        assert load(write("http: {listen: null}"), environ=ENVIRON).http.address is None

    def test_settings_are_frozen(self, write: Write) -> None:
        config = load(write(), environ=ENVIRON)
        with pytest.raises(ValueError, match="frozen"):
            config.http.listen = None


class TestRuntimeDirectory:
    @pytest.fixture(autouse=True)
    def uid(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        uid: int = getattr(request, "param", 1000)
        monkeypatch.setattr(os, "geteuid", lambda: uid)

    @pytest.mark.parametrize(
        ("uid", "main", "environ", "expected"),
        [
            (0, "runtime_directory: /set", ENVIRON, "/set"),
            (1000, "", {"RUNTIME_DIRECTORY": "/run/a:/run/b", "XDG_RUNTIME_DIR": "/x"}, "/run/a"),
            (0, "", {"RUNTIME_DIRECTORY": "run"}, f"{Path.cwd()}/run"),
            (0, "", {"RUNTIME_DIRECTORY": "", "XDG_RUNTIME_DIR": "/x"}, "/run/famez"),
            (1000, "", {"XDG_RUNTIME_DIR": "/x"}, "/x/famez"),
        ],
        indirect=["uid"],
    )
    def test_rule(self, write: Write, main: str, environ: dict[str, str], expected: str) -> None:
        config = load(write(main, a=""), environ=environ)
        assert str(config.runtime_directory) == expected
        assert str(config.fabrics["a"].socket.path) == f"{expected}/a.sock"

    def test_none(self, write: Write) -> None:
        assert problems(write("# x\nlog: {}\n"), {}) == [
            "famezd.yaml:2:1: runtime_directory: must be set here,"
            " or RUNTIME_DIRECTORY or XDG_RUNTIME_DIR in the environment"
        ]

    def test_wrong_is_not_reported_as_missing(self, write: Write) -> None:
        assert problems(write("runtime_directory: run"), {}) == [
            "famezd.yaml:1:20: runtime_directory: must be an absolute path, not 'run'"
        ]


MAIN_MISTAKES = [
    ("fabrics: {}", "1:1: fabrics: unknown key, known are runtime_directory, http, log, control"),
    ("log:\n  levle: info", "2:3: log.levle: unknown key, did you mean 'level'?"),
    ("log:\n  level: loud", "2:10: log.level: must be 'debug', 'info', 'warning' or 'error', not 'loud'"),
    ("log: text", "1:6: log: must be a mapping of settings, not 'text'"),
    ("log: [a]", "1:6: log: must be a mapping of settings, not a list"),
    ("log:\n", "1:5: log: must be a mapping of settings, not null: leave the key out for the default"),
    ("control: {owner: nobody-at-all}", "1:18: control.owner: {user}, not 'nobody-at-all': {no_user}"),
    ("control: {mode: 0o999}", "1:17: control.mode: {mode}, not '0o999'"),
    *[
        (f"http: {{listen: {written}}}", f"1:16: http.listen: {{listen}}, not {shown}{remedy}")
        for written, shown, remedy in [
            ("localhost", "'localhost'", ""),
            ("9991", "9991", ""),
            ("yes", "yes", ""),
            ("'::1:9991'", "'::1:9991'", ""),
            ("'[::g]:1'", "'[::g]:1'", ""),
            ("'[::1::]:1'", "'[::1::]:1'", ": At most one '::' permitted in '::1::'"),
            ("h:65536", "'h:65536'", ""),
            ("127.0.0.256:1", "'127.0.0.256:1'", ": Octet 256 (> 255) not permitted in '127.0.0.256'"),
            ("h:-1", "'h:-1'", ""),
            ("':80'", "':80'", ""),
        ]
    ],
]

PHRASES = {
    "keys": "personality, peers, vectors, doorbells, ports, socket, mailbox, access, metrics, log, faults, pins, genz,"
    " options",
    "user": "must be the name or number of a user",
    "group": "must be the name or number of a group",
    "make_it": "make it, or name another",
    "no_user": "this system has no user 'nobody-at-all'; make it, or name another",
    "listen": "must be HOST:PORT, such as 127.0.0.1:9991 or [::1]:9991, or null",
    "mode": "must be a mode in octal with a leading 0, such as 0660",
    "size": "must be a power of two of bytes from 4096 to 1T, such as 65536, 64K, 4M or 1G",
    "shm_name": "must be the name of a file in /dev/shm, without a slash",
    "peers": "must be an integer from 1 to 65535",
    "probability": "must be a probability from 0 to 1, such as 0.1 or 10%",
    "delay": "must be 5ms, 1ms..5ms (evenly between) or 5ms+-1ms (mean and standard deviation), with units us, ms or s",
    "options": "must be a mapping of names to text, integers, true or false",
    "tags": "the tags known here are !!map, !!seq, !!str, !!int, !!bool and !!null",
}

FABRIC_MISTAKES = [
    # Unknown keys
    ("# x\nvector: 3", "2:1: vector: unknown key, did you mean 'vectors'?"),
    ("Peers: 3", "1:1: Peers: unknown key, did you mean 'peers'?"),
    (
        "name: x",
        "1:1: name: unknown key, known are {keys}",
    ),
    (
        "mailbox:\n  xyzzy: 1",
        "2:3: mailbox.xyzzy: unknown key, known are owner, group, mode, name, size, backing, path",
    ),
    (
        '"a\\nb": 1',
        "1:1: a\\nb: unknown key, known are {keys}",
    ),
    # Integers
    ("peers: lots", "1:8: peers: {peers}, not 'lots'"),
    ("peers: '4'", "1:8: peers: {peers}, not '4'"),
    ("peers: yes", "1:8: peers: {peers}, not yes"),
    ("peers: 1.5", "1:8: peers: {peers}, not '1.5'"),
    ("peers: 1:30", "1:8: peers: {peers}, not '1:30'"),
    ("peers: [1]", "1:8: peers: {peers}, not a list"),
    ("peers: {a: 1}", "1:8: peers: {peers}, not a mapping"),
    ("peers:", "1:7: peers: {peers}, not null: leave the key out for the default"),
    ("peers: 0", "1:8: peers: {peers}, not 0"),
    ("peers: 65536", "1:8: peers: {peers}, not 65536"),
    ("peers: " + "9" * 5000, "1:8: peers: {peers}, not '" + "9" * 57 + "...'"),
    ("vectors: 2049", "1:10: vectors: must be an integer from 1 to 2048, not 2049"),
    # Choices
    ("ports: on", "1:8: ports: must be 'sticky' or 'fresh', not on"),
    ("doorbells: [direct]", "1:12: doorbells: must be 'relayed' or 'direct', not a list"),
    (
        "personality: gen-z",
        "1:14: personality: must be the name of a personality, not 'gen-z': those installed are genz, plain",
    ),
    ("personality: 3", "1:14: personality: must be the name of a personality, not 3"),
    # What a personality is told
    ("genz: {}", "1:7: genz: is for personality genz only, not for plain: leave it out"),
    ("personality: genz\ngenz: yes", "2:7: genz: must be a mapping of settings, not yes"),
    ("personality: genz\ngenz: {manager: 1}", "2:17: genz.manager: must be true or false, not 1"),
    ("personality: genz\ngenz: {silent: 'no'}", "2:16: genz.silent: must be true or false, not 'no'"),
    ("personality: genz\ngenz: {sid: 65536}", "2:13: genz.sid: must be an integer from 0 to 65535, not 65536"),
    ("personality: genz\ngenz: {sids: 1}", "2:8: genz.sids: unknown key, did you mean 'sid'?"),
    # What follows only from a misspelt key or name is not told.
    ("personalty: genz\ngenz: {sid: 1}", "1:1: personalty: unknown key, did you mean 'personality'?"),
    (
        "personality: gens\ngenz: {sid: 1}",
        "1:14: personality: must be the name of a personality, not 'gens': those installed are genz, plain",
    ),
    ("mailbox: {backin: file, path: /a}", "1:11: mailbox.backin: unknown key, did you mean 'backing'?"),
    ("options: 1", "1:10: options: {options}, not 1"),
    (
        "personality: genz\ngenz: {silent: true}\nfaults: [{dst: switch, drop: 1}]",
        "3:16: faults[0].dst: must be a peer, and with personality genz and silent the switch is none",
    ),
    ("options: {1: a}", "1:14: options.1: this personality has no such option: leave it out"),
    ("options: {a: [1]}", "1:10: options: {options}, not a mapping"),
    ("options: {a: 1}", "1:14: options.a: this personality has no such option: leave it out"),
    (
        "personality: genz\noptions:\n  sid: 1",
        "3:8: options.sid: this personality has no such option: leave it out",
    ),
    # Paths and names
    ("socket: {path: run/a.sock}", "1:16: socket.path: must be an absolute path, not 'run/a.sock'"),
    ('socket: {path: "/a\\0b"}', "1:16: socket.path: must be an absolute path, not '/a\\x00b'"),
    ("socket: {path: 3}", "1:16: socket.path: must be an absolute path, not 3"),
    (
        "socket: {path: /" + "ü" * 54 + "}",
        "1:16: socket.path: a socket's path must be at most 107 bytes long, not 109, as /" + "ü" * 54 + " is",
    ),
    *[
        (
            f"mailbox: {{name: '{name}'}}",
            f"1:17: mailbox.name: must be the name of a file in /dev/shm, without a slash, not '{name}'",
        )
        for name in ("a/b", "..", "")
    ],
    # Sizes
    ("mailbox:\n  name: " + "x" * 256, "2:9: mailbox.name: {shm_name}, not '" + "x" * 57 + "...'"),
    ("mailbox: {size: 3000}", "1:17: mailbox.size: {size}, not 3000"),
    ("mailbox: {size: 5000}", "1:17: mailbox.size: {size}, not 5000: the nearest are 4K and 8K"),
    ("mailbox: {size: 3M}", "1:17: mailbox.size: {size}, not '3M': the nearest are 2M and 4M"),
    ("mailbox: {size: 4MB}", "1:17: mailbox.size: {size}, not '4MB': write 4M"),
    ("mailbox: {size: 64 kib}", "1:17: mailbox.size: {size}, not '64 kib': write 64K"),
    ("mailbox: {size: '4096'}", "1:17: mailbox.size: {size}, not '4096'"),
    ("mailbox: {size: 2T}", "1:17: mailbox.size: {size}, not '2T'"),
    ("mailbox: {size: -4096}", "1:17: mailbox.size: {size}, not -4096"),
    ("mailbox: {size: true}", "1:17: mailbox.size: {size}, not true"),
    # Modes
    ("socket: {mode: 660}", "1:16: socket.mode: {mode}, not 660: write 0660"),
    ("socket: {mode: 440}", "1:16: socket.mode: {mode}, not 440: write 0440"),
    ("socket: {mode: '660'}", "1:16: socket.mode: {mode}, not '660': write 0660"),
    ("socket: {mode: 432}", "1:16: socket.mode: {mode}, not 432: write 0432"),
    ("socket: {mode: 0x1b0}", "1:16: socket.mode: {mode}, not 0x1b0: write 0432"),
    ("socket: {mode: 02660}", "1:16: socket.mode: {mode}, not 02660"),
    ("socket: {mode: rw}", "1:16: socket.mode: {mode}, not 'rw'"),
    ("socket: {mode: no}", "1:16: socket.mode: {mode}, not no"),
    # Accounts
    ("socket: {owner: nobody-at-all}", "1:17: socket.owner: {user}, not 'nobody-at-all': {no_user}"),
    (
        "socket: {owner: 4294967294}",
        "1:17: socket.owner: {user}, not 4294967294: this system has no user 4294967294; {make_it}",
    ),
    ("socket: {owner: -1}", "1:17: socket.owner: {user}, not -1: this system has no user -1; {make_it}"),
    ("socket: {owner: yes}", "1:17: socket.owner: {user}, not yes"),
    (
        "mailbox: {group: 0xffffffffffffffff}",
        f"1:18: mailbox.group: {{group}}, not 0xffffffffffffffff: this system has no group {2**64 - 1}; {{make_it}}",
    ),
    (
        'mailbox: {group: "a\\0"}',
        "1:18: mailbox.group: {group}, not 'a\\x00': this system has no group 'a\\x00'; {make_it}",
    ),
    ("access: {users: [root, nobody-at-all]}", "1:24: access.users[1]: {user}, not 'nobody-at-all': {no_user}"),
    ("access:\n  groups:\n  - root\n  - yes", "4:5: access.groups[1]: {group}, not yes"),
    ("access: {users: root}", "1:17: access.users: must be a list, not 'root'"),
    ("access: {users: {root: 1}}", "1:17: access.users: must be a list, not a mapping"),
    ("access: {groups: null}", "1:18: access.groups: must be a list, not null: leave the key out for the default"),
    ("access: {users: [[root]]}", "1:18: access.users[0]: {user}, not a list"),
    ("access: {peers_per_user: 0}", "1:26: access.peers_per_user: {peers}, not 0"),
    ("access: {user: [root]}", "1:10: access.user: unknown key, did you mean 'users'?"),
    ("faults: {src: 1}", "1:9: faults: must be a list, not a mapping"),
    ("faults: [7]", "1:10: faults[0]: must be a mapping of settings, not 7"),
    ("faults: [{block: true}, {scr: 1, block: true}]", "1:26: faults[1].scr: unknown key, did you mean 'src'?"),
    ("faults: [{src: one, block: true}]", "1:16: faults[0].src: must be a peer's id, switch or *, not 'one'"),
    ("faults: [{drop: 1.5}]", "1:17: faults[0].drop: {probability}, not '1.5'"),
    ("faults: [{duplicate: yes}]", "1:22: faults[0].duplicate: {probability}, not yes"),
    ("faults:\n- block: 1", "2:10: faults[0].block: must be true or false, not 1"),
    ("faults: [{delay: 5}]", "1:18: faults[0].delay: {delay}, not 5"),
    (
        "faults: [{delay: 5ms..1ms}]",
        "1:18: faults[0].delay: {delay}, not '5ms..1ms': '5ms..1ms' ends before it begins; write 1ms..5ms",
    ),
    ("faults: [{block: true, vector: x}]", "1:32: faults[0].vector: must be a vector's number, or * for all, not 'x'"),
    # Between the settings of a rule, and with the fabric's
    (
        "faults: [{src: 1}]",
        "1:10: faults[0]: must have one of drop, delay, duplicate, block, corrupt, and has none",
    ),
    (
        "faults: [{drop: 1, block: true}]",
        "1:27: faults[0].block: is one thing, and drop another: write a rule for each",
    ),
    ("faults: [{src: 14, drop: 1}]", "1:16: faults[0].src: must be one of this fabric's ids, 0 to 13, not 14"),
    ("peers: 3\nfaults: [{dst: 3, drop: 1}]", "2:16: faults[0].dst: must be one of this fabric's ids, 0 to 2, not 3"),
    (
        "faults: [{dst: switch, drop: 1}]",
        "1:16: faults[0].dst: must be a peer, and with personality plain the switch is none",
    ),
    (
        "personality: genz\nfaults: [{dst: 15, drop: 1}]",
        "2:16: faults[0].dst: must be written switch: 15 is the id of the switch",
    ),
    (
        "faults: [{src: 1, dst: 1, drop: 1}]",
        "1:24: faults[0].dst: must be another than src: nobody rings itself through famezd",
    ),
    (
        "faults: [{vector: 16, drop: 1}]",
        "1:19: faults[0].vector: must be 0 to 15, as there are 16 vectors, not 16",
    ),
    (
        "faults: [{corrupt: 1}]",
        "1:20: faults[0].corrupt: needs a mailbox with slots, as personality genz has, and not plain",
    ),
    (
        "personality: genz\nfaults: [{message: true, delay: 1s}]",
        "2:20: faults[0].message: is for drop and corrupt, not for delay: leave it out",
    ),
    (
        "personality: genz\nfaults: [{message: true, drop: 1, vector: 1}]",
        "2:43: faults[0].vector: is no part of a rule for messages, whose vector is their sender's id: leave it out",
    ),
    (
        "doorbells: direct\nfaults: [{block: true}]",
        "2:9: faults: are for relayed doorbells, and direct ones do not pass famezd: set doorbells to relayed,"
        " or leave this out",
    ),
    (f"faults: [{'{block: true}, ' * 65}]", "1:9: faults: must be at most 64 rules, not 65"),
    # Between settings
    (
        "personality: genz\nvectors: 15",
        "2:10: vectors: personality genz with 14 peers needs at least 16 (peers + 2), not 15",
    ),
    (
        "# x\npersonality: genz\npeers: 15",
        "2:1: vectors: personality genz with 15 peers needs at least 17 (peers + 2), not 16",
    ),
    ("personality: genz\npeers: 63\nvectors: 65", "2:8: peers: personality genz takes at most 62, not 63"),
    (
        "personality: genz\nmailbox: {size: 4K}",
        "2:17: mailbox.size: must be at least 8K for 14 peers with personality genz, not 4K",
    ),
    (
        "mailbox:\n  backing: memfd\n  name: x",
        "3:9: mailbox.name: is for backing shm only, not for memfd: leave it out",
    ),
    ("mailbox:\n  path: /x", "2:9: mailbox.path: is for backing file only, not for shm: leave it out"),
    ("mailbox:\n  backing: file", "2:3: mailbox.path: must be given with backing file, an absolute path"),
    ("mailbox: {backing: file, path: x}", "1:32: mailbox.path: must be an absolute path, not 'x'"),
    ("mailbox: {backing: disk, path: /x}", "1:20: mailbox.backing: must be 'shm', 'memfd' or 'file', not 'disk'"),
    # What follows from another mistake is not reported
    ("personality: genz\npeers: many\nvectors: 3", "2:8: peers: {peers}, not 'many'"),
    ("personality: genz\npeers: 3\npeers: 60", "3:1: peers: duplicate key on line 3, first given on line 2"),
    # Other files' places
    (
        "socket: {path: /run/test/../test/control.sock}",
        "1:16: socket.path: /run/test/../test/control.sock is where famezctl talks to famezd: give each fabric its own",
    ),
    (
        "socket: {path: /run/test/notify}",
        "1:16: socket.path: /run/test/notify is where workers talk to famezd: give each fabric its own",
    ),
    # YAML
    (
        "peers: 3\n\tx",
        "2:1: not valid YAML: while scanning for the next token,"
        " found character '\\t' that cannot start any token; indent with spaces",
    ),
    ("peers: {", "1:9: not valid YAML: while parsing a flow node, expected the node content, but found '<stream end>'"),
    (
        "peers: 3\n---\npeers: 4",
        "2:1: not valid YAML: expected a single document in the stream, but found another document",
    ),
    ("peers: 3\nx: \x07", "2:4: not valid YAML: unacceptable character #x0007"),
    ('x: "\\UFFFFFFFF"', "1:7: not valid YAML: an escape that is no character"),
    (b"peers: 3\nx: a\xff", "2:5: is not UTF-8 text"),
    ("peers: 3\nports: fresh\npeers: 3", "3:1: peers: duplicate key on line 3, first given on line 1"),
    ("socket: {mode: 0660, mode: 0600}", "1:22: socket.mode: duplicate key on line 1, first given on line 1"),
    (
        "3: 4",
        "1:1: 3: unknown key, known are {keys}",
    ),
    ("socket: {yes: 4}", "1:10: socket: a key must be text, not yes"),
    ("? [a]\n: 3", "1:3: a key must be text, not a list"),
    ("- peers", "1:1: must be a mapping of settings, not a list"),
    ("# x\n  peers", "2:3: must be a mapping of settings, not 'peers'"),
    (
        "peers: !!python/object/apply:os.system [x]",
        "1:8: peers: a list cannot be a !!python/object/apply:os.system: {tags}",
    ),
    ("peers: !!int many", "1:8: peers: many cannot be a !!int: {tags}"),
    ("!mine x: 3", "1:1: 'x' cannot be a !mine: {tags}"),
    ("!!set {peers}", "1:1: a mapping cannot be a !!set: {tags}"),
    ('ports: "\\ud800"', "1:8: ports: '\\ud800' cannot be a !!str: {tags}"),
    ("peers: &p 3\nvectors: *p", "2:10: aliases are not supported: write the value out"),
    (
        "<<: {peers: 3}",
        "1:1: <<: unknown key, known are {keys}",
    ),
    ("x: " + "[" * 5000, "1:35: nested deeper than 32 levels"),
    ("#" * (1 << 20) + "\n", "1:1: is longer than 1048576 bytes"),
]


class TestMistakes:
    """Each kind by itself: one line, at the right place."""

    @pytest.mark.parametrize(("text", "line"), MAIN_MISTAKES, ids=[text[:60] for text, _ in MAIN_MISTAKES])
    def test_in_main_file(self, write: Write, text: str, line: str) -> None:
        assert problems(write(text)) == [f"famezd.yaml:{line.format(**PHRASES)}"]

    @pytest.mark.parametrize(("text", "line"), FABRIC_MISTAKES, ids=[str(text)[:60] for text, _ in FABRIC_MISTAKES])
    def test_in_fabric(self, write: Write, text: str | bytes, line: str) -> None:
        assert problems(write(a=text)) == [f"fabrics.d/a.yaml:{line.format(**PHRASES)}"]

    def test_all_of_many_rules(self, write: Write) -> None:
        """Each at its place, and none that may only follow from another, or that may be another rule's."""
        path = write(
            a="faults:\n- {src: 99, dst: 98, drop: 2}\n- {src: 97}\n- {src: 96, block: true}\n"
            "- 7\n- {src: 95, drop: 1}\n"
        )
        assert [line.split(" ")[:2] for line in problems(path)] == [
            ["fabrics.d/a.yaml:2:9:", "faults[0].src:"],
            ["fabrics.d/a.yaml:2:18:", "faults[0].dst:"],
            ["fabrics.d/a.yaml:2:28:", "faults[0].drop:"],
            ["fabrics.d/a.yaml:3:9:", "faults[1].src:"],
            ["fabrics.d/a.yaml:4:9:", "faults[2].src:"],
            ["fabrics.d/a.yaml:5:3:", "faults[3]:"],
        ]

    def test_all_rules_that_do_nothing(self, write: Write) -> None:
        path = write(a="faults:\n- {}\n- {src: 1}\n- {dst: 99}\n- {block: true}\n- {block: false}\n")
        assert [line.split(" ")[:2] for line in problems(path)] == [
            ["fabrics.d/a.yaml:2:3:", "faults[0]:"],
            ["fabrics.d/a.yaml:3:3:", "faults[1]:"],
            ["fabrics.d/a.yaml:4:9:", "faults[2].dst:"],
            ["fabrics.d/a.yaml:6:3:", "faults[4]:"],
        ]

    def test_all_of_all_files_in_order(self, write: Write) -> None:
        path = write(
            "runtime_directory: run\nlgo: {}\n",
            b="peers: {\n",
            a="vectors: 3\npeers: many\npersonality: genz\nmailbox: {mode: 660, size: 1}\n"
            "vectors: 4\nports: sticky\nx: 1\n",
            c="personality: genz\nmailbox:\n  size: 4K\n  nmae: x\n",
        )
        assert [line.split(" ")[0] for line in problems(path)] == [
            "fabrics.d/a.yaml:2:8:",
            "fabrics.d/a.yaml:4:17:",
            "fabrics.d/a.yaml:4:28:",
            "fabrics.d/a.yaml:5:1:",
            "fabrics.d/a.yaml:7:1:",
            "fabrics.d/b.yaml:2:1:",
            "fabrics.d/c.yaml:3:9:",
            "fabrics.d/c.yaml:4:3:",
            "famezd.yaml:1:20:",
            "famezd.yaml:2:1:",
        ]

    def test_problems_are_data(self, write: Write) -> None:
        path = write(a="mailbox: {size: 3000}")
        with pytest.raises(ConfigError) as caught:
            load(path, environ=ENVIRON)
        message = f"{PHRASES['size']}, not 3000"
        assert caught.value.problems == (Problem(path.parent / "fabrics.d" / "a.yaml", 1, 17, "mailbox.size", message),)

    def test_an_error_is_one_line_whatever_the_file_is_called(self) -> None:
        problem = Problem(Path("a\nb\udcff.yaml"), 1, 2, "k", "is wrong")
        assert str(problem) == "a\\nb\\udcff.yaml:1:2: k: is wrong"


class TestFiles:
    def test_missing_main_file(self, write: Write) -> None:
        path = write(a="x: 1")
        path.unlink()
        assert problems(path) == [
            f"fabrics.d/a.yaml:1:1: x: unknown key, known are {PHRASES['keys']}",
            "famezd.yaml:1:1: cannot be read: No such file or directory: create it, an empty file will do",
        ]

    def test_too_few_vectors_do_not_hide_a_small_mailbox(self, write: Write) -> None:
        assert problems(write(a="personality: genz\nvectors: 3\nmailbox: {size: 4K}")) == [
            "fabrics.d/a.yaml:2:10: vectors: personality genz with 14 peers needs at least 16 (peers + 2), not 3",
            "fabrics.d/a.yaml:3:17: mailbox.size: must be at least 8K for 14 peers with personality genz, not 4K",
        ]

    def test_missing_altogether(self, tmp_path: Path) -> None:
        assert problems(tmp_path / "famezd.yaml") == [
            "famezd.yaml:1:1: cannot be read: No such file or directory: create it, an empty file will do"
        ]

    def test_other_suffix(self, write: Write) -> None:
        path = write(a="")
        for name in ("lab.yml", "other.YAML"):
            (path.parent / "fabrics.d" / name).touch()
        assert problems(path) == [
            "fabrics.d/lab.yml:1:1: is not read: rename it to lab.yaml",
            "fabrics.d/other.YAML:1:1: is not read: rename it to other.yaml",
        ]

    def test_missing_directory(self, write: Write) -> None:
        path = write()
        (path.parent / "fabrics.d").rmdir()
        assert problems(path) == [
            "fabrics.d:1:1: cannot be read: No such file or directory:"
            " create it, with a file such as lab.yaml for each fabric"
        ]

    def test_directory_is_a_file(self, write: Write) -> None:
        path = write()
        (path.parent / "fabrics.d").rmdir()
        (path.parent / "fabrics.d").touch()
        assert problems(path) == ["fabrics.d:1:1: cannot be read: Not a directory"]

    def test_what_is_no_file(self, write: Write) -> None:
        path = write()
        (path.parent / "fabrics.d" / "a.yaml").mkdir()
        os.mkfifo(path.parent / "fabrics.d" / "b.yaml")
        (path.parent / "fabrics.d" / "c.yaml").symlink_to("nowhere")
        assert problems(path) == [
            "fabrics.d/a.yaml:1:1: cannot be read: not a regular file",
            "fabrics.d/b.yaml:1:1: cannot be read: not a regular file",
            "fabrics.d/c.yaml:1:1: cannot be read: No such file or directory: create it, an empty file will do",
        ]

    def test_no_permission(self) -> None:
        with TemporaryDirectory() as directory:
            Path(directory).chmod(0o755)
            path = write_in(Path(directory), "", {"a": ""})
            (path.parent / "fabrics.d" / "a.yaml").chmod(0)
            with unprivileged():
                todo = f"user id {os.geteuid()} must be able to read it"
                assert problems(path) == [f"fabrics.d/a.yaml:1:1: cannot be read: Permission denied: {todo}"]

    def test_byte_order_mark(self, write: Write) -> None:
        assert problems(write(a="\ufeffx: 1"))[0].startswith("fabrics.d/a.yaml:1:1: x: ")

    @pytest.mark.parametrize("name", ["-a", "_a", "a b", "ü", "a" * 65, "a\nb", " "])
    def test_wrong_name(self, write: Write, name: str) -> None:
        shown = str(Problem(Path(f"fabrics.d/{name}.yaml"), 1, 1, "", f"{name!r}")).split(": ")
        assert problems(write(**{name: ""})) == [
            f"{shown[0]}: a fabric's name must be letters, digits, '_', '.' and '-',"
            f" beginning with a letter or digit, at most 64, not {shown[1]}: rename the file"
        ]

    @pytest.mark.parametrize("name", ["0", "a.b-c_D", "a" * 64])
    def test_right_name(self, write: Write, name: str) -> None:
        assert fabric_of(write(**{name: ""})).name == name

    def test_control_is_no_fabric(self, write: Write) -> None:
        assert problems(write(control="peers: 0")) == [
            "fabrics.d/control.yaml:1:1: no fabric can be named 'control': control.sock is famezctl's",
            "fabrics.d/control.yaml:1:8: peers: must be an integer from 1 to 65535, not 0",
        ]


class TestBetweenFabrics:
    def test_one_socket(self, write: Write) -> None:
        path = write(a="# x\npeers: 3", b="peers: 3\nsocket:\n  path: /run/test/./a.sock")
        assert problems(path) == [
            "fabrics.d/b.yaml:3:9: socket.path: /run/test/a.sock is the socket of fabric 'a' already,"
            " at fabrics.d/a.yaml:2:1: give each fabric its own"
        ]

    def test_one_mailbox(self, write: Write) -> None:
        path = write(
            a="mailbox: {name: x}",
            b="mailbox: {name: x}",
            c="mailbox: {backing: file, path: /dev/shm/x}",
            d="mailbox: {backing: file, path: /dev/hugepages/d}",
            e="mailbox: {backing: memfd}",
        )
        taken = f"{SHM}/x is the mailbox of fabric 'a' already, at fabrics.d/a.yaml:1:17: give each fabric its own"
        assert problems(path) == [
            f"fabrics.d/b.yaml:1:17: mailbox.name: {taken}",
            f"fabrics.d/c.yaml:1:32: mailbox.path: {taken}",
        ]

    def test_a_fabric_that_cannot_be_read_takes_nothing(self, write: Write) -> None:
        assert len(problems(write(a="{", b="socket: {path: /run/test/a.sock}"))) == 1

    def test_long_runtime_directory(self, write: Write) -> None:
        directory = "/" + "d" * 95
        path = write(f"runtime_directory: {directory}", fits="", does_not="")
        too_long = "a socket's path must be at most 107 bytes long, not"
        assert problems(path) == [
            f"fabrics.d/does_not.yaml:1:1: socket.path: {too_long} 110, as {directory}/does_not.sock is",
            f"famezd.yaml:1:20: runtime_directory: {too_long} 109, as {directory}/control.sock is",
        ]


class TestPersonalities:
    def test_reference(self) -> None:
        assert personality_reference("plain") == "famezd.switch.plain:Plain"
        assert personality_class("plain") is Plain

    def test_a_plug_in_of_ones_own(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        install(monkeypatch, f"{__name__}:Picky")
        path = write(a="personality: plug\nsocket: {mode: 0660}")
        assert problems(path) == ["fabrics.d/a.yaml:2:16: socket.mode: I want 0600"]

    def test_options_of_a_plug_in_are_text(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        install(monkeypatch, f"{__name__}:Optional")
        path = write(a="personality: plug\noptions: {colour: red, n: 007, x: 1}")
        assert problems(path) == ["fabrics.d/a.yaml:2:35: options.x: I know no x"]
        fabric = fabric_of(write(a="personality: plug\noptions: {colour: 'a=b,c%', n: 7, 'on': true}"))
        assert fabric.personality_options == {"colour": "a=b,c%", "n": "7", "on": "true"}
        assert worker_settings(fabric).personality_options == fabric.personality_options

    def test_options_of_genz(self, write: Write) -> None:
        told = worker_settings(fabric_of(write(a="personality: genz")))
        assert (told.personality_options, told.silent) == ({"manager": "true", "sid": "27"}, 0)
        told = worker_settings(fabric_of(write(a="personality: genz\ngenz: {manager: false, sid: 5, silent: true}")))
        assert (told.personality_options, told.silent) == ({"manager": "false", "sid": "5"}, 1)
        told = worker_settings(fabric_of(write(a="")))
        assert (told.personality_options, told.silent) == ({}, 0)

    @pytest.mark.parametrize("hook", ["mistakes", "option_mistakes", "mailbox_size"])
    def test_one_that_raises_is_reported(self, write: Write, monkeypatch: pytest.MonkeyPatch, hook: str) -> None:
        install(monkeypatch, f"{__name__}:Raising")
        monkeypatch.setattr(Raising, hook, classmethod(lambda *_: 1 // 0), raising=False)
        assert problems(write(a="personality: plug\nmailbox: {size: 4K}")) == [
            "fabrics.d/a.yaml:1:14: personality: plug is broken: ZeroDivisionError: integer division or modulo by zero"
        ]

    @pytest.mark.parametrize(
        ("attributes", "why"),
        [
            ({"first_id": "1"}, "first_id must be an integer from 0, not '1'"),
            ({"first_id": True}, "first_id must be an integer from 0, not True"),
            ({"is_peer": 1}, "is_peer must be True or False, not 1"),
            ({"has_slots": True}, "with has_slots, first_id must be 1 and fixed_ids True"),
            ({"nodename": None}, "nodename must be text, not None"),
        ],
    )
    def test_attributes_of_a_wrong_kind(
        self, write: Write, monkeypatch: pytest.MonkeyPatch, attributes: dict[str, object], why: str
    ) -> None:
        install(monkeypatch, f"{__name__}:Raising")
        for name, value in attributes.items():
            monkeypatch.setattr(Raising, name, value, raising=False)
        assert problems(write(a="personality: plug"))[0].endswith(f"{__name__}:Raising is no personality: {why}")

    @pytest.mark.parametrize(
        ("reference", "why"),
        [
            ("famezd.nowhere:X", "ModuleNotFoundError(\"No module named 'famezd.nowhere'\")"),
            ("famezd.config:Nothing", "AttributeError(\"module 'famezd.config' has no attribute 'Nothing'\")"),
        ],
    )
    def test_broken(self, write: Write, monkeypatch: pytest.MonkeyPatch, reference: str, why: str) -> None:
        install(monkeypatch, reference)
        assert problems(write(a="personality: plug")) == [
            "fabrics.d/a.yaml:1:14: personality: must be the name of a personality, not 'plug':"
            f" {reference} cannot be loaded: {why}"
        ]

    def test_no_personality(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        install(monkeypatch, "famezd.config:load")
        assert problems(write(a="personality: plug"))[0].endswith(
            "not 'plug': famezd.config:load is no personality: no subclass of famezd.switch.personality.Personality"
        )


class Picky(Personality):
    @classmethod
    def mistakes(cls, peers: int, vectors: int) -> dict[str, str]:
        del peers, vectors
        return {"socket.mode": "I want 0600"}


class Optional(Personality):
    @classmethod
    def option_mistakes(cls, options: Mapping[str, str]) -> dict[str, str]:
        return {"x": "I know no x"} if "x" in options else {}


class Raising(Personality):
    """A test makes it raise."""


def install(monkeypatch: pytest.MonkeyPatch, reference: str) -> None:
    """Make `reference` the one personality installed, named plug."""
    points = [
        EntryPoint("plug", reference, "famezd.personalities"),
        EntryPoint("plain", "famezd.switch.plain:Plain", "famezd.personalities"),
    ]
    monkeypatch.setattr(kinds, "entry_points", lambda group: points)


SECTIONS: dict[type[MainSettings] | type[FabricSettings], list[str]] = {
    MainSettings: ["http", "log", "control"],
    FabricSettings: ["socket", "mailbox", "access", "metrics", "log", "genz"],
}
KEYS = [
    *(key for model in SECTIONS for key in model.model_fields),
    *("listen", "level", "format", "owner", "group", "mode", "path", "name", "size", "backing", "x", "<<"),
    *("users", "groups", "peers_per_user", "manager", "sid", "silent"),
    *FaultSettings.model_fields,
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.dates()
    | st.binary(max_size=4)
    | st.sampled_from(
        [
            "genz",
            "plain",
            "fresh",
            "64K",
            "/x",
            "0660",
            "file",
            "memfd",
            "root",
            "[::1]:1",
            "1:1",
            4096,
            "*",
            "5ms",
            "10%",
        ]
    )
)
KEY = st.sampled_from(KEYS) | SCALARS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEY, inner, max_size=5), max_leaves=12
)
DOCUMENTS = st.dictionaries(KEY, VALUES, max_size=6).map(lambda data: yaml.dump(data, allow_unicode=True))


class TestAnything:
    """Whatever is written, loading gives a Config or a ConfigError whose places exist."""

    @staticmethod
    def load(directory: Path, main: str | bytes, fabric: str | bytes) -> None:
        path = write_in(directory, main, {"a": fabric})
        try:
            assert isinstance(load(path, environ=ENVIRON), Config)
        except ConfigError as error:
            TestAnything.look_up(error)

    @staticmethod
    def look_up(error: ConfigError) -> None:
        """Find every place that `error` names, one on each of its lines."""
        assert 0 < len(error.problems) == len(str(error).splitlines())
        for problem in error.problems:
            text = problem.path.read_bytes().decode(errors="replace")
            lines = re.split("\r\n|[\r\n\x85\u2028\u2029]", text)
            assert 1 <= problem.line <= len(lines)
            assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1

    @settings(deadline=None, max_examples=100)
    @given(main=DOCUMENTS, fabric=DOCUMENTS)
    def test_any_value_at_any_key(self, tmp_path_factory: pytest.TempPathFactory, main: str, fabric: str) -> None:
        self.load(tmp_path_factory.getbasetemp(), main, fabric)

    @settings(deadline=None, max_examples=100)
    @given(
        value=VALUES,
        key=st.sampled_from(
            [
                *FabricSettings.model_fields,
                *(f"{s}.{k}" for s in ("socket", "mailbox", "access", "genz", "options") for k in KEYS),
            ]
        ),
    )
    def test_any_value_at_every_setting(
        self, tmp_path_factory: pytest.TempPathFactory, value: object, key: str
    ) -> None:
        section, _, setting = key.rpartition(".")
        data: dict[str, Any] = {section: {setting: value}} if section else {setting: value}
        self.load(tmp_path_factory.getbasetemp(), "", yaml.dump(data))

    @settings(deadline=None, max_examples=100)
    @given(text=st.text(alphabet="pers: \n\t-[]{}?!&*|>'\"%@#\\0U\r\ufeff", max_size=40) | st.binary(max_size=40))
    def test_any_text(self, tmp_path_factory: pytest.TempPathFactory, text: str | bytes) -> None:
        self.load(tmp_path_factory.getbasetemp(), text, text)


class TestSchema:
    @pytest.mark.parametrize("schema", [main_schema(), fabric_schema()])
    def test_everything_is_described(self, schema: dict[str, Any]) -> None:
        json.dumps(schema)
        for model in (schema, *schema["$defs"].values()):
            assert model["additionalProperties"] is False
            assert "required" not in model
            for name, setting in model["properties"].items():
                assert "description" in setting or "$ref" in setting, name
                assert "$ref" in setting or "default" in setting, name

    def test_fabric(self) -> None:
        schema = fabric_schema()
        assert schema["properties"]["peers"]["maximum"] == 65535
        assert schema["$defs"]["SocketSettings"]["properties"]["mode"]["default"] == "0660"
        assert "name" not in schema["properties"]


class TestExamples:
    def test_load(self) -> None:
        config = load(EXAMPLES / "famezd.yaml", environ=ENVIRON)
        lab, plain = config.fabrics.values()
        assert (lab.name, lab.personality, lab.peers, lab.vectors) == ("lab", "genz", 14, 16)
        assert (lab.doorbells, lab.ports, lab.mailbox.size) == ("relayed", "sticky", 8192)
        assert (plain.name, plain.personality, plain.peers, plain.vectors) == ("plain", "plain", 14, 4)
        assert (plain.doorbells, plain.ports, plain.mailbox.size) == ("direct", "fresh", 4 << 20)

    def test_comments_show_every_setting_with_its_default(self, tmp_path: Path) -> None:
        path = shutil.copytree(EXAMPLES, tmp_path / "famez") / "famezd.yaml"
        files = [path, *path.parent.glob("fabrics.d/*.yaml")]
        for file in files:
            file.write_text(re.sub("^#(?=(  )?[a-z_]+:( |$))", "", file.read_text(), flags=re.MULTILINE))
        environ = {"RUNTIME_DIRECTORY": "/run/famez"}
        assert load(path, environ=environ) == load(EXAMPLES / "famezd.yaml", environ=environ)
        for file in files:
            model = MainSettings if file == path else FabricSettings
            written = yaml.safe_load(file.read_text())
            # Where they would be a mistake they are not shown.
            absent = {"genz"} if file.stem == "plain" else set()
            assert written.keys() == model.model_fields.keys() - absent
            for section in set(SECTIONS[model]) - absent:
                field = model.model_fields[section].annotation
                assert written[section].keys() == field.model_fields.keys()  # type: ignore[union-attr]


PINNED = "pins: {3: {user: root}, 4: {socket: true}}\n"


class TestPins:
    def test_ports_are_kept_for_users_and_for_sockets_of_their_own(self, write: Write) -> None:
        fabric = fabric_of(write(lab=PINNED))
        assert fabric.pins == {3: Pin(user="root"), 4: Pin(socket=True, path=Path("/run/test/lab.4.sock"))}
        assert [pin.uid for pin in fabric.pins.values()] == [0, None]
        told = worker_settings(fabric)
        assert (told.pins, told.port_sockets) == ("3:0,4:socket", "/run/test")
        assert told.pinned == Pins({3: 0}, frozenset({4}))
        assert told.port_socket(4) == "/run/test/lab.4.sock"

    def test_without_pins_a_worker_is_told_of_none(self, write: Write) -> None:
        told = worker_settings(fabric_of(write(lab="")))
        assert (told.pins, told.port_sockets) == ("", "")
        assert told.pinned == Pins()

    def test_what_is_accepted_comes_back_as_it_was(self, write: Write) -> None:
        fabric = fabric_of(write(lab=PINNED))
        assert Fabric.model_validate_json(fabric.model_dump_json()) == fabric

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            (
                "pins: {14: {socket: true}}",
                "1:12: pins.14: the fabric has no port 14: with personality plain and 14 peers these are 0 to 13",
            ),
            (
                "personality: genz\npins: {0: {socket: true}}",
                "2:11: pins.0: the fabric has no port 0: with personality genz and 14 peers these are 1 to 14",
            ),
            (
                "ports: fresh\n" + PINNED,
                "2:7: pins: are for sticky ports only: with fresh ports an id is no port that could be kept;"
                " leave them out",
            ),
            (
                "pins: {3: {user: nosuch}}",
                "1:18: pins.3.user: must be the name or number of a user, not 'nosuch':"
                " this system has no user 'nosuch'; make it, or name another",
            ),
            ("pins: {3: {socket: 1}}", "1:20: pins.3.socket: must be true or false, not 1"),
            ("pins: {3: {}}", "1:11: pins.3: must have either user, with a user's name or number, or socket: true"),
            (
                "pins: {3: {user: root, socket: true}}",
                "1:11: pins.3: must have either user, with a user's name or number, or socket: true",
            ),
            ("pins: {3: root}", "1:11: pins.3: must be a mapping of settings, not 'root'"),
            ("pins: [3]", "1:7: pins: must be a mapping of settings, not a list"),
            ("pins: {3: {users: root}}", "1:12: pins.3.users: unknown key, did you mean 'user'?"),
            (
                "pins: {x: {socket: true}}",
                "1:8: pins.x: a key there must be the number of a port, from 0 to 65535, not 'x'",
            ),
            (
                "pins: {03: {socket: true}}",
                "1:8: pins.03: a key there must be the number of a port, from 0 to 65535, not '03'",
            ),
            (
                "pins: {65536: {socket: true}}",
                "1:8: pins.65536: a key there must be the number of a port, from 0 to 65535, not '65536'",
            ),
            (
                "pins: {3: {user: root}, '3': {socket: true}}",
                "1:25: pins.3: duplicate key on line 1, first given on line 1",
            ),
        ],
    )
    def test_mistakes(self, write: Write, text: str, problem: str) -> None:
        assert problems(write(lab=text)) == [f"fabrics.d/lab.yaml:{problem}"]

    def test_a_socket_that_another_fabric_has(self, write: Write) -> None:
        assert problems(write(**{"lab": PINNED, "lab.4": ""})) == [
            "fabrics.d/lab.yaml:1:37: pins.4.socket: /run/test/lab.4.sock is the socket of fabric 'lab.4' already, at"
            " fabrics.d/lab.4.yaml:1:1: give each fabric its own"
        ]

    def test_a_socket_where_another_fabrics_port_has_its_own(self, write: Write) -> None:
        assert problems(write(lab=PINNED, other="socket: {path: /run/test/lab.4.sock}")) == [
            "fabrics.d/other.yaml:1:16: socket.path: /run/test/lab.4.sock is the socket of port 4 of fabric 'lab'"
            " already, at fabrics.d/lab.yaml:1:37: give each fabric its own"
        ]

    def test_a_path_that_is_too_long(self, write: Write) -> None:
        # That of the fabric's own socket is short enough.
        environ, name = {"RUNTIME_DIRECTORY": "/run/" + "d" * 65}, "f" * 30
        assert problems(write(**{name: PINNED}), environ) == [
            f"fabrics.d/{name}.yaml:1:37: pins.4.socket: a socket's path must be at most 107 bytes long, not 108, as"
            f" /run/{'d' * 65}/{name}.4.sock is"
        ]
