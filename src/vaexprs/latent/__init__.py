"""Latent density of each condition, and optimal transport between conditions."""
