"""What to do where a file cannot be made because of the file system that it would be on."""

import errno

REMEDIES = {
    errno.ENOSPC: "free space or inodes there; `df -h` and `df -i` tell which",
    errno.EROFS: "have that file system mounted writable; in a unit ReadWritePaths= may be what is missing",
}
"""By error number."""
