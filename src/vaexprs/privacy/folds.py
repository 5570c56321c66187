"""Folds of training and held-out cells, so that the attacker's reference cells are cells of other folds."""

from __future__ import annotations

import numpy as np

FOLDS = 5  # number of folds; a cell is attacked with cells of the other folds as reference


def folds_by_label(
    train: np.ndarray, holdout: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return a random fold for each training and each held-out cell.

    The held-out cells of each label are spread evenly. The training cells of a label have its folds in the
    same proportions, so that both have equally many reference cells.

    Parameters
    ----------
    train, holdout
        Label of each cell.
    """
    of_train, of_holdout = np.empty(len(train), int), np.empty(len(holdout), int)
    first = 0
    for label in np.unique(np.concatenate([train, holdout])):
        held = rng.permutation(np.flatnonzero(holdout == label))
        known = rng.permutation(np.flatnonzero(train == label))
        used = (first + np.arange(len(held))) % FOLDS
        of_holdout[held] = used
        of_train[known] = np.resize(used if len(used) else np.arange(FOLDS), len(known))
        first += len(held)
    return of_train, of_holdout


def folds_by_donor(
    train: np.ndarray, holdout: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return a fold for each training and each held-out cell, with all cells of a donor in one fold.

    The reference then has no cell of the donor of the attacked cell. None if only one donor is held out.

    Parameters
    ----------
    train, holdout
        Donor of each cell.
    """
    known, held = np.unique(train), np.unique(holdout)
    n = min(FOLDS, len(held))
    if n < 2:
        return None
    groups = [
        np.setdiff1d(held, known),
        np.intersect1d(held, known),
        np.setdiff1d(known, held),
    ]
    order = np.concatenate([rng.permutation(group) for group in groups])
    fold = {donor: i % n for i, donor in enumerate(order)}
    return np.array([fold[d] for d in train]), np.array([fold[d] for d in holdout])
