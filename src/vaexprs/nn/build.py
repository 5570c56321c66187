"""Build a variational autoencoder from the user's or the default layers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras

from vaexprs.data.backed import BackedMatrix
from vaexprs.data.matrix import Matrix
from vaexprs.interface.errors import reason
from vaexprs.likelihoods.base import Head, Likelihood
from vaexprs.nn.batches import as_inputs
from vaexprs.nn.layers import Normalize, Sampling, bounded, call_layer, join
from vaexprs.nn.vae import VAE
from vaexprs.preprocessing.summary import Summary

RESERVED = (
    "expression",
    "condition",
    "expression_and_condition",
    "z_mean",
    "z_log_stddev",
    "latent",
    "latent_and_condition",
    "normalize",
    "output",
)


def default_layers(n_cells: int, side: str) -> list[keras.layers.Layer]:
    """Return one hidden layer of 256 units for a side of the network, 128 below 500 cells.

    The decoder's layer has no activation, so that the logits of genes are linear in the latent vector and the
    conditions, as in factor analysis: small data sets do not support a nonlinear decoder. Factorising the
    slopes into two matrices speeds up learning and favours low rank (Arora, Cohen & Hazan 2018,
    doi:10.48550/arXiv.1802.06509; Arora et al. 2019, doi:10.48550/arXiv.1905.13655).
    """
    units = 128 if n_cells < 500 else 256
    activation = "relu" if side == "encoder" else None
    return [keras.layers.Dense(units, activation=activation, name=f"{side}_1")]


def rebuild_layers(layers: Sequence[keras.layers.Layer], argument: str, taken: set[str]) -> list[Any]:
    """Return new layers with the configuration of the user's layers and unique names.

    A layer object can then be used in two lists or two fits without sharing weights. The new names are added
    to `taken`.

    Raises
    ------
    TypeError
        If an element of the list is not a Keras layer.
    ValueError
        If a layer is a Lambda or cannot be rebuilt.
    """
    rebuilt = []
    for layer in layers:
        if not isinstance(layer, keras.layers.Layer):
            raise TypeError(f"{argument} must contain Keras layers, got {type(layer).__name__} ({layer!r}).")
        if isinstance(layer, keras.layers.Lambda):
            raise ValueError(
                f"{argument} must not contain Lambda layers, which cannot be saved safely, got "
                f"{layer.name!r}. Write a subclass of keras.layers.Layer instead."
            )
        try:
            config = layer.get_config()
            base = name = config.get("name") or layer.name
            number = 1
            while name in taken:
                name = f"{base}_{number}"
                number += 1
            taken.add(name)
            rebuilt.append(type(layer).from_config({**config, "name": name}))
        except (NotImplementedError, TypeError) as error:
            raise ValueError(
                f"{argument} must contain layers that can be rebuilt from their configuration, but "
                f"{type(layer).__name__} cannot: {reason(error)} Implement get_config()."
            ) from error
    return rebuilt


@contextmanager
def seeded_layers(seed: int) -> Iterator[None]:
    """Seed Keras' initialisers and random layers inside the block.

    Keras draws their seeds from Python's global generator, whose state is restored afterwards.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def build_vae(
    encoder_layers: Sequence[keras.layers.Layer] | None,
    decoder_layers: Sequence[keras.layers.Layer] | None,
    *,
    likelihood: Likelihood,
    x: Matrix | BackedMatrix,
    summary: Summary,
    level_cells: Sequence[int],
    latent_dim: int,
    regularization: float,
    seed: int,
    n_basis: int = 0,
) -> VAE:
    """Return an untrained VAE.

    Parameters
    ----------
    encoder_layers, decoder_layers
        The user's hidden layers; None for the default. The encoder's may begin with a `keras.Input`.
    likelihood
        Likelihood of the prepared values. Its head follows the decoder's layers, unless the last of these is
        the output.
    x
        Prepared training cells, (n_cells, n_genes), used for initial values.
    summary
        Summary of the training cells' values before preparation, used for initial values.
    level_cells
        Number of training cells in each one-hot condition column; empty without levels.
    latent_dim
        Size of the latent vector.
    regularization
        Weight of the KL divergence.
    seed
        Seed of the initial weights and the noise.
    n_basis
        Number of basis columns of continuous covariates, which follow the one-hot columns.

    Raises
    ------
    TypeError
        If the layers are not a list, or an element is not a Keras layer.
    ValueError
        If the layers do not fit together, cannot be rebuilt or saved, or have the wrong output shape.
    """
    n_cells, n_genes = x.shape
    taken = set(RESERVED)
    for name, layers in (("encoder_layers", encoder_layers), ("decoder_layers", decoder_layers)):
        if layers is not None and not isinstance(layers, (list, tuple)):
            raise TypeError(f"{name} must be a list of Keras layers, got {type(layers).__name__}.")
    with seeded_layers(seed):
        encoder = _encoder_layers(encoder_layers, n_genes, n_cells, taken)
        decoder = _decoder_layers(decoder_layers, likelihood, n_genes, n_cells, level_cells, n_basis, taken)
        expression = keras.Input((n_genes,), name="expression")
        width = len(level_cells) + n_basis
        condition = keras.Input((width,), name="condition") if width else None
        hidden = expression
        if likelihood.scaling_in_network:
            normalize = Normalize(likelihood.counts, name="normalize")
            hidden = normalize(hidden)
            normalize.start(x, summary)
        hidden = join(hidden, condition, "expression_and_condition")
        for layer in encoder:
            hidden = _apply(layer, hidden, "encoder_layers")
        _check_flat(hidden, "encoder_layers")
        z_mean = keras.layers.Dense(latent_dim, name="z_mean")(hidden)
        # start with unit standard deviations: the exponential of large initial values would dominate the loss
        z_log_stddev = keras.layers.Dense(
            latent_dim, activation=bounded, kernel_initializer="zeros", name="z_log_stddev"
        )(hidden)
        latent = Sampling(seed, name="latent")([z_mean, z_log_stddev])
        # the user's layers may combine the latent vector and the conditions nonlinearly
        joined = bool(decoder_layers) or not isinstance(decoder[-1], Head)
        hidden = join(latent, condition, "latent_and_condition") if joined else latent
        for layer in decoder:
            hidden = _apply(layer, hidden, "decoder_layers", condition)
        if likelihood.last_layer_is_output:
            _check_flat(hidden, "decoder_layers")
            if hidden.shape[-1] != n_genes:
                raise ValueError(
                    f"The last of decoder_layers must have as many units as genes under likelihood "
                    f"{likelihood.name!r} ({n_genes:,}), got {hidden.shape[-1]:,}."
                )
        likelihood.start(decoder[-1], x, summary)
        return VAE(
            as_inputs(expression, condition),
            {"output": hidden, "z_mean": z_mean, "z_log_stddev": z_log_stddev},
            likelihood=likelihood,
            regularization=regularization,
            decoder_layers=[layer.name for layer in decoder],
            joined=joined,
            name="vae",
        )


def _encoder_layers(
    layers: Sequence[keras.layers.Layer] | None, n_genes: int, n_cells: int, taken: set[str]
) -> list[keras.layers.Layer]:
    if layers is None:
        layers = default_layers(n_cells, "encoder")
    elif len(layers) and _is_input(layers[0]):
        shape = tuple(layers[0].shape[1:] if hasattr(layers[0], "shape") else layers[0].batch_shape[1:])
        if shape != (n_genes,):
            raise ValueError(
                f"The keras.Input of encoder_layers must have the shape ({n_genes},), got {shape}."
            )
        layers = layers[1:]
    return rebuild_layers(layers, "encoder_layers", taken)


def _is_input(layer: Any) -> bool:
    return isinstance(layer, (keras.KerasTensor, keras.layers.InputLayer))


def _decoder_layers(
    layers: Sequence[keras.layers.Layer] | None,
    likelihood: Likelihood,
    n_genes: int,
    n_cells: int,
    level_cells: Sequence[int],
    n_basis: int,
    taken: set[str],
) -> list[keras.layers.Layer]:
    given = default_layers(n_cells, "decoder") if layers is None else layers
    hidden = rebuild_layers(given, "decoder_layers", taken)
    if layers is not None and likelihood.last_layer_is_output:
        return hidden
    return [*hidden, likelihood.head(n_genes, n_cells, level_cells, n_basis=n_basis)]


def _apply(layer: keras.layers.Layer, hidden: Any, argument: str, condition: Any = None) -> Any:
    try:
        return call_layer(layer, hidden, condition)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{argument} must fit together, but {layer.name!r} ({type(layer).__name__}) does not accept the "
            f"shape {tuple(hidden.shape)}: {reason(error)}"
        ) from error


def _check_flat(hidden: Any, argument: str) -> None:
    if not hasattr(hidden, "shape") or len(hidden.shape) != 2 or hidden.shape[-1] is None:
        raise ValueError(
            f"{argument} must end in a layer with output of shape (n_cells, units), "
            f"got {tuple(getattr(hidden, 'shape', ()))}. Add keras.layers.Flatten()."
        )
