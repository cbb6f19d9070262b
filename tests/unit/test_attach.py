from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from famezd.attach import NoPortSocketError, NotInXmlError, libvirt_commandline, libvirt_element, qemu_arguments
from famezd.config import Fabric, FabricSettings

QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"


def fabric(**settings: Any) -> Fabric:
    return FabricSettings.model_validate({"peers": 3, "vectors": 5, **settings}).resolve("lab.1", Path("/run/famez"))


def test_the_element_says_where_and_how_many() -> None:
    assert libvirt_element(fabric()) == (
        '<shmem name="famez-lab.1">\n'
        '  <model type="ivshmem-doorbell" />\n'
        '  <server path="/run/famez/lab.1.sock" />\n'
        '  <msi vectors="5" ioeventfd="on" />\n'
        "</shmem>"
    )


def test_the_commandline_says_what_qemu_is_told_and_brings_its_namespace() -> None:
    commandline = ET.fromstring(f"<domain>{libvirt_commandline(fabric())}</domain>")[0]
    assert commandline.tag == f"{QEMU}commandline"
    assert {argument.tag for argument in commandline} == {f"{QEMU}arg"}
    assert [argument.get("value") for argument in commandline] == qemu_arguments(fabric())


def test_a_port_has_its_own_socket_in_both_forms() -> None:
    pinned = fabric(pins={2: {"socket": True}})
    assert 'path="/run/famez/lab.1.2.sock"' in libvirt_element(pinned, 2)
    assert "path=/run/famez/lab.1.2.sock," in libvirt_commandline(pinned, 2)
    for form in (libvirt_element, libvirt_commandline):
        with pytest.raises(NoPortSocketError, match=r"port 1 of fabric lab\.1 has no socket"):
            form(pinned, 1)


def test_any_path_is_the_same_when_it_is_read() -> None:
    path = "/tmp/a, b & <c>\"'\n\té"
    odd = fabric(socket={"path": path})
    server = ET.fromstring(libvirt_element(odd)).find("server")
    assert server is not None
    assert server.get("path") == path
    arguments = [argument.get("value") for argument in ET.fromstring(libvirt_commandline(odd))]
    assert arguments == qemu_arguments(odd)


def test_what_xml_cannot_say_is_told() -> None:
    odd = fabric(socket={"path": "/tmp/\x1b"})
    for form in (libvirt_element, libvirt_commandline):
        with pytest.raises(NotInXmlError, match=r"XML cannot say the socket's path '/tmp/\\x1b'"):
            form(odd)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "é", "a\n"])
def test_a_wrong_name_is_told(name: str) -> None:
    with pytest.raises(NotInXmlError, match="a device's name is letters, digits"):
        libvirt_element(fabric(), name=name)


def test_a_name_is_the_devices() -> None:
    assert libvirt_element(fabric(), name="shmem-0.1").startswith('<shmem name="shmem-0.1">')
