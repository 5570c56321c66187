"""Fit the latent density of a trained model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pandas as pd

from vaexprs.data.backed import BackedMatrix, library_sizes
from vaexprs.data.matrix import Matrix, densify, stacked
from vaexprs.interface.progress import DELAY, progress_bar
from vaexprs.latent.density import LatentDensity, chosen_rows, fit_density, groups_of, without_continuous
from vaexprs.latent.donors import DonorCounts, DonorEffects, donor_effects, fit_donor_shifts
from vaexprs.likelihoods.count_base import CountLikelihood
from vaexprs.nn.compilation import compiled
from vaexprs.nn.predict import encode, posterior, predict
from vaexprs.nn.vae import NOISE_CELLS, VAE
from vaexprs.preprocessing.conditions import LevelCodes
from vaexprs.preprocessing.prepare import Cells, Preprocessing

AT_ONCE = 16 * 256  # cells that are in memory at once, in blocks of the encoder


def fit_latent_density(
    model: VAE, prepared: Preprocessing, seed: int, *, shown: bool = False
) -> tuple[LatentDensity, DonorEffects | None]:
    """Encode the training cells and fit the latent density of each condition, and the effects of donors.

    Parameters
    ----------
    model
        Trained.
    prepared
        With its training cells. Of a matrix on disk only the rows that the density uses are read.
    seed
        Seed of the choice of cells and of the density.
    shown
        Whether to show a progress bar if it takes longer than some seconds.

    Raises
    ------
    ValueError
        If the encoder's output is not finite.
    """
    whole = prepared.train
    assert whole is not None
    cells, groups, codes = whole, groups_of(whole.obs, prepared.conditions), prepared.codes_train
    sizes = np.array([len(rows) for rows in groups.values()])
    decoder = model.folded_decoder()
    if isinstance(whole.x, BackedMatrix):
        rows = np.sort(np.concatenate(list(chosen_rows(groups, seed).values())))
        cells, codes = whole.keep(rows), None if codes is None else codes.take(rows)
    mean, sd, library, x = _encoded(model, decoder, cells, codes, prepared.donor_key is not None, shown)
    if not model.likelihood.counts:
        return fit_density(mean, sd, None, cells.obs, prepared.conditions, seed=seed, sizes=sizes), None

    rng = np.random.default_rng(seed)

    def noise(rows: np.ndarray) -> tuple[float, float]:
        rows = rows[:NOISE_CELLS]
        code = None if codes is None else codes[rows]
        return model.noise_of_totals(decoder, mean[rows], code, library[rows], rng)

    values, donors = np.column_stack([mean, np.log(library)]), None
    if prepared.donor_key is not None:
        of = [_donors_and_groups(part.obs, prepared) for part in (whole, cells)]
        names = whole.obs[prepared.donor_key].cat.categories
        n_cells = np.zeros((len(names), len(groups)), int)
        np.add.at(n_cells, of[0], 1)
        donor, group = of[1]
        assert x is not None
        rest = values
        if prepared.conditions.continuous:
            rest = without_continuous(values, cells.obs, prepared.conditions)[1]
        shifts = fit_donor_shifts(rest, donor, group, *n_cells.shape)
        counts = _donor_counts(model, decoder, x, codes, values, sd, of[1], n_cells.shape, seed)
        donors = donor_effects(prepared.donor_key, list(names), n_cells, shifts, counts, seed)
        donors = donors.with_values(_values_of_donors(whole.obs, prepared))
        values = values - shifts[0][donor, group]
    density = fit_density(
        values[:, :-1],
        sd,
        values[:, -1],
        cells.obs,
        prepared.conditions,
        seed=seed,
        sizes=sizes,
        library_noise=noise,
    )
    return density, donors


def _donors_and_groups(obs: pd.DataFrame, prepared: Preprocessing) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of the donor and of the group of each cell."""
    group = np.empty(len(obs), int)
    for i, rows in enumerate(groups_of(obs, prepared.conditions).values()):
        group[rows] = i
    return obs[prepared.donor_key].cat.codes.to_numpy().astype(int), group


def _values_of_donors(obs: pd.DataFrame, prepared: Preprocessing) -> pd.DataFrame:
    """Return the continuous covariates that are constant within donors, with a row for each donor."""
    by_donor = obs.groupby(prepared.donor_key, observed=True)[list(prepared.conditions.continuous)]
    return by_donor.first().loc[:, (by_donor.nunique() == 1).all()]


def _donor_counts(
    model: VAE,
    decoder: keras.Model,
    x: Matrix,
    codes: LevelCodes | None,
    values: np.ndarray,
    sd: np.ndarray,
    of: tuple[np.ndarray, np.ndarray],
    shape: tuple[int, int],
    seed: int,
) -> DonorCounts:
    """Return observed and expected counts of each donor and group, with latent vectors from the posterior."""
    likelihood, rng = model.likelihood, np.random.default_rng(seed)
    assert isinstance(likelihood, CountLikelihood)
    clean = compiled(likelihood.without_outliers)
    totals = np.zeros((4, *shape, x.shape[1]), np.float32)
    dispersion = np.zeros((shape[1], x.shape[1]), np.float32)
    for first in range(0, len(values), NOISE_CELLS):
        rows = slice(first, first + NOISE_CELLS)
        z = values[rows, :-1] + sd[rows] * rng.standard_normal(sd[rows].shape)
        parts = predict(decoder, z.astype(np.float32), None if codes is None else codes[rows], NOISE_CELLS)
        output = keras.tree.pack_sequence_as(decoder.output, parts)
        moments = likelihood.moments(output, np.exp(values[rows, -1:]))
        dispersion[of[1][rows]] = 1 / likelihood.parameters(output, len(z))[1]
        observed = np.asarray(clean(densify(x[rows]), output))
        pair = (of[0][rows], of[1][rows])
        for total, part in zip(totals, (observed, *moments), strict=True):
            np.add.at(total, pair, part)
    observed, expected, variance, squares = totals
    return DonorCounts(observed, expected, variance, squares, dispersion)


def _encoded(
    model: VAE,
    decoder: keras.Model,
    cells: Cells,
    codes: LevelCodes | None,
    keep: bool,
    shown: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Matrix | None]:
    """Return posterior means and standard deviations and library sizes of cells, read once part by part.

    The values of the cells are returned too if `keep`, else None.
    """
    encoder, clean = posterior(model), compiled(model.likelihood.without_outliers)
    means, sds, libraries, kept = [], [], [], []
    with progress_bar(len(cells), "latent density", "cell", shown=shown, delay=DELAY) as bar:
        for first in range(0, len(cells), AT_ONCE):
            rows = slice(first, first + AT_ONCE)
            x, code = cells.x[rows], None if codes is None else codes[rows]
            mean, sd = encode(encoder, x, code)
            if not np.isfinite(mean).all() or not np.isfinite(sd).all():
                raise ValueError(
                    "Training diverged: the encoder's output is not finite. Try a smaller learning rate: "
                    "optimizer=keras.optimizers.Adam(1e-4)."
                )
            means.append(mean)
            sds.append(sd)
            if model.likelihood.robust:
                libraries.append(_library_sizes(clean, decoder, x, code, mean))
            else:
                libraries.append(library_sizes(x))
            if keep:
                kept.append(x)
            bar.update(len(mean))
    library = np.concatenate(libraries)
    return np.concatenate(means), np.concatenate(sds), library, stacked(kept) if keep else None


def _library_sizes(
    clean: Callable[[Any, Any], Any],
    decoder: keras.Model,
    x: Matrix,
    codes: np.ndarray | None,
    mean: np.ndarray,
) -> np.ndarray:
    """Return the total counts of each cell, (n_cells,), with outlying counts replaced by their means.

    `clean` is the compiled `without_outliers` of the likelihood.
    """
    library = np.empty(len(mean))
    for first in range(0, len(mean), NOISE_CELLS):
        rows = slice(first, first + NOISE_CELLS)
        parts = [np.asarray(mean[rows], np.float32), densify(x[rows])]
        parts += [] if codes is None else [codes[rows]]
        short = NOISE_CELLS - len(parts[0])  # one size of block, which is compiled once
        z, values, *code = (np.pad(part, ((0, short), (0, 0))) for part in parts)
        outputs = predict(decoder, z, code[0] if code else None, NOISE_CELLS)
        cleaned = np.asarray(clean(values, keras.tree.pack_sequence_as(decoder.output, outputs)))
        library[rows] = cleaned[: NOISE_CELLS - short].sum(axis=1, dtype=np.float64)
    return library
