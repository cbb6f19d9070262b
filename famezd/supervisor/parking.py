"""Whether what all fabrics park for their workers' successors (see `famezd.ark`) has room in flight."""

from __future__ import annotations

from collections.abc import Sequence


def needed(parked: Sequence[int]) -> int:
    """How many descriptors are in flight at most when fabrics are full that park so many each.

    That is what each of them has parked, and that of the largest once more, for as long as it is packed anew.
    """
    return sum(parked) + max(parked, default=0)


def remark(parked: Sequence[int], limit: int | None) -> str:
    """What there is to say of that where so many may be in flight; "" if it is enough, or there is no limit."""
    if limit is None or (most := needed(parked)) <= limit:
        return ""
    return (
        f"when all fabrics are full they park {most} descriptors for their workers' successors, and the limit of open "
        f"files, which bounds that for all of this user's processes together, is {limit}: a fabric that finds no room "
        f"would not outlive its worker; raise it (LimitNOFILE={most} or more in famezd's unit, or ulimit -Hn before "
        f"famezd)"
    )
