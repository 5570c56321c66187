"""Release private levels of label and covariates: those that many units have, by a noisy threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import norm

from vaexprs.differential_privacy.mechanisms import GRID, MARGIN, Units, add_noise
from vaexprs.differential_privacy.randomness import Randomness
from vaexprs.preprocessing.conditions import Conditions

MAX_LEVELS = 50  # maximum number of levels with which a donor is counted: those of most of its cells


@dataclass(frozen=True)
class ReleasedLevels:
    """Released levels of label and covariates, and the noisy sum of weights of the units with each.

    Parameters
    ----------
    conditions
        Label and covariates with their released levels, sorted.
    weights
        Noisy sum of weights (see `sums_of_weights`) for each one-hot column, (width,).
    sd
        Standard deviation of the noise.
    """

    conditions: Conditions
    weights: np.ndarray
    sd: float

    def numbers_of_units(self, units: Units) -> tuple[np.ndarray, float]:
        """Return noisy numbers of units with each level, (width,), and the standard deviation of the noise.

        The weights of a unit with m levels add up to the square root of m.
        """
        root = math.sqrt(len(self.conditions.keys))
        if not units.single:
            root = max(root, float(self.weights.sum()) / units.n)
        return self.weights * root, self.sd * root


def release_levels(
    obs: pd.DataFrame,
    conditions: Conditions,
    units: Units,
    multiplier: float,
    delta: float,
    randomness: Randomness,
) -> ReleasedLevels:
    """Release the levels that many units have (Korolova et al. 2009, doi:10.1145/1526709.1526733).

    Parameters
    ----------
    obs, conditions, units
        Levels of each cell, label and covariates, and privacy unit of each cell.
    multiplier
        Noise multiplier.
    delta
        Maximum probability that a level which only one unit has is released.
    randomness
        Source of the noise.

    Raises
    ------
    ValueError
        If no level of the label or of a covariate is released.
    """
    keys = conditions.keys
    noisy = with_noise(sums_of_weights(obs, keys, units), multiplier, randomness)
    least = threshold(multiplier, delta, len(keys) if units.single else MAX_LEVELS)
    noisy = noisy[noisy > least]
    found = {key: tuple(level for of, level in noisy.index if of == key) for key in keys}
    for key, levels in found.items():
        if not levels:
            unit = "cells" if units.single else "units (more if a unit has several levels)"
            raise ValueError(
                f"No level of {key!r} was released: at this epsilon and delta, a level needs about "
                f"{math.ceil(least * math.sqrt(len(keys))):,} {unit}. Use a larger epsilon, fewer levels, or "
                "public ones with levels='public'. The attempt counts as a release of these cells."
            )
    weights = np.array([noisy[key, level] for key, levels in found.items() for level in levels])
    return ReleasedLevels(replace(conditions, levels=found), weights, multiplier)


def sums_of_weights(obs: pd.DataFrame, keys: Sequence[str], units: Units) -> pd.Series:
    """Return the sum of weights of the units with each level, for each key and level that a cell has, sorted.

    A unit that has m levels, of all keys together, has weight 1 over the square root of m in each, so that
    the norm of its weights is 1. Of a donor with more than `MAX_LEVELS` levels, only those of most of its
    cells count.
    """
    cells = pd.concat(
        [pd.DataFrame({"key": key, "level": obs[key].to_numpy(str), "unit": units.of}) for key in keys]
    )
    pairs = cells.value_counts(sort=False).rename("cells").reset_index()
    if not units.single:
        pairs = pairs.sort_values("cells", ascending=False, kind="stable").groupby("unit").head(MAX_LEVELS)
    pairs["weight"] = 1 / np.sqrt(pairs.groupby("unit")["unit"].transform("size"))
    return pairs.groupby(["key", "level"])["weight"].sum()


def with_noise(sums: pd.Series, sd: float, randomness: Randomness) -> pd.Series:
    """Return sums with independent Gaussian noise."""
    return pd.Series(add_noise(sums.to_numpy(), sd, randomness), sums.index)


def threshold(sd: float, delta: float, max_levels: int) -> float:
    """Return a threshold that the levels of a single unit exceed with a probability of at most `delta`.

    If t of the levels of a unit are those of no other, each has a weight of at most 1 over the square root
    of t, and independent noise (Gopi et al. 2020, https://proceedings.mlr.press/v119/gopi20a.html).

    Parameters
    ----------
    sd
        Standard deviation of the noise that was requested from `add_noise`.
    delta
        Maximum probability that any of these levels is above the threshold.
    max_levels
        Maximum number of levels of a unit.
    """
    t = np.arange(1, max_levels + 1)
    above = -np.expm1(np.log1p(-delta) / t)  # maximum probability for each of t levels
    return float((1 / np.sqrt(t) + sd * (1 + MARGIN) * norm.isf(above)).max() + sd * GRID)
