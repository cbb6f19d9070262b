"""Measures joins: `python -m bench.join`."""

from bench.join import main

if __name__ == "__main__":
    main()
