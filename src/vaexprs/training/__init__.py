"""Fitting a model: `fit_vae`, the training loop, checkpoints and several processes."""
