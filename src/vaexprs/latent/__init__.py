"""The density of the latent space for each condition, and optimal transport between conditions."""
