"""What is rung between two looks at the counters."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from famezd.config import Fabric, FabricSettings
from famezd.stats import ANYBODY, SWITCH_ROW, Occupant, Page, Shape
from famezd.supervisor.status.sampler import Growth, Sampler

PEERS, VECTORS = 3, 2


def fabric(**settings: object) -> Fabric:
    return FabricSettings(peers=PEERS, vectors=VECTORS, **settings).resolve("lab", Path("/run"))  # type: ignore[arg-type]


def ring(page: Page, row: int, dst: int, vector: int, n: int) -> None:
    places, _, vectors = page.shape
    page.words[page.shape.doorbells_at + (row * places + dst) * vectors + vector] += n


def growth(pairs: dict[tuple[int, int], int], vectors: dict[tuple[int, int], int]) -> Growth:
    return Growth(Counter(pairs), Counter(vectors))


def grown(sampler: Sampler) -> Growth:
    return asyncio.run(sampler.grown())


@pytest.fixture
def page() -> Iterator[Page]:
    with closing(Page.create("test", Shape(PEERS, PEERS, VECTORS))) as page:
        yield page


def test_what_was_there_at_the_first_look_is_not_told(page: Page) -> None:
    ring(page, 0, 1, 0, 5)
    sampler = Sampler(fabric(), page)
    assert grown(sampler) == growth({}, {})
    ring(page, 0, 1, 0, 2)
    ring(page, 0, 1, 1, 1)
    ring(page, 2, 0, 1, 7)
    assert grown(sampler) == growth({(0, 1): 3, (2, 0): 7}, {(1, 0): 2, (1, 1): 1, (0, 1): 7})
    assert grown(sampler) == growth({}, {})


def test_counters_that_begin_anew(page: Page) -> None:
    ring(page, 0, 1, 0, 5)
    sampler = Sampler(fabric(), page)
    grown(sampler)
    page.forget(0)
    ring(page, 0, 1, 0, 2)
    assert grown(sampler).pairs == {(0, 1): 2}
    page.forget(0)
    assert grown(sampler).pairs == {}


def test_with_fresh_ports_ids_are_those_of_who_is_there(page: Page) -> None:
    page.occupy(Occupant(0, 41, 1, 0, 1))
    page.occupy(Occupant(1, 42, 1, 0, 1))
    sampler = Sampler(fabric(ports="fresh"), page)
    grown(sampler)
    ring(page, 0, 1, 0, 1)
    ring(page, 0, 2, 0, 1)  # nobody ever was there
    assert grown(sampler) == growth({(41, 42): 1}, {(42, 0): 1})


def test_of_a_direct_fabric_the_switch_is_seen() -> None:
    with closing(Page.create("test", Shape(PEERS + 1, 2, VECTORS))) as page:
        sampler = Sampler(fabric(doorbells="direct"), page)
        grown(sampler)
        ring(page, ANYBODY, PEERS, 0, 2)
        ring(page, SWITCH_ROW, 1, 1, 3)
        assert grown(sampler) == growth({(PEERS, 1): 3}, {(PEERS, 0): 2, (1, 1): 3})


def test_a_large_page_leaves_others_their_turn(monkeypatch: pytest.MonkeyPatch, page: Page) -> None:
    turns = 0

    async def test() -> None:
        nonlocal turns
        looking = asyncio.ensure_future(Sampler(fabric(), page).grown())
        while not looking.done():
            turns += 1
            await asyncio.sleep(0)

    monkeypatch.setattr("famezd.supervisor.status.sampler.AT_ONCE", 1)
    asyncio.run(test())
    assert turns > PEERS


def test_a_page_that_was_closed_says_so(page: Page) -> None:
    other = Page.create("other", Shape(PEERS, PEERS, VECTORS))
    sampler = Sampler(fabric(), other)
    other.close()
    with pytest.raises(ValueError, match="released"):
        grown(sampler)
