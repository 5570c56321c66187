"""Membership inference from distances to the nearest generated cells."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vaexprs.comparison.axes import Axes
from vaexprs.comparison.cell_sets import CellSet

MAX_CELLS = 20_000  # maximum number of training and of held-out cells that are attacked
NEIGHBOURS = 5  # number of neighbours; the distance to the last estimates the density
FAR_OUT = 3.0  # interquartile ranges below the first quartile: Tukey's far-out values
TINY = 1e-9  # added to distances and probabilities to avoid 0
ROUNDING = 1e-6  # distances below this fraction of the largest norm are rounding errors


class Attack(NamedTuple):
    """Scores of the attacker for each training and held-out cell, (n_cells,) each.

    Parameters
    ----------
    member
        Whether it is a training cell.
    row
        Its row in the training or held-out cells.
    distance
        Distance to the nearest generated cell.
    ratio
        Log distance to the nearest other real cell minus log distance to the nearest generated cell.
    density
        The same for the fifth nearest cells.
    """

    member: np.ndarray
    row: np.ndarray
    distance: np.ndarray
    ratio: np.ndarray
    density: np.ndarray


def run_attack(cells: dict[str, CellSet], seed: int) -> Attack:
    """Return the scores of a membership inference attack on up to 20,000 training and held-out cells each."""
    rng = np.random.default_rng(seed)
    # Axes from generated cells only: a cell is farther from others on axes that were computed from it.
    axes = Axes.of([cells["generated"].values], seed)
    rows = {name: np.sort(rng.permutation(len(cells[name]))[:MAX_CELLS]) for name in ("train", "holdout")}
    real = np.concatenate([axes.of_cells(cells[name].values[chosen]) for name, chosen in rows.items()])
    made = axes.of_cells(cells["generated"].values)
    to_made = nearest_distances(made, real)
    to_real = nearest_distances(real, real, itself=True)
    ratio = np.log(to_real + TINY) - np.log(to_made + TINY)
    return Attack(
        np.repeat([True, False], [len(chosen) for chosen in rows.values()]),
        np.concatenate(list(rows.values())),
        to_made[:, 0],
        ratio[:, 0],
        ratio[:, -1],
    )


def nearest_distances(points: np.ndarray, queries: np.ndarray, *, itself: bool = False) -> np.ndarray:
    """Return distances of queries to the nearest points, (n_queries, up to 5).

    With `itself`, the queries are the points, and a point is not its own neighbour.
    """
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(points) - itself)).fit(points)
    distances = np.asarray(near.kneighbors(None if itself else queries)[0], np.float64)
    # identical cells have a distance of 0 up to rounding
    return np.where(distances < ROUNDING * np.linalg.norm(points, axis=1).max(), 0.0, distances)


def far_out_rows(attack: Attack) -> np.ndarray:
    """Return whether a generated cell is nearer than expected from held-out cells, (n_cells,)."""
    gap = -attack.ratio
    first, third = np.quantile(gap[~attack.member], [0.25, 0.75])
    return gap < first - FAR_OUT * (third - first)
