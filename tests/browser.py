"""A real browser, headless Chromium, driven by its DevTools protocol: what a person sees, and what a page asks."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse

from tests.daemon import PATIENCE
from tests.needs import need

LONG = 2 * PATIENCE
"""Seconds, as a browser is much to start and to draw with on a busy machine."""
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # as root
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--force-color-profile=srgb",
    "--remote-debugging-port=0",
)

UNTIL = """new Promise((resolve) => {
    const look = () => {
        if (!(%s)) return;
        watch.disconnect();
        resolve(true);
    };
    const watch = new MutationObserver(look);
    watch.observe(document, {subtree: true, childList: true, characterData: true, attributes: true});
    look();
})"""
VIOLATIONS = """window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective));"""


class Tab:
    """One page that is open."""

    def __init__(self, socket: ClientWebSocketResponse, session: str) -> None:
        self.complaints: list[str] = []
        """Errors and warnings of the console, and exceptions that nobody caught."""
        self.requests: list[str] = []
        """The addresses that were asked."""
        self._socket = socket
        self._session = session
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}

    async def open(self, url: str, width: int = 1280, height: int = 900, **media: str) -> None:
        """Opens an address; `media` are features such as prefers_color_scheme="dark"."""
        for domain in ("Page", "Runtime", "Network", "Log", "Accessibility", "DOM"):
            await self.call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.call("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        await self.call("Emulation.setEmulatedMedia", features=features)
        await self.call("Page.addScriptToEvaluateOnNewDocument", source=VIOLATIONS)
        await self.call("Page.navigate", url=url)

    async def call(self, method: str, **parameters: object) -> Any:
        """Calls a method of the protocol; raises AssertionError if it fails."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        asked = {"id": number, "sessionId": self._session, "method": method, "params": parameters}
        await self._socket.send_str(json.dumps(asked))
        return await asyncio.wait_for(answer, LONG)

    async def evaluate(self, script: str) -> Any:
        """The value of a script, or what its promise becomes."""
        told = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    async def until(self, condition: str) -> None:
        """Waits until a condition is true: looked at after each change of the page."""
        try:
            await self.evaluate(UNTIL % condition)
        except TimeoutError:
            text = await self.evaluate("document.body.innerText")
            raise AssertionError(f"never true: {condition}; complaints: {self.complaints}; the page:\n{text}") from None

    async def press(self, key: str) -> None:
        """Presses a key and lets go of it."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            codes = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowRight": 39, "ArrowLeft": 37, "ArrowDown": 40}
            code = codes[key]
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    async def picture(self, path: Path) -> None:
        """Writes what is seen as a PNG."""
        shot = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    def hear(self, told: dict[str, Any]) -> None:
        """Takes an answer or an event."""
        if "id" in told:
            answer = self._answers.pop(told["id"])
            if answer.done():
                return
            if "error" in told:
                answer.set_exception(AssertionError(told["error"]))
            else:
                answer.set_result(told["result"])
            return
        about = told["params"]
        match told["method"]:
            case "Network.requestWillBeSent":
                self.requests.append(about["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(about["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if about["type"] in ("error", "warning", "assert"):
                self.complaints.append(str(about["args"]))
            case "Log.entryAdded" if about["entry"]["level"] in ("error", "warning"):
                self.complaints.append(str(about["entry"]))


@asynccontextmanager
async def browser() -> AsyncIterator[Tab]:
    """A new browser with one empty page, and nothing left of it afterwards."""
    chromium = need("chromium", "chromium")
    with tempfile.TemporaryDirectory(prefix="famez-browser-", ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            chromium,
            *OPTIONS,
            f"--user-data-dir={profile}",
            "about:blank",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stderr is not None
            while b"DevTools listening on" not in (line := await process.stderr.readline()):
                assert line, "the browser ended"
            log = asyncio.create_task(_discard(process.stderr))
            async with ClientSession() as session:
                address = line.split()[-1].decode()
                async with session.ws_connect(address, max_msg_size=0) as socket, _tab(socket) as tab:
                    yield tab
        finally:
            process.terminate()
            await process.wait()
        await log


@asynccontextmanager
async def _tab(socket: ClientWebSocketResponse) -> AsyncIterator[Tab]:
    async def ask(method: str, **parameters: object) -> Any:
        await socket.send_str(json.dumps({"id": 0, "method": method, "params": parameters}))
        while (told := await socket.receive_json()).get("id") != 0:
            pass
        return told["result"]

    target = (await ask("Target.createTarget", url="about:blank"))["targetId"]
    tab = Tab(socket, (await ask("Target.attachToTarget", targetId=target, flatten=True))["sessionId"])

    async def hear() -> None:
        async for message in socket:
            told = json.loads(message.data)
            if "sessionId" in told:
                tab.hear(told)

    hearing = asyncio.create_task(hear())
    try:
        yield tab
    finally:
        hearing.cancel()
        await asyncio.gather(hearing, return_exceptions=True)


async def _discard(stream: asyncio.StreamReader) -> None:
    while await stream.readline():
        pass
