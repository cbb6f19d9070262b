"""The genz personality: a Gen-Z fabric switch, which may be the fabric's primary manager.

What it says and when is in docs/genz.md; `famezd.messages` has the texts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from famezd.errors import FamezError
from famezd.mailbox import MAX_TEXT, Slots
from famezd.messages import (
    DUMP,
    PING,
    PONG,
    Attributes,
    CtlWrite,
    LinkRfc,
    Message,
    Nak,
    PeerAttribute,
    StandaloneAcknowledgment,
    Text,
    parse,
    track,
    untrack,
)
from famezd.switch.personality import Fabric, Messaging, State

MANAGER, SERVER = "Z-switch", "Z-server"
"""The names of a switch that is the primary fabric manager, and of one that is none."""
CCLASS: Final = "FabricSwitch"
SID: Final = 27
"""The subnet of the switch and of the ports that it configures, unless the settings say another."""
MAX_SID: Final = 65535
"""Subnet ids have 16 bits."""
CIDS: Final = 100
"""A component's id is so many times its port's."""
NOT_MANAGER: Final = "this switch is no fabric manager"

DOWN, UP, CONFIGURED = "down", "up", "configured"
"""Link states: nobody is on the port; somebody is; and has been configured by the switch."""

TAG_EXPIRES: Final = 5.0
"""Seconds in which a CTL-Write has to be acknowledged."""
LOOK_AT_NAMES, LOOK_SELDOM = 1.0, 8.0
"""Seconds between two looks at the names in the mailbox: a guest writes them whenever it likes, and no event tells.

With each look at which nothing is new they double, so that a fabric at rest is not woken to look at what never changes.
"""

_ROOM_FOR_TRACKER: Final = len("!EZT=1000000000")


class Outstanding(NamedTuple):
    """A CTL-Write that has not been acknowledged yet."""

    peer: int
    cid: int
    sid: int
    until: float
    """Seconds of the monotonic clock."""


class Port:
    """What the switch knows of a port, and of the component that is on it."""

    def __init__(self) -> None:
        self.link = DOWN
        self.nodename = ""
        self.cclass = ""
        self.cid = 0
        """As the switch has configured it; 0 if it has not."""
        self.sid = 0
        self.attributes: Attributes | None = None
        """What the component says of itself."""
        self.nak = ""
        """Why it refused what it was asked last; "" if it did not."""

    def as_text(self) -> dict[str, str]:
        """For the state; what is not known is left out."""
        told = {"link": self.link, "nodename": self.nodename, "cclass": self.cclass, "nak": self.nak}
        if self.link == CONFIGURED:
            told |= {"cid": str(self.cid), "sid": str(self.sid)}
        if self.attributes is not None:
            told |= {f"peer_{key}": str(value) for key, value in self.attributes._asdict().items()}
        return {key: value for key, value in told.items() if value}

    @classmethod
    def from_text(cls, told: Mapping[str, str]) -> Port:
        """What `as_text` made; raises ValueError where that is none."""
        port = cls()
        port.link, port.nak = told.get("link", UP), told.get("nak", "")
        port.cid, port.sid = int(told.get("cid", 0)), int(told.get("sid", 0))
        if "peer_cid" in told:
            port.attributes = Attributes(
                told.get("peer_cclass", ""), int(told["peer_cid"]), int(told.get("peer_sid", 0))
            )
        return port


class Genz(Messaging):
    """A Gen-Z fabric switch."""

    cclass = CCLASS

    def __init__(self, fabric: Fabric) -> None:
        super().__init__(fabric)
        self._slots = Slots(fabric.memory)
        self._manager = _manager(fabric.options)
        self._sid = _sid(fabric.options)
        self._cid = fabric.switch * CIDS
        self.nodename = MANAGER if self._manager else SERVER
        self._ports = {peer: Port() for peer in range(1, fabric.peers + 1)}
        self._tags: dict[int, Outstanding] = {}
        self._next_tag = 1
        self._pause = LOOK_AT_NAMES

    # What outlives the worker

    def state(self) -> State:
        """The switch, its ports, and the tags of what has not been acknowledged."""
        switch = {
            "nodename": self.nodename,
            "cclass": self.cclass,
            "cid": str(self._cid),
            "sid": str(self._sid),
            "manager": "true" if self._manager else "false",
            "next_tag": str(self._next_tag),
        }
        ports = {f"port {peer}": port.as_text() for peer, port in self._ports.items()}
        tags = {f"tag {tag}": {key: str(value) for key, value in o._asdict().items()} for tag, o in self._tags.items()}
        return {"switch": switch, **ports, **tags}

    def started(self) -> None:
        """Writes the switch's own ids into its slot."""
        self._identify_switch()

    def resumed(self, peers: Sequence[int], state: State) -> None:
        """Goes on with what is known of the ports, and with the tags that are outstanding."""
        for peer in peers:
            self._ports[peer] = Port.from_text(state.get(f"port {peer}", {}))
            if self._ports[peer].link == DOWN:
                # Its join was all but complete.
                self._ports[peer].link = UP
        self._next_tag = int(state.get("switch", {}).get("next_tag", "1"))
        for name, told in state.items():
            kind, _, tag = name.partition(" ")
            if kind == "tag" and int(told["peer"]) in peers:
                peer, cid, sid = (int(told[key]) for key in ("peer", "cid", "sid"))
                self._tags[int(tag)] = Outstanding(peer, cid, sid, float(told["until"]))
        self._identify_switch()
        self._look()

    def mailbox_restored(self, peers: Sequence[int]) -> None:
        """Writes the ids anew that were configured."""
        self._identify_switch()
        for peer in peers:
            port = self._ports[peer]
            if port.link == CONFIGURED:
                self._slots.identify(peer, port.cid, port.sid)

    # Who comes and goes

    def joined(self, peer: int) -> None:
        """A link comes up; who is no manager asks at once who is there."""
        self._ports[peer] = Port()
        self._ports[peer].link = UP
        self._pause = LOOK_AT_NAMES
        self._look()
        if not self._manager and self.fabric.is_peer:
            self._send(peer, PeerAttribute(), None)

    def left(self, peer: int) -> None:
        """The link is down, and nothing is expected from there any more."""
        self._ports[peer] = Port()
        self._tags = {tag: o for tag, o in self._tags.items() if o.peer != peer}
        self._set_due()

    # What peers say

    def message(self, src: int, text: str) -> None:
        """Does what a message asks for; raises MessageError if it is malformed."""
        if self._look_at(src):
            self._pause = LOOK_AT_NAMES
            self._set_due()
        said, hops = untrack(text)
        hops = None if hops is None else hops + 1
        match parse(said):
            case Text(request) if request in (PING, DUMP):
                self._send(src, Text(PONG if request == PING else self._dump()), hops)
            case PeerAttribute():
                self._send(src, Attributes(self.cclass, self._cid, self._sid), hops)
            case Attributes() as attributes:
                self._ports[src].attributes, self._ports[src].nak = attributes, ""
                self.fabric.log("peer attributes", peer=src, **attributes._asdict())
            case Nak(why):
                self._ports[src].nak = why or "no reason given"
                self.fabric.log("peer refused a request", peer=src, why=why)
            case LinkRfc():
                self._configure(src, hops)
            case StandaloneAcknowledgment(tag, reason):
                self._acknowledged(src, tag, reason, hops)
            case CtlWrite():
                self.fabric.log("CTL-Write to the switch, which nobody configures", peer=src)

    def _configure(self, peer: int, hops: int | None) -> None:
        """Answers a Link RFC."""
        if not self._manager:
            self._send(peer, Nak(NOT_MANAGER), hops)
            return
        # What it was sent before does not count any more: a peer has one CTL-Write outstanding at most.
        self._tags = {tag: o for tag, o in self._tags.items() if o.peer != peer}
        tag, self._next_tag = self._next_tag, self._next_tag + 1
        outstanding = Outstanding(peer, peer * CIDS, self._sid, time.monotonic() + TAG_EXPIRES)
        self._tags[tag] = outstanding
        self._set_due()
        self._send(peer, CtlWrite(self._cid, self._sid, outstanding.cid, outstanding.sid, tag), hops)

    def _acknowledged(self, peer: int, tag: int, reason: str, hops: int | None) -> None:
        """Takes the answer to a CTL-Write."""
        outstanding = self._tags.get(tag)
        if outstanding is None or outstanding.peer != peer:
            why = "no such tag is outstanding" if outstanding is None else f"the tag is peer {outstanding.peer}'s"
            self.fabric.log("Standalone Acknowledgment ignored", peer=peer, tag=tag, why=why)
            return
        del self._tags[tag]
        self._set_due()
        if reason.upper() != "OK":
            self.fabric.log("CTL-Write refused", peer=peer, tag=tag, reason=reason)
            return
        port = self._ports[peer]
        port.link, port.cid, port.sid = CONFIGURED, outstanding.cid, outstanding.sid
        self._slots.identify(peer, port.cid, port.sid)
        self.fabric.log("link configured", peer=peer, cid=port.cid, sid=port.sid)
        self._send(peer, PeerAttribute(), hops)

    def _dump(self) -> str:
        """Shows the ports: here as far as they fit into a message, in the log all of them."""
        self._look()
        ports = []
        for peer, port in self._ports.items():
            if port.cclass:
                ids = f" {port.cid}.{port.sid}" if port.link == CONFIGURED else ""
                ports.append(f"{peer} {port.nodename or '-'} ({port.cclass}){ids}")
                self.fabric.log("port", peer=peer, **port.as_text())
        shown = f"{len(ports)} of {self.fabric.peers} ports in use"
        for port_shown in ports:
            if len(f"{shown}; {port_shown}".encode()) > MAX_TEXT - _ROOM_FOR_TRACKER - len("; ..."):
                return f"{shown}; ..."
            shown = f"{shown}; {port_shown}"
        return shown

    def _send(self, peer: int, message: Message, hops: int | None) -> None:
        self.fabric.send(peer, track(message, hops))

    # Time

    def tick(self, now: float) -> None:
        """Looks at the names, and gives up what has not been acknowledged."""
        for tag, outstanding in list(self._tags.items()):
            if now >= outstanding.until:
                del self._tags[tag]
                self.fabric.log("CTL-Write not acknowledged in time", peer=outstanding.peer, tag=tag)
        self._pause = min(2 * self._pause, LOOK_SELDOM)
        self._look()

    def _set_due(self) -> None:
        expiries = [outstanding.until for outstanding in self._tags.values()]
        looks = [time.monotonic() + self._pause] if self.fabric.members else []
        self.due = min([*expiries, *looks], default=None)

    def _look(self) -> None:
        if sum(map(self._look_at, self.fabric.members)):
            self._pause = LOOK_AT_NAMES
        self._set_due()

    def _look_at(self, peer: int) -> bool:
        """Whether something is new."""
        port = self._ports[peer]
        before = port.nodename, port.cclass
        port.nodename, port.cclass = self._slots.nodename(peer), self._slots.cclass(peer)
        return (port.nodename, port.cclass) != before

    def _identify_switch(self) -> None:
        if self.fabric.is_peer:
            self._slots.identify(self.fabric.switch, self._cid, self._sid)


class GenzError(FamezError):
    """The options of the personality are none."""


def _manager(options: Mapping[str, str]) -> bool:
    value = options.get("manager", "true")
    if value not in ("true", "false"):
        raise GenzError(f"option manager must be true or false, not {value!r}")
    return value == "true"


def _sid(options: Mapping[str, str]) -> int:
    value = options.get("sid", str(SID))
    if not (value.isascii() and value.isdigit() and len(value) <= 5 and int(value) <= MAX_SID):
        raise GenzError(f"option sid must be an integer from 0 to {MAX_SID}, not {value!r}")
    return int(value)
