"""Differences between training and held-out cells that have nothing to do with the generated cells."""

from __future__ import annotations

import numpy as np

from vaexprs.comparison.cell_sets import CellSet
from vaexprs.preprocessing.splits import stratified
from vaexprs.privacy.attack import within_labels
from vaexprs.privacy.folds import folds_by_label
from vaexprs.privacy.gene_scores import gene_scores
from vaexprs.privacy.intervals import Interval, auc_interval

MAX_CELLS = 2_000  # maximum number of cells of each set
CONFIDENCE = 0.99  # confidence level at which the sets are said to differ


def population_auc(train: CellSet, holdout: CellSet, label_key: str | None, seed: int) -> Interval:
    """Return how well training and held-out cells are separated without generated cells.

    Each cell is scored by the likelihood ratio of training and held-out cells of other folds. 0.5: both are
    random samples of one population, as membership inference requires.

    Parameters
    ----------
    train, holdout
        Training and held-out cells.
    label_key
        Column with the label; None for one label.
    seed
        Seed of the samples and the folds.
    """
    rng = np.random.default_rng(seed)
    train, holdout = (
        part.take(stratified(part.column(label_key), MAX_CELLS, rng)) for part in (train, holdout)
    )
    known_labels, held_labels = (part.column(label_key).astype(str) for part in (train, holdout))
    fold = np.concatenate(folds_by_label(known_labels, held_labels, rng))
    real = train.joined(holdout)
    member = np.repeat([True, False], [len(train), len(holdout)])
    score = np.empty(len(real))
    for k in np.unique(fold):
        known = train.take(np.flatnonzero(fold[member] != k))
        score[fold == k] = gene_scores(known, real, fold, label_key)["likelihood"][fold == k]
    score = within_labels(score, np.concatenate([known_labels, held_labels]))
    return auc_interval(score[member], score[~member], CONFIDENCE)
