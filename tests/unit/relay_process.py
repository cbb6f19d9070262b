"""A process that relays on a stats page until it is killed: `python -m tests.unit.relay_process PAGE FD...`.

Place 0 receives: first its eventfds by vector are given, then the bells that lead to them, row after row.
"""

import os
import select
import sys

from famezd.fabric.relay import Relay
from famezd.stats import Page


def resume(page: Page, receivers: list[int]) -> None:
    """Rings again what an earlier process was relaying when it was killed."""
    in_flight = page.recover()
    if in_flight is not None:
        os.eventfd_write(receivers[in_flight.bell % len(receivers)], in_flight.rings)
        page.delivered()


def connect(relay: Relay, receivers: list[int], bells: list[int]) -> None:
    """Has the relay watch all bells."""
    relay.connect(0, receivers)
    for i, bell in enumerate(bells):
        relay.add(bell, i // len(receivers), 0, i % len(receivers))


def main() -> None:
    """Resumes, then relays for ever."""
    page_descriptor, *others = map(int, sys.argv[1:])
    page = Page.open(page_descriptor, writable=True)
    receivers, bells = others[: page.shape.vectors], others[page.shape.vectors :]
    resume(page, receivers)
    epoll = select.epoll()
    relay = Relay(epoll, page, lambda place: sys.exit(f"place {place} stalled"))
    connect(relay, receivers, bells)
    print("relays", flush=True)
    while True:
        relay.relay(epoll.poll())


if __name__ == "__main__":
    main()
