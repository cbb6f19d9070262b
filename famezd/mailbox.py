"""The mailbox: shared memory."""
