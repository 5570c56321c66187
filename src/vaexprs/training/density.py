"""Fit the latent density of a trained model."""

from __future__ import annotations

import numpy as np

from vaexprs.data.backed import BackedMatrix, library_sizes
from vaexprs.latent.density import LatentDensity, chosen_rows, fit_density, groups_of
from vaexprs.nn.predict import encode
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
    library = library_sizes(x)
    decoder = model.decoder()

    def noise(rows: np.ndarray) -> float:
        rows = rows[:NOISE_CELLS]
        code = None if codes is None else codes[rows]
        return model.noise_of_totals(decoder, mean[rows], code, library[rows])

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
