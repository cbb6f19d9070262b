"""The text of messages in the mailbox: what Gen-Z components on a fabric say to each other.

A message is text. Some texts are those of Gen-Z control packets, and `parse` knows them by how they begin; every other
text is an ordinary message. `str` of a message is its text again. A text may end with a tracker, `!EZT=<n>`, which
counts the hops of one conversation; a reply carries n + 1.

Peers spell keys differently (`cclass`, `C-Class`), so case and punctuation of keys mean nothing.

Source: FAME-Z's IVSHMSG for the texts; Gen-Z Core Specification 1.0 for what they stand for, section by each.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from famezd.errors import FamezError

PING: Final = "ping"
PONG: Final = "pong"
DUMP: Final = "dump"
"""Asks the switch to show its ports."""

LINK_CTL, LINK_RFC, CTL_WRITE, ACKNOWLEDGMENT, TEXT = "link_ctl", "link_rfc", "ctl_write", "acknowledgment", "text"
KINDS: Final = (PING, DUMP, TEXT, LINK_CTL, LINK_RFC, CTL_WRITE, ACKNOWLEDGMENT)
"""What `kind` returns."""

_TRACKER: Final = "!EZT="
_MOST_HOPS: Final = 10**9
_MOST: Final = (1 << 64) - 1


class MessageError(FamezError):
    """A text begins like a control packet's, and is none."""


class Text(NamedTuple):
    """An ordinary message."""

    text: str

    def __str__(self) -> str:
        return self.text


class PeerAttribute(NamedTuple):
    """Link CTL Peer-Attribute: asks the component at the other end of the link for its attributes (11.11)."""

    def __str__(self) -> str:
        return "Link CTL Peer-Attribute"


class Attributes(NamedTuple):
    """Link CTL ACK: the answer to `PeerAttribute` (11.11)."""

    cclass: str
    cid: int
    sid: int

    def __str__(self) -> str:
        return f"Link CTL ACK cclass={_value(self.cclass)},CID0={self.cid},SID0={self.sid}"


class Nak(NamedTuple):
    """Link CTL NAK: a request on the link is refused (11.11)."""

    why: str

    def __str__(self) -> str:
        return f"Link CTL NAK {self.why}".rstrip()


class LinkRfc(NamedTuple):
    """Link RFC, Ready For Configuration: a component asks the fabric's manager to configure it (11.6)."""

    ttc: int
    """Time To Configure, in microseconds: how soon that is to be done."""

    def __str__(self) -> str:
        return f"Link RFC TTC={self.ttc}us"


class CtlWrite(NamedTuple):
    """CTL-Write: the manager writes a component's control space (6.10.1)."""

    pfm_cid: int
    """Of the primary fabric manager."""
    pfm_sid: int
    cid: int
    """Of the component, from now on."""
    sid: int
    tag: int
    """Which request it is; the acknowledgment names it."""
    space: int = 0

    def __str__(self) -> str:
        # In this order and spelling: guests scan for it.
        return (
            f"CTL-Write Space={self.space},PFMCID={self.pfm_cid},PFMSID={self.pfm_sid},"
            f"CID={self.cid},SID={self.sid},Tag={self.tag}"
        )


class StandaloneAcknowledgment(NamedTuple):
    """Standalone Acknowledgment: a request was carried out, or why it was not (6.8)."""

    tag: int
    reason: str = "OK"

    def __str__(self) -> str:
        return f"Standalone Acknowledgment Tag={self.tag},Reason={_value(self.reason)}"


Message = Text | PeerAttribute | Attributes | Nak | LinkRfc | CtlWrite | StandaloneAcknowledgment


def parse(text: str) -> Message:
    """What a text says, its tracker taken off (see `untrack`).

    Raises MessageError if it begins like a control packet's and is none.
    """
    words = text.split(None, 2)
    match [word.lower() for word in words[:2]]:
        case ["link", "ctl"]:
            return _link_ctl(words[2] if len(words) > 2 else "")
        case ["link", "rfc"]:
            return LinkRfc(_microseconds(_keys(words[2:], "Link RFC"), "TTC"))
        case ["standalone", "acknowledgment" | "acknowledgement"]:
            keys = _keys(words[2:], "Standalone Acknowledgment")
            return StandaloneAcknowledgment(_number(keys, "Tag"), _text(keys, "Reason"))
        case ["ctl-write", *_]:
            keys = _keys([text.split(None, 1)[1]] if len(words) > 1 else [], "CTL-Write")
            numbers = (_number(keys, key) for key in ("PFMCID", "PFMSID", "CID", "SID", "Tag", "Space"))
            return CtlWrite(*numbers)
        case [_] if text.strip() in (PING, PONG, DUMP):
            return Text(text.strip())
        case _:
            return Text(text)


def kind(text: str) -> str:
    """What a text begins like, for counting: it may be none of that."""
    words = text.split(None, 2)
    match [word.lower() for word in words[:2]]:
        case ["link", "ctl"]:
            return LINK_CTL
        case ["link", "rfc"]:
            return LINK_RFC
        case ["standalone", "acknowledgment" | "acknowledgement"]:
            return ACKNOWLEDGMENT
        case ["ctl-write", *_]:
            return CTL_WRITE
        case [_] if (word := untrack(text)[0].strip()) in (PING, DUMP):
            return word
        case _:
            return TEXT


def track(message: Message, hops: int | None) -> str:
    """The text of a message in a conversation of so many hops; None for one without a tracker."""
    return str(message) if hops is None else f"{message}{_TRACKER}{hops}"


def untrack(text: str) -> tuple[str, int | None]:
    """Takes the tracker off a text; returns how many hops it has counted, None where there is none."""
    message, found, hops = text.rpartition(_TRACKER)
    # What is written by `echo` ends with a line feed.
    hops = hops.rstrip()
    if not found or not (hops.isascii() and hops.isdigit() and len(hops) < len(str(_MOST_HOPS))):
        return text, None
    return message.strip(), int(hops)


def _link_ctl(rest: str) -> Message:
    directive, _, arguments = rest.partition(" ")
    match directive.lower():
        case "peer-attribute":
            return PeerAttribute()
        case "ack":
            keys = _keys([arguments], "Link CTL ACK")
            return Attributes(_text(keys, "cclass"), _number(keys, "CID0", "CID"), _number(keys, "SID0", "SID"))
        case "nak":
            return Nak(arguments.strip())
        case _:
            raise MessageError(f"Link CTL has no {directive!r}; it has Peer-Attribute, ACK and NAK")


_Keys = dict[str, str]
"""Values by keys as `_plain` has them, and under "" what they belong to, for messages."""


def _plain(key: str) -> str:
    return "".join(c for c in key.lower() if c.isalnum())


def _keys(arguments: list[str], whose: str) -> _Keys:
    found = {"": whose}
    for item in ",".join(arguments).split(","):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not item.strip():
            continue
        if not equals or not value or not _plain(key):
            raise MessageError(f"{whose}: {item.strip()!r} is no KEY=VALUE")
        if _plain(key) in found:
            raise MessageError(f"{whose}: {key} is there twice")
        found[_plain(key)] = value
    return found


def _text(keys: _Keys, *names: str) -> str:
    for name in names:
        if (value := keys.get(_plain(name))) is not None:
            return value
    raise MessageError(f"{keys['']}: {names[0]} is missing")


def _number(keys: _Keys, *names: str) -> int:
    value = _text(keys, *names)
    if not (value.isascii() and value.isdigit()) or int(value[:21]) > _MOST:
        raise MessageError(f"{keys['']}: {names[0]} must be a number of at most 64 bits, not {value!r}")
    return int(value)


def _microseconds(keys: _Keys, name: str) -> int:
    value = _text(keys, name)
    number = value.removesuffix("us")
    if number == value or not (number.isascii() and number.isdigit()) or int(number[:21]) > _MOST:
        raise MessageError(f"{keys['']}: {name} must be in microseconds, such as 100us, not {value!r}")
    return int(number)


def _value(text: str) -> str:
    """Text as a value: a comma in it would end it, and without any it would be none."""
    return text.replace(",", ";").strip() or "-"
