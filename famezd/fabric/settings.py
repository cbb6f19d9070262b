"""What a worker is told about its fabric, by its arguments.

The configuration has been checked when it gets here: these are plain values, each in one argument, so that `ps` shows
what a worker serves.
"""

from collections.abc import Mapping
from typing import NamedTuple

from famezd.errors import FamezError
from famezd.escapes import split
from famezd.fabric.access import Rules, rules
from famezd.fabric.pins import Pins, pins, port_socket
from famezd.faults import FaultError, Rule, parse_rules
from famezd.mailbox import Backing
from famezd.stats import Shape

FIXED = ("personality", "peers", "vectors", "doorbells", "ports", "backing", "memory", "size", "silent")
"""What cannot change while there are peers: it decides which eventfds and which memory they have been given."""

_IN_YAML = {"backing": "mailbox.backing", "memory": "mailbox", "size": "mailbox.size", "silent": "genz.silent"}


class SettingsError(FamezError):
    """A worker was started with arguments that it cannot take."""


class Settings(NamedTuple):
    """One fabric's settings."""

    name: str
    socket: str
    """Path of the listening socket."""
    memory: str
    """Path of the shared memory; for a memfd, its name."""
    size: int
    """Of the shared memory, bytes."""
    personality: str = "famezd.switch.plain:Plain"
    """Where the personality's class is: `module:name`."""
    peers: int = 14
    vectors: int = 16
    doorbells: str = "relayed"
    ports: str = "sticky"
    backing: str = "shm"
    memory_uid: int = -1
    memory_gid: int = -1
    memory_mode: int = 0o660
    socket_uid: int = -1
    socket_gid: int = -1
    socket_mode: int = 0o660
    users: str = ""
    """User ids, with commas between, that may join; see `famezd.fabric.access`."""
    groups: str = ""
    peers_per_user: int = 0
    """0 for no limit."""
    faults: str = ""
    """The fault rules to begin with; see `famezd.faults`."""

    @property
    def fault_rules(self) -> tuple[Rule, ...]:
        """The fault rules; raises FaultError for what is none, and where doorbells do not pass the worker."""
        found = parse_rules(self.faults)
        if found and not self.relayed:
            raise FaultError("fault rules are for relayed doorbells: direct ones do not pass famezd")
        return found

    pins: str = ""
    """Ports that are kept for somebody; see `famezd.fabric.pins`."""
    port_sockets: str = ""
    """The directory of ports' own sockets."""

    @property
    def pinned(self) -> Pins:
        """The pins; raises PinsError for what is none."""
        return pins(self.pins)

    def port_socket(self, port: int) -> str:
        """The path of a port's own socket."""
        return port_socket(self.port_sockets, self.name, port)

    silent: int = 0
    """1 for a switch that is no peer, whatever its personality."""
    options: str = ""
    """The personality's own: `KEY=VALUE`, with commas between; see `famezd.escapes`."""

    @property
    def personality_options(self) -> dict[str, str]:
        """The personality's own settings; raises SettingsError for what is none."""
        try:
            return split(self.options, ",")
        except ValueError as e:
            raise SettingsError(f"options={self.options}: {e}") from e

    @property
    def access(self) -> Rules:
        """Who may join; raises AccessError for lists that are none."""
        return rules(self.users, self.groups, self.peers_per_user)

    @property
    def relayed(self) -> bool:
        """Whether doorbells pass the worker."""
        return self.doorbells == "relayed"

    @property
    def sticky(self) -> bool:
        """Whether an id is a port that comes back."""
        return self.ports == "sticky"

    @property
    def mailbox(self) -> Backing:
        """The shared memory's backing."""
        return Backing(self.backing, self.memory, self.size, self.memory_mode, self.memory_uid, self.memory_gid)

    def shape(self, *, switch: bool) -> Shape:
        """The stats page that the fabric needs; `switch`: the switch is a peer."""
        places = self.peers + switch
        return Shape(places, places if self.relayed else 2 * switch, self.vectors)

    def descriptors(self, *, switch: bool) -> int:
        """How many descriptors the worker has open when the fabric is full.

        Relayed, each peer has bells of its own to every other place; direct, all share the receivers' eventfds.
        """
        others = self.peers - 1 + switch
        each = 1 + self.vectors * (others + 1 if self.relayed else 1)
        bells = 0 if self.relayed else self.vectors * switch
        return self.peers * each + bells + len(self.pinned.sockets) + SPARE_DESCRIPTORS

    @property
    def fixed(self) -> dict[str, str]:
        """What cannot change while there are peers, by the keys in FIXED."""
        return {key: str(getattr(self, key)) for key in FIXED}

    def misfits(self, fixed: Mapping[str, str]) -> list[str]:
        """What is other than in a fabric with these `fixed`: a phrase for each, such as "vectors is 8, was 16"."""
        mine = self.fixed
        # A key that a fabric of an older famezd knows nothing of has its default there.
        theirs = {key: fixed.get(key, str(self._field_defaults.get(key))) for key in FIXED}
        return [
            f"{_IN_YAML.get(key, key)} is {_said(key, mine)}, was {_said(key, theirs)}"
            for key in FIXED
            if theirs[key] != mine[key]
        ]

    def arguments(self) -> list[str]:
        """The arguments that `parse` reads; what has its default is left out."""
        given = zip(self._fields[1:], self[1:], strict=True)
        defaults = self._field_defaults
        return [self.name, *(f"{key}={value}" for key, value in given if defaults.get(key) != value)]


def _said(key: str, fixed: Mapping[str, str]) -> str:
    """A value as the configuration has it."""
    return {"0": "false", "1": "true"}.get(fixed[key], fixed[key]) if key == "silent" else fixed[key]


SPARE_DESCRIPTORS = 32
"""For all that a worker has open besides its peers' sockets and eventfds."""


def parse(arguments: list[str]) -> Settings:
    """The settings in a worker's arguments: the fabric's name, then `key=value` each.

    Raises SettingsError for what is none.
    """
    if not arguments:
        raise SettingsError("no fabric named; usage: famezd.fabric NAME socket=PATH memory=PATH size=BYTES ...")
    values: dict[str, str | int] = {"name": arguments[0]}
    for argument in arguments[1:]:
        key, equals, value = argument.partition("=")
        if not equals or key not in Settings._fields[1:]:
            raise SettingsError(f"{argument}: not of the form key=value with one of {', '.join(Settings._fields[1:])}")
        try:
            values[key] = Settings.__annotations__[key](value)
        except ValueError as e:
            raise SettingsError(f"{argument}: {key} is a whole number") from e
    missing = [key for key in ("socket", "memory", "size") if key not in values]
    if missing:
        raise SettingsError(f"missing: {', '.join(missing)}")
    return Settings(**values)  # type: ignore[arg-type]  # each was converted by its annotation
