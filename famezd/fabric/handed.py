"""What a worker and whoever starts it have to agree on: names of descriptors, and what an exit status says.

This stands apart from the worker, so that the supervisor, which starts workers and is none, need not import one.
"""

START_FAILED = 78
"""Exit status (EX_CONFIG) of a worker for which trying again as it is would be no use."""

# Names of the descriptors that are handed on and kept.
MAILBOX, LOCK, STATS, STATE, SUPERVISOR = "mailbox", "lock", "stats", "state", "supervisor"
