"""Writes all that is generated: `python -m docs.reference`."""

from docs.reference.outputs import ROOT, outputs

for name, made in outputs().items():
    path = ROOT / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(made)
