"""What to do where a file cannot be made, and what nobody would find."""

import errno
import os
from pathlib import Path

import pytest

from famezd.remedies import invisible, remedy

ROOT = "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"
TMPFS = "22 21 0:25 / /tmp rw,nosuid shared:2 - tmpfs tmpfs rw"
ON_DISK = "23 21 8:1 /tmp/systemd-private-0a1b-famezd.service-XyZ/tmp /tmp rw,nosuid shared:3 - ext4 /dev/sda1 rw"
ON_TMPFS = "24 21 0:25 /systemd-private-0a1b-famezd.service-XyZ/tmp /tmp rw,nosuid shared:4 - tmpfs tmpfs rw"
VAR_TMP = "25 21 8:1 /var/tmp/systemd-private-0a1b-famezd.service-AbC/tmp /var/tmp rw - ext4 /dev/sda1 rw"
FOREIGN = "27 21 8:17 / /media/b\u00fccher rw - vfat /dev/sdb1 rw"
BOUND = "26 24 8:1 /srv/fabrics /tmp/fabrics rw - ext4 /dev/sda1 rw"


@pytest.mark.parametrize(
    ("mounts", "path", "top"),
    [
        ([ROOT], "/tmp/lab.sock", None),
        ([ROOT, TMPFS], "/tmp/lab.sock", None),
        ([ROOT, ON_DISK], "/tmp/lab.sock", "/tmp"),
        ([ROOT, TMPFS, ON_TMPFS], "/tmp/lab.sock", "/tmp"),
        ([ROOT, ON_TMPFS, TMPFS], "/tmp/lab.sock", None),
        ([ROOT, ON_TMPFS], "/tmpfs/lab.sock", None),
        ([ROOT, ON_TMPFS], "/run/famez/lab.sock", None),
        ([ROOT, ON_DISK, VAR_TMP], "/var/tmp/deep/lab.sock", "/var/tmp"),
        ([ROOT, ON_DISK, BOUND], "/tmp/fabrics/lab.sock", None),
    ],
)
def test_what_is_in_a_tmp_of_our_own_nobody_would_find(
    mounts: list[str], path: str, top: str | None, tmp_path: Path
) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_bytes("\n".join([*mounts, FOREIGN]).encode("latin-1") + b"\n")
    why = invisible(path, str(mountinfo))
    if top is None:
        assert why is None
    else:
        assert why is not None
        assert f"has a {top} of its own (PrivateTmp=), where nobody would find it: choose another path, or " in why
        assert f"with [Service] and PrivateTmp=no and ReadWritePaths={top}, and restart it" in why


def told(number: int, path: str) -> str:
    return remedy(OSError(number, os.strerror(number)), "usual", path)


def test_other_errors_are_no_matter_of_file_systems() -> None:
    assert told(errno.ENOENT, "/srv/lab.sock") == "usual"
    assert told(errno.EACCES, "/home/nobody-there/lab.sock") == "usual"
    assert "df -i" in told(errno.ENOSPC, "/srv/lab.sock")
    assert told(errno.EROFS, "/srv/lab.sock").startswith("have that file system mounted writable")
