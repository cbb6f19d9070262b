"""A soak from its start to its end."""

from __future__ import annotations

import json
import random
import time
from collections import Counter, deque
from collections.abc import Iterator

from tests.soak import sampling
from tests.soak.actions import KINDS_OF_ACTIONS, Actions, Nothing, rounds
from tests.soak.service import Wrong
from tests.soak.world import KINDS, World

CHECK_EVERY = 30
"""Actions between two times at which all is compared."""
EBB_EVERY = 150
"""Actions between two times at which everybody leaves, and samples are taken that count."""
SAMPLE_EVERY = 5.0
"""Seconds between two samples for the journal."""
TELL_EVERY = 10.0
"""Seconds between two lines of progress."""
LAST = 20
"""Actions that a failure tells."""


class Leak(Wrong):
    """Something grows."""


class Soak:
    """A run, on a world that has been started."""

    def __init__(self, world: World, seed: int, hours: float) -> None:
        self._world = world
        self._actions = Actions(world, seed)
        # A sequence of its own: what an action draws must not decide which one comes next.
        self._rounds = rounds(random.Random(seed))
        self._seconds = hours * sampling.HOUR
        self._began = self._told = self._sampled = time.monotonic()
        self._journal = (world.directory / "journal").open("w", buffering=1)
        self._samples = sampling.Samples()
        self.counts: Counter[str] = Counter()
        """How often each kind of action was done."""
        self.idle: Counter[str] = Counter()
        """How often there was nobody to do it to."""
        self.checks = self.ebbs = 0
        self.last: deque[str] = deque(maxlen=LAST)

    def run(self) -> None:
        """Does it all, until the time is over and each kind was done once; raises Wrong if anything is."""
        for number, kind in enumerate(self._kinds(), 1):
            self._do(number, kind)
            if number % CHECK_EVERY == 0:
                self._check()
            if number % EBB_EVERY == 0:
                self._ebb()
            self._look_at_the_clock(number)
        self._check()
        self._ebb()
        self._end()

    def _kinds(self) -> Iterator[str]:
        first = next(self._rounds)
        yield from first
        for deck in self._rounds:
            for kind in deck:
                if time.monotonic() - self._began >= self._seconds:
                    return
                yield kind

    def _do(self, number: int, kind: str) -> None:
        self.last.append(f"{number:6} {kind}: it began")
        try:
            said = KINDS_OF_ACTIONS[kind].action(self._actions)
            self.counts[kind] += 1
        except Nothing:
            said = "there is nobody to do it to"
            self.idle[kind] += 1
        self.last[-1] = f"{number:6} {kind}: {said}"
        self._write(self.last[-1])

    def _check(self) -> None:
        """All is as the model says."""
        self._world.check()
        self.checks += 1
        self._write("       all agrees")

    def _ebb(self) -> None:
        """Everybody leaves; then all has to be as it was, and what is there is counted."""
        chance = self._actions.random
        for fabric, member in list(self._world.everybody()):
            fabric.part(member, kill=chance.random() < 0.3)
        for name in [name for name in self._world.fabrics if name not in KINDS]:
            self._world.remove(name)
        while self._world.listeners:
            self._world.listeners.pop().close()
        self._world.check()
        self._world.rest()
        at = sampling.now()
        for (part, who), sample in sampling.take(self._world.service, self._world.service.pids().values()).items():
            self._samples.note(part, who, sample, at)
            self._write(f"       quiet {part} {who}: {json.dumps(sample)}")
        self.ebbs += 1

    def _end(self) -> None:
        slopes = self._samples.slopes()
        status = self._world.service.end()
        print(self.summary(slopes), flush=True)
        if status:
            raise Wrong(f"famezd stopped with status {status}")
        if leaks := [slope.quantity for slope in slopes if slope.leaks]:
            raise Leak(f"there is more and more of: {', '.join(leaks)}")

    def _look_at_the_clock(self, number: int) -> None:
        now = time.monotonic()
        if now - self._sampled >= SAMPLE_EVERY:
            self._sampled = now
            for (part, who), sample in self._world.sample().items():
                self._write(f"       {part} {who}: {json.dumps(sample)}")
        if now - self._told >= TELL_EVERY:
            self._told = now
            peers = sum(1 for _ in self._world.everybody())
            of = f" of {self._seconds:.0f} s" if now - self._began < self._seconds else " s"
            print(
                f"{now - self._began:6.0f}{of}: {number} actions, {self.checks} times all agreed, {peers} peers on "
                f"{len(self._world.fabrics)} fabrics",
                flush=True,
            )

    def _write(self, line: str) -> None:
        self._journal.write(f"{time.monotonic() - self._began:9.3f} {line}\n")

    def summary(self, slopes: list[sampling.Slope]) -> str:
        """What was done, and what grew."""
        done = [f"{n:6} {kind}" for kind, n in self.counts.items()]
        rows = "\n".join("".join(f"{cell:26}" for cell in done[i : i + 4]).rstrip() for i in range(0, len(done), 4))
        grew = sampling.table(slopes) if slopes else f"too short for slopes: {self.ebbs} quiet times"
        return (
            f"{self.counts.total()} actions in {time.monotonic() - self._began:.0f} s, {self.checks} times all was "
            f"compared, {self.ebbs} times everybody left; {self._world.service.slow} times the machine was too slow "
            f"for a worker\n{rows}\n\n{grew}"
        )

    def close(self) -> None:
        """Closes the journal."""
        self._journal.close()
