"""famezd: the ivshmem server as an OS service."""

__version__ = "0.1.0"
