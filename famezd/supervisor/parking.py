"""Whether what all fabrics park for their workers' successors (see `famezd.ark`) has room in flight."""

from __future__ import annotations

from collections.abc import Collection

from famezd.fabric.settings import SPARE_DESCRIPTORS, Settings
from famezd.fabric.switch import has_switch
from famezd.fabric.worker import StartError, load_personality


def needed(fabrics: Collection[Settings]) -> int:
    """How many descriptors are in flight at most when all of these are full.

    That is what each of them has parked, and that of the largest once more, for as long as it is packed anew.
    """
    parked = [fabric.descriptors(switch=_has_switch(fabric)) - SPARE_DESCRIPTORS for fabric in fabrics]
    return sum(parked) + max(parked, default=0)


def _has_switch(fabric: Settings) -> bool:
    try:
        return has_switch(load_personality(fabric.personality), fabric)
    except StartError:
        # Its worker will say what is wrong with it.
        return True


def remark(fabrics: Collection[Settings], limit: int | None) -> str:
    """What there is to say of that where so many may be in flight; "" if it is enough, or there is no limit."""
    if limit is None or (most := needed(fabrics)) <= limit:
        return ""
    return (
        f"when all fabrics are full they park {most} descriptors for their workers' successors, and the limit of open "
        f"files, which bounds that for all of this user's processes together, is {limit}: a fabric that finds no room "
        f"would not outlive its worker; raise it (LimitNOFILE={most} or more in famezd's unit, or ulimit -Hn before "
        f"famezd)"
    )
