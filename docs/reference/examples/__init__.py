"""Configurations to copy, shown on the reference pages; a test loads them."""

from pathlib import Path

_HERE = Path(__file__).parent
EXAMPLES = {str(path.relative_to(_HERE)): path.read_text() for path in sorted(_HERE.rglob("*.yaml"), reverse=True)}
"""Their texts by their paths below /etc/famez, famezd.yaml last."""
