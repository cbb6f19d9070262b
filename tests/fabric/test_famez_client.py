"""famez-client at the shell and in scripts, on a real fabric."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from famezd.client import ClientError, Doorbell, Mailbox, Message, NotTakenError, Peer, commands
from famezd.client.grammar import Arguments
from famezd.client.results import Result
from famezd.client.session import Session
from famezd.mailbox import BUFFER_AT, MAX_TEXT, SLOT_SIZE, MailboxError
from famezd.messages import Attributes, CtlWrite, parse, untrack
from tests.fabric.conftest import Start
from tests.fabric.workers import DEADLINE, GENZ, Worker

# A test that runs in the background of a shell ignores SIGINT, and so would its children.
CLIENT = [
    "env",
    "--default-signal=INT",
    sys.executable,
    "-c",
    "import sys; from famezd.cli.entry import famez_client; sys.exit(famez_client())",
    "-S",
]
SWITCH = 5
_BUFLEN = 64


@pytest.fixture
def worker(start: Start, doorbells: str) -> Worker:
    return start(doorbells=doorbells, personality=GENZ, peers=4)


@pytest.fixture
def plain(start: Start, doorbells: str) -> Worker:
    return start(doorbells=doorbells, peers=2, vectors=3)


def run(worker: Worker, *arguments: str, script: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [*CLIENT, worker.settings.socket, *arguments]
    given = {"stdin": subprocess.DEVNULL} if script is None else {"input": script}
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False, **given)


def succeeds(worker: Worker, *arguments: str) -> list[str]:
    """The lines that a command prints."""
    done = run(worker, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def fails(worker: Worker, *arguments: str, status: int = 1) -> str:
    """What a command complains of."""
    done = run(worker, *arguments)
    assert done.returncode == status, done
    assert "Traceback" not in done.stderr
    return done.stderr


def results(worker: Worker, *arguments: str) -> list[dict[str, Any]]:
    """What a command prints as JSON."""
    return [json.loads(line) for line in succeeds(worker, "--json", *arguments)]


class Running:
    """A client that goes on until the end of the `with` block at the latest."""

    def __init__(self, worker: Worker, *arguments: str) -> None:
        pipe = subprocess.PIPE
        command = [*CLIENT, worker.settings.socket, *arguments]
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
        self._printed = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def line(self) -> str:
        """The next line that it prints."""
        assert self._process.stdout is not None
        while b"\n" not in self._printed:
            assert select.select([self._process.stdout], [], [], DEADLINE)[0], "it prints a line"
            data = os.read(self._process.stdout.fileno(), 4096)
            assert data, self._process.communicate()[1]
            self._printed += data
        text, _, self._printed = self._printed.partition(b"\n")
        return text.decode()

    def lines(self, n: int) -> list[str]:
        """The next lines that it prints."""
        return [self.line() for _ in range(n)]

    def give(self, script: str) -> None:
        """Writes to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(script.encode())
        self._process.stdin.flush()

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    def ended(self) -> tuple[int, str]:
        """Its exit status, and what it complained of."""
        assert self._process.stderr is not None
        return self._process.wait(DEADLINE), self._process.stderr.read().decode()


@contextmanager
def listening(worker: Worker) -> Iterator[Running]:
    """A client that prints the messages that come."""
    with Running(worker, "listen") as client:
        assert client.line() == "z01 (1) listens; Ctrl-C ends it"
        yield client


@contextmanager
def at_work(mailbox: Mailbox) -> Iterator[None]:
    """A thread that takes what comes to a mailbox, and sends its answers, meanwhile."""
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            mailbox.collect(0.01)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def member(worker: Worker, nodename: str = "") -> Iterator[tuple[Peer, Mailbox]]:
    """A peer of the library's."""
    with worker.peer() as peer, closing(Mailbox(peer, nodename=nodename)) as mailbox:
        yield peer, mailbox


def test_who(worker: Worker) -> None:
    worker.join()
    assert succeeds(worker, "who") == [
        "   ID  NODENAME                         CCLASS",
        "    1  -                                Driverless QEMU",
        "    2  z02                              Debugger  (this client)",
        "    5  Z-switch                         FabricSwitch",
    ]
    [who] = results(worker, "who")
    assert who["result"] == "who"
    assert who["peers"][1] == {"id": 2, "nodename": "z02", "cclass": "Debugger", "own": True}


@pytest.mark.parametrize("name", ["switch", "server", "5", "Z-switch", "1", "z01"])
def test_ping(worker: Worker, name: str) -> None:
    printed = succeeds(worker, "ping", name)
    who = r"z01 \(1\)" if name in ("1", "z01") else r"Z-switch \(5\)"
    assert re.fullmatch(rf"pong from {who}: seq=1 time=\d+\.\d{{3}} ms", printed[0])
    assert printed[1:3] == [f"--- {name} ping statistics ---", "1 sent, 1 received, 0% loss"]


def test_ping_as_often_as_asked(worker: Worker) -> None:
    found = results(worker, "ping", "-c", "3", "-i", "0", "all")
    assert [(pong["peer"], pong["seq"]) for pong in found[:-1]] == [(peer, n) for n in (1, 2, 3) for peer in (1, 5)]
    times = [pong["seconds"] for pong in found[:-1]]
    sum_ = found[-1]
    assert (sum_["sent"], sum_["received"]) == (6, 6)
    assert (sum_["min"], sum_["max"]) == (min(times), max(times))
    assert min(times) <= sum_["avg"] <= max(times)


def test_ping_whom_nobody_answers_for(worker: Worker) -> None:
    worker.join()
    done = run(worker, "ping", "-t", "0.05", "-c", "2", "-i", "0", "1")
    assert done.returncode == 1
    assert done.stdout.splitlines()[2:] == ["--- 1 ping statistics ---", "2 sent, 0 received, 100% loss"]
    assert done.stderr == "famez-client: nobody has answered: 1\n"


def test_ping_others_though_one_takes_nothing(worker: Worker) -> None:
    worker.join()
    done = run(worker, "ping", "-t", "0.5", "others")
    deaf, switch, *_ = done.stdout.splitlines()
    assert deaf == "no pong from peer 1: seq=1: the message was not acknowledged in time, and is taken back"
    assert switch.startswith("pong from Z-switch (5): seq=1 ")
    assert (done.returncode, done.stderr) == (0, "")


def test_ping_takes_back_no_other_message(worker: Worker) -> None:
    worker.join()
    done = run(worker, "--keep-going", script="send -t 0.05 1 hello\nping -t 0.05 switch\nwithdraw\nping switch\n")
    first, *_ = done.stdout.splitlines()
    assert first == (
        "no pong from Z-switch (5): seq=1: "
        "an earlier message to peer 1 was not acknowledged in time; it still stands in the mailbox"
    )
    assert "pong from Z-switch (5): seq=1 time=" in done.stdout


def test_interrupted_ping_sums_up(worker: Worker) -> None:
    with Running(worker, "ping", "-c", "0", "-i", "60", "switch") as client:
        assert client.line().startswith("pong from Z-switch (5): seq=1")
        client.interrupt()
        assert client.lines(2) == ["--- switch ping statistics ---", "1 sent, 1 received, 0% loss"]
        assert client.line().startswith("min/avg/max/mdev = ")
        assert client.ended() == (0, "")


def test_listen_and_send(worker: Worker) -> None:
    with listening(worker) as client:
        for text in ("hello", "two words", "-x --json"):
            assert succeeds(worker, "send", "z01", *text.split()) == ["taken by z01 (1)"]
            assert client.line() == f"z02 (2): {text}"
        succeeds(worker, "ping", "1")
        assert client.lines(2) == ["z02 (2): ping", "  answered: pong"]
        with member(worker) as (peer, mailbox):
            mailbox.ping(1)
            assert client.lines(2) == [f"z02 ({peer.id}): ping", "  answered: pong"]
        client.interrupt()
        assert client.ended() == (0, "")


def test_listen_to_some(worker: Worker) -> None:
    with member(worker) as (_, mailbox), Running(worker, "--json", "listen", "-c", "1") as client:
        assert "listens" in json.loads(client.line())["text"]
        # What it has taken it answers before it leaves.
        assert mailbox.ping(2) < DEADLINE
        expected = {"result": "received", "src": 1, "name": "z01 (1)", "text": "ping", "answer": "pong"}
        assert json.loads(client.line()) == expected
        assert client.ended() == (0, "")


def test_who_has_taken_it_is_named_even_if_gone(worker: Worker) -> None:
    with member(worker) as (peer, mailbox), Running(worker, "send", "z01", "hello") as client:
        peer.wait(DEADLINE)
        mailbox.slots.name(peer.id, "", "")
        mailbox.slots.acknowledge(2)
        assert client.line() == "taken by z01 (1)"
        assert client.ended() == (0, "")


def test_listener_on_a_fabric_that_ends(worker: Worker) -> None:
    with listening(worker) as client:
        worker.check()
        assert client.ended() == (1, "famez-client: the server has ended the membership\n")


def test_send_to_who_takes_nothing(worker: Worker) -> None:
    worker.join()
    complaint = fails(worker, "send", "-t", "0.05", "1", "hello")
    assert complaint.startswith("famez-client: the message to peer 1 was not acknowledged in time")
    complaint = fails(worker, "send", "--timeout", "0.05", "others", "hello")
    assert complaint.endswith("it still stands in the mailbox; not sent to Z-switch (5)\n")


def test_send_to_all(worker: Worker) -> None:
    assert succeeds(worker, "send", "all", "hello") == ["taken by z01 (1)", "taken by Z-switch (5)"]
    assert succeeds(worker, "send", "others", "hello") == ["taken by Z-switch (5)"]


def test_what_is_not_taken_is_not_overwritten(worker: Worker) -> None:
    deaf = worker.join()
    script = "send -t 0.05 1 first\nsend -t 0.05 switch second\nwithdraw\nwithdraw\nsend switch third\n"
    done = run(worker, "--keep-going", script=script)
    untaken = "was not acknowledged in time; it still stands in the mailbox"
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"famez-client: line 1: the message to peer 1 {untaken}",
        f"famez-client: line 2: an earlier message to peer 1 {untaken}",
    ]
    assert done.stdout.splitlines() == [
        "taken back",
        "nothing to take back: no message of ours stands in the mailbox",
        "taken by Z-switch (5)",
    ]
    assert deaf.take(2) == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x" * (MAX_TEXT + 1), "a message of 384 bytes; at most 383 fit"),
        ("\N{EURO SIGN}" * 128, "a message of 384 bytes; at most 383 fit"),
        ("", "at least one byte"),
    ],
)
def test_texts_that_cannot_be_sent(worker: Worker, text: str, why: str) -> None:
    assert why in fails(worker, "send", "switch", text)


def test_a_nul_cannot_be_sent(worker: Worker) -> None:
    done = run(worker, script="send switch a\0b\n")
    assert (done.returncode, done.stderr) == (
        1,
        "famez-client: line 1: a message cannot contain a NUL: it would end there\n",
    )


def test_the_longest_text(worker: Worker) -> None:
    text = "x" * (MAX_TEXT - 3) + "\N{EURO SIGN}"
    with listening(worker) as client:
        succeeds(worker, "send", "1", text)
        assert client.line() == f"z02 (2): {text}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"a\0b", "a"),
        (b"\0", ""),
        (b"\xff\xfe", "\N{REPLACEMENT CHARACTER}" * 2),
        (b"\x1b[2J\nx", "\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}x"),
    ],
)
def test_texts_that_arrive_are_shown_harmlessly(worker: Worker, text: bytes, shown: str) -> None:
    with (
        listening(worker) as client,
        member(worker) as (peer, mailbox),
    ):
        os.pwrite(peer.memory, text, peer.id * SLOT_SIZE + BUFFER_AT)
        os.pwrite(peer.memory, len(text).to_bytes(8, "little"), peer.id * SLOT_SIZE + _BUFLEN)
        peer.ring(1, peer.id)
        assert client.line() == f"z02 (2): {shown}"
        assert not mailbox.slots.pending(peer.id)


@pytest.mark.parametrize("length", [MAX_TEXT + 1, 1 << 63])
def test_a_message_that_says_a_wrong_length_is_let_go(worker: Worker, length: int) -> None:
    with (
        listening(worker) as client,
        member(worker) as (peer, mailbox),
    ):
        os.pwrite(peer.memory, length.to_bytes(8, "little"), peer.id * SLOT_SIZE + _BUFLEN)
        peer.ring(1, peer.id)
        mailbox.send(1, "next")
        assert client.line() == "z02 (2): next"


def test_spoof(worker: Worker) -> None:
    with (
        listening(worker) as client,
        member(worker) as (peer, mailbox),
    ):
        assert succeeds(worker, "spoof", "z02", "z01", "not", "me") == ["taken by z01 (1)"]
        assert client.line() == "z02 (2): not me"
        # It waits for the slot as its owner would.
        deaf = worker.join()
        with pytest.raises(NotTakenError):
            mailbox.send(deaf.id, "mine", timeout=0.01)
        complaint = fails(worker, "spoof", "-t", "0.05", "2", "1", "not me")
        assert complaint.startswith(f"famez-client: an earlier message to peer {deaf.id} was not acknowledged in time")
        assert mailbox.slots.peek(peer.id) == b"mine"


def test_ring_and_watch(worker: Worker) -> None:
    with Running(worker, "watch") as client:
        assert client.line() == "z01 (1) watches its doorbells; Ctrl-C ends it"
        assert succeeds(worker, "ring", "z01") == ["rang z01 (1) on vector 0"]
        assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3}  vector 0  once", client.line())
        assert succeeds(worker, "int", "1", "5") == ["rang z01 (1) on vector 5"]
        assert client.line().endswith("  vector 5  once  Z-switch (5)")
        assert succeeds(worker, "ring", "1", "all") == ["rang z01 (1) on vectors 0, 1, 2, 3, 4, 5"]
        seen = {client.line().split("  ")[1] for _ in range(6)}
        assert seen == {f"vector {vector}" for vector in range(6)}
        succeeds(worker, "send", "1", "hello")
        assert [client.line()[12:], client.line()] == ["  vector 2  once  z02 (2)", "z02 (2): hello"]
        client.interrupt()
        assert client.ended() == (0, "")
    assert "has no vector 6; it has 0 to 5" in fails(worker, "ring", "switch", "6")
    assert "must be a whole number, not 'most'" in fails(worker, "ring", "switch", "most", status=2)


def test_watch_so_many(plain: Worker) -> None:
    with plain.peer() as peer, Running(plain, "--json", "watch", "-c", "3") as client:
        client.line()
        for _ in range(3):
            peer.ring(1, 2)
        rings = 0
        while rings < 3:
            rung = json.loads(client.line())
            assert (rung["result"], rung["vector"], rung["sender"]) == ("rung", 2, None)
            rings += rung["rings"]
        assert client.ended() == (0, "")


def test_trace(worker: Worker) -> None:
    with ExitStack() as stack:
        client = stack.enter_context(Running(worker, "trace"))
        assert client.line().startswith("tracing, a look every millisecond")
        _, sender = stack.enter_context(member(worker, "sender"))
        deaf, receiver = stack.enter_context(member(worker, "deaf"))
        with pytest.raises(NotTakenError):
            sender.send(deaf.id, "hello", timeout=0.01)
        assert client.line().endswith("  sender (2) -> deaf (3): hello  [not taken yet]")
        assert receiver.receive(timeout=0) == Message(2, "hello")
        assert re.search(r"  sender \(2\) -> deaf \(3\): hello  \[taken after \d+ ms\]$", client.line())
        sender.send(SWITCH, "to the switch")
        assert re.search(r"  sender \(2\) -> Z-switch \(5\): to the switch  \[taken .*\]$", client.line())
        with pytest.raises(NotTakenError):
            sender.send(deaf.id, "again", timeout=0.01)
        assert sender.withdraw()
        assert "  sender (2) -> deaf (3): again  [taken " in client.line()
        client.interrupt()
        assert client.ended() == (0, "")


def test_dump(worker: Worker) -> None:
    worker.join()
    printed = succeeds(worker, "dump")
    assert printed[:3] == [
        f"peer 2, 6 vectors, {worker.settings.size} bytes of shared memory",
        "nodename z02, switch 5, link unconfigured",
        "doorbells received: none",
    ]
    assert [row.split(":")[0] for row in printed[3:]] == ["peer 1", "peer 3", "peer 4", "Z-switch (5)"]
    [dump] = results(worker, "dump")
    assert [len(peer["descriptors"]) for peer in dump["peers"]] == [6, 6, 6, 6]
    [ports] = results(worker, "dump", "switch")
    assert (ports["src"], ports["name"]) == (5, "Z-switch (5)")
    assert "z02" in ports["text"]


def test_link(worker: Worker) -> None:
    with listening(worker) as client:
        question, answer = "Link CTL Peer-Attribute!EZT=1", "Link CTL ACK cclass=Debugger,CID0=0,SID0=0!EZT=2"
        printed = succeeds(worker, "link", "-d", "z01", "Peer-Attribute")
        assert printed == [f"to z01 (1): {question}", f"from z01 (1): {answer}"]
        assert client.lines(2) == [f"z02 (2): {question}", f"  answered: {answer}"]
        complaint = fails(worker, "link", "-t", "0.1", "-d", "z01", "nonsense")
        assert complaint == "famez-client: peer 1 took the message, and no answer came in time\n"
        assert client.line() == "z02 (2): Link CTL nonsense!EZT=1"
        assert succeeds(worker, "link", "-d", "z01", "NAK", "no") == ["to z01 (1): Link CTL NAK no!EZT=1"]
        for nothing in ([], [" "]):
            complaint = fails(worker, "link", "-d", "1", *nothing, status=2)
            assert complaint.startswith("famez-client: link: a directive is missing")


def manager(message: Message) -> str | None:
    """A fabric manager, as far as its answers go."""
    text, hops = untrack(message.text)
    assert hops is not None
    if text.startswith("Link RFC"):
        return f"{CtlWrite(pfm_cid=100, pfm_sid=27, cid=200, sid=27, tag=7)}!EZT={hops + 1}"
    if text.startswith("Standalone Acknowledgment"):
        return f"Link CTL Peer-Attribute!EZT={hops + 1}"
    return None


def test_rfc(worker: Worker) -> None:
    with worker.peer() as peer, closing(Mailbox(peer, nodename="manager", answer=manager)) as mailbox, at_work(mailbox):
        said = [result for result in results(worker, "rfc", "--ttc", "100us", "manager") if "name" in result]
        assert [(result["result"], result["text"]) for result in said] == [
            ("said", "Link RFC TTC=100us!EZT=1"),
            ("heard", "CTL-Write Space=0,PFMCID=100,PFMSID=27,CID=200,SID=27,Tag=7!EZT=2"),
            ("said", "Standalone Acknowledgment Tag=7,Reason=OK!EZT=3"),
            ("heard", "Link CTL Peer-Attribute!EZT=4"),
            ("said", "Link CTL ACK cclass=Debugger,CID0=200,SID0=27!EZT=5"),
        ]
        done = run(worker, script="rfc 1\ndump\n")
        assert "nodename z02, switch 5, link configured CID=200 SID=27" in done.stdout
    answers = [untrack(message.text)[0] for message in iter(mailbox.next_message, None)]
    assert str(parse(answers[-1])) == "Link CTL ACK cclass=Debugger,CID0=200,SID0=27"


def test_what_a_manager_writes_stands_in_the_slot(worker: Worker) -> None:
    with listening(worker) as client, member(worker) as (_, mailbox):
        mailbox.send(1, str(CtlWrite(pfm_cid=1, pfm_sid=2, cid=3, sid=4, tag=5)))
        client.line()
        assert mailbox.receive(timeout=DEADLINE) == Message(1, "Standalone Acknowledgment Tag=5,Reason=OK")
        assert mailbox.slots.identity(1) == (3, 4)


def test_rfc_to_who_is_no_manager(worker: Worker) -> None:
    with listening(worker):
        complaint = fails(worker, "rfc", "z01")
        assert complaint == "famez-client: z01 (1) refuses: this component is no fabric manager\n"


def test_the_deaf_do_not_silence_who_answers_them(worker: Worker) -> None:
    with listening(worker) as client:
        deaf = worker.join()
        succeeds(worker, "spoof", str(deaf.id), "z01", "ping")
        assert client.lines(2) == ["peer 2: ping", "  answered: pong"]
        with member(worker) as (peer, mailbox):
            assert mailbox.ping(1, timeout=DEADLINE) < DEADLINE
            assert client.line() == f"z03 ({peer.id}): ping"


def test_two_with_one_name(worker: Worker) -> None:
    with member(worker, "twin"), member(worker, "twin"):
        complaint = fails(worker, "send", "twin", "hello")
        assert complaint == "famez-client: 'twin' is the name of peers 1, 2: say which, by id\n"


@pytest.mark.parametrize("length", [31, 32])
def test_long_names(worker: Worker, length: int) -> None:
    with member(worker) as (peer, _):
        os.pwrite(peer.memory, b"n" * length, peer.id * SLOT_SIZE)
        name = "n" * length
        assert f"    1  {name}" in succeeds(worker, "who")[1]
        # Taken by nobody; but found.
        assert "to peer 1 was not acknowledged" in fails(worker, "send", "-t", "0.01", name, "hello")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["pnig", "switch"], "no command 'pnig' (did you mean ping?); `help` lists all"),
        (["xyzzy"], "no command 'xyzzy'; `help` lists all"),
        ([""], "no command ''; `help` lists all"),
        (["ping"], "ping: the following arguments are required: DEST; usage: ping [-c N] [-i S] [-t S] DEST"),
        (["ping", "-c", "-1", "switch"], "ping: argument -c/--count: must be a whole number, not '-1'; usage"),
        (["ping", "-c", "1.5", "switch"], "must be a whole number, not '1.5'"),
        (["ping", "-i", "-0.1", "switch"], "ping: argument -i/--interval"),
        (["ping", "-i", "nan", "switch"], "must be a number of seconds, 0 or more, not 'nan'"),
        (["who", "else"], "who: unrecognized arguments: else; usage: who"),
        (["rfc", "--ttc", "3ms"], "rfc: argument --ttc: must be a whole number, not '3ms'"),
        *[
            (["ping", "-t", seconds, "1"], f"must be a number of seconds above 0, not '{seconds}'")
            for seconds in ("0", "nan", "inf", "soon")
        ],
    ],
)
def test_wrong_usage(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    # Said before anything is joined.
    done = subprocess.run(
        [*CLIENT, tmp_path / "none", *arguments], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("famez-client: ")
    assert complaint in done.stderr


@pytest.mark.parametrize("command", ["ping", "send", "ring", "rfc", "dump"])
def test_unknown_destinations(worker: Worker, command: str) -> None:
    text = ["hello"] if command == "send" else []
    complaint = fails(worker, command, "swtich", *text)
    assert complaint == ("famez-client: no peer 'swtich' (did you mean switch?); there are: 1 (z01), 5 (Z-switch)\n")


def test_a_silent_switch_is_nobodys_destination(start: Start, doorbells: str) -> None:
    silent = start(doorbells=doorbells, personality=GENZ, peers=4, silent=1)
    for command in (["ping", "switch"], ["rfc"], ["link", "Peer-Attribute"], ["dump", "server"], ["ring", "switch"]):
        complaint = fails(silent, *command)
        assert complaint.endswith("; there are: 1 (z01)\n")
        assert f"no peer '{'server' if 'server' in command else 'switch'}'" in complaint
    assert "nodename z01, no switch, link unconfigured" in succeeds(silent, "dump")
    assert results(silent, "dump")[0]["switch"] is None


def test_a_socket_that_is_not_there(tmp_path: Path) -> None:
    done = subprocess.run(
        [*CLIENT, tmp_path / "none", "who"], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"famez-client: cannot join {tmp_path}/none: No such file or directory; is famezd running? "
        "`famezctl status` tells the sockets\n"
    )


def test_no_command_and_no_standard_input(worker: Worker) -> None:
    command = ["sh", "-c", 'exec "$@" <&-', "sh", *CLIENT, worker.settings.socket]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "famez-client: no command, and no standard input to read any from\n"


def test_no_fabric_named() -> None:
    done = subprocess.run([*CLIENT[:-1], "who"], capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 2
    assert "which fabric? name it by -S SOCKET or -f FABRIC" in done.stderr


def test_a_fabric_by_its_name(worker: Worker) -> None:
    runtime = Path(worker.settings.socket).parent
    os.symlink(worker.settings.socket, runtime / "lab.sock")
    done = subprocess.run(
        [*CLIENT[:-1], "-f", "lab", "who"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
        env=os.environ | {"RUNTIME_DIRECTORY": str(runtime)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    os.unlink(runtime / "lab.sock")


def test_plain_fabric(plain: Worker) -> None:
    with plain.peer() as peer:
        assert succeeds(plain, "who") == [
            "   ID  NODENAME                         CCLASS",
            "    0  -                                -",
            "    1  -                                -  (this client)",
        ]
        assert succeeds(plain, "ring", "0", "2") == ["rang peer 0 on vector 2"]
        assert peer.wait(DEADLINE) == [Doorbell(2, 1)]
        assert succeeds(plain, "dump")[0] == f"peer 1, 3 vectors, {plain.settings.size} bytes of shared memory"
        for command in (
            ["ping", "0"],
            ["send", "0", "hello"],
            ["spoof", "0", "1", "hello"],
            ["link", "Peer-Attribute"],
            ["rfc"],
            ["listen"],
            ["trace"],
            ["withdraw"],
            ["dump", "0"],
        ):
            complaint = fails(plain, *command)
            assert complaint.startswith("famez-client: this fabric has no mailbox for messages"), command
        assert "no peer 'switch'; there are: 0, 1" in fails(plain, "ring", "switch")


def test_what_a_peer_says_does_nothing_to_a_terminal(worker: Worker) -> None:
    with member(worker) as (_, mailbox):
        with Running(worker, "link", "-d", "z01", "Peer-Attribute") as client:
            assert mailbox.receive(timeout=DEADLINE) == Message(2, "Link CTL Peer-Attribute!EZT=1")
            mailbox.send(2, "Link CTL NAK \x1b[2Jno")
            assert client.lines(2)[1] == "from z01 (1): Link CTL NAK \ufffd[2Jno"
            assert client.ended() == (1, "famez-client: z01 (1) refuses: \ufffd[2Jno\n")
        with Session.join(worker.settings.socket) as session:
            session.component.attributes[1] = Attributes("\x1b[2J", 1, 2)
            shown = list[Result]()
            commands._dump(session, Arguments(destination=None), shown.append)
            assert str(shown[0]).splitlines()[-1] == "peer 1 says: Link CTL ACK cclass=\ufffd[2J,CID0=1,SID0=2"


def test_full_fabric(worker: Worker) -> None:
    for _ in range(4):
        worker.join()
    assert "the server refuses" in fails(worker, "who")


def test_script(worker: Worker) -> None:
    script = "# a comment\n\n   \nping switch\n  # another\nsend switch 'two  words' # no comment\nquit\nwho\n"
    done = run(worker, script=script)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:] == [
        "--- switch ping statistics ---",
        "1 sent, 1 received, 0% loss",
        *[row for row in done.stdout.splitlines() if row.startswith("min/")],
        "taken by Z-switch (5)",
    ]


@pytest.mark.parametrize(
    ("mistake", "status", "complaint"),
    [
        ("pnig 1", 2, "no command 'pnig' (did you mean ping?); `help` lists all"),
        ("ping 9", 1, "no peer '9'; there are: 1 (z01), 5 (Z-switch)"),
        ("send 1 'x", 2, "a quote is left open; close it, or put a backslash before it"),
        (
            "send 1 x\\",
            2,
            "a backslash stands at the end; put another before it if it is meant as it is",
        ),
    ],
)
def test_mistakes_in_a_script(worker: Worker, mistake: str, status: int, complaint: str) -> None:
    for script in (f"who\n{mistake}\nwho\n", f"who\n{mistake}"):
        done = run(worker, script=script)
        assert (done.returncode, done.stdout.count("NODENAME")) == (status, 1)
        assert done.stderr == f"famez-client: line 2: {complaint}\n"
    done = run(worker, "--keep-going", script=f"who\n{mistake}\nfail\nwho\n")
    assert (done.returncode, done.stdout.count("NODENAME")) == (status, 2)
    assert done.stderr.splitlines()[1] == "famez-client: line 3: no command 'fail'; `help` lists all"


def test_a_script_that_takes_its_time_is_a_peer_meanwhile(worker: Worker) -> None:
    with Running(worker) as client:
        client.give("ping switch\n")
        client.lines(4)
        with member(worker) as (_, mailbox):
            for _ in range(3):
                mailbox.ping(1)
            worker.check()
            assert client.ended() == (1, "famez-client: the server has ended the membership\n")
            with pytest.raises(ClientError):
                mailbox.receive(timeout=DEADLINE)


def test_an_interrupted_command(worker: Worker) -> None:
    worker.join()
    with Running(worker) as client:
        client.give("who\nsend 1 hello\n")
        client.lines(4)
        with member(worker) as (_, mailbox):
            worker.wait(lambda: mailbox.slots.pending(2), "it waits for peer 1 to take it")
            client.interrupt()
            assert client.ended() == (130, "")


def test_the_ring_of_who_is_unknown_leaves_no_message(worker: Worker) -> None:
    with member(worker) as (peer, mailbox):
        with pytest.raises(ClientError, match="no peer 77"):
            mailbox.send(77, "hello")
        assert not mailbox.slots.pending(peer.id)
        with pytest.raises(MailboxError, match="NUL"):
            mailbox.send(SWITCH, "a\0b")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (
            ["--pci", "who"],
            "has no ivshmem device: `lspci -nn -d 1af4:1110` shows none; on the host, `famezctl attach ",
        ),
        (["--json", "--pci", "ping", "-c", "3", "switch"], "has no ivshmem device"),
        (["--pci"], "has no ivshmem device"),
        (["--pci", "fffe:00:1f.7", "who"], "there is no PCI device fffe:00:1f.7; `lspci -nn -d 1af4:1110` lists the "),
        (["--pci=fffe:00:1f.7"], "there is no PCI device fffe:00:1f.7"),
        (["--pci", "00:04", "who"], "'00:04' is no PCI address, such as 0000:00:04.0"),
    ],
)
def test_a_machine_without_the_device(words: list[str], why: str) -> None:
    done = subprocess.run([*CLIENT[:-1], *words], capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert why in done.stderr


def test_a_text_with_an_option_in_it(worker: Worker) -> None:
    assert succeeds(worker, "send", "switch", "--pci", "x") == ["taken by Z-switch (5)"]
