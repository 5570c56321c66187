"""Fitted models: `VAEFit`, saving and loading."""
