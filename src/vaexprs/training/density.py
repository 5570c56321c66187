"""Fit the latent density of a trained model."""

from __future__ import annotations

import keras
import numpy as np

from vaexprs.data.backed import BackedMatrix, library_sizes
from vaexprs.data.matrix import Matrix, densify
from vaexprs.latent.density import LatentDensity, chosen_rows, fit_density, groups_of
from vaexprs.nn.predict import encode, predict
from vaexprs.nn.vae import NOISE_CELLS, VAE
from vaexprs.preprocessing.prepare import Cells, Preprocessing


def fit_latent_density(model: VAE, prepared: Preprocessing, seed: int) -> LatentDensity:
    """Encode the training cells and fit the latent density of each condition.

    Parameters
    ----------
    model
        Trained.
    prepared
        With its training cells. Of a matrix on disk only the rows that the density uses are read.
    seed
        Seed of the choice of cells and of the density.

    Raises
    ------
    ValueError
        If the encoder's output is not finite.
    """
    cells = prepared.train
    assert cells is not None
    groups = groups_of(cells.obs, prepared.conditions)
    sizes = np.array([len(rows) for rows in groups.values()])
    codes = prepared.codes_train
    x = cells.x
    if isinstance(x, BackedMatrix):
        rows = np.sort(np.concatenate(list(chosen_rows(groups, seed).values())))
        x, codes = x.take(rows), None if codes is None else codes.take(rows)
        cells = Cells(x, cells.obs.iloc[rows])
    mean, sd = encode(model, cells, None if codes is None else codes[:])
    if not np.isfinite(mean).all() or not np.isfinite(sd).all():
        raise ValueError(
            "Training diverged: the encoder's output is not finite. Try a smaller learning rate: "
            "optimizer=keras.optimizers.Adam(1e-4)."
        )
    if not model.likelihood.counts:
        return fit_density(mean, sd, None, cells.obs, prepared.conditions, seed=seed, sizes=sizes)
    decoder = model.decoder()
    if model.likelihood.robust:
        library = _library_sizes(model, decoder, x, None if codes is None else codes[:], mean)
    else:
        library = library_sizes(x)

    rng = np.random.default_rng(seed)

    def noise(rows: np.ndarray) -> tuple[float, float]:
        rows = rows[:NOISE_CELLS]
        code = None if codes is None else codes[rows]
        return model.noise_of_totals(decoder, mean[rows], code, library[rows], rng)

    return fit_density(
        mean,
        sd,
        np.log(library),
        cells.obs,
        prepared.conditions,
        seed=seed,
        sizes=sizes,
        library_noise=noise,
    )


def _library_sizes(
    model: VAE, decoder: keras.Model, x: Matrix, codes: np.ndarray | None, mean: np.ndarray
) -> np.ndarray:
    """Return the total counts of each cell, (n_cells,), with outlying counts replaced by their means."""
    library = np.empty(len(mean))
    for first in range(0, len(mean), NOISE_CELLS):
        rows = slice(first, first + NOISE_CELLS)
        code = None if codes is None else codes[rows]
        parts = predict(decoder, mean[rows].astype(np.float32), code, NOISE_CELLS)
        output = keras.tree.pack_sequence_as(decoder.output, parts)
        kept = model.likelihood.without_outliers(densify(x[rows]), output)
        library[rows] = kept.sum(axis=1, dtype=np.float64)
    return library
