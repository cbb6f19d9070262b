"""What is shipped for AppArmor is in its language. Whether it is enough only a kernel with AppArmor could tell."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.needs import need

_SHIPPED = Path(__file__).parents[2] / "packaging" / "apparmor"
_PROFILE = """\
include <tunables/global>
profile famezd-test flags=(attach_disconnected) {
  include <abstractions/famezd>
}
"""


def test_the_abstraction_compiles_in_a_profile_like_libvirts(tmp_path: Path) -> None:
    profile = tmp_path / "profile"
    profile.write_text(_PROFILE)
    parser = need("apparmor_parser", "apparmor")
    # Neither the kernel nor its cache is touched.
    options = ["--skip-kernel-load", "--skip-cache", "--debug", "--Include", str(_SHIPPED)]
    done = subprocess.run([parser, *options, profile], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for path in ("/{,var/}run/famez/*.sock", "/{dev,run}/shm/famez-*"):
        assert f"({path})" in done.stdout
