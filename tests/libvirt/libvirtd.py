"""A libvirtd of the tests' own, with what it needs of a system to itself."""

from __future__ import annotations

import grp
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.daemon import eventually
from tests.needs import need, need_file
from tests.qemu.control import Lines, Qtest
from tests.qemu.device import IvshmemDevice
from tests.systemd.trees import as_root

QEMU_USER = 64055
"""The user that Debian's libvirt runs QEMU as, libvirt-qemu; here it exists in libvirtd's namespace alone."""
GROUP = os.getegid() or grp.getgrnam("users").gr_gid
"""A group that user is in, as on Debian in kvm, and that famezd may give a socket to."""
_STARTING = 60.0
"""Seconds; libvirt tries out each QEMU when it meets it."""
_PACKAGES = Path("/usr/lib/python3/dist-packages")

# PID 1 of a namespace: when it ends, so does all that libvirtd started. It has to reap orphans, as libvirt waits until
# QEMUs, which have detached themselves, are gone.
_INIT = """\
set -e
trap 'exit' TERM
mount -t tmpfs -o mode=755 none /run
mount -t tmpfs -o mode=755 none /var
mount -t tmpfs -o mode=755 none /etc/libvirt
cp "$1/qemu.conf" /etc/libvirt
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
if [ -c /dev/kvm ]; then
    # Where root could use it and QEMU's user not, libvirt would try QEMU out anew at each step.
    cp -a /dev/kvm /run/kvm
    chmod 0666 /run/kvm
    mount --bind /run/kvm /dev/kvm
fi
exec 3<&0
(cat <&3; kill 1) &
"$2" -f "$1/libvirtd.conf" &
wait $!
"""
_LIBVIRTD = """\
unix_sock_dir = "{directory}"
unix_sock_rw_perms = "0777"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "3:stderr"
"""
_QEMU = """\
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
"""


class Libvirtd:
    """A real libvirtd, from the start of `with` to its end, and its domains with it.

    It has namespaces of its own for processes, mounts and networks, and its sockets in a directory of its own; QEMUs
    run as `QEMU_USER`. Of the system's libvirt, if there is any, it knows nothing, and changes nothing.
    """

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="famezd-libvirt-"))
        self.directory.chmod(0o755)
        self.uri = f"qemu+unix:///system?socket={self.directory}/libvirt-sock"
        user = f"libvirt-qemu:x:{QEMU_USER}:{QEMU_USER}::/nonexistent:/usr/sbin/nologin"
        self._write("passwd", _without("passwd", "libvirt-qemu") + user + "\n")
        groups = [f"libvirt-qemu:x:{QEMU_USER}:", f"famez-test:x:{GROUP}:libvirt-qemu"]
        self._write("group", _without("group", "libvirt-qemu") + "\n".join(groups) + "\n")
        self._write("libvirtd.conf", _LIBVIRTD.format(directory=self.directory))
        self._write("qemu.conf", _QEMU)

    def _write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text)

    def __enter__(self) -> Self:
        libvirtd = need("libvirtd", "libvirt-daemon")
        need_file(Path("/usr/share/doc/libvirt-daemon-driver-qemu"), "libvirt-daemon-driver-qemu")
        need("virsh", "libvirt-clients")
        separate = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]
        with (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*as_root(), *separate, "sh", "-c", _INIT, "libvirtd", str(self.directory), str(libvirtd)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        try:
            eventually(self._listens, "libvirtd listens", _STARTING)
            self.virsh("capabilities")
        except BaseException:
            self._end()
            raise
        return self

    def _listens(self) -> bool:
        assert self._process.poll() is None, (self.directory / "log").read_text()
        return (self.directory / "libvirt-sock").exists()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(_STARTING)
        shutil.rmtree(self.directory)

    def virsh(self, *arguments: str) -> str:
        """Runs virsh, which has to succeed; returns what it printed."""
        done = self.try_virsh(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def try_virsh(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs virsh."""
        command = ["virsh", "-q", "-c", self.uri, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=_STARTING)


def _without(name: str, entry: str) -> str:
    """One of /etc's tables of accounts, without one of its entries."""
    lines = Path("/etc", name).read_text().splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(f"{entry}:"))


def bindings(directory: Path) -> str:
    """A directory for PYTHONPATH that has Debian's libvirt bindings, and nothing else of Debian's Python packages."""
    need_file(_PACKAGES / "libvirt.py", "python3-libvirt")
    directory.mkdir()
    for path in _PACKAGES.glob("libvirt*"):
        (directory / path.name).symlink_to(path)
    return str(directory)


class Domain:
    """A domain, defined and not started, from the start of `with` to its end; its CPU never runs."""

    def __init__(
        self, libvirtd: Libvirtd, name: str, *, machine: str = "pc", devices: str = "", commandline: str | None = None
    ) -> None:
        self._libvirtd = libvirtd
        self.name = name
        self._bus = socket.socket(socket.AF_UNIX)
        self._path = libvirtd.directory / f"{name}.qtest"
        # A domain can have but one <qemu:commandline>.
        ours = (commandline or _COMMANDLINE).replace("</qemu:commandline>", _QTEST.format(path=self._path))
        qemu = need("qemu-system-x86_64", "qemu-system-x86")
        self.xml = _DOMAIN.format(name=name, machine=machine, qemu=qemu, devices=devices, commandline=ours)

    def __enter__(self) -> Self:
        with ExitStack() as undone:
            undone.callback(self._path.unlink, missing_ok=True)
            undone.enter_context(self._bus)
            self._bus.bind(str(self._path))
            self._path.chmod(0o666)
            self._bus.listen()
            definition = self._libvirtd.directory / f"{self.name}.xml"
            definition.write_text(self.xml)
            self._libvirtd.virsh("define", "--validate", str(definition))
            undone.callback(self._libvirtd.try_virsh, "undefine", self.name)
            undone.callback(self._libvirtd.try_virsh, "destroy", self.name)
            self._exit = undone.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def start(self) -> None:
        """Starts it."""
        self._libvirtd.virsh("start", "--paused", self.name)

    def destroy(self) -> None:
        """Has libvirt end it, which is as if its power was cut."""
        self._libvirtd.virsh("destroy", self.name)

    @contextmanager
    def device(self) -> Iterator[IvshmemDevice]:
        """A driver of its ivshmem device; each start of the domain can have one."""
        self._bus.settimeout(_STARTING)
        connection, _ = self._bus.accept()
        with connection:
            device = IvshmemDevice(Qtest(Lines(connection, _STARTING, _explained)))
            eventually(device.hears_itself, "it has its bells")
            yield device


def _explained(problem: str, lost: bool) -> Exception:
    return AssertionError(f"the domain's QEMU: {problem}; {'it has ended' if lost else 'it lives'}")


_COMMANDLINE = """\
<qemu:commandline xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0">
</qemu:commandline>"""
_QTEST = """\
  <qemu:arg value="-chardev"/>
  <qemu:arg value="socket,id=qtest,path={path}"/>
  <qemu:arg value="-object"/>
  <qemu:arg value="qtest,id=qtest0,chardev=qtest,log=/dev/null"/>
</qemu:commandline>"""
_DOMAIN = """\
<domain type="qemu">
  <name>{name}</name>
  <memory unit="MiB">32</memory>
  <os><type arch="x86_64" machine="{machine}">hvm</type></os>
  <features><acpi/></features>
  <devices>
    <emulator>{qemu}</emulator>
    <memballoon model="none"/>
    {devices}
  </devices>
  {commandline}
</domain>
"""
