"""Membership inference by distance to the nearest generated cells."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vaexprs.comparison.axes import Axes
from vaexprs.comparison.cell_sets import CellSet

MAX_CELLS = 20_000  # training and held-out cells that are tried
NEIGHBOURS = 5  # whose distance estimates a density
FAR_OUT = 3.0  # interquartile ranges below the first quartile: Tukey's far-out values
TINY = 1e-9
ROUNDING = 1e-6


class Attack(NamedTuple):
    """What an attacker computes for each real cell.

    Parameters
    ----------
    member
        Whether it is a training cell, (n_cells,).
    row
        Its row among the training or the held-out cells.
    distance
        To the nearest generated cell.
    ratio
        Log distance to the nearest other real cell minus that to the nearest generated one.
    density
        The same of the fifth nearest.
    """

    member: np.ndarray
    row: np.ndarray
    distance: np.ndarray
    ratio: np.ndarray
    density: np.ndarray


def run_attack(cells: dict[str, CellSet], seed: int) -> Attack:
    """Return the outcome of the membership inference attack."""
    rng = np.random.default_rng(seed)
    # made without training and held-out cells: a cell is farther from others on axes that were made from it
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
    """Return the distances of queries to the nearest points, (n_queries, up to 5), leaving out themselves."""
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(points) - itself)).fit(points)
    distances = np.asarray(near.kneighbors(None if itself else queries)[0], np.float64)
    # what is left of the difference of equal cells by rounding
    return np.where(distances < ROUNDING * np.linalg.norm(points, axis=1).max(), 0.0, distances)


def far_out_rows(attack: Attack) -> np.ndarray:
    """Return for each cell whether a generated cell is nearer than the held-out cells let expect."""
    gap = -attack.ratio
    first, third = np.quantile(gap[~attack.member], [0.25, 0.75])
    return gap < first - FAR_OUT * (third - first)
