"""QEMU's own ivshmem-server and ivshmem-client: what famezd is compared with, and tested beside."""

import subprocess
from functools import cache
from pathlib import Path

_BUILD = Path(__file__).with_name("build.sh")


class StockBuildError(AssertionError):
    """The stock programs cannot be built: no test that needs them can pass."""

    def __init__(self, status: int, output: str) -> None:
        """Tell the script's exit status and all that it said."""
        super().__init__(f"{_BUILD} failed with status {status}:\n{output}")


@cache
def stock_programs() -> Path:
    """Return the directory that holds `ivshmem-server` and `ivshmem-client`.

    The first call on a machine builds them, which takes about a minute, apt and the network.
    Raises StockBuildError, with the script's output, when that fails.
    """
    done = subprocess.run(
        [_BUILD],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise StockBuildError(done.returncode, done.stderr + done.stdout)
    return Path(done.stdout.splitlines()[-1])
