"""The commands of famez-client: at its prompt, at the shell and in scripts the same.

Each is a function of a session and its arguments, which emits what it finds out, and raises what keeps it from being
done. Its docstring is its help. A command that waits answers the messages that come meanwhile, as the session does.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Final

from famezd.client.conversation import Conversation, NoAnswerError, meaning
from famezd.client.grammar import (
    Arguments,
    Quit,
    UsageError,
    argument,
    command,
    duration,
    explain,
    interval,
    microseconds,
    vector_or_all,
    whole_number,
)
from famezd.client.mailbox import LOOK_AGAIN, Message, NotSentError, NotTakenError
from famezd.client.peer import ClientError, Doorbell, Event, Joined, Left
from famezd.client.results import (
    Dump,
    Emit,
    Heard,
    Membership,
    NoPong,
    Note,
    PingStatistics,
    Place,
    Pong,
    Rang,
    Received,
    Rung,
    Said,
    Taken,
    Who,
    Wires,
    Withdrawn,
    printable,
)
from famezd.client.session import Session
from famezd.client.trace import Trace
from famezd.messages import (
    DUMP,
    PING,
    PONG,
    Attributes,
    CtlWrite,
    LinkRfc,
    Nak,
    PeerAttribute,
    Text,
)

TIMEOUT: Final = 5.0
"""Seconds in which what is waited for has to come."""
FIRST_HOP: Final = "!EZT=1"
"""The tracker of a conversation that begins."""


_DEST = argument("destination", metavar="DEST")
_SWITCH_OR = argument("destination", metavar="DEST", nargs="?", default="switch")
_TIMEOUT = argument(
    "-t",
    "--timeout",
    type=duration,
    default=TIMEOUT,
    metavar="S",
    help="how long to wait (default: %(default)s)",
)
_ENDS = argument(
    "-c", "--count", type=whole_number, default=0, metavar="N", help="end after so many (default: with Ctrl-C)"
)


@command(argument("command", metavar="COMMAND", nargs="?"))
def _help(_: Session, arguments: Arguments, emit: Emit) -> None:
    """Lists the commands, or explains one."""
    emit(Note(explain(arguments.command)))


@command()
def _who(session: Session, _: Arguments, emit: Emit) -> None:
    """Lists who is on the fabric; without a mailbox, whom we can ring."""
    directory = session.directory()
    members = directory.members.items()
    emit(Who([Place(peer, nodename, cclass, peer == directory.own) for peer, (nodename, cclass) in members]))


@command(argument("destination", metavar="DEST", nargs="?"), _TIMEOUT)
def _dump(session: Session, arguments: Arguments, emit: Emit) -> None:
    """Shows what this client knows of itself and its peers; with DEST, asks that switch for its ports."""
    if arguments.destination is None:
        emit(_knowledge(session))
        return
    for peer in _correspondents(session, arguments):
        with Conversation(session, peer, arguments.timeout) as conversation:
            reply = conversation.ask(DUMP, lambda said: isinstance(said, Text))
        emit(Received(peer, session.name(peer), reply.text, None))


def _knowledge(session: Session) -> Dump:
    peer, component, directory = session.peer, session.component, session.directory()
    return Dump(
        id=peer.id,
        nodename=directory.members.get(peer.id, ("", ""))[0],
        vectors=peer.vectors,
        memory=peer.memory_size,
        switch=directory.switch,
        link="" if not session.has_mailbox else "configured" if component.configuration else "unconfigured",
        cid=component.cid,
        sid=component.sid,
        rung=dict(peer.rung),
        peers=[Wires(other, directory.name(other), peer.bells(other)) for other in peer.peers or ()],
        attributes={other: str(said) for other, said in component.attributes.items()},
    )


@command(
    argument("-c", "--count", type=whole_number, default=1, metavar="N", help="how many; 0: until Ctrl-C (default: 1)"),
    argument("-i", "--interval", type=interval, default=1.0, metavar="S", help="seconds between two (default: 1)"),
    _TIMEOUT,
    _DEST,
)
def _ping(session: Session, arguments: Arguments, emit: Emit) -> None:
    """Sends `ping`, and prints how long each `pong` takes.

    A ping that is not taken in time is taken back.
    """
    peers = _correspondents(session, arguments)
    times: list[float] = []
    sent = seq = 0
    with contextlib.suppress(KeyboardInterrupt):
        while not arguments.count or seq < arguments.count:
            due = time.monotonic() + arguments.interval
            seq += 1
            for peer in peers:
                sent += 1
                pong = _ping_once(session, peer, seq, arguments.timeout)
                if isinstance(pong, Pong):
                    times.append(pong.seconds)
                emit(pong)
            if seq != arguments.count:
                _pause(session, due)
    emit(_statistics(arguments.destination, sent, times))
    if not times:
        raise ClientError(f"nobody has answered: {arguments.destination}")


def _ping_once(session: Session, peer: int, seq: int, timeout: float) -> Pong | NoPong:
    name = session.name(peer)
    try:
        with Conversation(session, peer, timeout) as conversation:
            began = time.monotonic()
            conversation.ask(PING, lambda said: said == Text(PONG))
            return Pong(peer, name, seq, time.monotonic() - began)
    except (NotSentError, NoAnswerError) as e:
        return NoPong(peer, name, seq, str(e))
    except NotTakenError:
        # It is in the way of the next, which may be for somebody who does answer.
        session.mailbox.withdraw()
        return NoPong(peer, name, seq, "the message was not acknowledged in time, and is taken back")


def _statistics(destination: str, sent: int, times: list[float]) -> PingStatistics:
    if not times:
        return PingStatistics(destination, sent, 0, None, None, None, None)
    mean = statistics.fmean(times)
    return PingStatistics(destination, sent, len(times), min(times), mean, max(times), statistics.pstdev(times, mean))


@command(_TIMEOUT, _DEST, rest="TEXT")
def _send(session: Session, arguments: Arguments, emit: Emit) -> None:
    """Sends TEXT, and waits until it is taken.

    The next message could not stand in the mailbox beside it. What is not taken in time stays there, and is reported;
    `withdraw` takes it back.
    """
    _each(session, arguments, emit, session.mailbox.send)


@command(_TIMEOUT, argument("source", metavar="SRC"), _DEST, rest="TEXT")
def _spoof(session: Session, arguments: Arguments, emit: Emit) -> None:
    """Sends TEXT from the slot of another peer, SRC, as if that had sent it.

    It waits until SRC's own message is taken; nothing keeps SRC from writing there at the same time.
    """
    mailbox = session.mailbox
    source = session.directory().find(arguments.source)

    def send(dst: int, text: str, *, timeout: float) -> None:
        mailbox.spoof(source, dst, text, timeout=timeout)

    _each(session, arguments, emit, send)


def _each(session: Session, arguments: Arguments, emit: Emit, send: Callable[..., None]) -> None:
    """Sends to one after the other; raises ClientError if one does not take it, and says who gets nothing for it."""
    text = " ".join(arguments.text)
    peers = _correspondents(session, arguments)
    for i, peer in enumerate(peers):
        # Now: whoever only waited for this goes as soon as it has it.
        name = session.name(peer)
        try:
            send(peer, text, timeout=arguments.timeout)
        except NotTakenError as e:
            later = ", ".join(map(session.name, peers[i + 1 :]))
            raise NotTakenError(f"{e}; not sent to {later}" if later else str(e)) from e
        emit(Taken(peer, name))


@command()
def _withdraw(session: Session, _: Arguments, emit: Emit) -> None:
    """Takes back our last message, if nobody has taken it: others can be sent then."""
    emit(Withdrawn(session.mailbox.withdraw()))


@command(
    _TIMEOUT,
    argument("-d", "--destination", metavar="DEST", default="switch", help="whom to tell (default: switch)"),
    rest="DIRECTIVE",
)
def _link(session: Session, arguments: Arguments, emit: Emit) -> None:
    """Sends `Link CTL DIRECTIVE`, such as Peer-Attribute, and waits for its ACK or NAK.

    The directives ACK and NAK are answers themselves, so nothing is waited for.
    """
    directive = " ".join(arguments.directive).strip()
    if not directive:
        raise UsageError("link: a directive is missing, such as Peer-Attribute")
    text = f"Link CTL {directive}{FIRST_HOP}"
    for peer in _correspondents(session, arguments):
        emit(Said(peer, session.name(peer), text))
        with Conversation(session, peer, arguments.timeout) as conversation:
            if directive.split()[0].lower() in ("ack", "nak"):
                conversation.say(text)
                continue
            reply = conversation.ask(text, lambda said: isinstance(said, Attributes | Nak))
        emit(Heard(peer, session.name(peer), reply.text))
        if isinstance(said := meaning(reply), Nak):
            raise ClientError(f"{session.name(peer)} refuses: {printable(said.why)}")


@command(
    _TIMEOUT,
    argument("--ttc", type=microseconds, default=1_000_000, metavar="US", help="time to configure, in microseconds"),
    _SWITCH_OR,
)
def _rfc(session: Session, arguments: Arguments, emit: Emit) -> None:
    """Asks the fabric's manager to configure us (Link RFC), and prints the conversation.

    It is over when the manager has written our ids, and has asked for our attributes after that.
    """
    mailbox = session.mailbox
    peer = session.directory().find(arguments.destination)
    text = f"{LinkRfc(arguments.ttc)}{FIRST_HOP}"
    configured = False
    with Conversation(session, peer, arguments.timeout) as conversation:
        emit(Said(peer, session.name(peer), text))
        conversation.say(text)
        while True:
            message = conversation.hear("our attributes were not asked for" if configured else "no CTL-Write came")
            _show_step(session, message, emit)
            said = meaning(message)
            if isinstance(said, Nak):
                raise ClientError(f"{session.name(peer)} refuses: {printable(said.why)}")
            if isinstance(said, PeerAttribute) and configured:
                break
            configured = configured or isinstance(said, CtlWrite)
    mailbox.settle()
    emit(Note(f"link configured: CID={session.component.cid} SID={session.component.sid}"))


def _show_step(session: Session, message: Message, emit: Emit) -> None:
    emit(Heard(message.src, session.name(message.src), message.text))
    if message.answer is not None:
        emit(Said(message.src, session.name(message.src), message.answer))


@command(_DEST, argument("vector", metavar="VECTOR|all", nargs="?", type=vector_or_all, default=0))
def _ring(session: Session, arguments: Arguments, emit: Emit) -> None:
    """Rings DEST on one vector (default: 0) or on all."""
    peer = session.peer
    for other in _destinations(session, arguments):
        vectors = range(peer.vectors_of(other)) if arguments.vector is None else [arguments.vector]
        for vector in vectors:
            peer.ring(other, vector)
        emit(Rang(other, session.name(other), list(vectors)))


@command(_ENDS, endless=True)
def _listen(session: Session, arguments: Arguments, emit: Emit) -> None:
    """Prints the messages that come, until Ctrl-C."""
    mailbox = session.mailbox
    emit(Note(f"{session.name(session.peer.id)} listens; Ctrl-C ends it"))
    seen = 0
    while not arguments.count or seen < arguments.count:
        message = mailbox.receive()
        if message is not None:
            seen += 1
            emit(received(session, message))


@command(_ENDS, endless=True)
def _watch(session: Session, arguments: Arguments, emit: Emit) -> None:
    """Prints the doorbells that come, with their times, until Ctrl-C; messages, too."""
    emit(Note(f"{session.name(session.peer.id)} watches its doorbells; Ctrl-C ends it"))
    rings = 0
    while not arguments.count or rings < arguments.count:
        for event in session.wait(None):
            if isinstance(event, Doorbell):
                rings += event.rings
            emit(event_result(session, event))
        show_messages(session, emit)


@command(_ENDS, endless=True)
def _trace(session: Session, arguments: Arguments, emit: Emit) -> None:
    """Prints the messages of all peers, and how long each stood until it was taken, until Ctrl-C.

    No event tells a bystander of a message: this looks a thousand times a second. What comes and goes between two
    looks is known by the text that it leaves, and missed if it leaves the same one as before.
    """
    mailbox = session.mailbox
    trace = Trace(mailbox.slots, mailbox.switch)
    emit(Note("tracing, a look every millisecond: what lives shorter may be missed; Ctrl-C ends it"))
    seen = 0
    while not arguments.count or seen < arguments.count:
        session.wait(LOOK_AGAIN)
        for traced in trace.look(session.directory()):
            seen += traced.what != "stands"
            emit(traced)
        # Those to us were among them.
        session.messages()


@command()
def _quit(_: Session, __: Arguments, ___: Emit) -> None:
    """Leaves the fabric (so does Ctrl-D)."""
    raise Quit


def received(session: Session, message: Message) -> Received:
    """A message, to be shown."""
    return Received(message.src, session.name(message.src), message.text, message.answer)


def show_messages(session: Session, emit: Emit) -> None:
    """Emits the messages that have come and nobody has seen."""
    for message in session.messages():
        emit(received(session, message))


def event_result(session: Session, event: Event) -> Rung | Membership:
    """An event, to be shown."""
    match event:
        case Doorbell(vector=vector, rings=rings):
            sender = session.name(vector) if session.has_mailbox and vector else None
            return Rung(time.time(), vector, rings, sender)
        case Joined(peer=peer):
            return Membership(peer, joined=True)
        case Left(peer=peer):
            return Membership(peer, joined=False)


def _correspondents(session: Session, arguments: Arguments) -> list[int]:
    """Whom a message is for; raises ClientError where there are none."""
    return _destinations(session, arguments) if session.mailbox else []


def _destinations(session: Session, arguments: Arguments) -> list[int]:
    found = session.directory().find_all(arguments.destination)
    if not found:
        raise ClientError(f"there is nobody: {arguments.destination}")
    return found


def _pause(session: Session, until: float) -> None:
    """Waits, and deals with what comes meanwhile."""
    while (left := until - time.monotonic()) > 0:
        session.wait(left)
