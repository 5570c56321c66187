"""Generating cells from a fitted model, and what is built on it: augment, transform, interpolate."""
