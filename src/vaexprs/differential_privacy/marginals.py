"""Release marginals with differential privacy: cells per condition, library sizes and mean profiles."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy import ndimage
from scipy.stats import norm, poisson

from vaexprs.data.backed import BackedMatrix, library_sizes, row_blocks
from vaexprs.data.matrix import Matrix
from vaexprs.differential_privacy.mechanisms import Sums, Units
from vaexprs.differential_privacy.randomness import Randomness
from vaexprs.preprocessing.conditions import Conditions

# shares of the squared sensitivity for combinations of levels, library sizes and mean profiles
IN_COMBINATION, IN_LIBRARY, IN_PROFILE = 0.1, 0.1, 0.8
BINS = np.arange(0.0, 7.05, 0.1)  # edges of log10 library sizes: 1 to 10 million counts
# A number of units up to STANDOUT standard deviations of the noise counts as 0. A run of neighbouring bins
# must also have one above STANDOUT_OF_BINS: an empty bin of large library sizes would generate huge cells.
STANDOUT = 2.0
STANDOUT_OF_BINS = 4.0
MIN_SPREAD = 0.05  # minimum standard deviation of log library sizes
MIN_OF_OVERALL = 0.02  # minimum of a level's expression of a gene, as a fraction of the overall expression
START_DISPERSION = 5.0  # dispersion of the cells sampled from the marginals
SMALL_MEANS = np.geomspace(1e-6, 200, 2_000)  # Poisson means with a tabulated expected square root


@dataclass(frozen=True)
class Marginals:
    """Released marginals: frequencies of conditions, gene proportions and library sizes.

    Parameters
    ----------
    combinations
        Combinations of levels with more units than expected from noise, as dicts.
    share
        Fraction of the units in each combination, (n_combinations,), with sum 1.
    proportions
        Fraction of the counts in each gene, (n_genes,), with sum 1.
    effects
        Log fold change of the proportions for each one-hot column, (width, n_genes).
    bins
        Fraction of the cells in each bin of log10 library sizes, (n_bins,), with sum 1.
    """

    combinations: tuple[dict[str, str], ...]
    share: np.ndarray
    proportions: np.ndarray
    effects: np.ndarray
    bins: np.ndarray

    def draw(
        self, n: int, conditions: Conditions, rng: np.random.Generator
    ) -> tuple[np.ndarray, pd.DataFrame]:
        """Sample counts, (n, n_genes), and levels of n cells with these marginals.

        Given levels and library size, genes are independent and negative binomial with a dispersion of 5.
        """
        combination = rng.choice(len(self.share), n, p=self.share)
        obs = pd.DataFrame([self.combinations[k] for k in combination], columns=conditions.keys)
        logits = np.log(self.proportions) + (conditions.one_hot(obs) @ self.effects if conditions.keys else 0)
        logits = np.broadcast_to(logits, (n, len(self.proportions)))
        proportions = np.exp(logits - logits.max(axis=1, keepdims=True))
        proportions /= proportions.sum(axis=1, keepdims=True)
        bins = rng.choice(len(self.bins), n, p=self.bins)
        library = 10 ** rng.uniform(BINS[bins], BINS[bins + 1])[:, None]
        rates = library * proportions * rng.gamma(START_DISPERSION, 1 / START_DISPERSION, proportions.shape)
        counts = rng.poisson(rates).astype(np.float32)
        empty = counts.sum(axis=1) == 0
        counts[empty, np.argmax(proportions[empty], axis=1)] = 1
        return counts, obs


def log_library(bins: np.ndarray) -> tuple[float, float]:
    """Return median and standard deviation of log library sizes, given the fraction of cells in each bin."""
    middles = np.log(10) * (BINS[:-1] + BINS[1:]) / 2
    median = middles[np.searchsorted(np.cumsum(bins), 0.5)]
    return float(median), float(max(np.sqrt(bins @ (middles - median) ** 2), MIN_SPREAD))


def all_combinations(conditions: Conditions) -> tuple[dict[str, str], ...]:
    """Return all combinations of levels, including those without cells."""
    return tuple(
        dict(zip(conditions.keys, levels, strict=True))
        for levels in itertools.product(*conditions.levels.values())
    )


def combination_of(obs: pd.DataFrame, conditions: Conditions) -> np.ndarray:
    """Return the index of each cell's combination in `all_combinations`, (n_cells,)."""
    number = np.zeros(len(obs), int)
    if not conditions.levels:
        return number
    columns, first = conditions.columns(obs), 0
    for i, levels in enumerate(conditions.levels.values()):
        number = number * len(levels) + columns[:, i] - first
        first += len(levels)
    return number


def marginal_sums(x: Matrix | BackedMatrix, obs: pd.DataFrame, conditions: Conditions, units: Units) -> Sums:
    """Return the sums that determine marginals: units per combination and per library size bin, profiles.

    A cell contributes its combination of levels, its bin of log10 library sizes and, once for each of its
    levels, the square roots of its gene proportions. These form a vector of norm 1 and represent rare genes
    better than the proportions themselves.

    Parameters
    ----------
    x
        Counts, (n_cells, n_genes).
    obs, conditions
        Levels of each cell, and all levels.
    units
        Privacy unit of each cell.
    """
    weights = units.weights
    columns = conditions.columns(obs) if conditions.levels else np.zeros((len(obs), 1), int)
    width, keys = max(conditions.width, 1), columns.shape[1]
    profiles, bins, first = np.zeros((width, x.shape[1])), np.zeros(len(BINS) - 1), 0
    for block in row_blocks(x):
        rows = slice(first, first + block.shape[0])
        first = rows.stop
        library = library_sizes(block)
        bin_index = np.clip(np.digitize(np.log10(library), BINS) - 1, 0, len(bins) - 1)
        bins += np.bincount(bin_index, weights[rows], minlength=len(bins))
        codes = np.zeros((block.shape[0], width))
        np.put_along_axis(codes, columns[rows], (weights[rows] / np.sqrt(library))[:, None], axis=1)
        roots = block.astype(np.float64).sqrt() if sp.issparse(block) else np.sqrt(block.astype(np.float64))
        profiles += (roots.T @ codes).T
    n = len(all_combinations(conditions))
    cells = np.bincount(combination_of(obs, conditions), weights, minlength=n)
    return Sums((cells, bins, profiles), (IN_COMBINATION, IN_LIBRARY, IN_PROFILE / keys))


def release_marginals(
    x: Matrix | BackedMatrix,
    obs: pd.DataFrame,
    conditions: Conditions,
    units: Units,
    multiplier: float,
    randomness: Randomness,
) -> Marginals:
    """Release the marginals of counts with noise.

    Parameters
    ----------
    x, obs, conditions, units
        See `marginal_sums`.
    multiplier
        Noise multiplier.
    randomness
        Source of the noise.
    """
    sums = marginal_sums(x, obs, conditions, units)
    (cells, bins, profiles), (noise_cells, noise_bins, noise) = sums.with_noise(multiplier, randomness)
    bins = _without_isolated_bins(_above_noise(bins, noise_bins), noise_bins)
    bins = bins / bins.sum()
    noisy, cells = cells, _above_noise(cells, noise_cells)
    depth = np.exp(log_library(bins)[0])
    # every cell has one level of the first key, so the sum over its levels is the overall profile
    n_first = len(next(iter(conditions.levels.values()))) if conditions.levels else 1
    overall = _positive(profiles[:n_first].sum(axis=0) / units.n, noise * np.sqrt(n_first) / units.n)
    proportions = _proportions(overall, depth)
    combinations = all_combinations(conditions)
    effects = np.zeros((conditions.width, x.shape[1]))
    if conditions.levels:
        codes = conditions.one_hot(pd.DataFrame(combinations))
        in_column = cells @ codes
        for column in np.flatnonzero(in_column):
            n = in_column[column]
            level = _shrink_to_overall(profiles[column] / n, overall, noise / n)
            effects[column] = np.log(_proportions(level, depth) / proportions)
        for column in np.flatnonzero(in_column == 0):  # levels without units get the overall profile
            cells[np.argmax(np.where(codes[:, column] > 0, noisy, -np.inf))] = 1.0
    seen = np.flatnonzero(cells)
    return Marginals(
        tuple(combinations[k] for k in seen), cells[seen] / cells.sum(), proportions, effects, bins
    )


def _above_noise(sums: np.ndarray, noise: float) -> np.ndarray:
    """Return noisy numbers of units, 0 unless clearly above the noise; if none is, the largest becomes 1."""
    kept = np.where(sums > STANDOUT * noise, sums, 0.0)
    if not kept.any():
        kept[np.argmax(sums)] = 1.0
    return kept


def _without_isolated_bins(bins: np.ndarray, noise: float) -> np.ndarray:
    """Return bins with runs of neighbours set to 0 unless one is far above the noise or is the largest."""
    runs, _ = ndimage.label(bins > 0)
    good = np.unique(runs[(bins > STANDOUT_OF_BINS * noise) | (bins == bins.max())])
    return np.where(np.isin(runs, good[good > 0]), bins, 0.0)


def _positive(values: np.ndarray, noise: float) -> np.ndarray:
    """Return posterior means of nonnegative values from noisy ones, with an exponential prior."""
    mean = max(values.mean(), noise / np.sqrt(len(values)))
    centre = values - noise**2 / mean
    z = centre / noise
    # mean of a normal distribution truncated at 0; below z = -30, where the ratio is 0 / 0, its asymptote
    tail = np.where(
        z > -30, z + np.exp(norm.logpdf(z) - norm.logcdf(np.maximum(z, -30))), -1 / np.minimum(z, -1)
    )
    return noise * np.asarray(tail)


def _shrink_to_overall(values: np.ndarray, overall: np.ndarray, noise: float) -> np.ndarray:
    """Return noisy values shrunk towards the overall values (James & Stein 1961).

    Deviations have a normal prior with a standard deviation proportional to the overall value; the factor is
    estimated from all genes.
    """
    deviation = values - overall
    factor = max(((deviation**2).sum() - len(values) * noise**2) / (overall**2).sum(), 0.0)
    prior = factor * overall**2
    return np.maximum(overall + deviation * prior / (prior + noise**2), MIN_OF_OVERALL * overall)


def _proportions(roots: np.ndarray, depth: float) -> np.ndarray:
    """Return gene proportions, with sum 1, from expected square roots of Poisson proportions."""
    expected = _expected_roots()
    scaled = roots * np.sqrt(depth)
    means = np.where(scaled < expected[-1], np.interp(scaled, expected, SMALL_MEANS), scaled**2 + 0.25)
    return means / means.sum()


@lru_cache(maxsize=1)
def _expected_roots() -> np.ndarray:
    """Return the expected square root of a Poisson count for each mean of `SMALL_MEANS`."""
    counts = np.arange(400)
    return np.asarray(poisson.pmf(counts, SMALL_MEANS[:, None]) @ np.sqrt(counts))
