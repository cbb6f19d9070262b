"""famezctl attach: a libvirt domain is given the device that puts it on a fabric."""

from __future__ import annotations

import errno
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Any

from famezd.errors import FamezError

_NAMESPACES = {"qemu": "http://libvirt.org/schemas/domain/qemu/1.0"}
_NO_BINDINGS = """\
cannot attach: Python's libvirt bindings cannot be loaded ({why}); run `apt install python3-libvirt`, or `pip install \
'famezd[libvirt]'` where famezd is, or paste what `famezctl libvirt {fabric}` prints by `virsh edit {domain}`"""
_NOT_REACHED = {
    errno.EACCES: "run as root, or join its socket's group (libvirt)",
    errno.ENOENT: "is libvirt running? (systemctl status libvirtd virtqemud)",
    errno.ECONNREFUSED: "is libvirt running? (systemctl status libvirtd virtqemud)",
}
_DENIED = """\
QEMU's user must be able to write to the socket (`socket: {group: ...}`, see docs/virtual-machines.md)"""
_REFUSED = """\
famezd refuses it, and says why in its log (`journalctl -u famezd -g refused`)"""
_CONFINED = {
    "apparmor": "AppArmor confines it and must allow that, too: `journalctl -k -g apparmor` has what it denied",
    "selinux": "SELinux confines it and must allow that, too: `ausearch -m avc -ts recent` has what it denied",
}


class AttachError(FamezError):
    """A domain cannot be attached."""


def attach(domain: str, fabric: str, element: str, uri: str | None, later: bool) -> dict[str, Any]:
    """Attaches the device that `element` describes to `domain`, by the libvirt at `uri` (None: as virsh chooses).

    A domain that runs has it at once, one whose definition is kept has it from then on at each start; with `later`
    only that. Returns where it is attached now, and whether it was before. Raises AttachError.
    """
    libvirt = _bindings(domain, fabric)
    connection = _connected(libvirt, uri)
    try:
        return _attach(libvirt, _found(libvirt, connection, domain), fabric, element, later)
    except libvirt.libvirtError as e:
        raise AttachError(f"cannot attach domain {domain} to fabric {fabric}: {e}") from e
    finally:
        connection.close()


def _bindings(domain: str, fabric: str) -> Any:  # noqa: ANN401 (they have no types)
    try:
        import libvirt  # noqa: PLC0415 (optional)
    except ImportError as e:
        raise AttachError(_NO_BINDINGS.format(why=e, domain=domain, fabric=fabric)) from e
    # By default it prints errors as well as raising them.
    libvirt.registerErrorHandler(lambda *_: None, None)
    return libvirt


def _connected(libvirt: Any, uri: str | None) -> Any:  # noqa: ANN401
    try:
        return libvirt.open(uri)
    except libvirt.libvirtError as e:
        # With an error of the system the first number is its errno.
        number = e.get_int1() if e.get_error_code() == libvirt.VIR_ERR_SYSTEM_ERROR else None
        if e.get_error_code() in (libvirt.VIR_ERR_AUTH_FAILED, libvirt.VIR_ERR_AUTH_UNAVAILABLE):
            number = errno.EACCES
        remedy = f"; {_NOT_REACHED[number]}" if number in _NOT_REACHED else ""
        raise AttachError(f"cannot ask libvirt{'' if uri is None else f' at {uri}'}: {e}{remedy}") from e


def _found(libvirt: Any, connection: Any, name: str) -> Any:  # noqa: ANN401
    try:
        return connection.lookupByName(name)
    except libvirt.libvirtError as e:
        if e.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise
        there = ", ".join(sorted(domain.name() for domain in connection.listAllDomains())) or "none"
        raise AttachError(f"no domain {name!r} at {connection.getURI()}; there are: {there}") from e


def _attach(libvirt: Any, domain: Any, fabric: str, element: str, later: bool) -> dict[str, Any]:  # noqa: ANN401
    live, config = bool(domain.isActive()) and not later, bool(domain.isPersistent())
    if later and not config:
        raise AttachError(f"domain {domain.name()} has no definition that is kept: attach it without --config")
    wanted = {
        libvirt.VIR_DOMAIN_AFFECT_LIVE: live and not has_device(domain.XMLDesc(), element),
        libvirt.VIR_DOMAIN_AFFECT_CONFIG: config
        and not has_device(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE), element),
    }
    flags = sum(flag for flag, really in wanted.items() if really)
    if flags:
        try:
            domain.attachDeviceFlags(element, flags)
        except libvirt.libvirtError as e:
            raise AttachError(_why_not(domain, fabric, e, live, config)) from e
    return {"domain": domain.name(), "fabric": fabric, "live": live, "config": config, "already": not flags}


def has_device(domain: str, element: str) -> bool:
    """Whether a domain, by its XML, has a device at the same socket as `element`, in whichever form."""
    return _path(ET.fromstring(element)) in _paths(ET.fromstring(domain))  # noqa: S314 (libvirt's)


def _paths(domain: ET.Element) -> Iterator[str | None]:
    yield from map(_path, domain.iterfind("devices/shmem"))
    for argument in domain.iterfind("qemu:commandline/qemu:arg", _NAMESPACES):
        # A character device, as -chardev has it: in its values a comma is doubled.
        kind, *properties = argument.get("value", "").replace(",,", "\0").split(",")
        if kind == "socket":
            yield dict(p.replace("\0", ",").split("=", 1) for p in properties if "=" in p).get("path")


def _path(shmem: ET.Element) -> str | None:
    server = shmem.find("server")
    return None if server is None else server.get("path")


def _why_not(domain: Any, fabric: str, error: Exception, live: bool, config: bool) -> str:  # noqa: ANN401
    name = domain.name()
    lines = [f"cannot attach domain {name} to fabric {fabric}: {error}"]
    if "Permission denied" in str(error):  # QEMU's words
        lines += [_DENIED, *confinement(domain.XMLDesc())]
    elif "version -1" in str(error):  # QEMU's words for a refusal
        lines.append(_REFUSED)
    elif live and config:
        lines.append("with --config it is attached from its next start on")
    return "; ".join(lines)


def confinement(domain: str) -> list[str]:
    """What else may forbid the QEMU of a domain that runs to open a socket, by the domain's XML."""
    labels = ET.fromstring(domain).iterfind("seclabel")  # noqa: S314 (libvirt's)
    return [_CONFINED[model] for label in labels if (model := label.get("model")) in _CONFINED]


def show_attached(answer: dict[str, Any]) -> str:
    """What was done, in words."""
    when = {
        (True, True): "now and from its next start on",
        (True, False): "until it ends: it has no definition that is kept",
        (False, True): "from its next start on",
    }[answer["live"], answer["config"]]
    already = " already" if answer["already"] else ""
    return f"domain {answer['domain']} is on fabric {answer['fabric']}{already}, {when}"
