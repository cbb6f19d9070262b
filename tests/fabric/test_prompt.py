"""famez-client's prompt, in a real terminal on a real fabric."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from famezd.client import Doorbell, Mailbox, Message
from tests.fabric.conftest import Start
from tests.fabric.workers import DEADLINE, GENZ, Worker
from tests.terminal import Terminal

MAIN = "import sys; from famezd.cli.entry import famez_client; print('status', famez_client()); sys.stdin.read()"
GREETING = "peer {} on {}; `help` lists the commands, Ctrl-D leaves"

Prompt = Callable[[Worker], Terminal]


@pytest.fixture
def worker(start: Start) -> Worker:
    return start(personality=GENZ, peers=4)


@pytest.fixture
def prompt(tmp_path: Path) -> Iterator[Prompt]:
    """Starts a client in a terminal; its state is in the test's folder."""
    with ExitStack() as stack:

        def started(worker: Worker) -> Terminal:
            environ = {"XDG_STATE_HOME": str(tmp_path / "state")}
            command = [sys.executable, "-P", "-c", MAIN, "-S", worker.settings.socket]
            return stack.enter_context(Terminal(tmp_path, command, environ))

        yield started


def test_a_message_is_shown_above_what_is_being_typed(worker: Worker, prompt: Prompt) -> None:
    terminal = prompt(worker)
    terminal.expect(GREETING.format(1, worker.settings.socket), "z01>")
    terminal.keys("send z0")
    terminal.expect("z01> send z0")
    with worker.peer() as peer, closing(Mailbox(peer)) as mailbox:
        mailbox.send(1, "hello")
        terminal.expect("z02 (2): hello", "z01> send z0")
        # It answers while it waits for keys.
        mailbox.ping(1)
        terminal.expect("z02 (2): hello", "z02 (2): ping", "  answered: pong", "z01> send z0")
        terminal.keys("2 hello, too")
        terminal.press("Enter")
        assert mailbox.receive(timeout=DEADLINE) == Message(1, "hello, too")
        terminal.expect("z01> send z02 hello, too", "taken by z02 (2)", "z01>")


def test_completion(worker: Worker, prompt: Prompt) -> None:
    terminal = prompt(worker)
    terminal.expect("z01>")
    terminal.keys("wit")
    terminal.press("Tab")
    terminal.expect("z01> withdraw")
    terminal.press("C-u")
    with worker.peer() as peer, closing(Mailbox(peer, nodename="kiwi")):
        terminal.keys("ping k")
        terminal.press("Tab")
        terminal.expect("z01> ping kiwi")
        terminal.press("C-u")
        terminal.keys("help tr")
        terminal.press("Tab")
        terminal.expect("z01> help trace")


def test_history(worker: Worker, prompt: Prompt, tmp_path: Path) -> None:
    for times in range(2):
        terminal = prompt(worker)
        terminal.expect("z01>")
        if times:
            terminal.press("Up", "Up")
        else:
            terminal.keys("withdraw")
        terminal.press("Enter")
        answer = "nothing to take back: no message of ours stands in the mailbox"
        terminal.expect("z01> withdraw", answer, "z01>")
        terminal.type("quit")
        terminal.expect("z01> quit", "status 0")
        worker.wait(lambda: not worker.present, "it has left")
    assert (tmp_path / "state" / "famezd" / "client_history").read_text().count("+withdraw\n") == 2


def test_a_history_that_cannot_be_written(worker: Worker, prompt: Prompt, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("no folder")
    terminal = prompt(worker)
    terminal.expect(GREETING.format(1, worker.settings.socket), "z01>")
    assert "famez-client: what is typed will not be remembered" in terminal.screen()[0]


def test_lines_that_do_nothing_and_wrong_ones(worker: Worker, prompt: Prompt) -> None:
    terminal = prompt(worker)
    terminal.expect("z01>")
    for line, *answer in (
        ("",),
        ("# nothing",),
        ("   ",),
        ("pnig", "famez-client: no command 'pnig' (did you mean ping?); `help` lists all"),
        ("ping z10", "famez-client: no peer 'z10' (did you mean z01?); there are: 1 (z01), 5 (Z-switch)"),
        ("send z01 'x", "famez-client: a quote is left open; close it, or put a backslash before it"),
    ):
        terminal.type(line)
        # Whatever is typed between two prompts the terminal would show, too.
        terminal.expect(f"z01> {line}".rstrip(), *answer, "z01>")
    terminal.type(f"send switch {'x' * 400}")
    terminal.expect("famez-client: a message of 400 bytes; at most 383 fit into a slot", "z01>")


def test_control_c_ends_what_runs_and_not_the_prompt(worker: Worker, prompt: Prompt) -> None:
    deaf = worker.join()
    terminal = prompt(worker)
    terminal.expect("z02>")
    terminal.keys("half a li")
    terminal.expect("z02> half a li")
    terminal.press("C-c")
    terminal.expect("z02> half a li", "z02>")
    terminal.type("listen")
    terminal.expect("z02 (2) listens; Ctrl-C ends it")
    terminal.press("C-c")
    terminal.expect("z02>")
    terminal.type("send -t 60 1 hello")
    worker.wait(lambda: deaf.take(2), "the message is sent")
    terminal.press("C-c")
    terminal.expect("z02>")
    terminal.type("withdraw")
    terminal.expect("z02> withdraw", "taken back", "z02>")
    terminal.type("ping -c 0 -i 60 switch")
    worker.wait(lambda: "pong from" in terminal.screen()[-1], "it is answered")
    terminal.press("C-c")
    worker.wait(lambda: "1 sent, 1 received, 0% loss" in terminal.screen(), "it sums up")
    terminal.expect("z02>")
    terminal.press("C-d")
    terminal.expect("z02>", "status 0")


def test_a_fabric_that_ends_while_the_prompt_waits(worker: Worker, prompt: Prompt) -> None:
    terminal = prompt(worker)
    terminal.expect("z01>")
    terminal.keys("send z")
    terminal.expect("z01> send z")
    worker.check()
    terminal.expect("famez-client: the server has ended the membership", "status 1")


def test_a_fabric_that_ends_while_a_command_runs(worker: Worker, prompt: Prompt) -> None:
    terminal = prompt(worker)
    terminal.expect("z01>")
    terminal.type("listen")
    terminal.expect("z01 (1) listens; Ctrl-C ends it")
    worker.check()
    terminal.expect("famez-client: the server has ended the membership", "status 1")


def test_plain_fabric(start: Start, prompt: Prompt) -> None:
    worker = start(peers=2, vectors=3, ports="fresh")
    terminal = prompt(worker)
    terminal.expect("peer 0>")
    with worker.peer() as peer:
        terminal.expect("peer 1 has joined", "peer 0>")
        terminal.type("ring 1 2")
        terminal.expect("peer 0> ring 1 2", "rang peer 1 on vector 2", "peer 0>")
        assert peer.wait(DEADLINE) == [Doorbell(2, 1)]
        terminal.type("watch -c 1")
        terminal.expect("peer 0 watches its doorbells; Ctrl-C ends it")
        peer.ring(0, 1)
        worker.wait(lambda: "  vector 1  once" in "\n".join(terminal.screen()[-2:]), "the doorbell is shown")
    terminal.expect("peer 1 has left", "peer 0>")
    terminal.type("send 1 hello")
    terminal.expect(
        "famez-client: this fabric has no mailbox for messages (its personality is not genz); "
        "`ring`, `watch`, `who` and `dump` work, with ids",
        "peer 0>",
    )
