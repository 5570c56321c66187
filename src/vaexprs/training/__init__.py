"""Model fitting: `fit_vae`, the training loop, checkpoints and multiprocess training."""
