"""The networks: layers, the variational autoencoder, how it is built and evaluated."""
