"""Measures the relay: `python -m bench.relay`."""

import bench.relay
from bench.report import main

if __name__ == "__main__":
    main("bench.relay", bench.relay.section, bench.relay.__doc__)
