"""The user's end of a serial line: what is typed goes to a socket, and what comes from there is shown."""

from __future__ import annotations

import os
import select
import socket
import sys
import tty


def main(path: str) -> None:
    """Connects to the line at `path`, until it hangs up."""
    tty.setraw(0)
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(path)
        while True:
            ready, _, _ = select.select([0, line.fileno()], [], [])
            if line.fileno() in ready:
                if not (shown := line.recv(4096)):
                    return
                os.write(1, shown)
            if 0 in ready:
                line.sendall(os.read(0, 4096))


if __name__ == "__main__":
    main(sys.argv[1])
