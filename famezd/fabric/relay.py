"""The relay: takes doorbells from the bells of those who ring and passes them to those who are rung.

A doorbell that was taken and not yet passed on must not be lost when the worker is killed, at whatever instruction. So
the kernel itself puts the count into the in-flight record of the stats page: preadv takes it from the eventfd and
stores it in shared memory in one system call. Whoever maps the page next finds it there and delivers it again; the
counter is set to its old value plus the count, so that it is right however often that is done.

RWF_NOWAIT also reads a bell whose O_NONBLOCK its peer has cleared (the open file is shared with it). Writes have no
such flag: one that stands still is interrupted by a timer signal, and the peer that it is for is given up.
"""

from __future__ import annotations

import itertools
import os
import select
import signal
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from types import FrameType
from typing import Final

from famezd.fabric.faults import Faults
from famezd.faults import Rule
from famezd.stats import COUNT_LIMIT, IN_FLIGHT, WORD, Page

EMPTY: Final = -1
"""In place of a receiver's eventfd: nobody is there."""
SWITCH: Final = -2
"""In place of a receiver's eventfd: the doorbell is for the switch."""
RULED: Final = -3
"""In place of a receiver's eventfd: fault rules decide what becomes of the doorbell."""
AT_ONCE: Final = 64
"""Doorbells that are due after a delay and are delivered before the loop sees to others."""
STALL: Final = 0.05
"""Seconds after which a write that has not moved since is interrupted, at most twice that."""
WARY: Final = 60.0
"""Seconds after a peer made a write stand still, in which each eventfd is made non-blocking again before it is written.

That costs system calls for each doorbell, so it is not done otherwise.
"""

SHARE: Final = 16
"""Bells of one ringer that are seen to before the loop looks who else rings: about 40 us."""

_OTHERS: Final = 8
"""At least as many descriptors as are in the epoll besides bells, and, for each place, its peer and its own socket."""
_EDGES = select.EPOLLIN | select.EPOLLET
Event = tuple[int, int]


class Stalled(BaseException):
    """Raised by the timer signal inside a write that stands still."""


class Relay:
    """All bells that the worker watches, and where each one leads."""

    def __init__(
        self, epoll: select.epoll, page: Page, stalled: Callable[[int], None], faults: Faults | None = None
    ) -> None:
        self.faults = faults or Faults(page)
        self._epoll = epoll
        self._page = page
        self._shape = page.shape
        self._words = page.words
        self._count = page.words.cast("B")[IN_FLIGHT * WORD : (IN_FLIGHT + 1) * WORD]
        self._dropped = page.total_at("dropped")
        self._clipped = page.total_at("clipped")
        # From a bell's descriptor to its counter's index and its receiver's in _receivers:
        self._bells: dict[int, tuple[int, int]] = {}
        self._first = page.shape.doorbells_at
        self._span = page.shape.places * page.shape.vectors
        # The last one is for the bells of which there are rules: who has none pays nothing for them.
        self._receivers = [*[EMPTY] * self._span, RULED]
        # By ringer, bells that were rung and have to wait until others had their share; each once, in order.
        self._waiting: dict[int, dict[int, Event]] = {}
        self._stalled = stalled
        self._watchman = _Watchman(page.words, self._may_stand_still)
        self._wary_until = 0.0
        self.for_switch: dict[tuple[int, int], int] = {}
        """How often the switch was rung since this was last emptied, by the stats page's row and the vector.

        Summed up: who rings faster than the switch can hear must not make this grow.
        """

    def __len__(self) -> int:
        """How many bells there are."""
        return len(self._bells)

    @property
    def places(self) -> int:
        """How many places there are."""
        return self._shape.places

    def watch(self, bell: int) -> None:
        """Begins to watch an eventfd which nobody has yet; raises OSError if the kernel has no room."""
        self._epoll.register(bell, _EDGES)

    def lead(self, bells: Sequence[int], row: int, place: int) -> None:
        """From now on `row` rings `place` by these, one for each vector, which are watched already."""
        first = place * self._shape.vectors
        counter = self._first + row * self._span + first
        receivers: Sequence[int] = range(first, first + self._shape.vectors)
        if self.faults.any:
            receivers = [self._or_ruled(row, receiver) for receiver in receivers]
        counters = range(counter, counter + self._shape.vectors)
        self._bells.update(zip(bells, zip(counters, receivers, strict=True), strict=True))

    def add(self, bell: int, row: int, place: int, vector: int) -> None:
        """Watches `bell`, by which `row` rings `place` on `vector`; raises OSError if the kernel has no room."""
        receiver = place * self._shape.vectors + vector
        counter = self._first + row * self._span + receiver
        self.watch(bell)
        self._bells[bell] = counter, self._or_ruled(row, receiver)

    def _or_ruled(self, row: int, receiver: int) -> int:
        """The receiver, or, where there are rules for what `row` rings there, the one that stands for those."""
        return self._span if self.faults.concern(row, *divmod(receiver, self._shape.vectors)) else receiver

    def change_rules(self, rules: tuple[Rule, ...]) -> None:
        """From now on these fault rules are in force."""
        self.faults.change(rules)
        first = self._first
        for bell, (counter, _) in self._bells.items():
            self._bells[bell] = counter, self._or_ruled(*divmod(counter - first, self._span))

    def remove(self, bells: Collection[int]) -> None:
        """Passes on what these bells still hold, then closes them."""
        self.gather()
        rungs = list(self._waiting.values())
        # None may go on waiting: their numbers may soon be other descriptors'.
        self.relay([rung.pop(bell) for rung in rungs for bell in bells if bell in rung])
        for bell in bells:
            # Closing is not enough: the peer that holds the other reference would keep it in the epoll.
            self._epoll.unregister(bell)
            del self._bells[bell]
            os.close(bell)

    def close(self) -> None:
        """Ends the watch; what is rung from now on is not passed on any more."""
        self._watchman.stop()

    def connect(self, place: int, receivers: Iterable[int]) -> None:
        """From now on `place` is rung by these, its eventfds (or EMPTY, or SWITCH) by vector."""
        at = place * self._shape.vectors
        self._receivers[at : at + self._shape.vectors] = receivers

    def disconnect(self, place: int) -> None:
        """Nobody is on `place`: doorbells to it are counted and dropped, those that were held up, too."""
        self.connect(place, [EMPTY] * self._shape.vectors)
        for held in self.faults.take(lambda held: held.receiver // self._shape.vectors == place):
            self._hand_on(held.row, held.receiver, held.rings)

    @property
    def waiting(self) -> bool:
        """Whether bells that were rung wait for their ringers' next share."""
        return bool(self._waiting)

    @property
    def calm(self) -> bool:
        """Whether there is nothing to do but to wait: no bell waits, nothing is for the switch or held up."""
        return not (self._waiting or self.for_switch or self.faults.holds)

    def share(self, events: Collection[Event]) -> Collection[Event]:
        """The events to see to now: of each ringer's bells a few, so that no flood of one's holds up the others.

        The rest wait, and are among those of the next calls.
        """
        if len(events) <= SHARE and not self._waiting:
            return events
        now = self._queue(events)
        for row in list(self._waiting):
            now += self._some(row)
        return now

    def gather(self) -> None:
        """Has all bells that were rung until now wait, so that none is left that nobody knows of."""
        # What else there is to hear is told again by the next poll.
        self._queue(self._epoll.poll(0, len(self._bells) + 2 * self.places + _OTHERS))

    def rung_by(self, row: int) -> list[Event]:
        """The bells that `row` has rung until now, which wait no more."""
        self.gather()
        return list(self._waiting.pop(row, {}).values())

    def _queue(self, events: Iterable[Event]) -> list[Event]:
        """Has the bells among the events wait; returns the other events."""
        bells, span, first = self._bells, self._span, self._first
        waiting, others = self._waiting, []
        for event in events:
            bell = event[0]
            try:
                waiting[(bells[bell][0] - first) // span][bell] = event
            except KeyError:
                if bell in bells:
                    waiting[(bells[bell][0] - first) // span] = {bell: event}
                else:
                    others.append(event)
        return others

    def _some(self, row: int) -> list[Event]:
        """A share of the bells of `row` that wait, which they do no more."""
        rung = self._waiting.get(row, {})
        if len(rung) <= SHARE:
            return list(self._waiting.pop(row, rung).values())
        return [rung.pop(bell) for bell in list(itertools.islice(rung, SHARE))]

    def rest(self) -> list[Event]:
        """Those that wait for their share, which they do no more."""
        waiting, self._waiting = self._waiting, {}
        return [event for rung in waiting.values() for event in rung.values()]

    def relay(self, events: Collection[Event]) -> list[Event]:
        """Passes on the doorbells among `events`, and returns the events that are none."""
        others: list[Event] = []
        remaining = iter(events)
        # Not for anything else: its own signal makes the loop turn, and it would never sleep again.
        for bell, _ in events:
            if bell in self._bells:
                self._watchman.wake()
                break
        while True:
            try:
                self._pass_on(remaining, others)
            except Stalled:
                self._give_up()
            else:
                return others

    def redeliver(self) -> None:
        """Delivers what a killed worker had in flight, once more, and settles its counter; and all that it held up."""
        # Before rules are given places in the page: what was decided may still have to be written there.
        pending = self._page.recover()
        self.faults.begin()
        if pending is not None:
            counter = pending.bell + self._first
            receiver = self._receiver_of(counter)
            if counter < self._shape.former_at:
                receiver = self._or_ruled(pending.bell // self._span, receiver)
            # What is for the switch, and for no rule, is found by its not being answered.
            if self._receivers[receiver] != SWITCH:
                self._words[IN_FLIGHT] = pending.rings
                self._watchman.wake()
                try:
                    self._deliver(counter, receiver)
                    self._words[IN_FLIGHT] = 0
                except Stalled:
                    self._give_up()
            self._page.delivered()
        # Early, and not perhaps never: nobody knows when it was due. The same is done for the switch, as above.
        self.faults.take(lambda _: True)
        self.for_switch.clear()
        for receiver, rings in self._page.held().items():
            self._hand_on(0, receiver, rings)

    def release(self, now: float) -> None:
        """Delivers what was held up until `now`, or some of it."""
        for _ in range(AT_ONCE):
            held = self.faults.take_due(now)
            if held is None:
                return
            self._hand_on(held.row, held.receiver, held.rings)

    def hurry(self, row: int) -> None:
        """What `row` has rung the switch and is held up is delivered now: later nobody knows whose it was."""
        switch = self.faults.switch
        for held in self.faults.take(lambda h: h.row == row and h.receiver // self._shape.vectors == switch):
            self._hand_on(row, held.receiver, held.rings)

    def ring(self, row: int, place: int, vector: int) -> None:
        """Rings `place` on `vector` as `row`: how the switch rings."""
        receiver = place * self._shape.vectors + vector
        counter = self._first + row * self._span + receiver
        words = self._words
        self._watchman.wake()
        try:
            words[IN_FLIGHT + 1] = counter
            words[IN_FLIGHT + 2] = words[counter]
            words[IN_FLIGHT] = 1
            words[counter] += 1
            self._deliver(counter, self._or_ruled(row, receiver))
            words[IN_FLIGHT] = 0
        except Stalled:
            self._give_up()

    def _pass_on(self, events: Iterable[Event], others: list[Event]) -> None:
        # The hot path: every name is local, and a doorbell costs two system calls.
        words, bells, receivers = self._words, self._bells, self._receivers
        preadv, count, into, nowait = os.preadv, self._count, [self._count], os.RWF_NOWAIT
        write = os.write if time.monotonic() > self._wary_until else _write_warily
        for event in events:
            bell = event[0]
            try:
                counter, receiver = bells[bell]
            except KeyError:
                others.append(event)
                continue
            words[IN_FLIGHT + 1] = counter
            words[IN_FLIGHT + 2] = before = words[counter]
            try:
                preadv(bell, into, -1, nowait)
            except BlockingIOError:
                continue
            n = words[IN_FLIGHT]
            if n > COUNT_LIMIT:
                words[IN_FLIGHT] = n = COUNT_LIMIT
                words[self._clipped] += 1
            try:
                words[counter] = before + n
            except ValueError:
                # Past 2^64 it begins anew, as counters do for who reads them.
                words[counter] = n
            eventfd = receivers[receiver]
            if eventfd >= 0:
                try:
                    write(eventfd, count)
                except BlockingIOError:
                    # It is full, so an interrupt is pending already.
                    pass
            else:
                self._deliver(counter, receiver)
            words[IN_FLIGHT] = 0

    def _deliver(self, counter: int, receiver: int) -> None:
        """Delivers what is in flight."""
        eventfd = self._receivers[receiver]
        count = self._words[IN_FLIGHT]
        if eventfd == RULED:
            self._decide(*divmod(counter - self._first, self._span))
        elif eventfd == SWITCH:
            self._tell_switch((counter - self._first) // self._span, receiver, count)
        elif eventfd == EMPTY:
            self._words[self._dropped] += count
        else:
            try:
                os.write(eventfd, self._count)
            except BlockingIOError:
                # It is full, so an interrupt is pending already.
                pass

    def _decide(self, row: int, receiver: int) -> None:
        """Has the rules decide on what is in flight."""
        rings = self.faults.decide(row, receiver)
        if self._receivers[receiver] == SWITCH:
            self._tell_switch(row, receiver, rings)
        else:
            self._let_through(receiver, rings)

    def _tell_switch(self, row: int, receiver: int, rings: int) -> None:
        if rings:
            bell = row, receiver % self._shape.vectors
            self.for_switch[bell] = self.for_switch.get(bell, 0) + rings

    def _let_through(self, receiver: int, rings: int) -> None:
        """Delivers doorbells that rules have decided on."""
        words, passed = self._words, self._shape.passed_at + receiver
        while rings:
            n = min(rings, COUNT_LIMIT)
            words[IN_FLIGHT + 1] = passed
            words[IN_FLIGHT + 2] = before = words[passed]
            words[IN_FLIGHT] = n
            words[passed] = (before + n) % (1 << 64)
            self._deliver(passed, receiver)
            words[IN_FLIGHT] = 0
            rings -= n

    def _hand_on(self, row: int, receiver: int, rings: int) -> None:
        """Delivers what was held up."""
        if self._receivers[receiver] == SWITCH:
            self._tell_switch(row, receiver, rings)
            return
        self._watchman.wake()
        try:
            self._let_through(receiver, rings)
        except Stalled:
            self._give_up()

    def _receiver_of(self, counter: int) -> int:
        """Whom a doorbell in flight is for, by its counter."""
        passed = self._shape.passed_at
        return counter - passed if counter >= passed else (counter - self._first) % self._span

    def _may_stand_still(self) -> bool:
        """Whether the doorbell in flight is for an eventfd.

        Nothing else can be waited for: what is for the switch, or for rules to decide on, is not to be left half done
        because we were kept from running for so long.
        """
        counter, first = self._words[IN_FLIGHT + 1], self._first
        if self._shape.former_at <= counter < self._shape.passed_at:
            # A counter is being moved.
            return False
        receiver = self._receiver_of(counter)
        if counter < self._shape.former_at:
            receiver = self._or_ruled((counter - first) // self._span, receiver)
        return self._receivers[receiver] >= 0

    def _give_up(self) -> None:
        """The write of the doorbell in flight stood still: its receiver has filled its eventfd and made it block.

        Or so it seemed: we may have been kept from running ourselves. So it is tried once more, in a way that does not
        block, unless its peer makes it block once more. If the eventfd is full the doorbell is dropped, and so will the
        peer be.
        """
        words = self._words
        # We may not have got as far as to count it.
        self._page.recover()
        receiver = self._receiver_of(words[IN_FLIGHT + 1])
        try:
            _write_warily(self._receivers[receiver], self._count)
        except (BlockingIOError, Stalled):
            words[self._dropped] += words[IN_FLIGHT]
            self._wary_until = time.monotonic() + WARY
            words[IN_FLIGHT] = 0
            place = receiver // self._shape.vectors
            # At once, so that the rest of this batch cannot stall on it again.
            self.disconnect(place)
            self._stalled(place)
        words[IN_FLIGHT] = 0


def _write_warily(eventfd: int, count: memoryview) -> int:
    """Writes to an eventfd that its peer may have made blocking."""
    os.set_blocking(eventfd, False)
    return os.write(eventfd, count)


class _Watchman:
    """Interrupts a write that stands still. It sleeps, and costs nothing, while nothing is relayed."""

    def __init__(self, words: memoryview, may_stand_still: Callable[[], bool]) -> None:
        """`may_stand_still` says of the doorbell in flight whether its write can."""
        self._words = words
        self._may_stand_still = may_stand_still
        self._seen = [0, 0, 0]
        self._awake = False
        self._turns = 0
        self._last_turn = 0
        signal.signal(signal.SIGALRM, self._look)

    def wake(self) -> None:
        """There is something to watch over."""
        self._turns += 1
        if not self._awake:
            self._awake = True
            signal.setitimer(signal.ITIMER_REAL, STALL, STALL)

    def stop(self) -> None:
        """Ends the watch for good: a timer that outlived the interpreter's handlers would kill the process."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        # It is the relay's, which has us: neither would go before somebody looked for such pairs.
        self._may_stand_still = bool

    def _look(self, _signal: int, _frame: FrameType | None) -> None:
        # A doorbell in flight is one of a kind: its counter never has the same old value again.
        seen = self._words[IN_FLIGHT : IN_FLIGHT + 3].tolist()
        if seen[0] and seen == self._seen and self._may_stand_still():
            self._seen = [0, 0, 0]
            raise Stalled
        self._seen = seen
        if not seen[0] and self._turns == self._last_turn:
            self._awake = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        self._last_turn = self._turns
