"""Whom a person means by a destination."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from famezd.client.peer import ClientError

SWITCH = ("switch", "server")
ALL, OTHERS = "all", "others"
_ID = re.compile("[0-9]{1,5}")


class Directory:
    """Who is on a fabric, by id: node name and component class, both empty where there is no mailbox to tell."""

    def __init__(
        self, members: Mapping[int, tuple[str, str]], own: int, switch: int | None, *, anybody: bool = False
    ) -> None:
        self.members = dict(sorted(members.items()))
        self.own = own
        """The id of who asks."""
        self.switch = switch
        """The id of the switch, None where it is no peer."""
        self._anybody = anybody
        """Whether nothing tells who is there, so that every id may be."""

    def find(self, destination: str) -> int:
        """The one peer that is meant by an id, a node name, or `switch` (also `server`).

        An id comes before a name that looks like one. Raises ClientError, which names the nearest right one, if there
        is no such peer, and one that lists the ids if several peers claim the name.
        """
        if destination in SWITCH and self.switch is not None:
            return self.switch
        if _ID.fullmatch(destination) and (self._anybody or int(destination) in self.members):
            return int(destination)
        claim = [peer for peer, (nodename, _) in self.members.items() if destination and nodename == destination]
        if len(claim) == 1:
            return claim[0]
        if claim:
            raise ClientError(f"{destination!r} is the name of peers {', '.join(map(str, claim))}: say which, by id")
        raise ClientError(f"no peer {destination!r}{self._nearest(destination)}; there are: {self._known()}")

    def find_all(self, destination: str) -> list[int]:
        """The peers that are meant: by `all`, everybody who is there, ourselves and the switch included.

        By `others` everybody but ourselves; else one, as by `find`.
        """
        if destination == ALL:
            return list(self.members)
        if destination == OTHERS:
            return [peer for peer in self.members if peer != self.own]
        return [self.find(destination)]

    def name(self, peer: int) -> str:
        """What a peer is called in print: node name and id, or the id alone."""
        nodename, _ = self.members.get(peer, ("", ""))
        return called(peer, nodename)

    def words(self) -> list[str]:
        """Every destination that `find_all` understands, ids left out where a name says the same."""
        names = {peer: nodename for peer, (nodename, _) in self.members.items() if self._stands_for(nodename, peer)}
        ids = [str(peer) for peer in self.members if peer not in names]
        return [*names.values(), *ids, *(SWITCH[:1] if self.switch is not None else ()), ALL, OTHERS]

    def _stands_for(self, nodename: str, peer: int) -> bool:
        """Whether a peer can be meant by its name: no other claims it, and it is no id and no word of ours."""
        if not nodename or nodename in (*SWITCH, ALL, OTHERS):
            return False
        try:
            return self.find(nodename) == peer
        except ClientError:
            return False

    def _nearest(self, destination: str) -> str:
        near = difflib.get_close_matches(destination, self.words(), 1)
        return f" (did you mean {near[0]}?)" if near else ""

    def _known(self) -> str:
        known = [f"{peer} ({nodename})" if nodename else str(peer) for peer, (nodename, _) in self.members.items()]
        return ", ".join(known)


def called(peer: int, nodename: str) -> str:
    """What a peer with this node name, "" for none, is called in print."""
    return f"{nodename} ({peer})" if nodename else f"peer {peer}"
