"""The errors that famezd raises itself."""


class FamezError(Exception):
    """Root of famezd's own errors: the text says what failed, why, and what to do about it."""
