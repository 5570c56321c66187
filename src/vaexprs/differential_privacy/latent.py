"""Release the latent density with differential privacy, from noisy moments."""

from __future__ import annotations

import numpy as np
import pandas as pd

from vaexprs.differential_privacy.marginals import Marginals, all_combinations, combination_of
from vaexprs.differential_privacy.mechanisms import Sums, Units
from vaexprs.differential_privacy.randomness import Randomness
from vaexprs.latent.density import LatentDensity
from vaexprs.preprocessing.conditions import Conditions

IN_MEAN, IN_MOMENT = 0.5, 0.5  # shares of the squared sensitivity for sums of points and second moments
RADIUS = 1.5  # maximum norm of a point, times the square root of its number of dimensions
MAX_COORDINATE = 1e6  # limit of coordinates, so that norms of points can be computed
MIN_VARIANCE = 0.05  # minimum variance of the latent density in any direction


def density_sums(points: np.ndarray, combination: np.ndarray, n: int, units: Units) -> Sums:
    """Return the sums that determine a density: sums of points per combination, and second moments.

    Parameters
    ----------
    points
        Points with a norm of at most 1, (n_cells, n_dims).
    combination
        Index of each cell's combination of levels, (n_cells,); -1 to leave a cell out.
    n
        Number of combinations.
    units
        Privacy unit of each cell.
    """
    codes = np.zeros((len(points), n))
    known = combination >= 0
    codes[known, combination[known]] = units.weights[known]
    moment = (points * codes.sum(axis=1)[:, None]).T @ points
    upper, factors = _upper(len(moment))
    products = moment[upper] * factors
    return Sums((codes.T @ points, products), (IN_MEAN, IN_MOMENT))


def _upper(d: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Return the indices of the upper triangle of a symmetric matrix, and a factor for each entry.

    Entries off the diagonal occur twice; released once, times the square root of 2, the norm is the same.
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
    randomness: Randomness,
) -> LatentDensity:
    """Return a latent density: a normal distribution for each combination of levels, with one covariance.

    A point is a latent vector followed by the standardised log library size. Norms are clipped to 1.5 times
    the square root of the number of dimensions. The numbers of cells are those of the marginals. Means and
    covariance are shrunk towards those of the standard normal prior of the model, the more so the larger the
    noise is.

    Parameters
    ----------
    latent
        A sample from the posterior of each cell, (n_cells, latent_dim).
    library
        Library size of each cell, (n_cells,).
    obs, conditions
        Levels of each cell, and all levels.
    marginals
        The released marginals, from which the combinations and the range of library sizes are taken.
    units
        Privacy unit of each cell.
    nominal
        Total number of cells to distribute over the combinations.
    multiplier
        Noise multiplier.
    randomness
        Source of the noise.
    """
    middle, spread = marginals.library_middle, marginals.library_spread
    points = np.column_stack([latent, (np.log(library) - middle) / spread])
    points = np.clip(np.nan_to_num(points), -MAX_COORDINATE, MAX_COORDINATE)
    d = points.shape[1]
    radius = RADIUS * np.sqrt(d)
    points = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), radius)
    released = {tuple(levels.items()): k for k, levels in enumerate(marginals.combinations)}
    index = np.array([released.get(tuple(levels.items()), -1) for levels in all_combinations(conditions)])
    sums = density_sums(points, index[combination_of(obs, conditions)], len(released), units)
    (totals, products), (noise, moment_noise) = sums.with_noise(multiplier, randomness)
    share = marginals.share
    cells = share * marginals.units
    means = _shrink_to_prior(totals / cells[:, None], noise / cells, share)
    upper, factors = _upper(d)
    moment = np.zeros((d, d))
    moment[upper] = products / factors / marginals.units
    moment = moment + np.triu(moment, 1).T
    excess = (moment - (means.T * share) @ means) * radius**2 - np.eye(d)
    # every entry of the square matrix counts: those off the diagonal occur twice, with half the variance
    noise_of_all = (moment_noise * radius**2 / marginals.units) ** 2 * len(factors)
    values, vectors = np.linalg.eigh(np.eye(d) + _kept((excess**2).sum(), noise_of_all) * excess)
    covariance = (vectors * np.maximum(values, MIN_VARIANCE)) @ vectors.T
    scale = np.append(np.ones(d - 1), spread)
    centre = np.append(np.zeros(d - 1), middle)
    return LatentDensity.normal(
        conditions,
        marginals.combinations,
        np.maximum(np.round(share * nominal), 1).astype(int),
        centre + radius * means * scale,
        covariance * np.outer(scale, scale),
    )


def _kept(squares: float, noise: float) -> float:
    """Return the factor that shrinks values towards 0, given their sum of squares and that of the noise."""
    return max(1 - noise / squares, 0.0) if squares > 0 else 0.0


def _shrink_to_prior(means: np.ndarray, noise: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return noisy means shrunk towards their weighted mean, and this towards 0.

    Parameters
    ----------
    means
        Noisy means, (n, n_dims).
    noise
        Standard deviation of the noise of each mean, (n,).
    share
        Weight of each mean, (n,), with sum 1.
    """
    overall = share @ means
    between = max(float(share @ (((means - overall) ** 2).mean(axis=1) - noise**2)), 0.0)
    kept = _kept(float(overall @ overall), float(((share * noise) ** 2).sum() * len(overall)))
    return kept * overall + (means - overall) * (between / (between + noise**2))[:, None]
