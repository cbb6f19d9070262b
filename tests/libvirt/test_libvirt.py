"""Domains of a real libvirt on fabrics, by copy and paste and by famezctl attach."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from famezd.client import Doorbell, Peer
from tests.daemon import BIN, PATIENCE, Famezd, eventually
from tests.libvirt.libvirtd import GROUP, QEMU_USER, Domain, Libvirtd, bindings
from tests.qemu.device import IvshmemDevice
from tests.system.test_famezctl import documented

LAB = {"peers": 4, "vectors": 4, "socket": {"group": GROUP}, "pins": {2: {"socket": True}}}
"""Who is no member of GROUP cannot join, and QEMU's user is one by /etc/group alone."""
CLOSED = {"peers": 1, "vectors": 1}
"""Its socket is for famezd's own user and group."""


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[Libvirtd]:
    with Libvirtd() as libvirtd:
        yield libvirtd


@pytest.fixture
def famezd() -> Iterator[Famezd]:
    # QEMU's user has to get to the sockets, and pytest's own directories are for ours alone.
    with tempfile.TemporaryDirectory(prefix="famezd-") as directory:
        Path(directory).chmod(0o755)
        with Famezd(Path(directory), {"lab": LAB, "closed": CLOSED}) as famezd:
            yield famezd


@pytest.fixture
def python_path(tmp_path: Path) -> str:
    return bindings(tmp_path / "bindings")


class Attach:
    """`famezctl attach`, with libvirt's bindings."""

    def __init__(self, famezd: Famezd, uri: str, python_path: str) -> None:
        self._control = str(famezd.runtime / "control.sock")
        self._uri = uri
        self._environ = os.environ | {"PYTHONPATH": python_path}

    def done(self, *words: str) -> str:
        done = self._run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, *words: str) -> str:
        done = self._run(*words)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "famezctl"), "-s", self._control, "attach", "-c", self._uri, *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE, env=self._environ)


@pytest.fixture
def attach(famezd: Famezd, libvirtd: Libvirtd, python_path: str) -> Attach:
    return Attach(famezd, libvirtd.uri, python_path)


def members(famezd: Famezd) -> set[tuple[str, ...]]:
    return set(famezd.metrics("famez_peer_info", "fabric", "peer", "name", "uid", "kind"))


def await_members(famezd: Famezd, *expected: tuple[str, str, str]) -> None:
    """Waits until the domains on the fabrics are these: fabric, port and name."""
    whole = {(*domain, str(QEMU_USER), "qemu") for domain in expected}
    eventually(lambda: {m for m in members(famezd) if m[4] == "qemu"} == whole, f"the domains are {expected}")


def ring_each_other(peer: Peer, device: IvshmemDevice) -> None:
    device.ring(peer.id, 3)
    assert peer.wait(PATIENCE) == [Doorbell(vector=3, rings=1)]
    peer.ring(device.peer_id, 1)
    eventually(lambda: device.take_interrupts() == {1}, "the domain is rung")


@pytest.mark.parametrize("form", ["element", "commandline"])
def test_a_domain_with_the_printed_xml_comes_and_comes_back(famezd: Famezd, libvirtd: Libvirtd, form: str) -> None:
    if form == "element":
        where: Any = {"devices": famezd.ctl("libvirt", "lab").stdout}
    else:
        where = {"commandline": famezd.ctl("libvirt", "lab", "--commandline").stdout}
    with Domain(libvirtd, "web", **where) as domain, famezd.join("lab") as peer:
        for _ in range(2):
            domain.start()
            await_members(famezd, ("lab", "1", "web"))
            with domain.device() as device:
                assert device.vectors == 4
                ring_each_other(peer, device)
            domain.destroy()
            await_members(famezd)
    assert famezd.pairs("lab")[1, 0] == 2


def test_a_domain_has_the_port_whose_socket_it_is_given(famezd: Famezd, libvirtd: Libvirtd) -> None:
    xml = famezd.ctl("libvirt", "lab", "--port", "2", "--name", "second").stdout
    assert 'name="second"' in xml
    with Domain(libvirtd, "web", devices=xml) as domain:
        domain.start()
        await_members(famezd, ("lab", "2", "web"))


def test_a_domain_is_attached_while_it_runs_and_comes_back(famezd: Famezd, libvirtd: Libvirtd, attach: Attach) -> None:
    with Domain(libvirtd, "web") as domain, famezd.join("lab") as peer:
        domain.start()
        assert attach.done("web", "lab") == "domain web is on fabric lab, now and from its next start on\n"
        await_members(famezd, ("lab", "1", "web"))
        with domain.device() as device:
            ring_each_other(peer, device)
        assert attach.done("web", "lab") == "domain web is on fabric lab already, now and from its next start on\n"
        domain.destroy()
        await_members(famezd)
        domain.start()
        await_members(famezd, ("lab", "1", "web"))
        with domain.device() as device:
            ring_each_other(peer, device)


def test_a_domain_that_has_the_device_in_qemus_arguments_keeps_that(
    famezd: Famezd, libvirtd: Libvirtd, attach: Attach
) -> None:
    arguments = famezd.ctl("libvirt", "lab", "--commandline").stdout
    with Domain(libvirtd, "web", commandline=arguments) as domain:
        assert attach.done("web", "lab") == "domain web is on fabric lab already, from its next start on\n"
        domain.start()
        assert attach.done("web", "lab") == "domain web is on fabric lab already, now and from its next start on\n"
        await_members(famezd, ("lab", "0", "web"))
        # At another socket it is another device.
        assert attach.done("web", "lab", "--port", "2", "--config").endswith(" lab, from its next start on\n")
        assert "<shmem" not in libvirtd.virsh("dumpxml", "web")
        assert "<shmem" in libvirtd.virsh("dumpxml", "--inactive", "web")


def test_a_domain_that_does_not_run_is_attached_for_its_next_start(
    famezd: Famezd, libvirtd: Libvirtd, attach: Attach
) -> None:
    with Domain(libvirtd, "web") as domain:
        assert attach.done("web", "lab", "--port", "2") == "domain web is on fabric lab, from its next start on\n"
        answer = json.loads(attach.done("web", "lab", "--port", "2", "--json"))
        assert answer == {"domain": "web", "fabric": "lab", "live": False, "config": True, "already": True}
        assert answer.keys() == documented("attach").keys()
        await_members(famezd)
        domain.start()
        await_members(famezd, ("lab", "2", "web"))
        domain.destroy()
        element = libvirtd.directory / "element.xml"
        element.write_text(famezd.ctl("libvirt", "lab", "--port", "2").stdout)
        libvirtd.virsh("detach-device", "web", str(element), "--config")
        assert "<shmem" not in libvirtd.virsh("dumpxml", "web")


def test_a_domain_without_a_free_slot_is_attached_for_its_next_start(
    famezd: Famezd, libvirtd: Libvirtd, attach: Attach
) -> None:
    full = '<controller type="usb" model="none"/><controller type="pci" model="pcie-root"/>'
    with Domain(libvirtd, "web", machine="q35", devices=full) as domain:
        domain.start()
        refusal = attach.refused("web", "lab")
        assert "No more available PCI slots" in refusal
        assert refusal.endswith("; with --config it is attached from its next start on\n")
        assert "shmem" not in libvirtd.virsh("dumpxml", "--inactive", "web")
        assert attach.done("--config", "web", "lab") == "domain web is on fabric lab, from its next start on\n"
        domain.destroy()
        domain.start()
        await_members(famezd, ("lab", "0", "web"))


def test_a_domain_without_a_definition_is_attached_until_it_ends(
    famezd: Famezd, libvirtd: Libvirtd, attach: Attach
) -> None:
    with Domain(libvirtd, "web") as domain:
        domain.start()
        libvirtd.virsh("undefine", "web")
        refusal = attach.refused("--config", "web", "lab")
        assert refusal == "famezctl: domain web has no definition that is kept: attach it without --config\n"
        assert attach.done("web", "lab").endswith(", until it ends: it has no definition that is kept\n")
        await_members(famezd, ("lab", "0", "web"))


def test_a_socket_that_qemu_may_not_open_is_told(famezd: Famezd, libvirtd: Libvirtd, attach: Attach) -> None:
    with Domain(libvirtd, "web") as domain:
        domain.start()
        refusal = attach.refused("web", "closed")
        assert "cannot attach domain web to fabric closed: " in refusal
        assert "Permission denied" in refusal
        assert "QEMU's user must be able to write to the socket (`socket: {group: ...}`" in refusal
        assert "shmem" not in libvirtd.virsh("dumpxml", "--inactive", "web")


def test_a_fabric_that_refuses_a_domain_leaves_it_as_it_was(famezd: Famezd, libvirtd: Libvirtd, attach: Attach) -> None:
    with Domain(libvirtd, "web") as domain, Peer.join(famezd.runtime / "lab.2.sock"):
        domain.start()
        refusal = attach.refused("web", "lab", "--port", "2")
        assert refusal.startswith("famezctl: cannot attach domain web to fabric lab: ")
        assert refusal.endswith("; famezd refuses it, and says why in its log (`journalctl -u famezd -g refused`)\n")
        assert "port 2, whose own socket this is, is taken" in famezd.log.read_text()
        assert attach.done("web", "lab") == "domain web is on fabric lab, now and from its next start on\n"
        await_members(famezd, ("lab", "0", "web"))


def test_unknown_domains_and_fabrics_are_told(famezd: Famezd, libvirtd: Libvirtd, attach: Attach) -> None:
    with Domain(libvirtd, "web"), Domain(libvirtd, "db"):
        unknown = attach.refused("wbe", "lab")
        assert unknown == f"famezctl: no domain 'wbe' at {libvirtd.uri}; there are: db, web\n"
        assert attach.refused("web", "lba") == "famezctl: no fabric 'lba'; there are: closed, lab\n"
        assert attach.refused("web", "lab", "--port", "1").startswith("famezctl: port 1 of fabric lab has no socket of")


def test_bad_input_to_famezctl_libvirt_is_told(famezd: Famezd) -> None:
    for words, complaint in (
        (["nosuch"], "no fabric 'nosuch'; there are: closed, lab"),
        (["lab", "--port", "1"], "port 1 of fabric lab has no socket of its own; give it one by"),
        (["lab", "--port", "1", "--commandline"], "port 1 of fabric lab has no socket of its own; give it one by"),
        (["lab", "--port", "-1"], "port must be a number, not '-1'"),
        (["lab", "--name", "a/b"], "a device's name is letters, digits, '_', '.' and '-', not 'a/b'"),
    ):
        done = famezd.ctl("libvirt", *words)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"famezctl: {complaint}")
    assert famezd.ctl("libvirt", "lab", "--name", "a", "--commandline").returncode == 2


def test_a_libvirt_that_does_not_run_is_told(famezd: Famezd, python_path: str, tmp_path: Path) -> None:
    uri = f"qemu+unix:///system?socket={tmp_path}/libvirt-sock"
    refusal = Attach(famezd, uri, python_path).refused("web", "lab")
    assert refusal.startswith(f"famezctl: cannot ask libvirt at {uri}: ")
    assert refusal.endswith("; is libvirt running? (systemctl status libvirtd virtqemud)\n")


def test_missing_bindings_are_told(famezd: Famezd, tmp_path: Path) -> None:
    # As those of another Python's version are found, and cannot be loaded.
    (tmp_path / "libvirt.py").write_text("import libvirtmod_of_no_python\n")
    refusal = Attach(famezd, "qemu:///system", str(tmp_path)).refused("web", "lab")
    assert refusal.startswith("famezctl: cannot attach: Python's libvirt bindings cannot be loaded (No module named")
    assert "run `apt install python3-libvirt`, or `pip install 'famezd[libvirt]'`" in refusal
    assert refusal.endswith("or paste what `famezctl libvirt lab` prints by `virsh edit web`\n")
