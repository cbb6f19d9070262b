"""A program's end: join a fabric from the host or a machine, ring, be rung, and send messages.

from famezd.client import Peer

with Peer.join("/run/famez/lab.sock") as peer:
    peer.ring(3, vector=0)
    for event in peer.wait(timeout=1.0):
        print(event)

In a virtual machine `GuestPeer.open(notice=print)` is the same by its device.
"""

from famezd.client.guest import GuestPeer
from famezd.client.mailbox import Mailbox, Message, NotTakenError
from famezd.client.peer import ClientError, Doorbell, Event, Joined, Left, Peer

__all__ = [
    "ClientError",
    "Doorbell",
    "Event",
    "GuestPeer",
    "Joined",
    "Left",
    "Mailbox",
    "Message",
    "NotTakenError",
    "Peer",
]
