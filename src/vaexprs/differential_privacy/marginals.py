"""Release marginals with differential privacy: cells per condition, library sizes and mean profiles."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm

from vaexprs.data.backed import BackedMatrix, library_sizes, row_blocks
from vaexprs.data.matrix import Matrix
from vaexprs.differential_privacy.levels import ReleasedLevels
from vaexprs.differential_privacy.mechanisms import Sums, Units
from vaexprs.differential_privacy.profiles import (
    deviation_sums,
    positive_means,
    profile_sum,
    proportions_of,
    shrunken_levels,
)
from vaexprs.differential_privacy.randomness import Randomness
from vaexprs.preprocessing.conditions import Conditions

# shares of the squared sensitivity for combinations of levels, library sizes, levels of units (unless they
# were released before), the overall mean profile, and the deviations of levels from it
IN_COMBINATION, IN_LIBRARY, IN_PRESENCE, IN_OVERALL, IN_DEVIATION = 0.1, 0.15, 0.02, 0.07, 0.66
# Log10 library sizes are clipped to this range: 10 to 1 million counts.
LIBRARY_RANGE = (1.0, 6.0)
MAX_NORM = np.sqrt(1.25)  # of a value from -1 to 1 and its square minus one half
# Prior of the median library size, in log10, and grids of medians and standard deviations, in natural
# logarithms
PRIOR_LIBRARY = (3.2, 0.8)
LIBRARY_MIDDLES = np.log(10) * np.arange(1.0, 6.0, 0.005)
LIBRARY_SPREADS = np.geomspace(0.1, 1.5, 30)
MIN_PRESENT = 0.25  # minimum of the fraction of donors that have a level
START_DISPERSION = 5.0  # dispersion of the cells sampled from the marginals


@dataclass(frozen=True)
class Marginals:
    """Released marginals: frequencies of conditions, gene proportions and library sizes.

    Parameters
    ----------
    combinations
        Combinations of levels with a share above 0, as dicts.
    share
        Fraction of the cells in each combination, averaged over units, (n_combinations,), with sum 1.
    proportions
        Fraction of the counts in each gene, (n_genes,), with sum 1.
    effects
        Log fold change of the proportions for each one-hot column, (width, n_genes).
    library_middle, library_spread
        Median and standard deviation of log library sizes.
    units
        Number of units with cells that were not left out.
    """

    combinations: tuple[dict[str, str], ...]
    share: np.ndarray
    proportions: np.ndarray
    effects: np.ndarray
    library_middle: float
    library_spread: float
    units: float

    def draw(
        self, n: int, conditions: Conditions, rng: np.random.Generator
    ) -> tuple[np.ndarray, pd.DataFrame]:
        """Sample counts, (n, n_genes), and levels of n cells with these marginals.

        Library sizes are log-normal. Given levels and library size, genes are independent and negative
        binomial with a dispersion of 5.
        """
        combination = rng.choice(len(self.share), n, p=self.share)
        obs = pd.DataFrame([self.combinations[k] for k in combination], columns=conditions.keys)
        logits = np.log(self.proportions) + (conditions.one_hot(obs) @ self.effects if conditions.keys else 0)
        logits = np.broadcast_to(logits, (n, len(self.proportions)))
        proportions = np.exp(logits - logits.max(axis=1, keepdims=True))
        proportions /= proportions.sum(axis=1, keepdims=True)
        library = np.exp(rng.normal(self.library_middle, self.library_spread, (n, 1)))
        rates = library * proportions * rng.gamma(START_DISPERSION, 1 / START_DISPERSION, proportions.shape)
        counts = rng.poisson(rates).astype(np.float32)
        empty = counts.sum(axis=1) == 0
        counts[empty, np.argmax(proportions[empty], axis=1)] = 1
        return counts, obs


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


def shares(conditions: Conditions, *, presence: bool = True) -> tuple[float, ...]:
    """Return the shares of the squared sensitivity: IN_COMBINATION, ..., IN_DEVIATION, with sum 1.

    Without levels the profile gets the shares of presence and deviations, and the deviations that of presence
    if it was released before.
    """
    if not conditions.levels:
        return IN_COMBINATION, IN_LIBRARY, 0.0, IN_PRESENCE + IN_OVERALL + IN_DEVIATION, 0.0
    if not presence:
        return IN_COMBINATION, IN_LIBRARY, 0.0, IN_OVERALL, IN_PRESENCE + IN_DEVIATION
    return IN_COMBINATION, IN_LIBRARY, IN_PRESENCE, IN_OVERALL, IN_DEVIATION


def marginal_sums(
    x: Matrix | BackedMatrix,
    obs: pd.DataFrame,
    conditions: Conditions,
    units: Units,
    *,
    presence: bool = True,
) -> Sums:
    """Return sums over units: combinations, library sizes, levels that a unit has, and mean profiles.

    The first are the fractions of a unit's cells in each combination of levels, the second the mean and the
    mean square of its log10 library sizes. The profile is the mean of the square roots of gene proportions
    over a unit's cells; the roots of one cell form a vector of norm 1 and represent rare genes better than
    the proportions themselves.

    Parameters
    ----------
    x
        Counts, (n_cells, n_genes).
    obs, conditions
        Levels of each cell, and all levels.
    units
        Privacy unit of each cell.
    presence
        Whether to include the levels that a unit has.
    """
    weights = units.weights
    depths, first = np.zeros(2), 0
    for block in row_blocks(x):
        rows = slice(first, first + block.shape[0])
        first = rows.stop
        depths += _depth_statistics(np.log10(library_sizes(block))) @ weights[rows]
    n = len(all_combinations(conditions))
    cells = np.bincount(combination_of(obs, conditions), weights, minlength=n)
    present = _presence(obs, conditions, units) if presence and conditions.levels else np.zeros(0)
    profile = profile_sum(x, obs, conditions, units)
    return Sums((cells, depths, present, profile), shares(conditions, presence=presence)[:-1])


def _presence(obs: pd.DataFrame, conditions: Conditions, units: Units) -> np.ndarray:
    """Return the number of units that have each level, divided by the largest norm for one unit."""
    pairs = units.of[:, None] * conditions.width + conditions.columns(obs)
    present = np.bincount(np.unique(pairs) % conditions.width, minlength=conditions.width)
    return present / _presence_norm(conditions, units)


def _presence_norm(conditions: Conditions, units: Units) -> float:
    """Return the norm of the vector of levels of a unit that has as many as possible."""
    return float(np.sqrt(len(conditions.keys) if units.single else conditions.width))


def release_marginals(
    x: Matrix | BackedMatrix,
    obs: pd.DataFrame,
    conditions: Conditions,
    units: Units,
    multiplier: float,
    randomness: Randomness,
    levels: ReleasedLevels | None = None,
) -> Marginals:
    """Release the marginals of counts with noise.

    The mean profile is released first, then for each level the deviation from it: deviations are smaller than
    profiles, so that the bound on the contribution of a unit, and with it the noise, is smaller.

    Parameters
    ----------
    x, obs, conditions, units
        See `marginal_sums`.
    multiplier
        Noise multiplier.
    randomness
        Source of the noise.
    levels
        The released levels, which have the numbers of units with each, if levels are private.
    """
    sums = marginal_sums(x, obs, conditions, units, presence=levels is None)
    (cells, depths, present, profile), sd = sums.with_noise(multiplier, randomness)
    n_units = _number_of_units(cells, sd[0], units)
    share = on_simplex(cells / n_units)
    middle, spread = _library(depths / n_units, sd[1] / n_units)
    depth = float(np.exp(middle))
    bound = units.profile / n_units
    overall = positive_means(profile * bound, sd[3] * bound)
    proportions = proportions_of(overall, depth)
    combinations = all_combinations(conditions)
    effects = np.zeros((conditions.width, x.shape[1]))
    if conditions.levels:
        if levels is None:
            scale = _presence_norm(conditions, units)
            numbers, sd_of_numbers = present * scale, sd[2] * scale
        else:
            numbers, sd_of_numbers = levels.numbers_of_units(units)
        share_of_deviations = shares(conditions, presence=levels is None)[-1]
        total, noise = deviation_sums(x, obs, conditions, units, overall, share_of_deviations).with_noise(
            multiplier, randomness
        )
        first = 0
        for key, found in enumerate(total):
            columns = slice(first, first + len(found))
            first = columns.stop
            of_level = _numbers_of_units(numbers[columns], sd_of_numbers, units)
            bounds = units.deviation(len(found)) / of_level
            profiles = shrunken_levels(found * bounds[:, None], overall, noise[key] * bounds)
            effects[columns] = [np.log(proportions_of(row, depth) / proportions) for row in profiles]
        codes = conditions.one_hot(pd.DataFrame(combinations))
        for column in np.flatnonzero(share @ codes == 0):  # so that every level can be generated
            share[np.argmax(np.where(codes[:, column] > 0, cells, -np.inf))] = 1 / n_units
    seen = np.flatnonzero(share)
    return Marginals(
        tuple(combinations[k] for k in seen),
        share[seen] / share.sum(),
        proportions,
        effects,
        middle,
        spread,
        n_units,
    )


def _number_of_units(cells: np.ndarray, sd: float, units: Units) -> float:
    """Return the number of units with cells: the upper end of an interval, so that noise makes it no smaller.

    Cells without counts and cells with levels that were not released are left out.

    Parameters
    ----------
    cells
        Noisy fractions of the cells of units in each combination of levels, summed over units.
    sd
        Standard deviation of the noise.
    """
    sd_of_sum = sd * np.sqrt(len(cells))
    return float(np.clip(cells.sum() + sd_of_sum, sd_of_sum, units.n))


def _numbers_of_units(noisy: np.ndarray, sd: float, units: Units) -> np.ndarray:
    """Return the number of units with each level of a key, by which sums are divided, from noisy ones.

    Few units with much noise must not give large means. Most donors have cells of each level: their numbers
    are shrunk towards the mean over levels (James & Stein 1961), and at least a quarter of the donors.
    """
    if units.single:
        return np.clip(noisy, sd, units.n)
    mean = noisy.mean()
    between = max(noisy.var() - sd**2, 0.0)
    shrunken = mean + between / (between + sd**2) * (noisy - mean)
    return np.clip(shrunken, MIN_PRESENT * units.n, units.n)


def on_simplex(values: np.ndarray) -> np.ndarray:
    """Return the nearest nonnegative values with sum 1 (Duchi et al. 2008, doi:10.1145/1390156.1390191)."""
    falling = np.sort(values)[::-1]
    excess = (np.cumsum(falling) - 1) / np.arange(1, len(values) + 1)
    return np.maximum(values - excess[np.flatnonzero(falling > excess)[-1]], 0.0)


def _depth_statistics(log10: np.ndarray) -> np.ndarray:
    """Return clipped log10 library sizes, from -1 to 1, and their squares; norms are at most 1, (2, n)."""
    low, high = LIBRARY_RANGE
    value = np.clip((2 * log10 - low - high) / (high - low), -1, 1)
    return np.array([value, value**2 - 0.5]) / MAX_NORM


def _library(statistics: np.ndarray, noise: float) -> tuple[float, float]:
    """Return median and standard deviation of log library sizes.

    Posterior means, if library sizes are log-normal and few are outside of the range.

    Parameters
    ----------
    statistics
        Noisy means of `_depth_statistics`, (2,).
    noise
        Standard deviation of their noise.
    """
    low, high = LIBRARY_RANGE
    middle, spread = LIBRARY_MIDDLES[:, None] / np.log(10), LIBRARY_SPREADS / np.log(10)
    value = (2 * middle - low - high) / (high - low)
    square = value**2 + (2 * spread / (high - low)) ** 2 - 0.5
    errors = (value / MAX_NORM - statistics[0]) ** 2 + (square / MAX_NORM - statistics[1]) ** 2
    logs = norm.logpdf(middle, *PRIOR_LIBRARY) - errors / (2 * noise**2)
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    return float(weights.sum(axis=1) @ LIBRARY_MIDDLES), float(weights.sum(axis=0) @ LIBRARY_SPREADS)
