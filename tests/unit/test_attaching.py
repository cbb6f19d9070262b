from __future__ import annotations

import pytest

from famezd.cli.attaching import confinement

DAC = '<seclabel type="dynamic" model="dac" relabel="yes"><label>+64055:+64055</label></seclabel>'
APPARMOR = '<seclabel type="dynamic" model="apparmor" relabel="yes"><label>libvirt-1111</label></seclabel>'
SELINUX = '<seclabel type="dynamic" model="selinux" relabel="yes"><label>system_u:svirt_t:s0:c1,c2</label></seclabel>'


@pytest.mark.parametrize(
    ("labels", "told"), [("", []), (DAC, []), (APPARMOR + DAC, ["AppArmor"]), (SELINUX + DAC, ["SELinux"])]
)
def test_what_confines_a_domain_is_told(labels: str, told: list[str]) -> None:
    found = confinement(f"<domain><name>web</name>{labels}</domain>")
    assert [why.partition(" confines it")[0] for why in found] == told
