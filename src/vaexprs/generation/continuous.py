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
    levels = [{key: level for key, level in row.items() if key not in conditions.continuous} for row in rows]
    numbers: dict[tuple[tuple[str, str], ...], int] = {}
    number = np.array([numbers.setdefault(tuple(row.items()), len(numbers)) for row in levels])
    distinct = [dict(combination) for combination in numbers]
    combination = number[which]
    requested = np.array([[row.get(key, np.nan) for key in conditions.continuous] for row in rows], float)
    for key, column in zip(conditions.continuous, requested.T, strict=True):
        warn_outside(conditions, key, column[~np.isnan(column)])
    of_row = np.array([density.index({key: row[key] for key in conditions.keys}) for row in distinct])
    group = of_row[combination]
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=STREAM))
    if fit.donors is not None:
        requested = _with_values_of_donors(fit, levels, requested, of_row[number], rng)
    values = density.continuous.draw(group, requested[which], rng)
    return distinct, combination, dict(zip(conditions.continuous, values.T, strict=True))


def _with_values_of_donors(
    fit: VAEFit,
    rows: Sequence[Mapping[str, str]],
    requested: np.ndarray,
    group: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the requested values, (n_rows, n_keys), with one value for all cells of a donor.

    Of covariates that are constant within training donors a training donor has its own value, and a new donor
    a sampled one.
    """
    donors, keys = fit.donors, list(fit.preprocessing.conditions.continuous)
    assert donors is not None
    assert fit.density.continuous is not None
    filled = requested.copy()
    columns = [keys.index(key) for key in donors.value_keys]
    names = [row.get(donors.key) for row in rows]  # interpolated cells have none
    for name in dict.fromkeys(name for name in names if name is not None):
        mine = np.array([other == name for other in names])
        if name in donors.names:
            own = donors.values[donors.names.index(name)]
        else:
            first = np.argmax(mine)
            own = fit.density.continuous.draw(group[[first]], requested[[first]], rng)[0, columns]
        for column, value in zip(columns, own, strict=True):
            filled[mine & np.isnan(requested[:, column]), column] = value
    return filled


def warn_outside(conditions: Conditions, key: str, values: np.ndarray) -> None:
    """Warn if values of a continuous covariate are outside the range of the training cells."""
    spline = conditions.continuous[key]
    outside = values[(values < spline.low) | (values > spline.high)]
    if len(outside):
        warn(
            f"{key} = {outside[0]:g} is outside the range of the training cells, {spline.low:g} to "
            f"{spline.high:g}, beyond which its effect is continued linearly."
        )
