"""Access and the mailbox's size, from the file of settings to the metrics."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from famezd.client import ClientError
from tests.daemon import Famezd, eventually


def test_who_is_not_listed_is_refused_and_counted(tmp_path: Path) -> None:
    other = "nobody" if os.geteuid() == 0 else "root"
    fabrics: dict[str, dict[str, object]] = {
        "others": {"access": {"users": [other]}},
        "ours": {"access": {"users": [other, os.geteuid()], "groups": [os.getegid()], "peers_per_user": 1}},
    }
    with Famezd(tmp_path, fabrics) as famezd:
        with pytest.raises(ClientError, match="refuses"):
            famezd.join("others")
        with famezd.join("ours"), pytest.raises(ClientError, match="refuses"):
            famezd.join("ours")
        refusals = famezd.metrics("famez_refusals_total", "fabric", "reason")
        assert {labels for labels, n in refusals.items() if n} == {("others", "access"), ("ours", "per_user")}
        assert "neither its user nor any of its groups is in access.users or access.groups" in famezd.log.read_text()


def test_a_mailbox_that_is_cut_kills_neither_famezd_nor_its_worker(tmp_path: Path) -> None:
    with Famezd(tmp_path, {"lab": {"personality": "genz"}}) as famezd:
        with famezd.join("lab") as peer:
            os.ftruncate(peer.memory, 0)
            # Three seconds or so, if no newcomer comes before.
            eventually(lambda: famezd.metrics("famez_mailbox_resizes_total", "fabric")[("lab",)] == 1, "it is undone")
            assert os.fstat(peer.memory).st_size == 8192
        assert famezd.metrics("famez_worker_restarts_total", "fabric")[("lab",)] == 0
        assert "mailbox resized: /dev/shm/" in famezd.log.read_text()
