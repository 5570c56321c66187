"""Values of continuous covariates of generated cells: requested, or sampled like those of training cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vaexprs.interface.errors import warn
from vaexprs.model.vae_fit import VAEFit
from vaexprs.preprocessing.conditions import Conditions

STREAM = (0, 1)  # spawn key of the random numbers of values; those of blocks of cells have a single number


def split_values(
    fit: VAEFit, rows: Sequence[Mapping[str, Any]], which: np.ndarray, seed: int
) -> tuple[list[dict[str, str]], np.ndarray, dict[str, np.ndarray]]:
    """Separate requested levels from values of continuous covariates, and sample those not requested.

    Parameters
    ----------
    fit
        The fit.
    rows
        Requested conditions: a level of each key, and numbers for any of the continuous covariates.
    which
        Index of each cell's condition in `rows`, (n_cells,).
    seed
        Seed of the sampled values.

    Returns
    -------
    tuple
        The distinct combinations of levels, the index of each cell's combination, and the values of each
        continuous covariate, (n_cells,).

    Warns
    -----
    UserWarning
        If a requested value is outside the range of the training cells.
    """
    conditions, density = fit.preprocessing.conditions, fit.density
    if density.continuous is None:
        return [dict(row) for row in rows], which, {}
    levels = [{key: row[key] for key in conditions.keys} for row in rows]
    numbers: dict[tuple[str, ...], int] = {}
    number = np.array([numbers.setdefault(tuple(row.values()), len(numbers)) for row in levels])
    distinct = [dict(zip(conditions.keys, combination, strict=True)) for combination in numbers]
    combination = number[which]
    requested = np.array([[row.get(key, np.nan) for key in conditions.continuous] for row in rows], float)
    for key, column in zip(conditions.continuous, requested.T, strict=True):
        warn_outside(conditions, key, column[~np.isnan(column)])
    group = np.array([density.index(row) for row in distinct])[combination]
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=STREAM))
    values = density.continuous.draw(group, requested[which], rng)
    return distinct, combination, dict(zip(conditions.continuous, values.T, strict=True))


def warn_outside(conditions: Conditions, key: str, values: np.ndarray) -> None:
    """Warn if values of a continuous covariate are outside the range of the training cells."""
    spline = conditions.continuous[key]
    outside = values[(values < spline.low) | (values > spline.high)]
    if len(outside):
        warn(
            f"{key} = {outside[0]:g} is outside the range of the training cells, {spline.low:g} to "
            f"{spline.high:g}, beyond which its effect is continued linearly."
        )
