"""The live page in a real browser, over a real famezd with real peers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from famezd.client import Peer
from tests.browser import Tab, browser
from tests.daemon import Famezd
from tests.system.test_names import joined_by, write_nodename

LAB = {"personality": "genz", "peers": 4, "vectors": 16}
PLAIN = {"peers": 3, "vectors": 2}

SECOND = "#drawing [data-id='2']"
PULSED = """new MutationObserver((all) => all.forEach((one) => window.pulsed ||= one.addedNodes.length > 0))
    .observe(document.querySelector('.pulses'), {childList: true})"""


def rung(row: int) -> str:
    """Whether the table says that the peer in this row is rung."""
    return f"(document.querySelectorAll('#rows tr')[{row}]?.lastChild.textContent ?? '0') !== '0'"


def with_page(famezd: Famezd, test: Callable[[Tab], Awaitable[None]], path: str = "/", **how: Any) -> None:
    """Runs `test` with the page open, and then looks for what no page may ever do."""

    async def run() -> None:
        async with browser() as tab:
            await tab.open(f"{famezd.url}{path}", **how)
            await tab.until("document.querySelector('#connection.live') && document.querySelector('#name')")
            await test(tab)
            assert tab.complaints == []
            assert await tab.evaluate("violations") == []
            assert {url for url in tab.requests if not url.startswith(famezd.url)} == set()

    asyncio.run(run())


@pytest.fixture
def famezd(tmp_path: Path) -> Any:
    with Famezd(tmp_path, {"lab": LAB, "plain": PLAIN}) as famezd:
        yield famezd


def test_peers_join_ring_and_leave_and_the_page_shows_it(famezd: Famezd) -> None:
    async def test(tab: Tab) -> None:
        await tab.until("document.querySelector('#name').textContent === 'lab'")
        with famezd.join("lab") as first, famezd.join("lab") as second:
            await tab.until(f"document.querySelector({json.dumps(SECOND)})?.getAttribute('role') === 'button'")
            await tab.until("document.querySelector('#timeline').textContent.includes('2: joined')")
            await tab.evaluate(PULSED)
            first.ring(second.id, 3)
            await tab.until(rung(1))
            assert await tab.evaluate("window.pulsed")
            await tab.until("document.querySelector('#matrix').getAttribute('aria-label').includes('1 → 2')")
            # One peer from close by.
            await tab.evaluate(f"document.querySelector({json.dumps(SECOND)}).dispatchEvent(new Event('click'))")
            second.ring(first.id, 0)
            first.ring(second.id, 3)
            await tab.until("document.querySelector('#bars .vector')?.textContent === '3'")
            told = await tab.evaluate("document.querySelector('#told').innerText")
            assert f"pid {os.getpid()}" in told
            assert "up" in told
        await tab.until("document.querySelectorAll('#drawing .port[role=button]').length === 0")
        await tab.until("document.querySelector('#timeline').textContent.includes('2: left reason=hangup')")
        # The switch of plain is none, and nobody is there.
        await tab.evaluate("document.querySelector('a[href=\"#plain\"]').click()")
        await tab.until("document.querySelector('#name').textContent === 'plain'")
        with famezd.join("plain"):
            await tab.until("document.querySelectorAll('#drawing .port[role=button]').length === 1")

    with_page(famezd, test)


def test_of_a_peer_that_is_chosen_its_own_doorbells_are_drawn(famezd: Famezd) -> None:
    async def test(tab: Tab) -> None:
        with famezd.join("lab") as first, famezd.join("lab") as second, famezd.join("lab") as third:
            await tab.until("document.querySelectorAll('#rows tr').length === 3")
            await tab.evaluate("document.querySelector('#rows button').click()")
            await tab.evaluate(PULSED)
            second.ring(third.id, 0)
            await tab.until(rung(2))
            assert not await tab.evaluate("window.pulsed")
            first.ring(second.id, 0)
            await tab.until(rung(1))
            assert await tab.evaluate("window.pulsed")

    with_page(famezd, test, "/#lab")


def test_a_worker_is_killed_and_resumes_and_the_page_shows_it(famezd: Famezd) -> None:
    async def test(tab: Tab) -> None:
        with famezd.join("lab") as first, famezd.join("lab") as second:
            await tab.until(f"document.querySelector({json.dumps(SECOND)})?.getAttribute('role') === 'button'")
            fabric = json.loads(famezd.ctl("--json", "status").stdout)["fabrics"][0]
            os.kill(fabric["pid"], signal.SIGKILL)
            await tab.until("document.querySelector('#timeline .death')")
            await tab.until("document.querySelector('#timeline .resume')")
            await tab.until("document.querySelector('#facts').textContent.includes('1 restart ')")
            await tab.until("document.querySelector('#state').textContent === 'serving'")
            first.ring(second.id, 0)
            await tab.until(rung(1))
            # A planned succession and fault rules are told, too.
            assert famezd.ctl("restart", "lab").returncode == 0
            await tab.until("document.querySelector('#timeline .succession')")
            assert famezd.ctl("fault", "add", "lab", "1", "2", "--drop", "1").returncode == 0
            await tab.until("document.querySelector('#facts').textContent.includes('1 fault rule in force')")
            assert famezd.ctl("fault", "clear", "lab").returncode == 0
            await tab.until("document.querySelectorAll('#timeline .fault').length === 2")

    with_page(famezd, test)


HOSTILE = [b"<img src=x onerror=x>", b"\"'\n<b>x</b>\r\n\0", b"</script><script>", "\u202eab".encode()]


def test_what_guests_write_is_text(famezd: Famezd) -> None:
    async def test(tab: Tab) -> None:
        peers = [famezd.join("lab") for _ in HOSTILE]
        try:
            for peer, name in zip(peers, HOSTILE, strict=True):
                write_nodename(peer, peer.id, name)
            await tab.until("document.querySelector('#rows').innerText.includes('<img src=x onerror=x>')")
            await tab.until("document.querySelector('#drawing').textContent.includes('</script><script>')")
            await tab.until("document.querySelector('#rows').innerText.includes('\"\\' <b>x</b>')")
            assert await tab.evaluate("document.querySelectorAll('img, main b, main script').length") == 0
        finally:
            for peer in peers:
                peer.leave()

    with_page(famezd, test)


def test_a_name_of_ten_kilobytes_is_cut(famezd: Famezd) -> None:
    async def test(tab: Tab) -> None:
        with joined_by(famezd, "plain", ["/usr/bin/qemu-system-x86_64", "-name", "long" * 2500]):
            await tab.until("document.querySelector('#rows').innerText.includes('longlong')")
            assert await tab.evaluate("document.querySelector('#rows button').textContent.length") == 64
            assert await tab.evaluate("document.documentElement.scrollWidth <= innerWidth")

    with_page(famezd, test, "/#plain", width=400)


def test_a_fabric_is_removed_while_it_is_watched(famezd: Famezd, tmp_path: Path) -> None:
    async def test(tab: Tab) -> None:
        with famezd.join("plain") as one, famezd.join("plain") as other:
            await tab.until("document.querySelectorAll('#drawing .port[role=button]').length === 2")
            one.ring(other.id, 0)
            (tmp_path / "fabrics.d" / "plain.yaml").unlink()
            assert famezd.ctl("reload", "--force").returncode == 0
            await tab.until("document.querySelector('#name').textContent === 'lab'")
            await tab.until("document.querySelectorAll('#fabrics li').length === 1")
            await tab.until("document.querySelector('#timeline .reload')")

    with_page(famezd, test, "/#plain")


def test_a_fabric_that_is_not_there_is_shown_as_soon_as_it_is(famezd: Famezd, tmp_path: Path) -> None:
    async def test(tab: Tab) -> None:
        await tab.until("document.querySelector('#facts').textContent === 'There is no fabric new.'")
        with famezd.join("lab"):
            # It goes on to listen as it did, whatever happens to others.
            await tab.until("document.querySelector('#fabrics .many').textContent === '1 of 4 peers'")
        (tmp_path / "fabrics.d" / "new.yaml").write_text(yaml.safe_dump(PLAIN))
        assert famezd.ctl("reload").returncode == 0
        await tab.until("document.querySelector('#name').textContent === 'new'")
        # For it alone there were two: when it was opened, and when the fabric was there.
        assert sum("/api/v1/events" in url for url in tab.requests) == 2

    with_page(famezd, test, "/#new")


def test_of_many_fabrics_the_one_that_is_shown_is_in_view(tmp_path: Path) -> None:
    name = "the-longest-name-of-all"
    fabrics = {f"f{n:02}": PLAIN for n in range(12)} | {name: PLAIN}

    async def test(tab: Tab) -> None:
        await tab.until(f"document.querySelector('#name').textContent === '{name}'")
        card = "document.querySelector('#fabrics [aria-current]').getBoundingClientRect()"
        assert await tab.evaluate(f"{card}.left >= 0 && {card}.right <= innerWidth && {card}.top >= 0")
        # In the drawing its name is no wider than the switch.
        width = "document.querySelector('.hub %s').getBBox().width"
        assert await tab.evaluate(f"{width % '.what'} <= {width % 'circle'}")

    with Famezd(tmp_path, fabrics) as famezd:
        with_page(famezd, test, f"/#{name}", width=400)


def test_an_address_that_nobody_encoded_names_no_fabric(famezd: Famezd) -> None:
    async def test(tab: Tab) -> None:
        await tab.until("document.querySelector('#name').textContent === 'lab'")

    with_page(famezd, test, "/#100%")


def test_who_skips_to_the_fabric_stays_on_it(famezd: Famezd) -> None:
    async def test(tab: Tab) -> None:
        await tab.until("document.querySelector('#name').textContent === 'plain'")
        await tab.press("Tab")
        await tab.press("Enter")
        assert await tab.evaluate("document.activeElement.id") == "fabric"
        assert await tab.evaluate("location.hash") == "#plain"

    with_page(famezd, test, "/#plain")


def test_it_can_be_used_by_keys_alone(famezd: Famezd) -> None:
    focused = "document.activeElement.dataset.id"

    async def test(tab: Tab) -> None:
        with famezd.join("lab"), famezd.join("lab"), famezd.join("lab"):
            await tab.until("document.querySelectorAll('#drawing .port[role=button]').length === 3")
            for _ in range(20):
                await tab.press("Tab")
                if await tab.evaluate(focused) == "1":
                    break
            await tab.press("ArrowRight")
            assert await tab.evaluate(focused) == "2"
            await tab.press("ArrowLeft")
            await tab.press("ArrowLeft")
            assert await tab.evaluate(focused) == "3"
            await tab.press("Enter")
            await tab.until("document.querySelector('#told').innerText.includes('pid')")
            assert await tab.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
            await tab.press("Escape")
            await tab.until("document.querySelector('#told').hidden")
            assert await tab.evaluate(focused) == "3"
            # One stop for all ports, then on to what follows.
            await tab.press("Tab")
            assert await tab.evaluate(focused) is None

    with_page(famezd, test)


INTERACTIVE = {"button", "link", "searchbox", "textbox"}


def test_all_that_can_be_used_has_a_name(famezd: Famezd) -> None:
    async def test(tab: Tab) -> None:
        with famezd.join("lab"), famezd.join("lab"):
            await tab.until("document.querySelectorAll('#drawing .port[role=button]').length === 2")
            tree = (await tab.call("Accessibility.getFullAXTree"))["nodes"]
            nodes = [
                (node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]
            ]
            used = [(role, name) for role, name in nodes if role in INTERACTIVE]
            assert [role for role, name in used if not name] == []
            assert [name for role, name in used if name.startswith("port ")] != []
            roles = {role for role, _ in nodes}
            assert {"main", "navigation", "heading", "table", "columnheader", "log", "status"} <= roles
            images = [name for role, name in nodes if role in ("image", "img")]
            assert any(name.startswith("Doorbells a second") for name in images)
            assert await tab.evaluate("document.documentElement.lang") == "en"

    with_page(famezd, test)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_breaks_no_rule_of_accessibility(famezd: Famezd, scheme: str) -> None:
    rules = (files("axe_core_python") / "axe.min.js").read_text()
    found = "axe.run().then(({violations}) => violations.map((one) => [one.id, one.nodes.map((node) => node.html)]))"

    async def test(tab: Tab) -> None:
        with famezd.join("lab"), famezd.join("lab"):
            await tab.until("document.querySelectorAll('#drawing .port[role=button]').length === 2")
            await tab.evaluate("document.querySelector('#rows button').click()")
            await tab.evaluate(f"{rules};0")
            assert await tab.evaluate(found) == []

    with_page(famezd, test, prefers_color_scheme=scheme)


def test_who_wants_no_motion_gets_none(famezd: Famezd) -> None:
    async def test(tab: Tab) -> None:
        with famezd.join("lab") as first, famezd.join("lab") as second:
            await tab.until(f"document.querySelector({json.dumps(SECOND)})?.getAttribute('role') === 'button'")
            lit = "(all) => all.forEach((one) => window.lit ||= one.target.classList.contains('lit'))"
            options = "{subtree: true, attributes: true}"
            await tab.evaluate(f"new MutationObserver({lit}).observe(document.querySelector('#drawing'), {options})")
            first.ring(second.id, 0)
            await tab.until("window.lit")
            await tab.until(rung(1))
            assert await tab.evaluate("document.querySelectorAll('.pulses circle').length") == 0

    with_page(famezd, test, prefers_reduced_motion="reduce")


@pytest.mark.parametrize("width", [1280, 400])
def test_light_and_dark_at_any_width(famezd: Famezd, width: int) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"

    async def test(tab: Tab) -> None:
        assert await tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        dark = await tab.evaluate(paper)
        for theme in ("light", "dark"):
            await tab.evaluate("document.querySelector('#theme').click()")
            await tab.until(f"document.documentElement.dataset.theme === '{theme}'")
            assert (await tab.evaluate(paper) == dark) == (theme == "dark")

    with_page(famezd, test, width=width, prefers_color_scheme="dark")


def test_the_page_comes_back_when_famezd_does(tmp_path: Path) -> None:
    # The port has to be the same.
    first = Famezd(tmp_path, {"lab": LAB})
    first.start()
    listen = first.url.removeprefix("http://")

    async def test(tab: Tab) -> None:
        assert first.stop() == 0
        await tab.until("document.querySelector('#connection.reconnecting')")
        # What was true is not told as if it still were.
        await tab.until("document.querySelector('#summary.bad').textContent.startsWith('shown as it was at')")
        with Famezd(tmp_path, {"other": LAB}, http={"listen": listen}) as second:
            (tmp_path / "fabrics.d" / "lab.yaml").unlink(missing_ok=True)
            assert second.ctl("reload").returncode == 0
            await tab.until("document.querySelector('#name').textContent === 'other'")
            # That nobody answered for a while is no fault of the page's.
            tab.complaints.clear()

    with_page(first, test)


def test_sixty_peers_have_names_that_can_be_read(tmp_path: Path) -> None:
    sixty = {"peers": 60, "vectors": 1}

    async def test(tab: Tab) -> None:
        await tab.until("document.querySelectorAll('#drawing .port[role=button]').length === 60")
        # In the circle no name is upon another: none is higher than the arc that it has.
        heights = await tab.evaluate(
            "[...document.querySelectorAll('#drawing .port text')].map((text) => text.getBBox().height)"
        )
        assert max(heights) < 2 * 3.1416 * 330 / 60
        assert await tab.evaluate("document.querySelectorAll('#rows tr').length") == 60

    peers: list[Peer] = []
    with Famezd(tmp_path, {"big": sixty}) as famezd:
        try:
            peers += [famezd.join("big") for _ in range(60)]
            with_page(famezd, test)
        finally:
            for peer in peers:
                peer.leave()
