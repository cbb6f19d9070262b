"""famezd under the real systemd, as PID 1 of a container."""
