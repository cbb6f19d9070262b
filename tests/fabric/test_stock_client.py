"""QEMU's own ivshmem-client on every kind of fabric."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from famezd.client import Doorbell, Peer
from tests.daemon import PATIENCE, Famezd
from tests.stock.client import StockClient

FABRIC = "lab"
VECTORS = 8
KINDS: dict[str, dict[str, Any]] = {
    f"{personality} {doorbells} {ports}": {
        "personality": personality,
        "doorbells": doorbells,
        "ports": ports,
        "peers": 3,
        "vectors": VECTORS,
    }
    for personality, doorbells, ports in product(("plain", "genz"), ("relayed", "direct"), ("sticky", "fresh"))
}


def collect(peer: Peer, n: int) -> Counter[int]:
    """The next `n` doorbells by vector."""
    heard: Counter[int] = Counter()
    while heard.total() < n:
        events = peer.wait(PATIENCE)
        assert events, f"after {heard}"
        heard.update({event.vector: event.rings for event in events if isinstance(event, Doorbell)})
    return heard


def hears_of(stock: StockClient, peer: int) -> None:
    """Waits until it has all vectors of a peer."""
    for _ in range(VECTORS):
        stock.expect(f") for peer id {peer}\n")


@pytest.mark.parametrize("kind", KINDS)
def test_it_joins_dumps_and_interrupts(tmp_path: Path, kind: str) -> None:
    with (
        Famezd(tmp_path, {FABRIC: KINDS[kind]}) as famezd,
        famezd.join(FABRIC) as peer,
        StockClient(famezd.socket(FABRIC)) as stock,
    ):
        own = int(stock.expect("\nshm_fd").partition("our_id=")[2].partition("\n")[0])
        assert own == peer.id + 1
        # It prints as it reads: its own vectors are the end of its set-up.
        hears_of(stock, own)
        with famezd.join(FABRIC) as third:
            if "fresh" in kind:
                hears_of(stock, third.id)
            stock.command(f"int {own} {VECTORS - 1}")
            stock.expect(f"receive notification from peer_id={own} vector={VECTORS - 1}")
            dump = stock.command("dump")
            assert f"our_id = {own}" in dump
            switch = {"genz": [4], "plain": []}[kind.split(maxsplit=1)[0]]
            known = [int(line.split("= ")[1]) for line in dump.splitlines() if line.startswith("peer_id")]
            assert sorted(known) == sorted([peer.id, third.id, *switch])
            assert dump.count("is enabled") == VECTORS * (len(known) + 1)
            stock.command(f"int {peer.id} 2")
            assert collect(peer, 1) == {2: 1}
            stock.command(f"int {third.id} all")
            assert collect(third, VECTORS) == Counter(range(VECTORS))
            third.ring(own, 5)
            stock.expect(f"receive notification from peer_id={own} vector=5")
            if "relayed" in kind:
                pairs = famezd.pairs(FABRIC)
                assert pairs[own, peer.id] == 1
                assert pairs[own, third.id] == VECTORS
                assert pairs[third.id, own] == 1
