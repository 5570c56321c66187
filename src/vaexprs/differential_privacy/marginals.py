"""Noisy marginals: cells per condition, library sizes and mean profiles."""

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
from vaexprs.preprocessing.conditions import Conditions

# Parts of the vector that a cell contributes, by their share of its squared length.
IN_COMBINATION, IN_LIBRARY, IN_PROFILE = 0.1, 0.1, 0.8
BINS = np.arange(0.0, 7.05, 0.1)  # of log10 library sizes: 1 to 10 million counts
# standard deviations of the noise that a number of units must exceed to be more than nothing, and that one
# among neighbouring bins must: there are many, and an empty one far out would make enormous cells
STANDOUT = 2.0
STANDOUT_OF_BINS = 4.0
MIN_SPREAD = 0.05  # of log library sizes
MIN_OF_OVERALL = 0.02  # of the overall profile, what a level has of a gene at least
START_DISPERSION = 5.0
SMALL_MEANS = np.geomspace(1e-6, 200, 2_000)


@dataclass(frozen=True)
class Marginals:
    """How many units there are of each combination of levels, and how counts are shared out among genes.

    Parameters
    ----------
    combinations
        Levels of each combination that stands out of the noise, as dicts.
    share
        Share of each, (n_combinations,), with sum 1.
    proportions
        Share of the counts that each gene has, (n_genes,), with sum 1.
    effects
        Logarithm of what each one-hot column makes of it, (width, n_genes).
    bins
        Share of the cells in each bin of log10 library sizes, (n_bins,), with sum 1.
    """

    combinations: tuple[dict[str, str], ...]
    share: np.ndarray
    proportions: np.ndarray
    effects: np.ndarray
    bins: np.ndarray

    def draw(
        self, n: int, conditions: Conditions, rng: np.random.Generator
    ) -> tuple[np.ndarray, pd.DataFrame]:
        """Return cells with these marginals and nothing else in common: counts, (n, n_genes), and levels.

        Counts of different genes are independent given the levels and the library size, negative binomial
        with a dispersion of 5 for all genes.
        """
        which = rng.choice(len(self.share), n, p=self.share)
        obs = pd.DataFrame([self.combinations[k] for k in which], columns=conditions.keys)
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
    """Return median and standard deviation of log library sizes, given the share of each bin."""
    middles = np.log(10) * (BINS[:-1] + BINS[1:]) / 2
    median = middles[np.searchsorted(np.cumsum(bins), 0.5)]
    return float(median), float(max(np.sqrt(bins @ (middles - median) ** 2), MIN_SPREAD))


def all_combinations(conditions: Conditions) -> tuple[dict[str, str], ...]:
    """Return each combination of levels, whether there are cells of it or not."""
    return tuple(
        dict(zip(conditions.keys, levels, strict=True))
        for levels in itertools.product(*conditions.levels.values())
    )


def combination_of(obs: pd.DataFrame, conditions: Conditions) -> np.ndarray:
    """Return the number of each cell's combination, as `all_combinations` has them, (n_cells,)."""
    number = np.zeros(len(obs), int)
    if not conditions.levels:
        return number
    columns, first = conditions.columns(obs), 0
    for i, levels in enumerate(conditions.levels.values()):
        number = number * len(levels) + columns[:, i] - first
        first += len(levels)
    return number


def marginal_sums(x: Matrix | BackedMatrix, obs: pd.DataFrame, conditions: Conditions, units: Units) -> Sums:
    """Return what marginals are made of: units by combination and by bin of library sizes, profiles.

    A cell contributes its combination of levels, its bin of log10 library sizes and, once for each of its
    levels, the square roots of its proportions, a vector of length one: rare genes are seen in it better
    than in the proportions.

    Parameters
    ----------
    x
        Counts, (n_cells, n_genes).
    obs, conditions
        Levels of each cell, and those there are.
    units
        Whom the cells are of.
    """
    weights = units.weights
    columns = conditions.columns(obs) if conditions.levels else np.zeros((len(obs), 1), int)
    width, keys = max(conditions.width, 1), columns.shape[1]
    profiles, bins, first = np.zeros((width, x.shape[1])), np.zeros(len(BINS) - 1), 0
    for block in row_blocks(x):
        rows = slice(first, first + block.shape[0])
        first = rows.stop
        library = library_sizes(block)
        place = np.clip(np.digitize(np.log10(library), BINS) - 1, 0, len(bins) - 1)
        bins += np.bincount(place, weights[rows], minlength=len(bins))
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
    rng: np.random.Generator,
) -> Marginals:
    """Return the marginals of counts, with noise.

    Parameters
    ----------
    x, obs, conditions, units
        See `marginal_sums`.
    multiplier
        Noise multiplier.
    rng
        Source of the noise.
    """
    sums = marginal_sums(x, obs, conditions, units)
    (cells, bins, profiles), (noise_cells, noise_bins, noise) = sums.with_noise(multiplier, rng)
    bins = _without_strays(_standing_out(bins, noise_bins), noise_bins)
    bins = bins / bins.sum()
    noisy, cells = cells, _standing_out(cells, noise_cells)
    depth = np.exp(log_library(bins)[0])
    # the levels of the first key share all cells among them
    own = len(next(iter(conditions.levels.values()))) if conditions.levels else 1
    overall = _positive(profiles[:own].sum(axis=0) / units.n, noise * np.sqrt(own) / units.n)
    proportions = _proportions(overall, depth)
    combinations = all_combinations(conditions)
    effects = np.zeros((conditions.width, x.shape[1]))
    if conditions.levels:
        codes = conditions.one_hot(pd.DataFrame(combinations))
        in_column = cells @ codes
        for column in np.flatnonzero(in_column):
            n = in_column[column]
            level = _shrunken(profiles[column] / n, overall, noise / n)
            effects[column] = np.log(_proportions(level, depth) / proportions)
        for column in np.flatnonzero(in_column == 0):  # can be asked for, and is like all others
            cells[np.argmax(np.where(codes[:, column] > 0, noisy, -np.inf))] = 1.0
    seen = np.flatnonzero(cells)
    return Marginals(
        tuple(combinations[k] for k in seen), cells[seen] / cells.sum(), proportions, effects, bins
    )


def _standing_out(sums: np.ndarray, noise: float) -> np.ndarray:
    """Return numbers of units that stand out of the noise, 0 for the others; at least the largest is kept."""
    kept = np.where(sums > STANDOUT * noise, sums, 0.0)
    if not kept.any():
        kept[np.argmax(sums)] = 1.0
    return kept


def _without_strays(bins: np.ndarray, noise: float) -> np.ndarray:
    """Return bins in runs of neighbours of which one stands out well, or that have the largest of all."""
    runs, _ = ndimage.label(bins > 0)
    good = np.unique(runs[(bins > STANDOUT_OF_BINS * noise) | (bins == bins.max())])
    return np.where(np.isin(runs, good[good > 0]), bins, 0.0)


def _positive(values: np.ndarray, noise: float) -> np.ndarray:
    """Return means of what cannot be negative, given values with normal noise and an exponential prior."""
    mean = max(values.mean(), noise / np.sqrt(len(values)))
    centre = values - noise**2 / mean
    z = centre / noise
    # the mean of a normal distribution cut off at zero; far out, where the ratio is 0 / 0, its asymptote
    tail = np.where(
        z > -30, z + np.exp(norm.logpdf(z) - norm.logcdf(np.maximum(z, -30))), -1 / np.minimum(z, -1)
    )
    return noise * np.asarray(tail)


def _shrunken(values: np.ndarray, overall: np.ndarray, noise: float) -> np.ndarray:
    """Return noisy values drawn towards the overall ones (James & Stein 1961).

    Deviations have a normal prior with a standard deviation in proportion to the overall values, by a factor
    that is estimated from all genes.
    """
    deviation = values - overall
    factor = max(((deviation**2).sum() - len(values) * noise**2) / (overall**2).sum(), 0.0)
    prior = factor * overall**2
    return np.maximum(overall + deviation * prior / (prior + noise**2), MIN_OF_OVERALL * overall)


def _proportions(roots: np.ndarray, depth: float) -> np.ndarray:
    """Return proportions of genes, with sum 1, of expected square roots of Poisson proportions."""
    expected = _expected_roots()
    scaled = roots * np.sqrt(depth)
    means = np.where(scaled < expected[-1], np.interp(scaled, expected, SMALL_MEANS), scaled**2 + 0.25)
    return means / means.sum()


@lru_cache(maxsize=1)
def _expected_roots() -> np.ndarray:
    """Return the expected square root of Poisson counts with each of `SMALL_MEANS`."""
    counts = np.arange(400)
    return np.asarray(poisson.pmf(counts, SMALL_MEANS[:, None]) @ np.sqrt(counts))
