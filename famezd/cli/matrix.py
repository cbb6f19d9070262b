"""Doorbells of a fabric: a matrix of who rang whom where it fits, else a list."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from famezd.cli.terminal import table, widest

DIRECT = """\
Doorbells of fabric {} are direct: those between peers are not counted, only those to and from a switch.

"""
_NEVER = "."
"""What stands for no doorbell."""

_LONGEST = 24
"""Characters of a name, with the id before it, beside a matrix."""

Counts = Mapping[tuple[int, int], int]


def show_doorbells(answer: dict[str, Any], width: int, *, as_list: bool = False, vectors: bool = False) -> str:
    """What famezd answers for a fabric's doorbells, in lines of at most `width` where that can be.

    Who rang whom; with `vectors` also on which vector each was rung.
    """

    def called(peer: int) -> str:
        return name_of(peer, answer["names"].get(str(peer)))

    def shown(counts: Counts, heads: tuple[str, str], named: Callable[[int], str]) -> str:
        drawn = "" if as_list else _matrix(counts, heads, called, named, width)
        return drawn or _list(counts, heads, called, named)

    pairs = {(pair["src"], pair["dst"]): pair["count"] for pair in answer["pairs"]}
    note = DIRECT.format(answer["fabric"]) if answer["doorbells"] == "direct" else ""
    text = note + shown(pairs, ("SRC", "DST"), called)
    if vectors:
        rung = {(v["dst"], v["vector"]): v["count"] for v in answer["vectors"]}
        text += "\n\n" + shown(rung, ("DST", "VECTOR"), str)
    return text


def name_of(peer: int, name: str | None) -> str:
    """A peer's id, and its name if that is another."""
    return str(peer) if name in (None, str(peer)) else f"{peer} {name}"


def _matrix(
    counts: Counts, heads: tuple[str, str], called: Callable[[int], str], named: Callable[[int], str], width: int
) -> str:
    """A row for each source and a column for each destination; "" if that is wider than `width`, or nothing was rung.

    With peers on both sides both have all of them, so that each name stands somewhere.
    """
    rung = {pair: n for pair, n in counts.items() if n}
    if not rung:
        return ""
    rows, columns = sorted({row for row, _ in counts}), sorted({column for _, column in rung})
    if named is called:
        rows = columns = sorted({peer for pair in counts for peer in pair})
    head = [f"{heads[0]} \\ {heads[1]}", *map(str, columns)]
    lines = [[_cut(called(row)), *(str(rung.get((row, column), _NEVER)) for column in columns)] for row in rows]
    drawn = table([head, *lines], right=range(1, len(head)))
    return drawn if widest(drawn) <= width else ""


def _cut(name: str) -> str:
    """A name that leaves room for the rest: the id before it tells whose it is."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."


def _list(counts: Counts, heads: tuple[str, str], called: Callable[[int], str], named: Callable[[int], str]) -> str:
    rows: Sequence[Sequence[str]] = [
        (called(one), named(other), str(n)) for (one, other), n in sorted(counts.items()) if n
    ]
    return table([(*heads, "DOORBELLS"), *rows])
