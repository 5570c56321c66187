"""Membership inference attacks on cells: scores of each training and held-out cell."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vaexprs.comparison.axes import Axes
from vaexprs.comparison.cell_sets import CellSet
from vaexprs.preprocessing.splits import stratified
from vaexprs.privacy.exposure import Nearness, by_distance, by_missing_genes
from vaexprs.privacy.folds import folds_by_donor, folds_by_label
from vaexprs.privacy.gene_scores import gene_scores, total_score
from vaexprs.privacy.intervals import TINY

MAX_CELLS = 20_000  # maximum number of training and of held-out cells that are attacked
NEIGHBOURS = 5  # number of neighbours; the distance to the last estimates the density
ROUNDING = 1e-6  # distances below this fraction of the largest norm are rounding errors


class Attack(NamedTuple):
    """Scores of the attackers for each training and held-out cell, (n_cells,) each.

    Parameters
    ----------
    member
        Whether it is a training cell.
    row
        Its row in the training or held-out cells.
    label, donor
        Its label and donor; "" without a column.
    distance
        Distance to the nearest generated cell.
    nearness
        Nearest generated cell and whether it exposes the cell; by detected genes for counts.
    scores
        Scores by attack, standardised within labels: "ratio" (log distance to the nearest reference cell
        minus log distance to the nearest generated cell), "density" (the same for the fifth nearest cells),
        "totals" (`total_score`) and those of `gene_scores`.
    """

    member: np.ndarray
    row: np.ndarray
    label: np.ndarray
    donor: np.ndarray
    distance: np.ndarray
    nearness: Nearness
    scores: dict[str, np.ndarray]

    def split(self, attack: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the scores of training and of held-out cells."""
        return self.scores[attack][self.member], self.scores[attack][~self.member]


def run_attacks(
    cells: dict[str, CellSet], label_key: str | None, donor_key: str | None, seed: int, notes: list[str]
) -> Attack:
    """Return the scores of up to 20,000 training and held-out cells each.

    The attacker has the generated cells and reference cells of other folds, which are of other donors with
    `donor_key`: held-out cells for distances, all real cells for gene sums.

    Parameters
    ----------
    cells
        Sets "generated", "train" and "holdout".
    label_key, donor_key
        Columns with label and donor, or None.
    seed
        Seed of the axes, the folds and the samples.
    notes
        List to which a sentence is appended if cells were sampled.
    """
    rng = np.random.default_rng(seed)
    parts, rows = {}, {}
    for name, what in (("train", "training"), ("holdout", "held-out")):
        part = cells[name]
        rows[name] = stratified(part.column(label_key), MAX_CELLS, rng)
        parts[name] = part if len(rows[name]) == len(part) else part.take(rows[name])
        if len(rows[name]) < len(part):
            notes.append(
                f"The attacks used a random sample of {MAX_CELLS:,} of the {len(part):,} {what} cells, with "
                "cells of every label. Exact copies were searched for among all cells; exposed cells outside "
                "the sample are not listed."
            )
    fold = _folds(parts, label_key, donor_key, rng)
    member = np.repeat([True, False], [len(part) for part in parts.values()])
    real = parts["train"].joined(parts["holdout"])
    # Axes from generated cells only: a cell is farther from others on axes that were computed from it.
    axes = Axes.of([cells["generated"].values], seed)
    made, points = axes.of_cells(cells["generated"].values), axes.of_cells(real.values)
    to_made = nearest_distances(made, points)
    to_real = np.empty((len(points), NEIGHBOURS))
    for k in np.unique(fold):
        reference = points[~member & (fold != k)]
        found = nearest_distances(reference, points[fold == k])
        to_real[fold == k] = found[:, np.minimum(np.arange(NEIGHBOURS), found.shape[1] - 1)]
    ratios = np.log(to_real + TINY)[:, : to_made.shape[1]] - np.log(to_made + TINY)
    scores = {"ratio": ratios[:, 0], "density": ratios[:, -1]}
    scores |= gene_scores(cells["generated"], real, fold, label_key)
    scores["totals"] = total_score(cells["generated"], real, fold, seed)
    near = by_missing_genes(cells["generated"], real, member, fold)
    if near is None:
        near = by_distance(to_made[:, 0], ratios[:, 0], member)
    labels = real.column(label_key)
    return Attack(
        member,
        np.concatenate(list(rows.values())),
        labels,
        real.column(donor_key),
        to_made[:, 0],
        near,
        {name: within_labels(score, labels) for name, score in scores.items()},
    )


def _folds(
    parts: dict[str, CellSet], label_key: str | None, donor_key: str | None, rng: np.random.Generator
) -> np.ndarray:
    if donor_key is not None:
        found = folds_by_donor(parts["train"].column(donor_key), parts["holdout"].column(donor_key), rng)
        if found is not None:
            return np.concatenate(found)
    train, holdout = (parts[name].column(label_key).astype(str) for name in ("train", "holdout"))
    return np.concatenate(folds_by_label(train, holdout, rng))


def within_labels(score: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return scores standardised within labels, which differ in the typical score and its spread.

    Training and held-out cells are treated alike, so scores that are exchangeable stay so.
    """
    result = np.zeros(len(score))
    for label in np.unique(labels):
        own = score[labels == label]
        spread = np.std(own)
        if spread > 0:
            result[labels == label] = (own - np.median(own)) / spread
    return result


def nearest_distances(points: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return distances of queries to the nearest points, (n_queries, up to 5)."""
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(points))).fit(points)
    distances = np.asarray(near.kneighbors(queries)[0], np.float64)
    # identical cells have a distance of 0 up to rounding
    return np.where(distances < ROUNDING * np.linalg.norm(points, axis=1).max(), 0.0, distances)
