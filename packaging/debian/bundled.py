"""What Debian's package appends to famezd/__init__.py: Python 3.11 is Debian 12's, whose pydantic is too old."""

import sys

if sys.version_info[:2] == (3, 11):
    sys.path.insert(0, "/usr/lib/famezd/python3.11")
