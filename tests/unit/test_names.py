"""What peers are called, whatever they claim."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from famezd.mailbox import NAME_SIZE, FileMemory, Slots, slots_size
from famezd.stats import Occupant
from famezd.supervisor.status.commandline import (
    HOST,
    QEMU,
    UNKNOWN,
    Program,
    Reader,
    guest_name,
    program_of,
    understand,
)
from famezd.supervisor.status.names import RENAME, SWITCH, Named, Names, sanitised

SLOT = NAME_SIZE - 1
WIDE = "".join(chr(ord(c) - ord("!") + ord("\N{FULLWIDTH EXCLAMATION MARK}")) for c in "web")

# What is left of a claim


@pytest.mark.parametrize(
    ("claimed", "name"),
    [
        ("web", "web"),
        ("  web\t 1 \n", "web 1"),
        ("\x1b[31mred\x1b[0m", "[31mred [0m"),
        ("a\x00b\x7fc\x85d", "a b c d"),
        ("\u202eevil\u202c\u2066x\u200f", "evil x"),
        ("zero\u200bwidth\ufeff", "zero width"),
        ("no\ufffdUTF-8\ufffd", "no UTF-8"),
        ("lone\ud800surrogate", "lone surrogate"),
        ("two\u2028lines", "two lines"),
        ("Zu\u0308rich", "Zürich"),
        ("\x01\x02 \u200e", ""),
        ("", ""),
    ],
)
def test_only_what_people_can_read_is_left(claimed: str, name: str) -> None:
    assert sanitised(claimed, 64) == name


@given(st.text(st.characters()), st.integers(1, 64))
def test_whatever_is_claimed_becomes_a_short_printable_line(claimed: str, longest: int) -> None:
    name = sanitised(claimed, longest)
    assert name.isprintable()
    assert len(name.encode()) <= longest
    assert name == name.strip() == sanitised(name, longest)
    directions = {unicodedata.bidirectional(c) for c in name}
    assert not directions & {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


# Who is called what


class Fabric:
    """Peers that claim names, and a clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.names = Names(lambda: self.now)
        self.claims: dict[int, str] = {}
        self.peers: dict[int, Occupant] = {}
        self.switch: int | None = None
        self._joins = 0

    def join(self, peer: int, claim: str = "") -> None:
        self._joins += 1
        # A process that nobody can see, so that there is no name but the claimed one.
        self.peers[peer] = Occupant(peer, peer, 0, 0, self._joins)
        self.claims[peer] = claim

    def leave(self, peer: int) -> None:
        del self.peers[peer], self.claims[peer]

    def nodename(self, peer: int) -> str:
        return self.claims.get(peer, "")

    def look(self) -> dict[int, str]:
        self.names.look(self.peers.values(), self.nodename, self.switch)
        everybody = [*self.peers, *([] if self.switch is None else [self.switch])]
        return {peer: self.names.of(peer).name for peer in everybody}


@pytest.fixture
def fabric() -> Fabric:
    return Fabric()


def test_who_claims_nothing_is_called_by_the_id(fabric: Fabric) -> None:
    fabric.join(3)
    fabric.join(4, "\x07\u202e")
    assert fabric.look() == {3: "3", 4: "4"}


def test_of_two_that_claim_one_name_the_first_that_had_it_keeps_it(fabric: Fabric) -> None:
    fabric.join(2, "web")
    assert fabric.look() == {2: "web"}
    fabric.join(1, "web")
    fabric.join(5, "WEB")
    fabric.join(6, WIDE)
    assert fabric.look() == {2: "web", 1: "web~1", 5: "WEB~5", 6: f"{WIDE}~6"}
    fabric.leave(2)
    assert fabric.look()[1] == "web"
    # Whoever comes back finds it taken.
    fabric.join(2, "web")
    assert fabric.look()[2] == "web~2"


def test_of_two_that_were_never_seen_before_the_first_to_join_has_the_name(fabric: Fabric) -> None:
    fabric.join(9, "web")
    fabric.join(1, "web")
    assert fabric.look() == {9: "web", 1: "web~1"}


@pytest.mark.parametrize(
    "claim",
    [
        "4",
        "\N{FULLWIDTH DIGIT ONE}",
        "²",
        "-1",
        "...",
        "switch",
        "Switch",
        "ALL",
        "others",
        "server",
        "web~4",
        "web~7",
        "web~",
    ],
)
def test_no_claim_can_be_taken_for_somebody_else(fabric: Fabric, claim: str) -> None:
    fabric.join(7, claim)
    fabric.join(4, "web")
    # A tilde alone is nobody's.
    assert fabric.look() == {7: claim if claim == "web~" else f"{claim}~7", 4: "web"}


@given(st.lists(st.tuples(st.integers(1, 6), st.sampled_from(["", "a", "A", "a~1", "a~2", "1", "2", "switch", "b"]))))
def test_no_two_names_are_ever_the_same(moves: list[tuple[int, str]]) -> None:
    fabric = Fabric()
    fabric.switch = 7
    for peer, claim in moves:
        if peer in fabric.peers and claim == "":
            fabric.leave(peer)
        elif peer in fabric.peers:
            fabric.claims[peer] = claim
            fabric.now += RENAME / 3
        else:
            fabric.join(peer, claim)
        names = fabric.look()
        assert len({name.casefold() for name in names.values()}) == len(names)
        for peer_, name in names.items():
            assert name == str(peer_) or not name.isdecimal()


def test_a_name_that_changes_a_thousand_times_a_second_changes_once_in_ten_seconds(fabric: Fabric) -> None:
    fabric.join(1)
    shown = []
    for turn in range(60_000):
        fabric.now = 1000.0 + turn / 1000
        fabric.claims[1] = f"name {turn}"
        shown.append(fabric.look()[1])
    changes = [turn for turn in range(1, 60_000) if shown[turn] != shown[turn - 1]]
    # The first at once: it is the first name that is claimed.
    assert changes == [1, 10_001, 20_001, 30_001, 40_001, 50_001]
    assert shown[-1] == "name 50001"
    # What was claimed in between is taken up later.
    fabric.claims[1] = "settled"
    assert fabric.look()[1] == "name 50001"
    fabric.now += RENAME
    assert fabric.look()[1] == "settled"


def test_a_peer_that_takes_a_port_over_is_not_called_as_the_one_before(fabric: Fabric) -> None:
    fabric.join(1, "old")
    assert fabric.look() == {1: "old"}
    fabric.leave(1)
    fabric.join(1)
    assert fabric.look() == {1: "1"}


def test_the_switch_is_called_as_its_slot_says_and_claims_no_more_than_others(fabric: Fabric) -> None:
    fabric.switch = 5
    fabric.join(1, "switch")
    assert fabric.look() == {1: "switch~1", 5: "switch"}
    assert fabric.names.of(5) == Named("switch", SWITCH)
    fabric.claims[5] = "Z-switch"
    assert fabric.look()[5] == "Z-switch"
    fabric.now += RENAME
    fabric.claims[5] = "1"
    assert fabric.look()[5] == "1~5"


def test_a_log_can_say_who_it_was_that_left(fabric: Fabric) -> None:
    fabric.join(1, "web")
    occupant = fabric.peers[1]
    assert fabric.names.meet(occupant, fabric.nodename) == "web"
    fabric.leave(1)
    # Its line is read before, or after, somebody looks.
    assert fabric.names.miss(1) == "web"
    fabric.join(2, "web")
    assert fabric.look() == {2: "web"}
    fabric.leave(2)
    fabric.look()
    assert fabric.names.miss(2) == "web"
    fabric.look()
    assert fabric.names.miss(2) is None


# In the mailbox


@contextmanager
def slots() -> Iterator[Slots]:
    descriptor = os.memfd_create("test", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, slots_size(3))
        found = Slots(FileMemory(descriptor))
        found.lay_out(3)
        yield found
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("field", "name"),
    [
        (b"n" * 31 + b"\0", "n" * 31),
        # The last byte is for the NUL, and nobody has to read on to find one.
        (b"n" * 32, "n" * 31),
        ("ü".encode() * 16, "ü" * 15),
        (b"web\0garbage" + b"\xff" * 20, "web"),
        (b"\0web", "1"),
        (b"\xff\xfe\x80" + bytes(29), "1"),
        (b"we\xffb" + bytes(28), "we b"),
        (b"\x1b]0;title\x07" + bytes(22), "]0;title"),
        (bytes(32), "1"),
    ],
)
def test_a_slot_names_its_peer(fabric: Fabric, field: bytes, name: str) -> None:
    with slots() as found:
        found.memory.write(512, field)
        fabric.join(1)
        fabric.names.look(fabric.peers.values(), found.nodename, None)
        assert fabric.names.of(1).name == name


@given(st.binary(max_size=32))
def test_whatever_stands_in_a_slot(field: bytes) -> None:
    fabric = Fabric()
    with slots() as found:
        found.memory.write(512, field)
        fabric.join(1)
        fabric.names.look(fabric.peers.values(), found.nodename, None)
        name = fabric.names.of(1).name
        assert name.isprintable()
        assert 0 < len(name.encode()) <= SLOT + len("~1")


# By the command line


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("web", "web"),
        ("guest=web,debug-threads=on", "web"),
        ("web,process=other", "web"),
        ("debug-threads=on,guest=web", "web"),
        ("guest=a,,b,debug-threads=on", "a,b"),
        ("a,,b", "a,b"),
        ("guest=a,guest=b", "b"),
        ("guest=x=y", "x=y"),
        ("debug-threads=on", ""),
        ("guest=", ""),
        ("", ""),
    ],
)
def test_qemus_name_is_read_as_qemu_reads_it(option: str, name: str) -> None:
    assert guest_name(option) == name


@pytest.mark.parametrize(
    ("command", "program"),
    [
        (["/usr/bin/qemu-system-x86_64", "-name", "guest=vm1,debug-threads=on", "-S"], Program(QEMU, "vm1")),
        (["/usr/libexec/qemu-kvm", "--name", "vm1"], Program(QEMU, "vm1")),
        (["kvm", "-name", "a", "-name", "b"], Program(QEMU, "b")),
        (["qemu-system-aarch64", "-m", "1G"], Program(QEMU)),
        (["qemu-system-aarch64", "-name"], Program(QEMU)),
        (["/usr/bin/python3", "-name", "vm1"], Program(HOST)),
        (["qemu-img", "-name", "vm1"], Program(HOST)),
        ([""], Program(UNKNOWN)),
        ([], Program(UNKNOWN)),
    ],
)
def test_a_qemu_is_told_by_its_programs_name(command: Sequence[str], program: Program) -> None:
    assert understand(command) == program


@given(st.lists(st.text()))
def test_any_command_line_is_understood(command: list[str]) -> None:
    assert understand(["qemu-system-x86_64", *command]).kind == QEMU


LIBVIRT = [
    "/usr/bin/qemu-system-x86_64",
    *("-name", "guest=a domain,,with a comma,debug-threads=on"),
    "-S",
    *("-object", '{"qom-type":"secret","id":"masterKey0","format":"raw","file":"/var/lib/libvirt/master-key.aes"}'),
    *("-machine", "pc-q35-7.2,usb=off", "-uuid", "94ebf7a4-2f4f-4a9c-8d3a-6a6b0f2f7f6a", "-no-user-config"),
]
"""As libvirt writes it."""


@contextmanager
def process(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process with that command line, which does nothing."""
    code = "import sys; print(flush=True); sys.stdin.read()"
    script = 'exec -a "$0" "$PYTHON" -c "$CODE" "${@:1}"'
    environ: Mapping[str, str] = {**os.environ, "PYTHON": sys.executable, "CODE": code}
    with subprocess.Popen(
        ["bash", "-c", script, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ
    ) as started:
        assert started.stdout is not None
        started.stdout.readline()
        yield started
        assert started.stdin is not None
        started.stdin.close()


def test_a_process_of_libvirts_is_called_as_its_domain() -> None:
    with process(LIBVIRT) as qemu:
        assert program_of(qemu.pid, time.time()) == Program(QEMU, "a domain,with a comma")
        names = Names()
        names.look([Occupant(0, 0, qemu.pid, 0, time.time_ns())], lambda _: "", None)
        assert names.of(0) == Named("a domain,with a comma", QEMU)
        # It was read once, and stays.
        qemu.kill()
        qemu.wait()
        assert program_of(qemu.pid, time.time()) == Program(UNKNOWN)


def test_a_process_that_began_after_the_join_is_another_with_the_same_pid() -> None:
    with process(LIBVIRT) as qemu:
        assert program_of(qemu.pid, time.time() - 3600) == Program(UNKNOWN)


def test_a_process_that_cannot_be_seen_is_unknown() -> None:
    assert program_of(0, time.time()) == Program(UNKNOWN)
    assert program_of(os.getpid(), time.time()) == Program(HOST)


def test_a_process_that_keeps_its_command_line_back_costs_only_its_user_its_name() -> None:
    answered, reads = threading.Event(), list[int]()

    def look(pid: int, joined: float) -> Program:
        reads.append(pid)
        if pid == 1:
            answered.wait(60)
        return Program(QEMU, f"vm{pid}")

    reader = Reader(look)
    kept_back = reader.read(1, 1000, 0.0)
    assert kept_back.program == Program(UNKNOWN)
    # Others are read, and of this user no other that might not answer either.
    assert reader.read(2, 1001, 0.0).program == Program(QEMU, "vm2")
    assert reader.read(3, 1000, 0.0).program == Program(UNKNOWN)
    assert reads == [1, 2]
    answered.set()
    while kept_back.program.kind == UNKNOWN:
        time.sleep(0.001)
    assert kept_back.program == Program(QEMU, "vm1")
    while (later := reader.read(4, 1000, 0.0)).program.kind == UNKNOWN:
        # The thread that answered is about to end.
        time.sleep(0.001)
    assert later.program == Program(QEMU, "vm4")


def test_of_a_peer_in_its_slot_and_on_its_command_line_the_slot_counts() -> None:
    claims: dict[int, str] = {}
    nodename: Callable[[int], str] = lambda peer: claims.get(peer, "")  # noqa: E731
    with process(LIBVIRT) as qemu:
        names, peers = Names(), [Occupant(0, 0, qemu.pid, 0, time.time_ns())]
        claims[0] = "from the guest"
        names.look(peers, nodename, None)
        assert names.of(0) == Named("from the guest", QEMU)
