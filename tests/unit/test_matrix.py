"""Doorbells as a matrix, where that fits."""

from __future__ import annotations

from typing import Any

from famezd.cli.matrix import show_doorbells
from famezd.cli.terminal import without_paint


def doorbells(
    pairs: dict[tuple[int, int], int], vectors: dict[tuple[int, int], int] | None = None, **names: str
) -> dict[str, Any]:
    return {
        "fabric": "lab",
        "doorbells": "relayed",
        "names": {key.removeprefix("p"): name for key, name in names.items()},
        "pairs": [{"src": src, "dst": dst, "count": n} for (src, dst), n in pairs.items()],
        "vectors": [{"dst": dst, "vector": v, "count": n} for (dst, v), n in (vectors or {}).items()],
    }


RUNG = doorbells({(1, 2): 1234, (2, 1): 0, (10, 2): 5}, {(2, 1): 1234, (2, 10): 5, (1, 3): 0}, p1="web", p2="2")


def shown(answer: dict[str, Any], width: int, **options: bool) -> list[str]:
    return without_paint(show_doorbells(answer, width, **options)).splitlines()


def test_everybody_has_a_row_and_a_column() -> None:
    assert shown(RUNG, 80) == [
        "SRC \\ DST  1     2  10",
        "1 web      .  1234   .",
        "2          .     .   .",
        "10         .     5   .",
    ]


def test_what_is_too_wide_is_a_list() -> None:
    width = max(map(len, shown(RUNG, 80)))
    assert shown(RUNG, width) == shown(RUNG, 80)
    as_list = ["SRC    DST  DOORBELLS", "1 web  2    1234", "10     2    5"]
    assert shown(RUNG, width - 1) == as_list
    assert shown(RUNG, 80, as_list=True) == as_list


def test_vectors_are_shown_as_well_if_asked_for() -> None:
    assert shown(RUNG, 80, vectors=True)[4:] == [
        "",
        "DST \\ VECTOR     1  10",
        "1 web            .   .",
        "2             1234   5",
    ]
    assert shown(RUNG, 10, vectors=True)[3:] == [
        "",
        "DST  VECTOR  DOORBELLS",
        "2    1       1234",
        "2    10      5",
    ]


def test_long_names_are_cut_where_room_is_scarce() -> None:
    answer = doorbells({(1, 2): 5}, p1="n" * 64)
    assert shown(answer, 80)[1] == f"1 {'n' * 19}...  .  5"
    assert shown(answer, 80, as_list=True)[1].startswith(f"1 {'n' * 64} ")


def test_where_nobody_rang_there_is_no_matrix() -> None:
    assert shown(doorbells({(1, 2): 0}), 80) == ["SRC  DST  DOORBELLS"]


def test_of_direct_doorbells_it_is_said_what_is_seen() -> None:
    assert shown(RUNG | {"doorbells": "direct"}, 80)[0].startswith("Doorbells of fabric lab are direct: ")
