"""Real peers that ring each other, message the switch, and are refused, until they are told to stop."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from famezd.client import ClientError, Mailbox, Peer
from tests.daemon import PATIENCE, Famezd

RINGS: Mapping[tuple[int, int], int] = {(1, 2): 3, (2, 1): 1, (1, 3): 2}
"""How often who rings whom in a turn, by port."""


class Load:
    """Three peers fill fabric `lab`, and keep it busy until the end of `with`."""

    NAMES = ("alice", "bob", "carol")

    def __init__(self, famezd: Famezd) -> None:
        self._famezd = famezd
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._stack = ExitStack()
        self._failed: list[Exception] = []

    def __enter__(self) -> Self:
        self._peers = {peer.id: peer for peer in (self._join() for _ in self.NAMES)}
        self._mailboxes = [
            self._stack.enter_context(contextlib.closing(Mailbox(peer, nodename=name)))
            for peer, name in zip(self._peers.values(), self.NAMES, strict=True)
        ]
        self._thread.start()
        return self

    def _join(self) -> Peer:
        return self._stack.enter_context(self._famezd.join("lab"))

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._stack.close()
        assert self._failed == []

    def _work(self) -> None:
        try:
            while not self._over.wait(0.1):
                self._turn()
        except Exception as e:  # noqa: BLE001 - told at the end of `with`
            self._failed.append(e)

    def _turn(self) -> None:
        for (src, dst), times in RINGS.items():
            for vector in range(times):
                self._peers[src].ring(dst, 4 + vector)
        talker = self._mailboxes[0]
        talker.ping(talker.switch, timeout=PATIENCE)
        with contextlib.suppress(ClientError):
            self._famezd.join("lab").leave()
            raise AssertionError("a fourth peer is refused")
