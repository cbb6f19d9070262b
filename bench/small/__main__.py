"""Measures memory, and what famezd does at rest: `python -m bench.small`."""

from bench import process
from bench.small import main

if __name__ == "__main__":
    process.run(main)
