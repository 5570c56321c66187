"""What is told of private cells, with noise: their marginals before training, their latent density after it.

Both are sums over the units of what a unit contributes, a vector of length at most one, with normal noise on
each number (Dwork & Roth 2014, doi:10.1561/0400000042, theorem A.1). All that is made of them costs nothing.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy import ndimage
from scipy.stats import norm, poisson

from vaexprs.density import LatentDensity
from vaexprs.matrices import Matrix
from vaexprs.ondisk import DiskMatrix, library_sizes, row_blocks
from vaexprs.preprocessing import Conditions

# Parts of the vector that a cell contributes, by their share of its squared length.
IN_COMBINATION, IN_LIBRARY, IN_PROFILE = 0.1, 0.1, 0.8
IN_CELLS, IN_MEAN, IN_MOMENT = 0.2, 0.4, 0.4
BINS = np.arange(0.0, 7.05, 0.1)  # of log10 library sizes: 1 to 10 million counts
RADIUS = 1.5  # of a latent vector, times the square root of its dimensions: longer ones are shortened
# standard deviations of the noise that a number of units must exceed to be more than nothing, and that one
# among neighbouring bins must: there are many, and an empty one far out would make enormous cells
STANDOUT = 2.0
STANDOUT_OF_BINS = 4.0
LEAST_SPREAD = 0.05  # of log library sizes
LEAST_VARIANCE = 0.05  # of the latent density in any direction
LEAST_OF_OVERALL = 0.02  # of the overall profile, what a level has of a gene at least
START_DISPERSION = 5.0
SMALL_MEANS = np.geomspace(1e-6, 200, 2_000)


@dataclass(frozen=True)
class Units:
    """Whom the cells are of.

    Parameters
    ----------
    of
        Number of the unit of each cell, (n_cells,), from 0.
    n
        Number of units.
    """

    of: np.ndarray
    n: int

    @property
    def weights(self) -> np.ndarray:
        """One over the number of cells of its unit, for each cell, (n_cells,): a unit counts as one."""
        return 1 / np.bincount(self.of, minlength=self.n)[self.of]


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
    return float(median), float(max(np.sqrt(bins @ (middles - median) ** 2), LEAST_SPREAD))


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


@dataclass(frozen=True)
class Sums:
    """Sums over units of what each contributes: a vector in parts.

    Parameters
    ----------
    parts
        The sums of each part.
    shares
        Most of a unit's squared length that lies in each part, once all parts are brought to one length; the
        shares sum up to 1.
    """

    parts: tuple[np.ndarray, ...]
    shares: tuple[float, ...]

    def with_noise(
        self, multiplier: float, rng: np.random.Generator
    ) -> tuple[tuple[np.ndarray, ...], tuple[float, ...]]:
        """Return the parts with normal noise, and its standard deviation in each."""
        noise = tuple(multiplier / np.sqrt(share) for share in self.shares)
        noisy = tuple(
            part + sd * rng.standard_normal(part.shape) for part, sd in zip(self.parts, noise, strict=True)
        )
        return noisy, noise


def marginal_sums(x: Matrix | DiskMatrix, obs: pd.DataFrame, conditions: Conditions, units: Units) -> Sums:
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
    x: Matrix | DiskMatrix,
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
    return np.maximum(overall + deviation * prior / (prior + noise**2), LEAST_OF_OVERALL * overall)


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
    covariance = (vectors * np.maximum(values, LEAST_VARIANCE)) @ vectors.T
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
