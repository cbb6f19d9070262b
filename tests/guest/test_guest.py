"""Real Linux guests on a real famezd: their programs are peers of it by vfio-pci, with famez-client and without."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from famezd.client import Doorbell, Mailbox, Message, NotTakenError
from tests.daemon import BIN, eventually
from tests.guest import line
from tests.guest.kept import Kept
from tests.guest.machine import CLIENT, IOMMU, Done, Guest, Program, first_files, folder
from tests.guest.machine import PATIENCE as SLOW
from tests.terminal import Terminal

pytestmark = pytest.mark.timeout(1800)

A, B, C, FEW, D = 1, 2, 3, 4, 5
"""The guests' ports, which are pinned; a second device of C's has too few vectors."""
HOST, SWITCH = 6, 9
PINS = {port: {"socket": True} for port in (A, B, C, FEW, D)}
LAB = {"personality": "genz", "peers": 8, "vectors": 16, "pins": PINS}
FLAT = {"peers": 3, "vectors": 4}
ON_LAB, OTHER, UNRUNG = (f"0000:00:{slot:02x}.0" for slot in (4, 5, 6))
"""Where A, B and C have their devices on lab, C one with too few vectors, and B and C an ivshmem-plain."""
ON_FLAT, BRIDGED, BESIDE = "0000:01:00.0", "0000:01:01.0", "0000:01:02.0"
"""B's device on flat, in a slot of its own; D's device, and what stands beside it."""
NO_IOMMU = (
    "famez-client: no IOMMU stands before {}, so there are no interrupts: the mailbox is looked at again and again"
)


class Place(NamedTuple):
    """A famezd, and machines on it."""

    famezd: Kept
    a: Guest
    """On the fabric lab."""
    b: Guest
    """On lab, on flat, and with an ivshmem-plain."""
    c: Guest
    """Without an IOMMU."""
    d: Guest
    """With an IOMMU that remaps no interrupts, behind which the device is not alone."""


def doorbell(socket: Path, name: str, vectors: int, options: str) -> list[str]:
    """The arguments for an ivshmem-doorbell at a fabric's socket, or a port's own."""
    device = f"ivshmem-doorbell,chardev={name},id={name}-device,vectors={vectors},{options}"
    return ["-chardev", f"socket,path={socket},id={name}", "-device", device]


UNRUNG_DEVICE = ["-object", "memory-backend-ram,id=unrung,size=1M", "-device", "ivshmem-plain,memdev=unrung,addr=6"]


def machines(famezd: Kept) -> dict[str, list[str]]:
    """The arguments for each guest."""
    lab = {port: famezd.socket(f"lab.{port}") for port in PINS}
    few = doorbell(lab[FEW], "few", 3, "addr=5")
    flat = doorbell(famezd.socket("flat"), "flat", 4, "bus=rootport")
    return {
        "a": [*IOMMU, *doorbell(lab[A], "lab", 16, "addr=4")],
        "b": [
            *(*IOMMU, *doorbell(lab[B], "lab", 16, "addr=4"), *UNRUNG_DEVICE),
            *("-device", "pcie-root-port,id=rootport,chassis=1,addr=5", *flat),
        ],
        "c": [*doorbell(lab[C], "lab", 16, "addr=4"), *few, *UNRUNG_DEVICE],
        "d": [
            *("-device", "intel-iommu,intremap=off", "-device", "pcie-pci-bridge,id=bridge,addr=4"),
            *(*doorbell(lab[D], "lab", 16, "bus=bridge,addr=1"), "-device", "pci-testdev,bus=bridge,addr=2"),
        ],
    }


@contextmanager
def running() -> Iterator[Place]:
    with folder() as directory, Kept(directory, {"lab": LAB, "flat": FLAT}) as famezd, ExitStack() as stack:
        files = first_files(directory)
        started = [Guest(name, directory, files, words) for name, words in machines(famezd).items()]
        guests = [stack.enter_context(guest) for guest in started]
        yield Place(famezd, *(guest.ready() for guest in guests))


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with running() as place:
        yield place


@pytest.fixture
def host(place: Place) -> Iterator[Mailbox]:
    """A host program, with messages; the lowest port that nobody has pinned is its."""
    with place.famezd.join("lab") as peer, closing(Mailbox(peer)) as mailbox:
        assert peer.id == HOST
        yield mailbox


@contextmanager
def listening(guest: Guest, count: int, *options: str) -> Iterator[Program]:
    """famez-client in a guest, which listens for that many messages when the block begins."""
    program = guest.start(*CLIENT, "--pci", *options, "--json", "listen", "-c", str(count))
    try:
        program.await_output("listens")
        yield program
        program.wait()
    finally:
        if program.look()[0] is None:
            program.signal("SIGKILL")
            program.wait()


def heard(program: Program) -> list[tuple[int, str]]:
    """The messages that it has printed, with their senders."""
    done = program.wait()
    assert done.status == 0, done
    results = [json.loads(printed) for printed in done.out.splitlines()]
    return [(told["src"], told["text"]) for told in results if told["result"] == "received"]


def succeeded(done: Done) -> str:
    assert (done.status, done.err) == (0, ""), done
    return done.out


def refused(done: Done) -> str:
    """The one line that a client which is refused prints."""
    assert (done.status, done.out, done.err.count("\n")) == (1, "", 1), done
    return done.err.removeprefix("famez-client: ").rstrip()


# What a program does with the device


PROGRAM = """
import sys
from famezd.client import Doorbell, GuestPeer
with GuestPeer.open({address!r}, notice=print) as peer:
    memory = peer.open_memory()
    print(peer.id, peer.vectors, peer.peers, memory.size, memory.read(64, 13), flush=True)
    memory.write(128, b"from the guest")
    for vector in range(peer.vectors):
        peer.ring({host}, vector)
    rung = {{}}
    while set(rung) != set(range(peer.vectors)):
        for event in peer.wait():
            rung[event.vector] = rung.get(event.vector, 0) + event.rings
    print(sorted(rung.items()))
    peer.ring({host}, 0)
"""


def test_a_guests_program_rings_and_is_rung_by_interrupts(place: Place) -> None:
    before = place.famezd.pairs("flat")
    with place.famezd.join("flat") as peer:
        guest = next(iter({0, 1, 2} - {peer.id}))
        os.pwrite(peer.memory, b"from the host", 64)
        program = place.b.start("python3", "-c", PROGRAM.format(address=ON_FLAT, host=peer.id))
        program.await_output("\n")
        rung: set[int] = set()
        while rung != {0, 1, 2, 3}:
            events = peer.wait(SLOW)
            assert events, program.look()
            rung |= {event.vector for event in events if isinstance(event, Doorbell)}
        for vector in range(4):
            peer.ring(guest, vector)
        assert peer.wait(SLOW) == [Doorbell(0, 1)]
        done = program.wait()
        assert succeeded(done).splitlines() == [
            f"{guest} 4 None {1 << 22} b'from the host'",
            "[(0, 1), (1, 1), (2, 1), (3, 1)]",
        ]
        assert os.pread(peer.memory, 14, 128) == b"from the guest"
        assert place.famezd.pairs("flat") - before == {(guest, peer.id): 5, (peer.id, guest): 4}


def test_guests_exchange_messages(place: Place) -> None:
    pairs, vectors = place.famezd.pairs("lab"), place.famezd.vectors("lab")
    with listening(place.b, 3, ON_LAB) as program:
        script = "send -t 60 2 one\nsend -t 60 z02 two\n# both ways\nping -t 60 2\n"
        printed = succeeded(place.a.client("--pci", stdin=script)).splitlines()
        assert printed[:2] == ["taken by z02 (2)"] * 2
        assert printed[2].startswith("pong from z02 (2): seq=1 time=")
    assert heard(program) == [(A, "one"), (A, "two"), (A, "ping")]
    # Each message is one doorbell, and so is the pong; an acknowledgement is none.
    assert place.famezd.pairs("lab") - pairs == {(A, B): 3, (B, A): 1}
    assert place.famezd.vectors("lab") - vectors == {(B, A): 3, (A, B): 1}


def test_a_guest_and_famez_client_on_the_host(place: Place, host: Mailbox) -> None:
    with listening(place.a, 3) as program:
        assert host.names()[A] == ("z01", "Debugger")
        host.send(A, "hello", timeout=SLOW)
        assert host.ping(A, timeout=SLOW) > 0
        command = [str(BIN / "famez-client"), "-S", str(place.famezd.socket("lab")), "ping", "-t", "60", "z01"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SLOW)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("pong from z01 (1): ")
    assert heard(program) == [(HOST, "hello"), (HOST, "ping"), (HOST + 1, "ping")]
    # The machine stays, under the name that it had.
    assert host.names()[A] == ("", "Driverless QEMU")
    sent = place.a.start(*CLIENT, "--pci", "send", "-t", "60", str(HOST), "hello, too")
    assert host.receive(timeout=SLOW) == Message(A, "hello, too")
    assert succeeded(sent.wait()) == f"taken by z06 ({HOST})\n"


def test_a_guest_is_configured_by_the_manager(place: Place) -> None:
    assert "link configured: CID=100 SID=27" in succeeded(place.a.client("--pci", "rfc", "-t", "60"))
    dump = json.loads(succeeded(place.a.client("--pci", "--json", "dump")))
    assert (dump["id"], dump["vectors"], dump["switch"]) == (A, 16, SWITCH)
    assert [peer["id"] for peer in dump["peers"]] == [2, 3, 4, 5, 6, 7, 8, 9]
    assert "Z-switch (9): by the device's register\n" in succeeded(place.a.client("--pci", "dump"))


def test_what_came_before_there_were_interrupts_is_found(place: Place, host: Mailbox) -> None:
    with pytest.raises(NotTakenError):
        host.send(A, "early", timeout=0.1)
    with listening(place.a, 1) as program:
        pass
    assert heard(program) == [(HOST, "early")]


def test_a_plain_fabric_has_doorbells_only(place: Place) -> None:
    with place.famezd.join("flat") as peer:
        printed = succeeded(place.b.client("--pci", ON_FLAT, "ring", str(peer.id), "all"))
        assert printed == f"rang peer {peer.id} on vectors 0, 1, 2, 3\n"
        rung: set[int] = set()
        while len(rung) < 4:
            rung |= {event.vector for event in peer.wait(SLOW) if isinstance(event, Doorbell)}
        watching = place.b.start(*CLIENT, "--pci", ON_FLAT, "--json", "watch", "-c", "2")
        watching.await_output("watches")
        for vector in (3, 1):
            peer.ring(next(iter({0, 1, 2} - {peer.id})), vector)
        told = [json.loads(printed) for printed in succeeded(watching.wait()).splitlines()[1:]]
        assert sorted((rung["vector"], rung["rings"]) for rung in told) == [(1, 1), (3, 1)]
        assert "has no mailbox" in refused(place.b.client("--pci", ON_FLAT, "send", "1", "hello"))
        assert "peer 1 has no vector 4; it has 0 to 3" in refused(place.b.client("--pci", ON_FLAT, "ring", "1", "4"))
        why = refused(place.b.client("--pci", ON_FLAT, "ring", "65536"))
        assert why == "no peer 65536; there are: 0 to 65535"


# The prompt


@pytest.fixture
def prompt(tmp_path: Path) -> Iterator[Callable[[Guest], tuple[Terminal, Program]]]:
    """Starts famez-client on a guest's terminal, at whose other end tmux is."""
    with ExitStack() as stack:

        def started(guest: Guest) -> tuple[Terminal, Program]:
            command = [sys.executable, line.__file__, str(guest.terminal)]
            terminal = stack.enter_context(Terminal(tmp_path, command, {}, patience=SLOW))
            return terminal, guest.show(*CLIENT, "--pci", ON_LAB)

        yield started


@pytest.mark.parametrize("port", [A, C], ids=["iommu", "no-iommu"])
def test_the_prompt(place: Place, prompt: Any, host: Mailbox, port: int) -> None:
    terminal, program = prompt({A: place.a, C: place.c}[port])
    ours = f"z0{port}"
    terminal.expect(f"peer {port} on {ON_LAB}; `help` lists the commands, Ctrl-D leaves", f"{ours}>")
    terminal.keys("send z0")
    terminal.expect(f"{ours}> send z0")
    host.send(port, "hello", timeout=SLOW)
    terminal.expect("z06 (6): hello", f"{ours}> send z0")
    host.ping(port, timeout=SLOW)
    terminal.expect("z06 (6): hello", "z06 (6): ping", "  answered: pong", f"{ours}> send z0")
    terminal.keys("6 hello, too")
    terminal.press("Enter")
    assert host.receive(timeout=SLOW) == Message(port, "hello, too")
    terminal.expect(f"{ours}> send z06 hello, too", "taken by z06 (6)", f"{ours}>")
    terminal.type("listen")
    terminal.expect(f"{ours} ({port}) listens; Ctrl-C ends it")
    terminal.press("C-c")
    terminal.expect(f"{ours}>")
    terminal.press("C-d")
    assert program.wait().status == 0


# Without an IOMMU


def test_without_an_iommu_the_mailbox_is_looked_at(place: Place, host: Mailbox) -> None:
    with listening(place.c, 3, ON_LAB) as program:
        host.send(C, "hello", timeout=SLOW)
        host.ping(C, timeout=SLOW)
        assert succeeded(place.a.client("--pci", "send", "-t", "60", "z03", "from a guest")) == "taken by z03 (3)\n"
    assert heard(program) == [(HOST, "hello"), (HOST, "ping"), (A, "from a guest")]
    done = program.wait()
    assert done.err.count("\n") == 1
    assert done.err.startswith(NO_IOMMU.format(ON_LAB))
    with listening(place.a, 1) as program:
        done = place.c.client("--pci", ON_LAB, "ping", "-t", "60", "z01")
        assert done.status == 0
        assert done.out.startswith("pong from z01 (1): ")


def test_without_an_iommu_a_script_answers_while_it_waits(place: Place, host: Mailbox) -> None:
    """What waits for its next line looks at the mailbox, too."""
    reader = "import subprocess, sys; p = subprocess.Popen({!r}, stdin=subprocess.PIPE); input(); p.communicate()"
    place.c.python("import os; os.path.exists('/tmp/typed') or os.mkfifo('/tmp/typed')")
    code = reader.format([*CLIENT, "--pci", ON_LAB]).replace("input()", "open('/tmp/typed').read()")
    waiting = place.c.start("python3", "-c", code)
    eventually(lambda: host.names().get(C) == ("z03", "Debugger"), "it is there", patience=SLOW)
    host.ping(C, timeout=SLOW)
    place.c.python("open('/tmp/typed', 'w').close()")
    assert waiting.wait().status == 0


def test_without_an_iommu_one_program_at_a_time(place: Place) -> None:
    with listening(place.c, 1, ON_LAB) as program:
        assert re.fullmatch(
            f"{ON_LAB} is in use by process [0-9]+; a device serves one program at a time: end that one",
            refused(place.c.client("--pci", ON_LAB, "who")),
        )
        program.signal("SIGKILL")


# Nothing is lost


def test_guests_outlive_workers(place: Place, host: Mailbox) -> None:
    """A worker is stopped, so that the doorbell waits for it; killed, its successor delivers it."""
    with listening(place.b, 3, ON_LAB) as program:
        for turn in range(3):
            worker = worker_of(place)
            os.kill(worker, signal.SIGSTOP)
            sending = place.a.start(*CLIENT, "--pci", "send", "-t", "60", "2", f"turn {turn}")
            eventually(lambda: host.slots.pending(A), "the message stands", patience=SLOW)
            os.kill(worker, signal.SIGKILL)
            assert succeeded(sending.wait()) == "taken by z02 (2)\n"
    assert heard(program) == [(A, f"turn {turn}") for turn in range(3)]


def test_guests_outlive_famezd(place: Place, host: Mailbox) -> None:
    pairs = place.famezd.pairs("lab")
    with listening(place.b, 2, ON_LAB) as program:
        worker = worker_of(place)
        os.kill(worker, signal.SIGSTOP)
        sending = place.a.start(*CLIENT, "--pci", "send", "-t", "60", "2", "before")
        eventually(lambda: host.slots.pending(A), "the message stands", patience=SLOW)
        place.famezd.kill()
        place.famezd.start()
        assert succeeded(sending.wait()) == "taken by z02 (2)\n"
        assert succeeded(place.a.client("--pci", "send", "-t", "60", "2", "after")) == "taken by z02 (2)\n"
    assert heard(program) == [(A, "before"), (A, "after")]
    assert place.famezd.pairs("lab")[A, B] - pairs[A, B] == 2


def worker_of(place: Place) -> int:
    """The process that serves the fabric lab, which runs."""

    def pid() -> int:
        fabrics = json.loads(place.famezd.ctl("--json", "status").stdout)["fabrics"]
        return next(fabric["pid"] or 0 for fabric in fabrics if fabric["name"] == "lab")

    eventually(pid, "a worker serves")
    return pid()


# What cannot be used


def test_several_devices_and_wrong_addresses(place: Place) -> None:
    several = f"this machine has 3 ivshmem devices; say which: --pci ADDRESS, of {ON_LAB}, {UNRUNG}, {ON_FLAT}"
    assert refused(place.b.client("--pci", "who")) == several
    lists = "; `lspci -nn -d 1af4:1110` lists the right ones"
    for address, why in {
        "00:1e.0": f"there is no PCI device 0000:00:1e.0{lists}",
        "00:00.0": f"0000:00:00.0 is no ivshmem device but 8086:29c0{lists}",
        "0:4": f"'0:4' is no PCI address, such as 0000:00:04.0{lists}",
    }.items():
        assert refused(place.b.client("--pci", address, "who")) == why


def test_devices_without_doorbells(place: Place) -> None:
    for guest in (place.b, place.c):
        why = refused(guest.client("--pci", UNRUNG, "who"))
        assert why.startswith(f"{UNRUNG} has no interrupt vectors: it is an `ivshmem-plain`, ")
        assert "start the machine with `-device ivshmem-doorbell,vectors=16,...`" in why


def test_too_few_vectors(place: Place) -> None:
    why = refused(place.c.client("--pci", OTHER, "who"))
    assert why == (
        f"{OTHER} has 3 vectors, and messages on this fabric need 10, one for each id: give the machine's device "
        "vectors=10; `famezctl qemu FABRIC` prints it"
    )


def test_one_program_at_a_time(place: Place) -> None:
    with listening(place.a, 1) as program:
        assert re.fullmatch(
            f"{ON_LAB} is in use by process [0-9]+; a device serves one program at a time: end that one",
            refused(place.a.client("--pci", "who")),
        )
        program.signal("SIGKILL")
    # What it left behind is in nobody's way.
    succeeded(place.a.client("--pci", "who"))


def test_another_driver_keeps_its_device(place: Place) -> None:
    uio = "/sys/bus/pci/drivers/uio_pci_generic"
    succeeded(place.a.run("modprobe", "uio_pci_generic"))
    unbind(place.a, ON_LAB)
    place.a.python(f"open('{uio}/new_id', 'w').write('1af4 1110')")
    try:
        why = refused(place.a.client("--pci", "who"))
        remedy = f"echo {ON_LAB} > /sys/bus/pci/devices/{ON_LAB}/driver/unbind"
        assert why == (
            f"{ON_LAB} is driven by uio_pci_generic; if nobody needs it there, take it away and try again: {remedy}"
        )
    finally:
        place.a.python(f"open('{uio}/remove_id', 'w').write('1af4 1110')")
        obey(place.a, remedy)
    succeeded(place.a.client("--pci", "who"))
    # It gives back what it took.
    left = f"print(os.path.exists('{device(ON_LAB)}/driver'), open('{device(ON_LAB)}/driver_override').read())"
    assert place.a.python(f"import os; {left}") == "False (null)\n\n"


def unbind(guest: Guest, address: str) -> None:
    """Takes a device from the driver that a killed client has left it to."""
    driver = f"/sys/bus/pci/devices/{address}/driver"
    guest.python(f"import os; os.path.exists('{driver}') and open('{driver}/unbind', 'w').write('{address}')")
    guest.python(f"open('/sys/bus/pci/devices/{address}/driver_override', 'w').write('\\n')")


def obey(guest: Guest, commands: str) -> None:
    """Does what a shell would do with commands that famez-client has told; a guest of ours has none."""
    for command in commands.split(" && "):
        if command.startswith("echo "):
            text, path = command.removeprefix("echo ").split(" > ")
            guest.python(f"open({path!r}, 'w').write({text!r})")
        else:
            succeeded(guest.run(*command.split()))


NOBODY = 65534


def test_without_root(place: Place) -> None:
    unbind(place.a, ON_LAB)
    why = refused(place.a.client("--pci", "who", user=NOBODY))
    told, _, commands = why.partition("; as root: ")
    assert told == f"vfio-pci does not drive {ON_LAB}: Permission denied"
    obey(place.a, commands)
    group = place.a.python(f"import os; print(os.path.basename(os.readlink('{device(ON_LAB)}/iommu_group')))").strip()
    why = refused(place.a.client("--pci", "who", user=NOBODY))
    advice = "run as root, or have root give you that file"
    assert why == f"cannot open /dev/vfio/{group}: Permission denied; {advice}"
    place.a.python(f"import os; os.chown('/dev/vfio/{group}', {NOBODY}, {NOBODY})")
    assert "z01" in succeeded(place.a.client("--pci", "who", user=NOBODY))
    unbind(place.a, ON_LAB)


def device(address: str) -> str:
    return f"/sys/bus/pci/devices/{address}"


def test_without_root_and_without_an_iommu(place: Place) -> None:
    why = refused(place.c.client("--pci", ON_LAB, "who", user=NOBODY))
    assert why == f"cannot open {device(ON_LAB)}/resource0: Permission denied; without an IOMMU this needs root"


def test_a_device_that_is_not_alone_in_its_group(place: Place) -> None:
    why = refused(place.d.client("--pci", "who", user=NOBODY))
    assert why.startswith("cannot load vfio-pci: modprobe: ")
    assert "; as root: modprobe vfio-pci && echo vfio-pci > " in why
    uio = "/sys/bus/pci/drivers/uio_pci_generic"
    succeeded(place.d.run("modprobe", "uio_pci_generic"))
    place.d.python(f"open('{device(BESIDE)}/driver_override', 'w').write('uio_pci_generic')")
    place.d.python(f"open('{uio}/bind', 'w').write('{BESIDE}')")
    why = refused(place.d.client("--pci", "who"))
    assert why == (
        f"{BRIDGED} shares its IOMMU group with devices that drivers have: {BESIDE} (uio_pci_generic); put it into "
        "a slot of its own, such as a pcie-root-port"
    )
    place.d.python(f"open('{uio}/unbind', 'w').write('{BESIDE}')")


def test_an_iommu_that_remaps_no_interrupts(place: Place) -> None:
    succeeded(place.d.run("modprobe", "vfio_iommu_type1"))
    why = refused(place.d.client("--pci", "who"))
    assert why == (
        f"the IOMMU before {BRIDGED} does not remap interrupts; give the machine `-device intel-iommu,intremap=on` "
        "and, with KVM, `-machine q35,kernel-irqchip=split`"
    )


def test_no_device(place: Place) -> None:
    place.d.python(f"open('{device(BRIDGED)}/remove', 'w').write('1')")
    why = refused(place.d.client("--pci", "who"))
    assert why.startswith("this machine has no ivshmem device: `lspci -nn -d 1af4:1110` shows none; on the host, ")


def test_a_device_that_is_taken_away(place: Place) -> None:
    """Last: it does not come back."""
    watching = place.b.start(*CLIENT, "--pci", ON_FLAT, "watch")
    watching.await_output("watches")
    place.b.qmp.execute("device_del", id="flat-device")
    done = watching.wait()
    assert (done.status, done.err) == (1, f"famez-client: the machine takes {ON_FLAT} away\n")
    told = place.b.python(f"import os; print(os.path.exists('{device(ON_FLAT)}'))")
    assert told == "False\n"
