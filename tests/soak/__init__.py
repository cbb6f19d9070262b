"""Everything at once, for an hour or more, beside a model that knows what must come of it: see docs/soak.md."""
