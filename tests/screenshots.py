"""Takes the pictures of the page that the docs show: `make screenshots`."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from famezd.supervisor.status.rates import WINDOW
from tests.browser import browser
from tests.daemon import Famezd
from tests.needs import need

IMAGES = Path(__file__).parents[1] / "docs" / "images"
FOURTEEN = ["gw", "db-1", "db-2", "web-1", "web-2", "web-3", "cache-1", "cache-2", "queue", "batch-1", "batch-2"]
FOURTEEN += ["build", "monitor", "spare"]
SIXTY = [f"{kind}-{n:02}" for kind, many in (("node", 32), ("store", 16), ("edge", 12)) for n in range(many)]

# Each rings a few of those after it, the first ones more often than the others.
RINGS = """
import random, sys, time
from famezd.client import Peer
chance = random.Random(int(sys.argv[2]))
with Peer.join(sys.argv[1]) as peer:
    print(peer.id, flush=True)
    others = [int(id) for id in sys.stdin.readline().split()]
    first = others.index(peer.id)
    while True:
        time.sleep(0.02 * (1 + first % 7) * chance.uniform(0.5, 1.5))
        dst = others[(first + 1 + int(chance.paretovariate(0.9))) % len(others)]
        if dst != peer.id:
            peer.ring(dst, chance.randrange(4))
"""


@contextmanager
def machines(famezd: Famezd, fabric: str, names: Sequence[str]) -> Iterator[None]:
    """Processes that are called as QEMU is, join and ring."""
    started = []
    environ = os.environ | {"PYTHONHOME": sys.base_prefix, "PYTHONPATH": ":".join(filter(None, sys.path))}
    try:
        for n, name in enumerate(names):
            process = subprocess.Popen(
                # Called as QEMU is, which is all that tells what it is.
                ["qemu-system-x86_64", "-c", RINGS, str(famezd.socket(fabric)), str(n), "-name", name],
                executable=sys.executable,
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            started.append(process)
            assert process.stdout is not None
            assert process.stdout.readline()
        peers = famezd.metrics("famez_peer_info", "fabric", "peer")
        ids = sorted(int(peer) for name, peer in peers if name == fabric)
        for process in started:
            assert process.stdin is not None
            process.stdin.write(" ".join(map(str, ids)) + "\n")
            process.stdin.flush()
        yield
    finally:
        for process in started:
            process.kill()
            process.communicate()


async def take(famezd: Famezd, name: str, path: str, peers: int, height: int, chosen: str = "", **how: str) -> None:
    """One picture, of a page that has been open for long enough to know all rates."""
    async with browser() as tab:
        width = int(how.pop("width", "1280"))
        await tab.open(f"{famezd.url}/{path}", width, height, **how)
        await tab.until(f"document.querySelectorAll('#drawing .port[role=button]').length >= {peers}")
        if chosen:
            click = f"[...document.querySelectorAll('#rows button')].find((b) => b.innerText === '{chosen}').click()"
            await tab.evaluate(click)
        await asyncio.sleep(2 * WINDOW)
        picture = IMAGES / f"{name}.png"
        await tab.picture(picture)
    pngquant = need("pngquant", "pngquant")
    subprocess.run([pngquant, "--force", "--skip-if-larger", "--output", picture, picture], check=True)


def main() -> None:
    """Takes them all."""
    IMAGES.mkdir(exist_ok=True)
    fabrics: dict[str, dict[str, Any]] = {
        "lab": {"peers": 14, "vectors": 4},
        "big": {"peers": 60, "vectors": 4},
        "spare": {"personality": "genz", "peers": 4, "vectors": 8},
    }
    with tempfile.TemporaryDirectory() as directory, Famezd(Path(directory), fabrics) as famezd, ExitStack() as stack:
        stack.enter_context(machines(famezd, "lab", FOURTEEN))
        asyncio.run(take(famezd, "page-light", "#lab", 14, 1250, "db-1", prefers_color_scheme="light"))
        asyncio.run(take(famezd, "page-narrow", "#lab", 14, 900, width="400", prefers_color_scheme="dark"))
        stack.enter_context(machines(famezd, "big", SIXTY))
        asyncio.run(take(famezd, "page-dark", "#big", 60, 1000, prefers_color_scheme="dark"))


if __name__ == "__main__":
    main()
