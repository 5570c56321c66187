"""Compute each cell separately, and refuse layers that let one cell influence another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from vaexprs.data.backed import BackedMatrix
from vaexprs.data.matrix import Matrix, densify
from vaexprs.nn.predict import posterior
from vaexprs.nn.vae import VAE
from vaexprs.preprocessing.conditions import LevelCodes

CELLS = 6  # number of cells in the test of independence
BATCH = 256  # number of cells encoded at once
OUTLIER = 1e5  # counts of the outlying cell in the test of independence
# relative difference between the results of one cell beside two different neighbours that is rounding error
TOLERANCE = 1e-5


def check_precision(layers: Sequence[Any] = ()) -> None:
    """Check that Keras and the layers compute in float32.

    Raises
    ------
    ValueError
        If a policy or a layer uses another type, such as bfloat16: sums of clipped gradients would have
        rounding errors that the noise does not cover.
    """
    policy, float_type = keras.config.dtype_policy().name, keras.config.floatx()
    if (policy, float_type) != ("float32", "float32"):
        raise ValueError(
            "A fit with privacy must compute in float32, got the Keras policy "
            f"{policy if policy != 'float32' else float_type!r}. Try "
            "keras.config.set_floatx('float32') and keras.config.set_dtype_policy('float32')."
        )
    for layer in layers:
        other = {layer.compute_dtype, layer.variable_dtype} - {"float32"}
        if other:
            raise ValueError(
                f"Layers must compute in float32 in a fit with privacy, got {sorted(other)[0]} in "
                f"{layer.name!r}. Create the layer with dtype='float32'."
            )


def check_independence(model: VAE, cells: np.ndarray, codes: np.ndarray) -> None:
    """Check that no output of the network for a cell depends on another cell of its batch.

    Single cells of a batch are replaced, also by an outlier, and gradients of a cell's outputs with respect
    to the other cells are computed, in training and in prediction.

    Parameters
    ----------
    model
        Untrained model.
    cells, codes
        Cells that are not private, (n_cells, n_genes), and their one-hot conditions, (n_cells, width).

    Raises
    ------
    ValueError
        If an output depends on another cell; the message names the first layer for which this holds.
    """
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    network = keras.Model(model.inputs, [keras.tree.flatten(layer.output) for layer in layers])
    inputs = [np.array(cells[:CELLS], np.float32)]
    if len(model.inputs) == 2:
        inputs.append(np.array(codes[:CELLS], np.float32))
    for training in (True, False):
        for cell in range(2):
            changed = [part.copy() for part in inputs]
            changed[0][cell] = 0
            changed[0][cell, cell % changed[0].shape[1]] = OUTLIER
            for part in changed[1:]:
                part[cell] = 1 - part[cell]
            _compare(network, layers, inputs, changed, cell, training=training)


def _compare(
    network: keras.Model,
    layers: Sequence[Any],
    inputs: list[np.ndarray],
    changed: list[np.ndarray],
    cell: int,
    *,
    training: bool,
) -> None:
    import jax

    state = [
        [variable.value for variable in part]
        for part in (network.trainable_variables, network.non_trainable_variables)
    ]
    n = len(inputs[0])
    rest = np.arange(n) != cell

    def outputs(values: Any) -> Any:
        given = values if len(values) > 1 else values[0]
        return network.stateless_call(*state, given, training=training)[0]

    before, gradients = jax.vjp(outputs, [jax.numpy.asarray(part) for part in inputs])
    after = outputs([jax.numpy.asarray(part) for part in changed])
    for i, (layer, own) in enumerate(zip(layers, before, strict=True)):
        for old, new in zip(own, after[i], strict=True):
            rows = len(old) == n
            if not rows or not _equal(np.asarray(old)[rest], np.asarray(new)[rest]):
                raise _mixing(layer)
    # the outputs of one cell must have no gradient with respect to the others
    every = set(range(len(layers)))
    if _reaches_others(gradients, before, every, cell):
        raise _mixing(
            next(
                (layer for i, layer in enumerate(layers) if _reaches_others(gradients, before, {i}, cell)),
                layers[-1],
            )
        )


def _reaches_others(gradients: Any, outputs: Any, of_layers: set[int], cell: int) -> bool:
    """Return whether outputs of layers for one cell have a gradient with respect to other cells."""
    seeds = [[np.zeros(part.shape, part.dtype) for part in own] for own in outputs]
    for i in of_layers:
        for part in seeds[i]:
            part[cell] = 1
    rest = [np.delete(np.asarray(part), cell, axis=0) for part in gradients(seeds)[0]]
    return any(np.nan_to_num(part).any() for part in rest)


def _equal(old: np.ndarray, new: np.ndarray) -> bool:
    scale = float(np.nanmax(np.abs(old), initial=1e-6))
    return np.allclose(old, new, rtol=0, atol=TOLERANCE * scale, equal_nan=True)


def _mixing(layer: keras.layers.Layer) -> ValueError:
    return ValueError(
        "encoder_layers and decoder_layers must compute each cell separately in a fit with privacy, got "
        f"{layer.name!r} ({type(layer).__name__}), whose output for a cell depends on other cells of the "
        "batch. Leave it out, or let it compute along the last axis (axis=-1)."
    )


def encode_separately(
    model: VAE, x: Matrix | BackedMatrix, codes: LevelCodes | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return posterior mean and standard deviation of prepared cells, each (n_cells, latent_dim).

    The encoder runs on each cell as a batch of one, so that no layer can combine cells.
    """
    import jax

    encoder = posterior(model)
    state = [
        [variable.value for variable in part]
        for part in (encoder.trainable_variables, encoder.non_trainable_variables)
    ]

    @jax.jit
    def encoded(*inputs: Any) -> Any:
        def one(*cell: Any) -> Any:
            batch = [part[None] for part in cell]
            values = batch if len(batch) == 2 else batch[0]
            return [part[0] for part in encoder.stateless_call(*state, values, training=False)[0]]

        return jax.vmap(one)(*inputs)

    parts = []
    for first in range(0, x.shape[0], BATCH):
        rows = slice(first, first + BATCH)
        block = [densify(x[rows]), *([] if codes is None else [codes[rows]])]
        n = len(block[0])
        padded = [np.pad(part, ((0, BATCH - n), (0, 0))) for part in block]
        parts.append([np.asarray(part, np.float64)[:n] for part in encoded(*padded)])
    if not parts:
        return np.zeros((0, model.latent_dim)), np.zeros((0, model.latent_dim))
    mean, log_stddev = (np.concatenate(part) for part in zip(*parts, strict=True))
    return mean, np.exp(log_stddev)
