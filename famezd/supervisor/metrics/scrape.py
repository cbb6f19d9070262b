"""A scrape: all metrics as text, of a look at each fabric that is no older than the question.

A look and its text take half a millisecond of a busy fabric; between two of them the supervisor does whatever else it
has to. Who asks while a scrape is under way shares the next one with all others who do.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from famezd.supervisor.metrics.exposition import Writer, document
from famezd.supervisor.metrics.fabrics import FABRIC
from famezd.supervisor.metrics.processes import look_at_process
from famezd.supervisor.metrics.readings import Scraped
from famezd.supervisor.status.view import FabricView

_END = b"# EOF\n"
"""Of OpenMetrics."""


class Scraper:
    """Writes the metrics."""

    def __init__(
        self,
        fabrics: Callable[[], Collection[str]],
        look: Callable[[str], FabricView | None],
        registry: CollectorRegistry,
    ) -> None:
        """`look` returns a view of the fabric of that name, None if it has gone meanwhile.

        `registry` has what is of no fabric.
        """
        self._fabrics = fabrics
        self._look = look
        self._registry = registry
        self._writers: dict[str, Writer[Scraped]] = {}
        self._next: dict[str, asyncio.Future[bytes]] = {}
        self._one_by_one = asyncio.Lock()

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        """The metrics in the format that suits an Accept header, and its content type."""
        encode, content_type = choose_encoder(accept)
        if content_type not in self._next:
            self._next[content_type] = asyncio.ensure_future(self._scrape(encode, content_type))
        # Whoever hangs up ends its own waiting only.
        return await asyncio.shield(self._next[content_type]), content_type

    async def _scrape(self, encode: Callable[[CollectorRegistry], bytes], content_type: str) -> bytes:
        async with self._one_by_one:
            # From now on it would be too old for who asks.
            del self._next[content_type]
            samples: defaultdict[str, list[str]] = defaultdict(list)
            names = sorted(self._fabrics())
            self._writers = {name: self._writers.get(name) or Writer(FABRIC, (name,)) for name in names}
            for name, writer in self._writers.items():
                view = self._look(name)
                if view is not None:
                    process = look_at_process(view.pid) if view.pid else None
                    for family, text in writer.write(Scraped(view, process)):
                        samples[family].append(text)
                await asyncio.sleep(0)
            own = encode(self._registry).removesuffix(_END)
            return own + document(FABRIC, samples, open_metrics="openmetrics" in content_type)
