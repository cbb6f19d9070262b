"""The events that an operator searches the journal for: each has an id of its own, MESSAGE_ID, that never changes.

docs/operations.md lists them, and packaging/journal/famezd.catalog, which is made of this, explains them to who asks
`journalctl -x`; see https://systemd.io/CATALOG/.
"""

from __future__ import annotations

from typing import NamedTuple


class Event(NamedTuple):
    """Something that happens."""

    id: str
    """128 bits in hexadecimal."""
    text: str
    """What its line says, up to a colon if there is one."""
    meaning: str
    """A sentence or two, for the catalog."""


EVENTS = (
    Event(
        "65cc2c059886425299452ad440b099ab",
        "peer joined",
        "A machine or a program has become peer @PEER@ of fabric @FABRIC@. Nobody else on it was disturbed.",
    ),
    Event(
        "7e5209e4dd914ac6a0a3695457edb90d",
        "peer left",
        "Peer @PEER@ of fabric @FABRIC@ is gone, for the reason @FAMEZ_REASON@: docs/metrics.md explains each.",
    ),
    Event(
        "a855c9e5d8f84e7d98b9e24a49aed829",
        "peer refused",
        "A newcomer to fabric @FABRIC@ was turned away, for the reason @FAMEZ_REASON@. The line says what to do.",
    ),
    Event(
        "19899fad99aa4bcf852bf1c8c94245df",
        "fabric serves",
        "Fabric @FABRIC@ is new, and takes peers at @FAMEZ_SOCKET@.",
    ),
    Event(
        "89e8a17b004f4057bc3ae1d9ecda1a43",
        "fabric resumed",
        "Another worker goes on with fabric @FABRIC@, with all of its @FAMEZ_PEERS@ peers, who noticed nothing.",
    ),
    Event(
        "09822243e678470c800bbd525e9924f7",
        "fabric stopped",
        "The worker of fabric @FABRIC@ has stopped as it was told.",
    ),
    Event(
        "03a407f280f8490d91fda0bfe0c39bdf",
        "fabric ended, its peers are disconnected",
        "The settings of fabric @FABRIC@ no longer fit what its peers were given. Start those machines again.",
    ),
    Event(
        "d2e759eb8c9c4d1a987cfbcfe675234c",
        "fabric is removed, its peers are disconnected",
        "The file of fabric @FABRIC@ is gone, and somebody has forced the reload: see famezctl reload --force.",
    ),
    Event(
        "b278ac40b4124523b399422d2d24e12a",
        "worker died, it is started again",
        "The worker of fabric @FABRIC@ has ended: @FAMEZ_HOW@. Its peers notice nothing if the next one serves."
        " If this goes on, look at the lines before it.",
    ),
    Event(
        "7e12056119c84558b64e41f20198a90a",
        "worker gives no sign of life, it is killed",
        "The worker of fabric @FABRIC@ stood still. Usually the host had no processor to give.",
    ),
    Event(
        "8f42bc1822be44589ed9769b3452222e",
        "worker succeeded",
        "Another process goes on with fabric @FABRIC@, as planned; nobody served it for @FAMEZ_PAUSE_MS@ milliseconds.",
    ),
    Event(
        "7e1fc9dada8c432799e6d3cda1f4d756",
        "configuration reloaded",
        "The configuration was read anew, and is in force.",
    ),
    Event(
        "702feebed40c4a3388162195c41c1d5b",
        "configuration refused",
        "The configuration has a mistake, so what was accepted before is served on: @FAMEZ_PROBLEM@",
    ),
    Event(
        "295fb2ced26a404299fe31e0cc3d04fe",
        "famezd is ready",
        "All fabrics serve, @FAMEZ_FABRICS@ of them, or have failed; famezctl status tells.",
    ),
    Event(
        "d52384e80335461f83a8e9098fd5aa7c",
        "famezd has stopped",
        "famezd has ended as it was told. Its fabrics are @FAMEZ_FABRICS@.",
    ),
    Event(
        "882d42f780784d208e81c5e39a9436b0",
        "mailbox resized",
        "A peer of fabric @FABRIC@, or whoever may open its mailbox, has changed the file's size. Machines die of"
        " SIGBUS when they touch what is gone. With mailbox.backing memfd nobody can do this.",
    ),
    Event(
        "e6b7f38d3a304c389b923cb760fd4ea9",
        "personality failed",
        "The personality of fabric @FABRIC@ raised an error. Only what it was called for is lost. Tell who wrote it.",
    ),
)

_IDS = {event.text: event.id for event in EVENTS}


def message_id(text: str) -> str | None:
    """The id of what a line says, None if it is none of these events."""
    return _IDS.get(text.partition(":")[0])


def catalog() -> str:
    """The catalog's file."""
    entries = (
        f"-- {event.id}\nSubject: famezd: {event.text}\nDefined-By: famezd\n\n{event.meaning}\n" for event in EVENTS
    )
    return "# Made by `make reference` of famezd/supervisor/events.py.\n\n" + "\n".join(entries)
