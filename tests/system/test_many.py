"""As many fabrics as there may be: none waits so long for famezd to listen that it gives up."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from famezd.supervisor.service import STARTS
from tests.daemon import Famezd

FABRICS = STARTS + 4
FABRIC = {"peers": 2, "vectors": 2}


def states(famezd: Famezd) -> list[str]:
    """The states of the fabrics; nothing while nobody answers."""
    asked = famezd.ctl("--json", "status")
    return [fabric["state"] for fabric in json.loads(asked.stdout)["fabrics"]] if asked.returncode == 0 else []


def test_a_few_are_started_at_a_time(tmp_path: Path) -> None:
    famezd = Famezd(tmp_path, {f"f{n}": FABRIC for n in range(FABRICS)})
    started = threading.Thread(target=famezd.start)
    started.start()
    seen = []
    while started.is_alive():
        seen.append(states(famezd))
    started.join()
    try:
        assert states(famezd) == ["serving"] * FABRICS
        assert max(found.count("starting") for found in seen) <= STARTS
    finally:
        assert famezd.stop() == 0
