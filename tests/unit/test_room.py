"""Whether there is room for what is configured: open files of workers and of famezd, descriptors in flight, memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from famezd.config import DESCRIPTORS_A_FABRIC, SUPERVISOR_DESCRIPTORS, ConfigError, FabricSettings, Genz, load
from famezd.fabric.settings import SPARE_DESCRIPTORS
from famezd.openfiles import hard_limit, in_flight_limit
from famezd.supervisor.parking import needed, remark

Problems = Callable[..., list[str]]


@pytest.fixture
def problems(tmp_path: Path) -> Problems:
    """The lines of the error that these fabrics are where there may be so many open files; none if it is none."""

    def problems(limit: int, **fabrics: str) -> list[str]:
        (tmp_path / "fabrics.d").mkdir(exist_ok=True)
        (tmp_path / "famezd.yaml").write_text("")
        for name, text in fabrics.items():
            (tmp_path / "fabrics.d" / f"{name}.yaml").write_text(text)
        try:
            load(tmp_path / "famezd.yaml", environ={"RUNTIME_DIRECTORY": "/run/test"}, limit=limit)
        except ConfigError as e:
            return str(e).replace(f"{tmp_path}/", "").splitlines()
        return []

    return problems


@pytest.mark.parametrize(
    ("text", "descriptors", "most"),
    [
        ("peers: 36", 36 * (1 + 36 * 16), 35),
        ("peers: 30\nvectors: 32\npersonality: genz", 30 * (1 + 31 * 32), 29),
        ("peers: 1500\ndoorbells: direct", 1500 * 17, 1499),
        ("peers: 1500\ndoorbells: direct\nports: fresh", 1500 * 17, 1499),
        ("peers: 20\npins: {3: {socket: true}}", 20 * (1 + 20 * 16) + 1, 19),
    ],
)
def test_fabric_that_needs_a_descriptor_too_many(problems: Problems, text: str, descriptors: int, most: int) -> None:
    needs = descriptors + SPARE_DESCRIPTORS
    assert problems(needs, lab=text) == []
    (line,) = problems(needs - 1, lab=text)
    assert line.startswith("fabrics.d/lab.yaml:1:8: peers: ")
    assert f"need {needs} open files in the fabric's worker, and the hard limit is {needs - 1}:" in line
    assert f"have at most {most} peers, or fewer vectors" in line
    assert f"LimitNOFILE={needs} or more" in line
    assert problems(needs - 1, lab=text.replace(f"peers: {text.split()[1]}", f"peers: {most}")) == []


def test_not_even_one_peer_fits(problems: Problems) -> None:
    (line,) = problems(1000, lab="vectors: 2048\npeers: 2")
    assert "lab.yaml:2:8: peers: 2 peers of 2048 vectors" in line
    assert ": have fewer vectors, or raise the limit" in line


def test_what_is_wrong_otherwise_is_not_judged(problems: Problems) -> None:
    assert problems(100, lab="peers: many\nvectors: 2000") == [
        "fabrics.d/lab.yaml:1:8: peers: must be an integer from 1 to 65535, not 'many'"
    ]


def test_counters_that_take_more_than_half_of_the_memory(problems: Problems) -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    peers = int((memory // 2 / 8) ** 0.5) + 1
    (line,) = problems(1 << 30, lab=f"peers: {peers}\nvectors: 1\ndoorbells: direct")
    assert line.startswith(f"fabrics.d/lab.yaml:1:8: peers: the counters of {peers} peers of 1 vector, direct, take ")
    assert f"more than half of this machine's {memory >> 20}M: have fewer peers" in line


def test_more_fabrics_than_famezd_may_have_open_files_for(problems: Problems) -> None:
    fabrics = dict.fromkeys(("a", "b", "c", "d", "e"), "peers: 1\nvectors: 1")
    fabrics["e"] += "\npins: {0: {socket: true}}"
    needs = SUPERVISOR_DESCRIPTORS + 5 * DESCRIPTORS_A_FABRIC + 1
    assert problems(needs, **fabrics) == []
    assert problems(needs - 1, **fabrics) == [
        f"famezd.yaml:1:1: 5 fabrics need {needs} open files in famezd itself, and the hard limit is {needs - 1}: have "
        f"fewer, or raise the limit (LimitNOFILE={needs} or more in famezd's unit, or ulimit -Hn before famezd)"
    ]


@pytest.mark.parametrize(
    ("fabric", "parked"),
    [
        (FabricSettings(peers=2, vectors=1), 2 * (1 + 2)),
        (FabricSettings(peers=4, vectors=16), 4 * (1 + 4 * 16)),
        (FabricSettings(peers=2, vectors=4, personality="genz"), 2 * (1 + 3 * 4)),
        (FabricSettings(peers=2, vectors=4, personality="genz", genz=Genz(silent=True)), 2 * (1 + 2 * 4)),
    ],
)
def test_what_a_full_fabric_parks(fabric: FabricSettings, parked: int) -> None:
    assert fabric.parked == parked


def test_fabric_whose_personality_is_broken_is_told_of_by_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    fabric = FabricSettings(peers=2, vectors=4)

    def broken(_: str) -> NoReturn:
        raise ImportError

    monkeypatch.setattr("famezd.config.personality_class", broken)
    assert fabric.parked == 2 * (1 + 3 * 4)


def test_what_all_park_and_the_largest_once_more() -> None:
    assert needed([]) == 0
    assert needed([6]) == 12
    assert needed([6, 260]) == 6 + 2 * 260


def test_it_is_told_when_it_is_too_much() -> None:
    fabrics = [260] * 3
    assert remark(fabrics, None) == remark(fabrics, 1040) == ""
    assert remark(fabrics, 1039).startswith("when all fabrics are full they park 1040 descriptors for")
    assert "is 1039: a fabric that finds no room would not outlive its worker" in remark(fabrics, 1039)
    assert "LimitNOFILE=1040 or more" in remark(fabrics, 1039)


def test_who_is_privileged_may_have_any_number_in_flight() -> None:
    assert in_flight_limit() == (None if os.geteuid() == 0 else hard_limit())
