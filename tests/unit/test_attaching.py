from __future__ import annotations

import pytest

from famezd.attach import libvirt_commandline, libvirt_element
from famezd.cli.attaching import confinement, has_device
from tests.unit.test_attach import fabric

DAC = '<seclabel type="dynamic" model="dac" relabel="yes"><label>+64055:+64055</label></seclabel>'
APPARMOR = '<seclabel type="dynamic" model="apparmor" relabel="yes"><label>libvirt-1111</label></seclabel>'
SELINUX = '<seclabel type="dynamic" model="selinux" relabel="yes"><label>system_u:svirt_t:s0:c1,c2</label></seclabel>'


@pytest.mark.parametrize(
    ("labels", "told"), [("", []), (DAC, []), (APPARMOR + DAC, ["AppArmor"]), (SELINUX + DAC, ["SELinux"])]
)
def test_what_confines_a_domain_is_told(labels: str, told: list[str]) -> None:
    found = confinement(f"<domain><name>web</name>{labels}</domain>")
    assert [why.partition(" confines it")[0] for why in found] == told


@pytest.mark.parametrize("path", ["/run/famez/lab.sock", "/tmp/a, b=c,,d,path=/run/famez/lab.sock"])
def test_a_device_is_found_in_both_forms_by_its_socket(path: str) -> None:
    ours, other = fabric(socket={"path": path}), fabric(socket={"path": f"{path}x"})
    for found, where in ((ours, True), (other, False)):
        for domain in (
            f"<domain><devices>{libvirt_element(found, name='another')}</devices></domain>",
            f"<domain><devices/>{libvirt_commandline(found)}</domain>",
        ):
            assert has_device(domain, libvirt_element(ours)) == where


@pytest.mark.parametrize(
    "argument",
    [
        "path=/run/famez/lab.1.sock",
        "unix,path=/run/famez/lab.1.sock",
        "socket,id=path=/run/famez/lab.1.sock",
        "socket,,path=/run/famez/lab.1.sock",
        "socket",
    ],
)
def test_other_arguments_of_qemus_are_no_device(argument: str) -> None:
    namespace = "http://libvirt.org/schemas/domain/qemu/1.0"
    commandline = f"<q:commandline xmlns:q='{namespace}'><q:arg/><q:arg value='{argument}'/></q:commandline>"
    assert not has_device(f"<domain>{commandline}</domain>", libvirt_element(fabric()))
