"""A fitted model: what it can do, how it is saved and loaded."""
