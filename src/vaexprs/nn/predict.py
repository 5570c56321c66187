"""Run a network over many cells in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np

from vaexprs.data.backed import BackedMatrix
from vaexprs.data.matrix import Matrix, densify
from vaexprs.preprocessing.conditions import LevelCodes

if TYPE_CHECKING:
    from vaexprs.nn.vae import VAE


def predict(
    model: keras.Model,
    x: Matrix | BackedMatrix,
    codes: np.ndarray | LevelCodes | None,
    batch_size: int = 256,
) -> list[np.ndarray]:
    """Return a model's outputs for prepared cells as a flat list of arrays, one batch in memory at a time."""
    parts = []
    for first in range(0, x.shape[0], batch_size):
        rows = slice(first, first + batch_size)
        parts.append(
            _predict_block(model, densify(x[rows]), None if codes is None else codes[rows], batch_size)
        )
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def _predict_block(
    model: keras.Model, x: np.ndarray, codes: np.ndarray | None, batch_size: int
) -> list[np.ndarray]:
    # pad to one block size: XLA compiles once, and results do not depend on the other cells of a block
    short = batch_size - len(x)
    padded = [np.pad(part, ((0, short), (0, 0))) for part in (x, codes) if part is not None]
    outputs = model.predict_on_batch(padded if len(padded) == 2 else padded[0])
    return [np.asarray(part)[: len(x)] for part in keras.tree.flatten(outputs)]


def posterior(model: VAE) -> keras.Model:
    """Return the encoder to the means and log standard deviations of latent vectors."""
    return keras.Model(
        model.input, [model.get_layer("z_mean").output, model.get_layer("z_log_stddev").output]
    )


def encode(
    encoder: keras.Model, x: Matrix | BackedMatrix, codes: np.ndarray | LevelCodes | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return posterior mean and standard deviation of prepared cells, each (n_cells, latent_dim).

    `encoder` is what `posterior` returns.
    """
    mean, log_stddev = predict(encoder, x, codes)
    return mean.astype(np.float64), np.exp(log_stddev.astype(np.float64))
