"""The host's end: join a fabric from a program on the host, ring, be rung, and send messages.

from famezd.client import Peer

with Peer.join("/run/famez/lab.sock") as peer:
    peer.ring(3, vector=0)
    for event in peer.wait(timeout=1.0):
        print(event)
"""

from famezd.client.mailbox import Mailbox, Message, NotTakenError
from famezd.client.peer import ClientError, Doorbell, Event, Joined, Left, Peer

__all__ = ["ClientError", "Doorbell", "Event", "Joined", "Left", "Mailbox", "Message", "NotTakenError", "Peer"]
