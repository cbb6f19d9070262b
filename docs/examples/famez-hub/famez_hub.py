"""A broadcast hub: what a peer sends to the switch, every other peer gets."""

from collections.abc import Sequence

from famezd.switch.personality import Fabric, Messaging, State


class Hub(Messaging):
    """Passes messages on, and counts them."""

    nodename = "hub"
    cclass = "Hub"

    def __init__(self, fabric: Fabric) -> None:
        super().__init__(fabric)
        self.messages = 0

    def resumed(self, peers: Sequence[int], state: State) -> None:
        """Another worker has taken over."""
        self.messages = int(state.get("hub", {}).get("messages", "0"))

    def state(self) -> State:
        """How many there were."""
        return {"hub": {"messages": str(self.messages)}}

    def message(self, src: int, text: str) -> None:
        """One came."""
        self.messages += 1
        for peer in self.fabric.members:
            if peer != src:
                self.fabric.send(peer, text)
