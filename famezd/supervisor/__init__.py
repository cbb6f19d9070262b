"""The supervisor: starts a worker for each fabric, watches them, and answers questions about them."""
