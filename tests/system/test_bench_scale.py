"""The benchmark of scale, in small: all is really measured, and told."""

from __future__ import annotations

from pathlib import Path

from bench.report import Plot
from bench.scale import Sizes, measured, told

SMALL = Sizes(relayed=(2, 4), direct=(2, 3), fresh=(2, 3), deaths=(3, 4), fabrics=2, stock=3, bells=500)


def test_all_is_measured_and_told(tmp_path: Path) -> None:
    found = measured(SMALL, 1)
    assert [(g.peers, g.rung) for g in found.direct] == [(2, 2), (3, 6)]
    assert found.fresh[-1].rung == 6
    assert found.relayed[-1].delivered
    assert found.direct[-1].resumed
    assert found.served.rung == 2 * 4 * 3
    assert found.mesh == (3, 0)
    section = told(found)
    page = section.markdown()
    assert "open files in the fabric's worker, and the" in page
    section.draw(tmp_path)
    plots = [part.name for part in section.parts if isinstance(part, Plot)]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"performance-{name}.svg" for name in plots)
