"""Measures joins: `python -m bench.join`."""

from bench import process
from bench.join import main

if __name__ == "__main__":
    process.run(main)
