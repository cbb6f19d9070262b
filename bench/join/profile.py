"""Where the time of a join and a leave goes."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Mapping

from bench.join.crowd import Crowd
from bench.join.server import Server, join, timed
from bench.join.servers import CLAIMED, FULL, Effort, crowded
from bench.mmsg import Messages
from bench.profile import OWN, Function, ProfileError, functions, system_calls, times
from bench.programs import processor_time
from bench.report import Grid, Part, Ratio


def measure_profile(effort: Effort) -> list[Part]:
    """What the worker does for a join and a leave as the last peer."""
    parts: list[Part] = []
    with crowded() as (those, crowd):
        # The tools are not to go before what they look at.
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        for kind in CLAIMED:
            try:
                parts += _profile(those[kind.name], those["stock"], crowd, effort)
            except ProfileError as e:
                parts.append(f"Where the time of {kind.name} joins goes cannot be measured here: {e}.")
    return parts


def _profile(server: Server, stock: Server, crowd: Crowd, effort: Effort) -> list[Part]:
    worker, messages = server.processes[0], Messages(FULL)
    members: list[socket.socket] = []

    def come(where: Server = server) -> None:
        members.append(join(where, messages)[0])
        where.settle()

    def go() -> None:
        members.pop().close()
        server.settle()

    def come_and_go() -> None:
        for _ in range(effort.joins):
            join(server, messages)[0].close()
        crowd.catch_up()

    coming, going = system_calls(worker, come), system_calls(worker, go)
    there = system_calls(stock.processes[0], lambda: come(stock))
    go()
    before = [processor_time(pid) for pid in server.processes]
    joining, leaving, _ = times(worker, effort.seconds, (come, go, crowd.catch_up))
    used = [processor_time(pid) - b for pid, b in zip(server.processes, before, strict=True)]
    found = functions(worker, effort.seconds, come_and_go)
    ratio = _processor_ratio(server, stock, crowd, effort)
    kernel, kernel_leaving = (1 - shares.get(OWN, 0) for shares in (joining, leaving))
    worker_share = used[0] / sum(used)
    made = going["eventfd2"]
    ready = f"For a leave it makes {made} eventfds: those of the next newcomer are made ready." if made else ""
    return [
        f"""
        Where the time of a join and a leave goes, {server.name}: the worker has {worker_share:.0%} of the service's
        processor time, the supervisor, which logs both, the rest. Of the worker's time for a join the kernel has
        {kernel:.0%}, for a leave {kernel_leaving:.0%}. Were all of famezd's own code free, the kernel's part alone
        would make a join {kernel * worker_share * ratio.median:.2f} of the stock server's processor time. {ready}
        """,
        calls_table(
            f"{server.name}: the worker's system calls, and its time", (coming, joining), (going, leaving), there
        ),
        busiest_table(f"{server.name}: the worker's functions at work, for both", found),
    ]


def _processor_ratio(server: Server, stock: Server, crowd: Crowd, effort: Effort) -> Ratio:
    """Of their processor time for a join, in turns."""
    messages = Messages(FULL)
    ours, theirs = list[float](), list[float]()
    for _ in range(effort.rounds):
        for which, into in ((server, ours), (stock, theirs)):
            into.append(timed(which, messages, effort.joins).processor)
            crowd.catch_up()
    return Ratio.of(ours, theirs)


Doing = tuple[Counter[str], Mapping[str, float]]
"""How often each system call was made, and what share of the time it took."""


def calls_table(caption: str, joining: Doing, leaving: Doing, stock: Counter[str]) -> Grid:
    """System calls with at least a hundredth of the time of either."""
    names = {name for _, shares in (joining, leaving) for name, share in shares.items() if share >= 0.01}
    ordered = sorted(names, key=lambda name: -joining[1].get(name, 0))
    rows = [[name, *_cells(name, *joining), _count(stock[name]), *_cells(name, *leaving)] for name in ordered]
    rows.append(["all", str(joining[0].total()), "", str(stock.total()), str(leaving[0].total()), ""])
    return Grid(caption, ["", "a join: calls", "of its time", "stock: calls", "a leave: calls", "of its time"], rows)


def _cells(name: str, calls: Counter[str], shares: Mapping[str, float]) -> list[str]:
    return [_count(calls[name]), f"{shares.get(name, 0):.0%}"]


def _count(calls: int) -> str:
    return str(calls or "")


def busiest_table(caption: str, found: Mapping[str, Function]) -> Grid:
    """The functions that work most themselves; where the worker waits it does not."""
    at_work = 1 - found[_LOOP].alone if _LOOP in found else 1.0
    busiest = [(name, f) for name, f in found.items() if name != _LOOP][:12]
    rows = [[name, f"{f.alone / at_work:.0%}", f"{f.with_others / at_work:.0%}"] for name, f in busiest]
    return Grid(caption, ["", "itself, with its system calls", "with what it calls"], rows)


_LOOP = "Worker.run (famezd/fabric/worker.py)"
