"""Noisy moments of the latent space."""

from __future__ import annotations

import numpy as np
import pandas as pd

from vaexprs.differential_privacy.marginals import Marginals, all_combinations, combination_of, log_library
from vaexprs.differential_privacy.mechanisms import Sums, Units
from vaexprs.latent.density import LatentDensity
from vaexprs.preprocessing.conditions import Conditions

IN_CELLS, IN_MEAN, IN_MOMENT = 0.2, 0.4, 0.4
RADIUS = 1.5  # of a latent vector, times the square root of its dimensions: longer ones are shortened
MIN_VARIANCE = 0.05  # of the latent density in any direction


def density_sums(points: np.ndarray, combination: np.ndarray, n: int, units: Units) -> Sums:
    """Return what a density is made of: units by combination, sums of their points, products of coordinates.

    Parameters
    ----------
    points
        Of length at most one, (n_cells, n_dims).
    combination
        Number of each cell's combination; -1 for one that is not looked at.
    n
        Number of combinations.
    units
        Whom the cells are of.
    """
    codes = np.zeros((len(points), n))
    known = combination >= 0
    codes[known, combination[known]] = units.weights[known]
    moment = (points * codes.sum(axis=1)[:, None]).T @ points
    upper, factors = _upper(len(moment))
    products = moment[upper] * factors
    return Sums((codes.sum(axis=0), codes.T @ points, products), (IN_CELLS, IN_MEAN, IN_MOMENT))


def _upper(d: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Return which entries of a symmetric matrix are told, and the factor of each.

    One off the diagonal is there twice: told once, times the root of two, the length is the same.
    """
    rows, columns = np.triu_indices(d)
    return (rows, columns), np.where(rows == columns, 1, np.sqrt(2))


def release_density(
    latent: np.ndarray,
    library: np.ndarray,
    obs: pd.DataFrame,
    conditions: Conditions,
    marginals: Marginals,
    units: Units,
    nominal: int,
    multiplier: float,
    rng: np.random.Generator,
) -> LatentDensity:
    """Return a latent density: a normal distribution for each combination of levels, with one covariance.

    A point is a latent vector with the logarithm of the library size beside it; longer ones than 1.5 times
    the root of their dimensions are shortened.

    Parameters
    ----------
    latent
        A draw from the posterior of each cell, (n_cells, latent_dim).
    library
        Library size of each cell, (n_cells,).
    obs, conditions
        Levels of each cell, and those there are.
    marginals
        What was released before: it tells where library sizes are, and which combinations there are.
    units
        Whom the cells are of.
    nominal
        Number of cells that all units together count for.
    multiplier
        Noise multiplier.
    rng
        Source of the noise.
    """
    middle, spread = log_library(marginals.bins)
    points = np.nan_to_num(np.column_stack([latent, (np.log(library) - middle) / spread]))
    d = points.shape[1]
    radius = RADIUS * np.sqrt(d)
    points = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), radius)
    places = {tuple(levels.items()): k for k, levels in enumerate(marginals.combinations)}
    order = np.array([places.get(tuple(levels.items()), -1) for levels in all_combinations(conditions)])
    sums = density_sums(points, order[combination_of(obs, conditions)], len(places), units)
    (cells, totals, products), (_, noise, _) = sums.with_noise(multiplier, rng)
    cells = np.maximum(cells, 1.0)
    share = cells / cells.sum()
    means = _drawn_together(totals / cells[:, None], noise / cells, share)
    upper, factors = _upper(d)
    moment = np.zeros((d, d))
    moment[upper] = products / factors / cells.sum()
    moment = moment + np.triu(moment, 1).T
    values, vectors = np.linalg.eigh((moment - (means.T * share) @ means) * radius**2)
    covariance = (vectors * np.maximum(values, MIN_VARIANCE)) @ vectors.T
    units_of_axes = np.append(np.ones(d - 1), spread)
    centre = np.append(np.zeros(d - 1), middle)
    return LatentDensity.normal(
        conditions,
        marginals.combinations,
        np.maximum(np.round(share * nominal), 1).astype(int),
        centre + radius * means * units_of_axes,
        covariance * np.outer(units_of_axes, units_of_axes),
    )


def _drawn_together(means: np.ndarray, noise: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return noisy means, (n, n_dims), drawn towards their mean by what noise makes of their differences.

    Parameters
    ----------
    means
        (n, n_dims).
    noise
        Standard deviation of the noise of each, (n,).
    share
        Weight of each, (n,), with sum 1.
    """
    overall = share @ means
    between = max(float(share @ (((means - overall) ** 2).mean(axis=1) - noise**2)), 0.0)
    return overall + (means - overall) * (between / (between + noise**2))[:, None]
