"""The settings: one model for types, defaults, checks, JSON Schema and the reference page.

What a file may say is a `...Settings` model, in which a setting may be left out. What the program works with is the
model of the same name without `Settings`: it knows what was to be derived (names, paths, sizes), and is all that the
rest of famezd sees. Both are frozen.

`load` reports every mistake of every file at once. It checks what can still be checked: a wrong setting is left out and
the others are judged without it, but nothing is reported that only follows from another mistake.
"""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from famezd import kinds
from famezd.checkedfile import CheckedFile, ConfigError, Mistake
from famezd.fabric.pins import port_socket
from famezd.fabric.settings import SPARE_DESCRIPTORS, Settings
from famezd.faultsettings import FaultSettings, list_mistakes
from famezd.httpsettings import Http
from famezd.kinds import personality_class, personality_reference
from famezd.mailbox import PAGE, SHM
from famezd.stats import WORD
from famezd.switch.genz import MAX_SID, SID
from famezd.switch.personality import FAILURES, Personality
from famezd.yamlmarks import Document, Loc, Problem, dotted, unreadable

__all__ = [
    "Access",
    "Config",
    "ConfigError",
    "Control",
    "Fabric",
    "FabricLog",
    "FabricSettings",
    "FaultSettings",
    "Genz",
    "Http",
    "Log",
    "Mailbox",
    "MailboxSettings",
    "MainSettings",
    "Metrics",
    "Pin",
    "PinSettings",
    "Problem",
    "Socket",
    "SocketSettings",
    "fabric_schema",
    "load",
    "main_schema",
    "personality_class",
    "personality_reference",
]

DEFAULT_CONFIG = Path("/etc/famez/famezd.yaml")
ROOT_RUNTIME_DIRECTORY = Path("/run/famez")
CONTROL_SOCKET = "control.sock"
NOTIFY_SOCKET = "notify"
LOCK_FILE = "famezd.lock"
FABRICS = "fabrics.d"
"""The directory of the fabrics' files, beside famezd.yaml."""
STANDALONE = "standalone.d"
"""The directory, beside that one, of fabrics that are served without famezd, each by famez-fabric@NAME.service."""
DEFAULT_MAILBOX_BYTES = 4 << 20
GENZ = "genz"
"""The name of the personality that has settings of its own in a section of that name."""
SUPERVISOR_DESCRIPTORS = 40
"""That famezd has open with no fabric, and a few connections."""
DESCRIPTORS_A_FABRIC = 16
"""That famezd has open for each fabric: what it keeps for the worker, and by what it is in touch with it.

At rest they are 10, on `genz` 13; while its ark is packed anew or grows there are more.
"""
MAX_SOCKET_PATH_BYTES = 107
"""sun_path has 108 bytes, one for the NUL; see unix(7)."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Log(_Model):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least level that is logged."
    )
    format: Literal["auto", "text", "journal", "json"] = Field(
        default="auto",
        description="text for people, journal for systemd (one line with a syslog priority), json for machines;"
        " auto is journal under systemd and for the system's log, and text elsewhere.",
    )


class _Permissions(_Model):
    """Who may open a file that famezd makes."""

    owner: Annotated[str | int, kinds.USER] | None = Field(
        default=None,
        description="The user, by name or number, who owns it; null leaves it to famezd's user.",
        examples=["root"],
    )
    group: Annotated[str | int, kinds.GROUP] | None = Field(
        default=None,
        description="The group, by name or number, that it has; null leaves it to famezd's group.",
        examples=["kvm"],
    )
    mode: Annotated[int, kinds.MODE] = Field(
        default=0o660,
        description="Its mode, in octal with a leading 0.",
        examples=["0660", "0600"],
        json_schema_extra={"default": "0660"},
    )

    @property
    def uid(self) -> int | None:
        """The owner's number, None to leave it; what it was last, if it has gone since."""
        return None if self.owner is None else kinds.last_user_id(self.owner)

    @property
    def gid(self) -> int | None:
        """The group's number, None to leave it; what it was last, if it has gone since."""
        return None if self.group is None else kinds.last_group_id(self.group)


class Control(_Permissions):
    """Who may use famezctl: the permissions of control.sock in the runtime directory."""


class SocketSettings(_Permissions):
    """The socket at which peers join the fabric."""

    path: Annotated[Path, kinds.ABSOLUTE_PATH] | None = Field(
        default=None,
        description="Its absolute path; null is <runtime directory>/<fabric>.sock.",
        examples=["/run/famez/lab.sock"],
    )


class Socket(SocketSettings):
    """A fabric's socket with its path."""

    path: Path


class MailboxSettings(_Permissions):
    """The memory that the fabric's peers share."""

    name: Annotated[str, kinds.SHM_NAME] | None = Field(
        default=None,
        description="With backing shm, the name of its file in /dev/shm; null is famez-<fabric>.",
        examples=["famez-lab"],
    )
    size: Annotated[int, kinds.SIZE] | None = Field(
        default=None,
        description="Its size in bytes, or with a unit K, M, G or T (of 1024): a power of two, at least 4096;"
        " null is what the personality needs, or 4M if it needs none.",
        examples=["64K", "4M", 65536],
    )
    backing: Literal["shm", "memfd", "file"] = Field(
        default="shm",
        description="What it is made of: shm is a file in /dev/shm; memfd has no name, and its size is sealed against"
        " all; file is the file at path, such as one on hugetlbfs.",
    )
    path: Annotated[Path, kinds.ABSOLUTE_PATH] | None = Field(
        default=None,
        description="With backing file, and only then: its absolute path.",
        examples=["/dev/hugepages/famez-lab"],
    )


class Mailbox(MailboxSettings):
    """A fabric's mailbox with its name and size."""

    name: str
    """Its file's name in /dev/shm, or what to call a memfd."""
    size: int
    """In bytes."""

    @property
    def file(self) -> Path | None:
        """The file that it is, None for a memfd."""
        return {"shm": Path(SHM, self.name), "memfd": None, "file": self.path}[self.backing]


class Access(_Model):
    """Who may join the fabric, of those who can open its socket."""

    users: tuple[Annotated[str | int, kinds.USER], ...] = Field(
        default=(),
        description="Users, by name or number, who may join. Where users and groups are both empty everybody may who"
        " can open the socket; else root, too, only if it is listed.",
        examples=[["root", "libvirt-qemu"]],
    )
    groups: tuple[Annotated[str | int, kinds.GROUP], ...] = Field(
        default=(),
        description="Groups, by name or number, whose members may join, be it their primary group or another.",
        examples=[["kvm"]],
    )
    peers_per_user: Annotated[int, kinds.whole_number(1, 65535)] | None = Field(
        default=None,
        description="How many peers of one user there may be on the fabric at once; null is no limit.",
        examples=[4],
    )

    @property
    def user_ids(self) -> list[int]:
        """The users' numbers; of one that has gone since, what it was last."""
        return list(map(kinds.last_user_id, self.users))

    @property
    def group_ids(self) -> list[int]:
        """The groups' numbers; of one that has gone since, what it was last."""
        return list(map(kinds.last_group_id, self.groups))


class PinSettings(_Model):
    """For whom a port is kept: a user, or who joins at a socket of the port's own."""

    user: Annotated[str | int, kinds.USER] | None = Field(
        default=None,
        description="The user, by name or number, whose first peer gets the port, and nobody else.",
        examples=["alice"],
    )
    socket: Annotated[bool, kinds.BOOLEAN] = Field(
        default=False,
        description="true: the port has a socket of its own, <runtime directory>/<fabric>.<port>.sock, and is for who"
        " joins there, and nobody else.",
        examples=[True],
    )


class Pin(PinSettings):
    """A pin with the path of the port's own socket."""

    path: Path | None = None

    @property
    def uid(self) -> int | None:
        """The user's number, None for a socket; what it was last, if the user has gone since."""
        return None if self.user is None else kinds.last_user_id(self.user)


class Genz(_Model):
    """The Gen-Z switch: for personality genz only."""

    manager: Annotated[bool, kinds.BOOLEAN] = Field(
        default=True,
        description="Whether the switch is the fabric's primary manager, which configures whoever asks for it (Link"
        " RFC); if not it refuses that, and asks each newcomer for its attributes.",
    )
    sid: Annotated[int, kinds.whole_number(0, MAX_SID)] = Field(
        default=SID, description="The subnet id of the switch, and of the ports that it configures."
    )
    silent: Annotated[bool, kinds.BOOLEAN] = Field(
        default=False,
        description="Whether the switch is no peer at all: the mailbox is laid out for messages between peers, and"
        " there is nobody else.",
    )


class Metrics(_Model):
    """How much of the fabric is exported to Prometheus."""

    detail: Literal["pair", "peer", "fabric"] = Field(
        default="pair",
        description="pair: doorbells by who rang whom, and by vector; peer: by who rang, and by who was rung; fabric:"
        " the sum of all. Each has all of the next one. docs/metrics.md says how many series each makes.",
    )


class FabricLog(_Model):
    """What is logged of the fabric."""

    level: Literal["debug", "info", "warning", "error"] | None = Field(
        default=None,
        description="The least level that is logged of this fabric; null is that of log.level in famezd.yaml.",
        examples=["debug"],
    )


class FabricSettings(_Model):
    """One fabric, named after its file: fabrics.d/<fabric>.yaml."""

    personality: Annotated[str, kinds.PERSONALITY] = Field(
        default="plain",
        description="What the switch does: plain is nothing, as the stock ivshmem-server; genz is a Gen-Z switch with"
        " a mailbox for messages; others are plug-ins.",
        examples=["plain", "genz"],
    )
    peers: Annotated[int, kinds.whole_number(1, 65535)] = Field(
        default=14, description="How many peers may be on the fabric at once; genz takes at most 62."
    )
    vectors: Annotated[int, kinds.whole_number(1, 2048)] = Field(
        default=16, description="How many doorbells each peer has; genz needs at least peers + 2."
    )
    doorbells: Literal["relayed", "direct"] = Field(
        default="relayed",
        description="relayed: every doorbell goes through famezd and is counted; direct: peers ring each other"
        " without it, faster and uncounted.",
    )
    ports: Literal["sticky", "fresh"] = Field(
        default="sticky",
        description="sticky: an id is a port, taken again by later peers, and joins and departures are not announced;"
        " fresh: they are, and every join gets an id that no connected peer has seen depart.",
    )
    socket: SocketSettings = Field(
        default_factory=SocketSettings, description="The socket at which peers join the fabric."
    )
    mailbox: MailboxSettings = Field(
        default_factory=MailboxSettings, description="The memory that the fabric's peers share."
    )
    access: Access = Field(
        default_factory=Access, description="Who may join the fabric, of those who can open its socket."
    )
    metrics: Metrics = Field(default_factory=Metrics, description="How much of the fabric is exported to Prometheus.")
    log: FabricLog = Field(default_factory=FabricLog, description="What is logged of the fabric.")
    faults: tuple[FaultSettings, ...] = Field(
        default=(),
        description="What happens on purpose to doorbells and messages of a relayed fabric: rules, in this order.",
        examples=[[{"src": 1, "dst": "*", "vector": 3, "drop": 0.1}, {"src": 2, "dst": "switch", "delay": "1ms..5ms"}]],
    )
    pins: dict[Annotated[int, kinds.PORT], PinSettings] = Field(
        default={},
        description="With sticky ports: ports that are kept for somebody, so that a machine has the same id each time.",
        examples=[{"3": {"user": "alice"}, "4": {"socket": True}}],
        json_schema_extra={"additionalProperties": False},
    )

    genz: Genz = Field(default_factory=Genz, description="The Gen-Z switch: for personality genz only.")
    options: Annotated[dict[str, str], kinds.OPTIONS] = Field(
        default={}, description="What a plug-in's personality can be told; it says which there are."
    )

    @property
    def personality_options(self) -> dict[str, str]:
        """What the personality is told, as text."""
        if self.personality == GENZ:
            return {"manager": str(self.genz.manager).lower(), "sid": str(self.genz.sid)}
        return dict(self.options)

    @property
    def silent(self) -> bool:
        """Whether the switch is no peer, whatever its personality."""
        return self.personality == GENZ and self.genz.silent

    def mistakes(self) -> Iterator[Mistake]:
        """Yield what is wrong between settings that are each right by themselves."""
        try:
            # At once: a plug-in may raise anything, and what it said before is of no use then.
            yield from list(self._personality_mistakes(personality_class(self.personality)))
        except FAILURES as e:
            yield Mistake(("personality",), f"{self.personality} is broken: {type(e).__name__}: {e}")
        if "genz" in self.model_fields_set and self.personality != GENZ:
            why = f"is for personality genz only, not for {self.personality}: leave it out"
            yield Mistake(("genz",), why, frozenset({"personality"}))
        yield from self._backing_mistakes()
        yield from list_mistakes(self)
        yield from self._pin_mistakes()

    def _personality_mistakes(self, personality: type[Personality]) -> Iterator[Mistake]:
        limits = frozenset({"personality", "peers", "vectors"})
        for key, message in personality.mistakes(self.peers, self.vectors).items():
            yield Mistake(tuple(key.split(".")), message, limits)
        for option, message in personality.option_mistakes(self.options).items():
            yield Mistake(("options", option), message, frozenset({"personality"}))
        size, least = self.mailbox.size, personality.mailbox_size(self.peers)
        if size is not None and size < least:
            enough = f"{kinds.in_units(least)} for {self.peers} peers with personality {self.personality}"
            message = f"must be at least {enough}, not {kinds.in_units(size)}"
            yield Mistake(("mailbox", "size"), message, frozenset({"personality", "peers"}))

    def _pin_mistakes(self) -> Iterator[Mistake]:
        if self.pins and self.ports == "fresh":
            message = "are for sticky ports only: with fresh ports an id is no port that could be kept; leave them out"
            yield Mistake(("pins",), message, frozenset({"ports"}))
        first = personality_class(self.personality).first_id
        last = first + self.peers - 1
        for port, pin in self.pins.items():
            loc = "pins", str(port)
            if not first <= port <= last:
                ports = f"with personality {self.personality} and {self.peers} peers these are {first} to {last}"
                message = f"the fabric has no port {port}: {ports}"
                yield Mistake(loc, message, frozenset({"personality", "peers", "ports"}))
            if (pin.user is not None) == pin.socket:
                message = "must have either user, with a user's name or number, or socket: true"
                yield Mistake(loc, message, whole=True)

    def room_mistakes(self, limit: int) -> Iterator[Mistake]:
        """Yield what its worker would have no room for here, with `limit` open files and this machine's memory."""
        try:
            switch = personality_class(self.personality).is_peer and not self.silent
        except FAILURES:  # a plug-in's, which `mistakes` reports
            return
        because = frozenset({"peers", "vectors", "doorbells", "personality"})
        size = f"{self.peers} peers of {self.vectors} vector{'s' * (self.vectors != 1)}, {self.doorbells},"
        if (needed := self._descriptors(self.peers, switch)) > limit:
            most = bisect_right(range(1, self.peers), limit, key=lambda peers: self._descriptors(peers, switch))
            fewer = f"have at most {most} peers, or fewer vectors" if most else "have fewer vectors"
            message = (
                f"{size} need {needed} open files in the fabric's worker, and the hard limit is {limit}: {fewer},"
                f" or raise the limit (LimitNOFILE={needed} or more in famezd's unit, or ulimit -Hn before famezd)"
            )
            yield Mistake(("peers",), message, because)
            return
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if (counters := self._sized(self.peers).shape(switch=switch).words * WORD) > memory // 2:
            message = (
                f"the counters of {size} take {counters >> 20}M of memory, more than half of this machine's"
                f" {memory >> 20}M: have fewer peers"
            )
            yield Mistake(("peers",), message, because)

    @property
    def parked(self) -> int:
        """How many descriptors its worker parks for a successor when the fabric is full."""
        try:
            switch = personality_class(self.personality).is_peer and not self.silent
        except FAILURES:  # a plug-in's, of which the worker will tell
            switch = True
        return self._sized(self.peers).descriptors(switch=switch) - SPARE_DESCRIPTORS

    def _sized(self, peers: int) -> Settings:
        """What is told a worker of so many peers, as far as it decides what that takes."""
        return Settings("", "", "", 0, peers=peers, vectors=self.vectors, doorbells=self.doorbells)

    def _descriptors(self, peers: int, switch: bool) -> int:
        """How many descriptors a worker of so many peers needs."""
        return self._sized(peers).descriptors(switch=switch) + sum(pin.socket for pin in self.pins.values())

    def _backing_mistakes(self) -> Iterator[Mistake]:
        backing, because = self.mailbox.backing, frozenset({"mailbox.backing"})
        if self.mailbox.name is not None and backing != "shm":
            yield Mistake(("mailbox", "name"), f"is for backing shm only, not for {backing}: leave it out", because)
        if self.mailbox.path is not None and backing != "file":
            yield Mistake(("mailbox", "path"), f"is for backing file only, not for {backing}: leave it out", because)
        if self.mailbox.path is None and backing == "file":
            yield Mistake(("mailbox", "path"), "must be given with backing file, an absolute path", because)

    def resolve(self, name: str, runtime_directory: Path) -> Fabric:
        """Make the fabric `name` of it: derive what was left out."""
        try:
            needed = personality_class(self.personality).mailbox_size(self.peers)
        except FAILURES:  # a plug-in's, which `mistakes` reports
            needed = 0
        derived = {
            "name": self.mailbox.name or f"famez-{name}",
            "size": self.mailbox.size or max(needed, PAGE if needed else DEFAULT_MAILBOX_BYTES),
        }
        path = self.socket.path or runtime_directory / f"{name}.sock"
        sockets = {port: Path(port_socket(str(runtime_directory), name, port)) for port in self.pins}
        pins = {port: Pin(**dict(pin), path=sockets[port] if pin.socket else None) for port, pin in self.pins.items()}
        settings = dict(self) | {
            "name": name,
            "pins": pins,
            "socket": Socket(**dict(self.socket) | {"path": path}),
            "mailbox": Mailbox(**dict(self.mailbox) | derived),
        }
        return Fabric(**settings)


class Fabric(FabricSettings):
    """A fabric with all that was left out."""

    name: str
    socket: Socket
    mailbox: Mailbox
    pins: dict[Annotated[int, kinds.PORT], Pin] = {}  # type: ignore[assignment]  # nobody puts any other in


class MainSettings(_Model):
    """The settings of famezd as a whole: famezd.yaml. The fabrics are files of their own in fabrics.d beside it."""

    runtime_directory: Annotated[Path, kinds.ABSOLUTE_PATH] | None = Field(
        default=None,
        description="Absolute path of the directory for sockets; null is $RUNTIME_DIRECTORY (which systemd sets),"
        " else /run/famez as root, else $XDG_RUNTIME_DIR/famez.",
        examples=["/run/famez"],
    )
    http: Http = Field(default_factory=Http, description="Where the page, the metrics and the API are served.")
    log: Log = Field(default_factory=Log, description="What is logged, and how.")
    control: Control = Field(default_factory=Control, description="Who may use famezctl: permissions of control.sock.")


class Config(MainSettings):
    """All settings, checked and complete."""

    runtime_directory: Path
    fabrics: dict[str, Fabric]
    """By name, in the order of names."""

    @property
    def fabric_log_levels(self) -> dict[str, str | None]:
        """The least levels that are logged of fabrics; None for that of all."""
        return {name: fabric.log.level for name, fabric in self.fabrics.items()}

    @property
    def control_socket(self) -> Path:
        """Where famezctl talks to famezd."""
        return self.runtime_directory / CONTROL_SOCKET

    @property
    def notify_socket(self) -> Path:
        """Where the workers talk to famezd."""
        return self.runtime_directory / NOTIFY_SOCKET

    @property
    def lock_file(self) -> Path:
        """What a running famezd holds a lock on, against a second one."""
        return self.runtime_directory / LOCK_FILE


def main_schema() -> JsonSchemaValue:
    """Return the JSON Schema of famezd.yaml."""
    return _schema(MainSettings)


def fabric_schema() -> JsonSchemaValue:
    """Return the JSON Schema of a file in fabrics.d."""
    return _schema(FabricSettings)


def _schema(model: type[_Model]) -> JsonSchemaValue:
    return {"$schema": GenerateJsonSchema.schema_dialect, **model.model_json_schema()}


def load(path: Path, *, environ: Mapping[str, str] = os.environ, limit: int | None = None) -> Config:
    """Read famezd.yaml at `path` and the fabrics in fabrics.d beside it.

    Of fabrics.d, files whose names end in .yaml and do not begin with a dot are read; .yml is a mistake. With `limit`,
    the hard limit of open files that workers will have, so is a fabric that needs more, or too much of this machine's
    memory. Raises ConfigError with every mistake found.
    """
    kinds.look_again()
    main = CheckedFile(Document.read(path), MainSettings)
    runtime = main.settings.runtime_directory or _runtime_directory(environ)
    if runtime is None:
        remedy = "must be set here, or RUNTIME_DIRECTORY or XDG_RUNTIME_DIR in the environment"
        main.report_mistake(Mistake(("runtime_directory",), remedy))
        runtime = ROOT_RUNTIME_DIRECTORY  # stands in, so that the rest can be checked
    fabrics_d = path.parent / FABRICS
    # Where neither is there, the wrong place was named: to create a directory in it would be no remedy.
    is_place = os.path.lexists(path) or os.path.lexists(fabrics_d)
    files, problems = _fabric_files(fabrics_d) if is_place else ({}, [])
    fabrics = {name: file.settings.resolve(name, runtime) for name, file in files.items() if not _wrong_name(name)}
    config = Config(**dict(main.settings) | {"runtime_directory": runtime, "fabrics": fabrics})
    _check_between(main, files, config)
    if limit is not None:
        problems += _room_problems(path, files, limit)
    problems += main.problems
    problems += [problem for file in files.values() for problem in file.problems]
    problems += [problem for name in files for problem in _served_twice(path.parent, name, FABRICS, STANDALONE)]
    if problems:
        raise ConfigError(problems)
    return config


def _room_problems(path: Path, files: _FabricFiles, limit: int) -> Iterator[Problem]:
    """Report in `files` the fabrics for whose workers there is no room here, and yield whether there is for so many."""
    for file in files.values():
        for mistake in file.settings.room_mistakes(limit):
            file.report_mistake(mistake)
    pins = sum(pin.socket for file in files.values() for pin in file.settings.pins.values())
    needed = SUPERVISOR_DESCRIPTORS + DESCRIPTORS_A_FABRIC * len(files) + pins
    if needed > limit:
        why = (
            f"{len(files)} fabrics need {needed} open files in famezd itself, and the hard limit is {limit}: have"
            f" fewer, or raise the limit (LimitNOFILE={needed} or more in famezd's unit, or ulimit -Hn before famezd)"
        )
        yield Problem(path, 1, 1, "", why)


def load_standalone(path: Path, name: str, *, environ: Mapping[str, str] = os.environ) -> Fabric:
    """Read the fabric `name` of standalone.d beside famezd.yaml at `path`, a file that need not be there.

    Raises ConfigError with every mistake found.
    """
    place = path.parent / STANDALONE / f"{name}.yaml"
    if why := _wrong_name(name):
        raise ConfigError([Problem(place, 1, 1, "", why)])
    if not place.exists():
        raise ConfigError([Problem(place, 1, 1, "", "is not there: make it, or move the one in fabrics.d there")])
    runtime = _runtime_directory(environ)
    if runtime is None:
        why = "must be set in the environment, or XDG_RUNTIME_DIR: the directory for the fabric's socket"
        raise ConfigError([Problem(place, 1, 1, "RUNTIME_DIRECTORY", why)])
    main = CheckedFile(Document(path, ""), MainSettings)
    file = CheckedFile(Document.read(place), FabricSettings)
    fabric = file.settings.resolve(name, runtime)
    _check_between(main, {name: file}, Config(runtime_directory=runtime, fabrics={name: fabric}))
    if problems := [*file.problems, *_served_twice(path.parent, name, STANDALONE, FABRICS)]:
        raise ConfigError(problems)
    return fabric


def _served_twice(directory: Path, name: str, here: str, there: str) -> Iterator[Problem]:
    """Report a fabric that has a file both `here` and `there`."""
    other = directory / there / f"{name}.yaml"
    if other.exists():
        unit = "famezd.service" if there == FABRICS else f"famez-fabric@{name}.service"
        why = f"is the fabric that {other} defines for {unit}: move one of the two away"
        yield Problem(directory / here / f"{name}.yaml", 1, 1, "", why)


def _runtime_directory(environ: Mapping[str, str]) -> Path | None:
    given = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]  # systemd may give several
    if given:
        return Path(given).absolute()
    if os.geteuid() == 0:
        return ROOT_RUNTIME_DIRECTORY
    base = environ.get("XDG_RUNTIME_DIR")
    return Path(base, "famez").absolute() if base else None


_FabricFiles: TypeAlias = dict[str, CheckedFile[FabricSettings]]


def _fabric_files(directory: Path) -> tuple[_FabricFiles, list[Problem]]:
    """Read the files of `directory`; the problems are its own, and names that no fabric can have."""
    try:
        found = sorted(path for path in directory.iterdir() if path.name[0] != ".")
    except OSError as error:
        create = "create it, with a file such as lab.yaml for each fabric" if error.errno == errno.ENOENT else ""
        return {}, [Problem(directory, 1, 1, "", unreadable(directory, error, os.R_OK | os.X_OK, create))]
    paths = [path for path in found if path.suffix == ".yaml"]
    problems = [Problem(path, 1, 1, "", why) for path in paths if (why := _wrong_name(path.stem))]
    other = [path for path in found if path.suffix.lower() in (".yml", ".yaml") and path not in paths]
    problems += [Problem(path, 1, 1, "", f"is not read: rename it to {path.stem}.yaml") for path in other]
    return {path.stem: CheckedFile(Document.read(path), FabricSettings) for path in paths}, problems


def _wrong_name(name: str) -> str | None:
    """Say what is wrong with `name` as a fabric's, None if it is right."""
    if name == Path(CONTROL_SOCKET).stem:
        return f"no fabric can be named {name!r}: {CONTROL_SOCKET} is famezctl's"
    try:
        kinds.FABRIC_NAME.check(name)
    except kinds.NotAllowedError:
        return f"a fabric's name must be {kinds.FABRIC_NAME.allowed}, not {name!r}: rename the file"
    return None


def _check_between(main: CheckedFile[MainSettings], files: _FabricFiles, config: Config) -> None:
    """Report what is wrong between settings, and between files."""
    if why := _too_long(config.control_socket):
        main.report_mistake(Mistake(("runtime_directory",), why))
    for mistake in main.settings.http.mistakes():
        main.report_mistake(mistake)
    for file in files.values():
        for mistake in file.settings.mistakes():
            file.report_mistake(mistake)
    taken = {
        os.path.normpath(config.control_socket): "is where famezctl talks to famezd",
        os.path.normpath(config.notify_socket): "is where workers talk to famezd",
        os.path.normpath(config.lock_file): "is the lock of a running famezd",
    }
    for name, fabric in config.fabrics.items():
        sockets: dict[Loc, Path] = {("socket", "path"): fabric.socket.path, **_port_sockets(fabric)}
        for loc, path in sockets.items():
            if why := _too_long(path):
                files[name].report_mistake(Mistake(loc, why))
        for mistake in _claim(taken, fabric, files[name]):
            files[name].report_mistake(mistake)


def _claim(taken: dict[str, str], fabric: Fabric, file: CheckedFile[FabricSettings]) -> Iterator[Mistake]:
    """Take the files that `fabric` makes, yielding those that another has: `taken` says which, and how."""
    by_name = fabric.mailbox.backing == "shm"
    claims: dict[Loc, Path | None] = {
        ("socket", "path"): fabric.socket.path,
        ("mailbox", "name" if by_name else "path"): fabric.mailbox.file,
        **_port_sockets(fabric),
    }
    for loc, path in claims.items():
        if path is None or not (file.is_right(dotted(loc)) and file.is_right("mailbox.backing")):
            continue
        where = os.path.normpath(path)
        if where in taken:
            yield Mistake(loc, f"{path} {taken[where]}: give each fabric its own")
        else:
            what = f"socket of port {loc[1]}" if loc[0] == "pins" else loc[0]
            taken[where] = f"is the {what} of fabric {fabric.name!r} already, at {file.where(loc)}"


def _port_sockets(fabric: Fabric) -> dict[Loc, Path]:
    """The paths of ports' own sockets, by where they are set."""
    return {("pins", str(port), "socket"): pin.path for port, pin in fabric.pins.items() if pin.path is not None}


def _too_long(path: Path) -> str | None:
    """Say whether a socket cannot have `path`, None if it can."""
    length = len(os.fsencode(path))
    if length <= MAX_SOCKET_PATH_BYTES:
        return None
    return f"a socket's path must be at most {MAX_SOCKET_PATH_BYTES} bytes long, not {length}, as {path} is"
