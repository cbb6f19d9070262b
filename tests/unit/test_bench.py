"""What benchmarks make of what they measured."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.join.growth import Look, growth_table
from bench.join.profile import busiest_table, calls_table
from bench.join.server import JoinError, Server, connect, join, parent
from bench.mmsg import MOST, Messages
from bench.profile import OTHER, OWN, by_function, counted, purpose, shares
from bench.programs import processor_time
from bench.report import Comparison, Grid, Plot, Power, Ratio, Row, Section, Series, fill
from famezd.protocol import MESSAGE_SIZE, decode

# Ratios


def test_a_ratio_is_the_median_of_pairs_and_not_the_pair_of_medians() -> None:
    assert Ratio.of([1, 20, 300], [1, 10, 1000]) == (1, 0.3, 2)


def test_what_was_not_measured_in_pairs_has_no_ratio() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Ratio.of([1, 2], [1])


def test_a_ratio_is_told_with_its_bounds() -> None:
    assert str(Ratio(1.234, 0.5, 20)) == "1.23 (0.50 to 20.00)"


@pytest.mark.parametrize(
    ("most", "least", "told"),
    [
        (2.0, None, "at most 2: met"),
        (1.9, None, "at most 1.9: **missed**"),
        (None, 2.0, "at least 2: met"),
        (None, 2.1, "at least 2.1: **missed**"),
        (None, None, ""),
    ],
)
def test_a_target_is_met_where_it_is_reached(most: float | None, least: float | None, told: str) -> None:
    assert Row("x", [4.0], [2.0], most=most, least=least).target == told


def test_what_has_no_counterpart_has_neither_ratio_nor_target() -> None:
    row = Row("x", [4.0], [], most=2)
    assert (row.ratio, row.target) == (None, "")


# Tables


def test_a_comparison_has_a_column_of_limits_only_where_there_are_any() -> None:
    rows = [Row("a", [2.0], [1.0]), Row("b", [1234.5], [], limit=[1000.0])]
    assert Comparison("Times", "ms", "stock", rows[:1]).markdown() == (
        "*Times*\n\n"
        "| ms | famezd | stock | ratio | target |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
        "| a | 2 | 1 | 2.00 (2.00 to 2.00) |  |"
    )
    assert Comparison("", "ms", "stock", rows, limit="bare").markdown().splitlines()[2:] == [
        "| a | 2 | 1 | 2.00 (2.00 to 2.00) |  |  |  |",
        "| b | 1,234 |  |  |  | 1,000 | 1.23 (1.23 to 1.23) |",
    ]


def test_values_are_medians_in_three_digits() -> None:
    row = Row("a", [0.001234, 0.9, 0.000001], [99.96, 1, 1000])
    assert "| a | 0.00123 | 100 |" in Comparison("", "s", "stock", [row]).markdown()


def test_a_grid_without_a_caption_begins_with_its_head() -> None:
    assert Grid("", ["", "x"], [["a", "1"]]).markdown() == "|  | x |\n| --- | ---: |\n| a | 1 |"


# Growth


def test_the_order_of_a_power_is_found() -> None:
    found = Power.fit([1, 2, 10, 50], [3 * x**1.5 for x in (1, 2, 10, 50)])
    assert found == pytest.approx((3, 1.5))


def test_what_is_constant_below_is_left_out_of_a_fit() -> None:
    xs = [1.0, 2, 4, 8, 16]
    series = Series("a", xs, [16, 16, 16, 64, 256], fit_from=4)
    assert series.power == pytest.approx((1, 2))
    assert Series("a", xs, xs).power is None


def test_a_plot_tells_its_orders_in_words_and_is_the_same_file_each_time(tmp_path: Path) -> None:
    plot = Plot("x", "Title", "peers", "ms", [Series("a", [1, 2, 4], [2, 4, 8], fit_from=1), Series("b", [1], [1])])
    assert plot.markdown() == "![Title](images/performance-x.svg)\n\nFitted: a: order 1.00."
    pictures = []
    for _ in range(2):
        Section("S", ["text", plot]).draw(tmp_path)
        pictures.append((tmp_path / "performance-x.svg").read_text())
    assert pictures[0] == pictures[1]
    assert "a (order 1.00)" in pictures[0]


# Texts


def test_a_section_is_its_parts_in_their_order() -> None:
    told = Section("Joins", ["One.", Grid("", ["", "x"], []), "Two."]).markdown()
    assert told == "## Joins\n\nOne.\n\n|  | x |\n| --- | ---: |\n\nTwo."


def test_paragraphs_and_lists_are_filled_and_the_rest_is_left_alone() -> None:
    word = "performance "
    filled = fill(f"""
        {word * 12}

        - {word * 12}
        - one

            make bench  # as it is

        | a | {word * 12} |
    """)
    paragraph, items, code, table = filled.split("\n\n")
    assert [len(line) for line in paragraph.splitlines()] == [119, 23]
    assert items.splitlines() == [f"- {' '.join(['performance'] * 9)}", f"  {' '.join(['performance'] * 3)}", "- one"]
    assert code == "    make bench  # as it is"
    assert table.startswith("| a | performance ")
    assert "\n" not in table


# Many messages at once


def test_messages_and_descriptors_arrive_by_one_call_and_are_closed() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, open(os.devnull) as file:
        sent = Messages.of([(0, None), (7, None), (-1, file.fileno()), (7, file.fileno())])
        room = Messages(4)
        opened = os.listdir("/proc/self/fd")
        for _ in range(2):
            sent.send(ours.fileno())
            assert room.receive(theirs.fileno()) == 4
            assert len(os.listdir("/proc/self/fd")) == len(opened) + 2
            room.close()
            assert os.listdir("/proc/self/fd") == opened
        sent.send(ours.fileno())
        words = [theirs.recvmsg(MESSAGE_SIZE) for _ in range(4)]
    assert [decode(word) for word, *_ in words] == [0, 7, -1, 7]


def test_descriptors_that_are_not_beside_each_other_are_closed_as_well() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, open(os.devnull) as file:
        room, sent = Messages(2), Messages.of([(1, file.fileno())] * 2)
        low = os.open(os.devnull, os.O_RDONLY)
        kept = os.open(os.devnull, os.O_RDONLY)
        os.close(low)
        sent.send(ours.fileno())
        room.receive(theirs.fileno())
        room.close()
        os.fstat(kept)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(low)
        os.close(kept)


def test_what_has_come_is_counted_and_the_end_is_no_message() -> None:
    ours, theirs = socket.socketpair()
    room = Messages(5)
    with theirs:
        with ours:
            assert room.receive(theirs.fileno(), socket.MSG_DONTWAIT) == 0
            Messages.of([(1, None), (2, None)]).send(ours.fileno())
        assert room.receive(theirs.fileno()) == 2
        assert room.receive(theirs.fileno()) == 0


def test_what_cannot_be_sent_is_an_error() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, pytest.raises(BrokenPipeError):
        Messages.of([(1, None)]).send(ours.fileno())


def test_more_messages_than_the_kernel_takes_are_an_error() -> None:
    with pytest.raises(ValueError, match="1025 messages: the kernel takes 1024"):
        Messages(MOST + 1)


# Servers


def server(path: str = "", *, sticky: bool = False) -> Server:
    return Server("a", path, (os.getpid(),), peers=14, vectors=16, sticky=sticky)


def test_a_set_up_names_all_ports_or_all_peers() -> None:
    assert server(sticky=True).setup(0) == server().setup(13) == 3 + 14 * 16
    assert server().setup(0) == 3 + 16


def test_the_processor_time_of_any_process_is_that_which_it_has_itself() -> None:
    before = time.process_time()
    measured = processor_time(os.getpid())
    assert before <= measured <= time.process_time()
    assert server().memory() > 1
    assert server().descriptors() >= 3
    assert parent(os.getpid()) == os.getppid()


def test_a_set_up_that_is_cut_short_is_an_error(tmp_path: Path) -> None:
    path = str(tmp_path / "short.sock")

    def cut_short() -> None:
        with listener.accept()[0] as connection:
            Messages.of([(0, None), (7, None)]).send(connection.fileno())

    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(1) as pool:
        listener.bind(path)
        listener.listen()
        served = pool.submit(cut_short)
        with pytest.raises(JoinError, match="a: 2 messages of a set-up of 19"):
            join(server(path), Messages(19))
        served.result()
    with pytest.raises(ConnectionRefusedError):
        connect(path)


def looks(*latencies: float) -> list[Look]:
    return [Look(100 * n, latency, 1.0, 10.0, 30 * n) for n, latency in enumerate(latencies, 1)]


def test_growth_is_judged_by_the_stock_server_at_the_same_time() -> None:
    # The machine has become twice as slow, and famezd no slower than that.
    told = growth_table({"stock": looks(1, 2, 2), "sticky": looks(3, 6, 6)}).markdown()
    assert "| sticky: latency of a join, of the stock server's | 3 | 3 | 1.00 | at most 1.2: met |" in told
    assert "| sticky: open descriptors | 30 | 90 | 3.00 | at most 1.2: **missed** |" in told
    assert "| stock: open descriptors | 30 | 90 | 3.00 |  |" in told
    assert "the first 100 joins and leaves, and the last of 300" in told


# Profiles


def test_system_calls_are_counted_as_strace_says() -> None:
    said = """\
    calls syscall
--------- ----------------
      229 sendmsg
        2 accept4
--------- ----------------
      231 total
"""
    assert counted(said.splitlines()) == {"sendmsg": 229, "accept4": 2}


KERNEL, LIBC, PYTHON = "([kernel.kallsyms])", "(/usr/lib/libc.so.6)", "(/usr/bin/python3.11)"


@pytest.mark.parametrize(
    ("frames", "told"),
    [
        ((f"_PyEval_EvalFrameDefault {PYTHON}", f"[unknown] {PYTHON}"), OWN),
        ((f"skb_queue_tail {KERNEL}", f"do_syscall_64 {KERNEL}", f"__libc_sendmsg {LIBC}"), "sendmsg"),
        ((f"do_eventfd {KERNEL}", f"do_syscall_64 {KERNEL}", f"eventfd {LIBC}"), "eventfd2"),
        ((f"vfs_write {KERNEL}", f"el0_svc {KERNEL}", f"__GI___libc_write {LIBC}"), "write"),
        ((f"asm_sysvec_apic_timer_interrupt {KERNEL}", f"PyDict_GetItem {PYTHON}"), OTHER),
        ((f"finish_task_switch {KERNEL}",), OTHER),
    ],
)
def test_a_sample_is_of_the_system_call_that_it_was_taken_in(frames: tuple[str, ...], told: str) -> None:
    assert purpose("\n".join(f"\t{0xFFFFFFFF81000000 + i:x} {frame}" for i, frame in enumerate(frames))) == told


def test_shares_are_of_all_and_the_largest_comes_first() -> None:
    assert list(shares({"a": 1, "b": 3}).items()) == [("b", 0.75), ("a", 0.25)]
    assert shares({}) == {}


def test_a_function_has_what_it_does_and_what_it_calls_once_for_each_sample() -> None:
    found = by_function(["main (a.py:1);turn (b.py:5) 1", "main (a.py:2);turn (b.py:9);turn (b.py:7);send (c.py:3) 3"])
    assert found == {"send (c.py)": (0.75, 0.75), "turn (b.py)": (0.25, 1.0)}


def test_the_share_of_waiting_is_not_counted_as_work() -> None:
    loop = "Worker.run (famezd/fabric/worker.py)"
    found = by_function([f"{loop[:-1]}:1) 2", f"{loop[:-1]}:2);send (c.py:3) 6"])
    assert busiest_table("", found).rows == [["send (c.py)", "100%", "100%"]]


def test_system_calls_that_take_next_to_no_time_are_counted_in_the_sum_alone() -> None:
    joining = Counter(sendmsg=229, accept4=1), {"sendmsg": 0.6, OWN: 0.395, "accept4": 0.005}
    leaving = Counter(close=225), {"close": 1.0}
    assert calls_table("", joining, leaving, Counter(sendmsg=435)).rows == [
        ["sendmsg", "229", "60%", "435", "", "0%"],
        [OWN, "", "40%", "", "", "0%"],
        ["close", "", "0%", "", "225", "100%"],
        ["all", "230", "", "435", "225", ""],
    ]
