"""A fabric and the workers that serve it, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from famezd.client import Peer
from famezd.fabric.settings import Settings
from famezd.protocol import marked
from famezd.stats import IN_FLIGHT
from tests.fabric.workers import Raw, Worker


def prepared(worker: Worker, folder: Path, settings: Settings | None = None) -> Worker:
    """A successor, with these settings if any are given, that waits only for the end of `worker`, which holds."""
    worker.order("hold")
    worker.await_answer("hold")
    successor = Worker(settings or worker.settings, folder, kept=worker.kept, orders=["wait"])
    successor.await_answer("wait")
    return successor


def handed_over(worker: Worker, successor: Worker) -> Worker:
    """The successor, which serves."""
    worker.order("park")
    worker.await_answer("park")
    successor.order("go")
    successor.ready()
    # It waits for the end of its supervisor's patience.
    worker.kill()
    return successor


class Lineage:
    """A fabric whose worker is killed and succeeded again and again."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.settings = settings
        self._folder = folder
        self.worker = Worker(settings, folder).ready()

    def kill(self) -> None:
        """Nobody serves any more."""
        self.worker.kill()

    def begin_succession(self) -> None:
        """Starts another worker, with what the dead one stored; it is not ready yet, and may be killed before it is."""
        dead = self.worker
        dead.ended()
        # Started before the dead one's descriptors are closed: they are the same.
        self.worker = Worker(self.settings, self._folder, kept=dead.kept)
        dead.close()

    def succeed(self) -> None:
        """Another worker serves, with what the dead one stored."""
        self.begin_succession()
        self.worker.ready()
        assert "Traceback" not in self.worker.log
        assert "personality failed" not in self.worker.log

    def hand_over(self, settings: Settings, meanwhile: Callable[[], object]) -> None:
        """Another worker takes over from the one that serves; `meanwhile` is done when both are there."""
        old = self.worker
        successor = prepared(old, self._folder, settings)
        meanwhile()
        self.worker, self.settings = handed_over(old, successor), settings
        old.close()
        assert "Traceback" not in self.worker.log

    def join(self) -> Peer:
        """A peer of the client library, which has been sent its whole set-up, and the worker knows that."""
        peer = Peer.join(self.settings.socket)
        self.worker.wait(self._nothing_in_doubt, "nothing is in doubt")
        return peer

    def member(self) -> Raw:
        """As `join`, for a peer that reads message by message; the caller closes it."""
        peer = Raw(self.settings).set_up()
        self.worker.wait(self._nothing_in_doubt, "nothing is in doubt")
        return peer

    def in_flight(self) -> tuple[tuple[int, int, int], int] | None:
        """The doorbell that a dead worker was relaying, as row, place and vector, and how often it was rung.

        The row is -1 where rules have decided on it already.
        """
        page = self.worker.page
        rings, counter = page.words[IN_FLIGHT : IN_FLIGHT + 2].tolist()
        if rings and counter >= page.shape.passed_at:
            return (-1, *divmod(counter - page.shape.passed_at, page.shape.vectors)), rings
        if not rings or counter >= page.shape.former_at:
            # Nothing, or it was moving a counter.
            return None
        row, rest = divmod(counter - page.shape.doorbells_at, page.shape.places * page.shape.vectors)
        return (row, *divmod(rest, page.shape.vectors)), rings

    def _nothing_in_doubt(self) -> bool:
        page = self.worker.page
        told = [page.words[page.told_at(o.place, o.place)] for o in page.occupants()]
        doubts = [page.words[page.told_at(o.place)] for o in page.occupants()]
        return not any(doubts) and all(marked(word)[1] == self.settings.vectors for word in told)

    def close(self) -> None:
        """The fabric ends."""
        self.worker.check()
        self.worker.close()
