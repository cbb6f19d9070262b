"""The plain personality: the switch does nothing and is no peer, as the stock server."""

from famezd.switch.personality import Personality


class Plain(Personality):
    """Ids from 0 upward, memory untouched."""
