"""Choose the splines of continuous covariates from the cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

from vaexprs.data.backed import BackedMatrix
from vaexprs.data.matrix import Matrix
from vaexprs.interface.errors import warn
from vaexprs.latent.density import groups_of
from vaexprs.preprocessing.conditions import Conditions
from vaexprs.preprocessing.splines import Spline, choose_degrees
from vaexprs.training.capacity import MAX_CELLS, residuals

COMPONENTS = 10  # number of principal components by which an effect on many genes is found


def with_continuous(
    conditions: Conditions,
    numbers: Mapping[str, np.ndarray],
    obs: pd.DataFrame,
    x: Matrix | BackedMatrix,
    counts: bool,
    seed: int,
) -> Conditions:
    """Return the conditions with a spline for each continuous covariate.

    The degrees of freedom are chosen from at most 2,000 genes of at most 5,000 cells (for counts,
    log-normalized), centred within each combination of levels and scaled to unit variance, and their
    principal components.

    Parameters
    ----------
    conditions
        Levels of label and categorical covariates.
    numbers
        Values of each continuous covariate, (n_cells,).
    obs
        Label and covariates of each cell.
    x
        Values of the cells, (n_cells, n_genes).
    counts
        Whether they are counts.
    seed
        Seed of the choice of cells and of the components.
    """
    if not numbers:
        return conditions
    for key, values in numbers.items():
        _check_varies(key, values, obs, conditions)
    rows = np.arange(len(obs))
    if len(rows) > MAX_CELLS:
        rows = np.sort(np.random.default_rng(seed).choice(len(obs), MAX_CELLS, replace=False))
    groups = list(groups_of(obs.iloc[rows], conditions).values())
    scores = residuals(x.take(rows) if isinstance(x, BackedMatrix) else x[rows], groups, counts)
    if min(scores.shape) > COMPONENTS:
        components = PCA(COMPONENTS, svd_solver="randomized", random_state=seed).fit_transform(scores)
        scores = np.concatenate([scores, components], axis=1)
    continuous = {}
    for key, values in numbers.items():
        degrees = choose_degrees(values[rows], scores, groups) if scores.size else 1
        continuous[key] = Spline.fit(values, degrees)
    return replace(conditions, continuous=continuous)


def _check_varies(key: str, values: np.ndarray, obs: pd.DataFrame, conditions: Conditions) -> None:
    """Warn if a covariate has a single value in each combination of levels."""
    groups = groups_of(obs, conditions).values()
    if all(np.ptp(values[rows]) == 0 for rows in groups):
        warn(
            f"{key!r} has one value within each combination of {', '.join(conditions.keys)}, so its effect "
            "cannot be separated from theirs. Leave out the covariate that determines it."
        )
