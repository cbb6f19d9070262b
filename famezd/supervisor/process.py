"""A worker's process: started, given orders, watched until it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence

from famezd.errors import FamezError
from famezd.fabric.handed import SUPERVISOR
from famezd.fabric.settings import Settings
from famezd.interpreter import launch
from famezd.supervisor.lines import LinePipe
from famezd.supervisor.spawn import spawn


class OrderError(FamezError):
    """A worker has not done what it was told to."""


class Process:
    """One worker process.

    `line` is called with each line that it logs, `ending` when it has ended but may still be known by its pid, for what
    it told last, and `ended` then, with its exit status (minus a signal's number). Orders and answers are those of
    `famezd.fabric.worker`.
    """

    def __init__(
        self, line: Callable[[str], None], ending: Callable[[], None], ended: Callable[[Process, int], None]
    ) -> None:
        self.pid = 0
        """0 before its start and after its end."""
        self.over = asyncio.Event()
        """Set when it has ended."""
        self._ending = ending
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._lines = LinePipe(line)
        self._answers: dict[str, asyncio.Future[None]] = {}
        self._waits = False

    def start(
        self,
        settings: Settings,
        kept: Mapping[str, Sequence[int]],
        environ: Mapping[str, str],
        orders: Sequence[str] = (),
    ) -> None:
        """Starts it, with these descriptors handed on, and these orders waiting for it.

        Raises OSError; then there is none, and another attempt may be made.
        """
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.setblocking(False)
        for order in orders:
            self._channel.send(order.encode())
        command, needed = launch("famezd.fabric")
        try:
            with theirs:
                handed = {SUPERVISOR: [theirs.fileno()], **kept}
                pid = self._spawn([*command, *settings.arguments()], handed, {**needed, **environ})
        except OSError:
            self._channel.close()
            raise
        self.pid = pid
        self.over.clear()
        self._loop.add_reader(self._pidfd, self._reap)

    def _spawn(
        self, command: Sequence[str], descriptors: Mapping[str, Sequence[int]], environ: Mapping[str, str]
    ) -> int:
        log = self._lines.open()
        try:
            pid = spawn(command, descriptors, log, environ)
            try:
                self._pidfd = os.pidfd_open(pid)
            except OSError:
                # Nobody would learn of its end.
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
        except OSError:
            self._lines.close()
            raise
        finally:
            os.close(log)
        return pid

    def order(self, order: str) -> None:
        """Gives an order; that it has ended is told elsewhere."""
        with contextlib.suppress(OSError):
            self._channel.send(order.encode())

    async def answer(self, order: str, within: float) -> None:
        """Waits for the answer to an order; raises OrderError if none comes within so many seconds, or ever."""
        if not self.pid:
            raise OrderError(f"there is no process to answer to {order!r}")
        answer = self._answers[order] = self._loop.create_future()
        try:
            await asyncio.wait_for(answer, within)
        except TimeoutError as e:
            raise OrderError(f"process {self.pid} does not answer to {order!r} within {within:g} s") from e
        finally:
            self._answers.pop(order, None)

    def dismiss(self) -> None:
        """Ends one that was to succeed another: in good order if it waits for its turn, else at once.

        While it prepares it reads the ark, and one that is started after it must not find it doing so.
        """
        if self._waits:
            self.order("stay away")
        else:
            self.kill()

    def hear_answer(self, order: str) -> None:
        """It says that it has done what it was told."""
        self._waits = order == "wait"
        answer = self._answers.get(order)
        if answer is not None and not answer.done():
            answer.set_result(None)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Sends it a signal, if it still runs."""
        if self.pid:
            os.kill(self.pid, number)

    def _reap(self) -> None:
        self._ending()
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        pid, self.pid = self.pid, 0
        _, status = os.waitpid(pid, 0)
        self._lines.close()
        self._channel.close()
        for order, answer in self._answers.items():
            if not answer.done():
                answer.set_exception(OrderError(f"process {pid} ended instead of answering to {order!r}"))
        self.over.set()
        self._ended(self, os.waitstatus_to_exitcode(status))
