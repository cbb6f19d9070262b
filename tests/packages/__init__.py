"""The packages: what is in them, and that building them again gives the same."""
