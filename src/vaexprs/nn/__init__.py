"""Neural networks: layers, the variational autoencoder, mini-batches and prediction."""
