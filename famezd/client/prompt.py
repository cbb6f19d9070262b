"""The prompt of famez-client: one line after the other, and what comes from others above the line that is typed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import sys
import termios
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from famezd.client.commands import event_result, show_messages
from famezd.client.grammar import ALIASES, COMMANDS, Quit, split, understand
from famezd.client.mailbox import LOOK_AGAIN
from famezd.client.peer import ClientError, Doorbell
from famezd.client.results import Result
from famezd.client.script import NOT_DONE, OK, Output
from famezd.client.session import Session
from famezd.errors import FamezError

GREETING = "peer {id} on {socket}; `help` lists the commands, Ctrl-D leaves"


class Prompt:
    """Reads commands and runs them, until `quit`, Ctrl-D or the end of the fabric.

    Between commands the loop waits for keys and for the fabric at once. A command has both to itself, so Ctrl-C
    interrupts it as it does any program.
    """

    def __init__(self, session: Session, output: Output) -> None:
        self._session = session
        self._output = output
        self._loop = asyncio.new_event_loop()
        self._news: list[Result] = []
        self._again: asyncio.TimerHandle | None = None
        self._terminal: PromptSession[str] = PromptSession(
            history=_history(output), completer=_Completer(session), complete_while_typing=False
        )

    def run(self, socket: str) -> int:
        """Returns the exit status: 0, or 1 if the fabric has ended."""
        asyncio.set_event_loop(self._loop)
        settings = termios.tcgetattr(sys.stdin)
        _hide_control_characters(settings)
        try:
            print(GREETING.format(id=self._session.peer.id, socket=socket))
            while True:
                # Ctrl-C ends the line that is typed, or the command that runs; not more.
                with contextlib.suppress(KeyboardInterrupt):
                    self._command(self._read())
        except (EOFError, Quit):
            return OK
        except _FabricEnded as e:
            self._output.complain(ClientError(str(e)))
            return NOT_DONE
        finally:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, settings)
            asyncio.set_event_loop(None)
            self._loop.close()

    def _command(self, line: str) -> None:
        try:
            words = split(line)
            if words:
                understand(words).run(self._session, self._output.emit)
        except FamezError as e:
            if self._session.peer.ended:
                raise _FabricEnded(str(e)) from e
            self._output.complain(e)
        finally:
            show_messages(self._session, self._output.emit)

    def _read(self) -> str:
        """The next line; what comes meanwhile is printed above it."""
        peer = self._session.peer
        self._loop.add_reader(peer.fileno(), self._hear)
        if self._session.busy:
            self._hear()
        try:
            line = self._terminal.prompt_async(f"{self._name()}> ")
            return self._loop.run_until_complete(line)
        finally:
            self._loop.remove_reader(peer.fileno())
            if self._again is not None:
                self._again.cancel()
            self._print_news()

    def _name(self) -> str:
        directory = self._session.directory()
        return directory.members.get(directory.own, ("", ""))[0] or f"peer {directory.own}"

    def _hear(self) -> None:
        """Deals with what the fabric has for us, and shows it."""
        try:
            events = self._session.wait(0.0)
        except FamezError as e:
            self._loop.remove_reader(self._session.peer.fileno())
            self._terminal.app.exit(exception=_FabricEnded(str(e)))
            return
        if self._session.busy:
            # No event tells when an answer is taken, and the next can be sent.
            self._again = self._loop.call_later(LOOK_AGAIN, self._hear)
        self._news += [event_result(self._session, event) for event in events if not isinstance(event, Doorbell)]
        show_messages(self._session, self._news.append)
        if self._news:
            run_in_terminal(self._print_news)

    def _print_news(self) -> None:
        news, self._news = self._news, []
        for result in news:
            self._output.emit(result)


class _FabricEnded(Exception):  # noqa: N818 (what has happened, and the prompt's way out)
    """The membership has ended."""


class _Completer(Completer):
    """Completes commands, and after them destinations."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        before = document.text_before_cursor.lstrip()
        command, space, _ = before.partition(" ")
        typed = before.rpartition(" ")[2]
        for word in self._words(command) if space else [*COMMANDS, *ALIASES]:
            if word.startswith(typed):
                yield Completion(word, start_position=-len(typed))

    def _words(self, command: str) -> list[str]:
        if ALIASES.get(command, command) == "help":
            return [*COMMANDS]
        try:
            return [shlex.quote(word) for word in self._session.directory().words()]
        except FamezError:
            return []


def _hide_control_characters(settings: list[Any]) -> None:
    """Has the terminal show no ^C where the next prompt is to stand."""
    hidden = settings.copy()
    hidden[3] &= ~termios.ECHOCTL
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, hidden)


def _history(output: Output) -> History:
    """What was typed before, in a file of the user's; only for this time where there can be none."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    path = Path(base, "famezd", "client_history")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with path.open("ab"):
            return FileHistory(str(path))
    except OSError as e:
        output.complain(ClientError(f"what is typed will not be remembered: {path}: {e.strerror}"))
        return InMemoryHistory()
