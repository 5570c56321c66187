"""The user's choices about the networks of a fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras


@dataclass(frozen=True)
class NetworkOptions:
    """Layers, latent dimensions and KL weight as given to `fit_vae`.

    Parameters
    ----------
    encoder_layers, decoder_layers
        Hidden layers; None for the default.
    latent_dim
        Size of the latent vector; None for the default of the likelihood.
    regularization
        Weight of the KL divergence.
    """

    encoder_layers: Sequence[keras.layers.Layer] | None
    decoder_layers: Sequence[keras.layers.Layer] | None
    latent_dim: int | None
    regularization: float
