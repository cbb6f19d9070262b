"""Measures how many peers and fabrics there can be: `python -m bench.scale`."""

import bench.scale
from bench.report import main

if __name__ == "__main__":
    main("bench.scale", bench.scale.section, bench.scale.__doc__)
