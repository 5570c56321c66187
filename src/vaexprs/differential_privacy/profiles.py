"""Mean profiles of levels, as deviations from the overall profile, and their estimates from noisy sums."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.special import softmax
from scipy.stats import norm, poisson

from vaexprs.data.backed import BackedMatrix, library_sizes
from vaexprs.data.matrix import Matrix
from vaexprs.differential_privacy.mechanisms import Sums, Units
from vaexprs.preprocessing.conditions import Conditions

BLOCK_VALUES = 2**22  # maximum number of values of a block of cells
MIN_OF_OVERALL = 0.02  # minimum of a level's expression of a gene, as a fraction of the overall expression
# standard deviations of the prior of deviations, relative to each other; equally likely
PRIOR_SCALES = np.array([1 / 3, 1, 3])
SMALL_MEANS = np.geomspace(1e-6, 200, 2_000)  # Poisson means with a tabulated expected square root


def square_roots(x: Matrix) -> Matrix:
    """Return the square roots of the gene proportions of cells that have counts, in float64."""
    library = library_sizes(x)
    if sp.issparse(x):
        return sp.csr_matrix(sp.diags(1 / np.sqrt(library)) @ x.astype(np.float64).sqrt())
    return np.sqrt(x.astype(np.float64) / library[:, None])


def profile_sum(
    x: Matrix | BackedMatrix, obs: pd.DataFrame, conditions: Conditions, units: Units
) -> np.ndarray:
    """Return the sum over units of mean profiles, clipped to the norm `Units.profile` and divided by it.

    The mean profile of a unit is that over its levels of the first key, which have equal weights.
    """
    total = np.zeros(x.shape[1])
    first = conditions.columns(obs)[:, 0] if conditions.levels else np.zeros(len(obs), int)
    for rows, of, roots in _unit_blocks(x, units):
        unit, of_level = _groups(of, first[rows], conditions.width + 1)
        means = _means(_means(roots, of_level), unit)
        total += (means / np.maximum(_norms(means), units.profile)[:, None]).sum(axis=0)
    return total


def deviation_sums(
    x: Matrix | BackedMatrix,
    obs: pd.DataFrame,
    conditions: Conditions,
    units: Units,
    overall: np.ndarray,
    share: float,
) -> Sums:
    """Return for each key the sums of the deviations of levels from the overall profile.

    A unit contributes for each of its levels the mean profile of its cells with this level minus the mean
    over its other levels, times 1 - 1/n for n levels of the key: with all levels that is the deviation from
    the mean over them. With one level only it is the deviation from the overall profile. The contributions to
    the levels of a key are together clipped to the norm `Units.deviation` and divided by it.

    Parameters
    ----------
    x, obs, conditions, units
        See `marginal_sums`.
    overall
        Released mean of the square roots of proportions, (n_genes,).
    share
        Share of the squared sensitivity for all keys.
    """
    columns = conditions.columns(obs)
    levels = [len(names) for names in conditions.levels.values()]
    firsts = np.cumsum([0, *levels[:-1]])
    totals = tuple(np.zeros((n, x.shape[1])) for n in levels)
    for rows, of, roots in _unit_blocks(x, units):
        for key, n in enumerate(levels):
            level_of_row = columns[rows, key] - firsts[key]
            unit, of_group = _groups(of, level_of_row, n)
            level = np.zeros(len(unit), int)
            level[of_group] = level_of_row
            number = np.bincount(unit)
            several = number > 1
            of_levels = _means(roots, of_group)
            centre = np.where(several[:, None], _means(of_levels, unit), overall)
            from_others = np.where(several, number / np.maximum(number - 1, 1) * (1 - 1 / n), 1.0)
            deviation = (of_levels - centre[unit]) * from_others[unit, None]
            norms = np.sqrt(np.bincount(unit, _norms(deviation) ** 2))
            factor = 1 / np.maximum(norms, units.deviation(n))[unit]
            to_levels = sp.csr_matrix((factor, (level, np.arange(len(unit)))), (n, len(unit)))
            totals[key][:] += to_levels @ deviation
    return Sums(totals, (share / len(levels),) * len(levels))


def _groups(of: np.ndarray, level: np.ndarray, n_levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the unit of each pair of a unit and one of its levels, and the pair of each row."""
    pairs, of_pair = np.unique(of * n_levels + level, return_inverse=True)
    return pairs // n_levels, of_pair


def _means(x: Matrix, of: np.ndarray) -> np.ndarray:
    """Return the mean of the rows of each group, given the group of each row from 0 without gaps."""
    weights = 1 / np.bincount(of)[of]
    means = sp.csr_matrix((weights, (of, np.arange(len(of))))) @ x
    return np.asarray(means.toarray() if sp.issparse(means) else means)


def _norms(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(x, axis=1))


def _unit_blocks(x: Matrix | BackedMatrix, units: Units) -> Iterator[tuple[np.ndarray, np.ndarray, Matrix]]:
    """Yield rows, the unit of each (from 0 without gaps) and square roots, of several units at a time."""
    order = np.argsort(units.of, kind="stable")
    ends = np.cumsum(np.bincount(units.of, minlength=units.n))
    most, first = max(BLOCK_VALUES // x.shape[1], 1), 0
    while first < len(order):
        last = int(ends[np.searchsorted(ends, min(first + most, len(order)))])
        rows = np.sort(order[first:last])
        first = last
        block = x.take(rows) if isinstance(x, BackedMatrix) else x[rows]
        yield rows, np.unique(units.of[rows], return_inverse=True)[1], square_roots(block)


def positive_means(values: np.ndarray, noise: float) -> np.ndarray:
    """Return posterior means of nonnegative values from noisy ones, with an exponential prior."""
    mean = max(values.mean(), noise / np.sqrt(len(values)))
    centre = values - noise**2 / mean
    z = centre / noise
    # mean of a normal distribution truncated at 0; below z = -30, where the ratio is 0 / 0, its asymptote
    tail = np.where(
        z > -30, z + np.exp(norm.logpdf(z) - norm.logcdf(np.maximum(z, -30))), -1 / np.minimum(z, -1)
    )
    return noise * np.asarray(tail)


def shrunken_levels(deviations: np.ndarray, overall: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return the profiles of levels from noisy deviations, shrunk towards 0: posterior means.

    The prior of a deviation is a mixture of normal distributions with standard deviations proportional to the
    overall value: most genes hardly differ between levels, and few differ much. The variance of the mixture
    is estimated for each level from all genes.

    Parameters
    ----------
    deviations
        Noisy deviations from the overall profile, (n_levels, n_genes).
    overall
        Overall profile, (n_genes,).
    noise
        Standard deviation of the noise for each level, (n_levels,).
    """
    excess = (deviations**2).sum(axis=1) - deviations.shape[1] * noise**2
    variance = np.maximum(excess / (overall**2).sum(), 0.0)[:, None] * overall**2
    prior = (PRIOR_SCALES**2 / np.mean(PRIOR_SCALES**2))[:, None, None] * variance
    total = prior + noise[:, None] ** 2
    weights = softmax(norm.logpdf(deviations, scale=np.sqrt(total)), axis=0)
    kept = (weights * prior / total).sum(axis=0)
    return np.asarray(np.maximum(overall + kept * deviations, MIN_OF_OVERALL * overall))


def proportions_of(roots: np.ndarray, depth: float) -> np.ndarray:
    """Return gene proportions, with sum 1, from expected square roots of Poisson proportions."""
    expected = _expected_roots()
    scaled = roots * np.sqrt(depth)
    means = np.where(scaled < expected[-1], np.interp(scaled, expected, SMALL_MEANS), scaled**2 + 0.25)
    return np.asarray(means / means.sum())


@lru_cache(maxsize=1)
def _expected_roots() -> np.ndarray:
    """Return the expected square root of a Poisson count for each mean of `SMALL_MEANS`."""
    counts = np.arange(400)
    return np.asarray(poisson.pmf(counts, SMALL_MEANS[:, None]) @ np.sqrt(counts))
