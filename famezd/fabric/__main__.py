"""`python -m famezd.fabric NAME key=value ...`: runs a worker."""

import sys

from famezd.fabric.worker import main

sys.exit(main())
