"""Membership inference from the sums of genes, of each label and of all cells.

The reference of a cell are all real cells of other folds, training and held-out cells alike: the attacker
has many cells of which some were in training, and does not know which. Compared with held-out cells alone,
the means of such a reference vary less from those of the generated cells, and the attacked cell contributes
as much to the difference, so that the attack is more accurate.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from vaexprs.comparison.axes import Axes
from vaexprs.comparison.cell_sets import CellSet
from vaexprs.data.matrix import Matrix

PRIOR_CELLS = 2.0  # cells with the mean of all labels that are added to each label
PRIOR_COUNTS = 0.5  # counts added to each gene of a label (Jeffreys' prior)
TYPE_AXES = 10  # principal axes without which all labels together are compared
MIN_VARIANCE = 1e-3  # minimum variance of a gene, as a fraction of the median variance


class Groups(NamedTuple):
    """Sums of cells by label.

    Parameters
    ----------
    n
        Number of cells, (n_labels,).
    sums
        Sum of the values, (n_labels, n_genes).
    """

    n: np.ndarray
    sums: np.ndarray

    def means(self) -> np.ndarray:
        """Return the mean of each label, shrunk to the mean of all cells, (n_labels, n_genes)."""
        overall = self.sums.sum(axis=0) / max(self.n.sum(), 1)
        return np.asarray((self.sums + PRIOR_CELLS * overall) / (self.n + PRIOR_CELLS)[:, None])

    def frequencies(self) -> np.ndarray:
        """Return the fraction of the counts of each label that each gene has, (n_labels, n_genes)."""
        counts = self.means() * (self.n + PRIOR_CELLS)[:, None] + PRIOR_COUNTS
        return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def sums_by(x: Matrix, groups: np.ndarray, n_groups: int) -> np.ndarray:
    """Return the sum of the rows of each group, (n_groups, n_genes)."""
    members = sp.csr_matrix((np.ones(len(groups)), (groups, np.arange(len(groups)))), (n_groups, len(groups)))
    sums = members @ x
    return np.asarray(sums.toarray() if sp.issparse(sums) else sums, np.float64)


def gene_scores(
    generated: CellSet, real: CellSet, fold: np.ndarray, label_key: str | None
) -> dict[str, np.ndarray]:
    """Return the scores of two attacks that compare the genes of generated and reference cells of a label.

    Parameters
    ----------
    generated
        Generated cells.
    real
        Training and held-out cells.
    fold
        Fold of each real cell, (n_cells,).
    label_key
        Column with the label; None for one label.

    Returns
    -------
    By attack, (n_cells,). "genes": ``sum over genes of log(1 + count) * log(p_generated / p_reference)``, for
    counts only. "likelihood": log likelihood ratio of the normal distributions of generated and of reference
    cells, with equal variances and independent genes.
    """
    columns = generated.column(label_key), real.column(label_key)
    names = np.unique(np.concatenate(columns).astype(str))
    of_generated, of_real = (np.searchsorted(names, column.astype(str)) for column in columns)
    n_labels, n_folds = len(names), int(fold.max()) + 1
    group = of_real * n_folds + fold
    n_real = np.bincount(group, minlength=n_labels * n_folds).reshape(n_labels, n_folds)
    n_generated = np.bincount(of_generated, minlength=n_labels)

    def by_fold(x: Matrix) -> np.ndarray:
        return sums_by(x, group, n_labels * n_folds).reshape(n_labels, n_folds, x.shape[1])

    def reference(sums: np.ndarray, k: int) -> Groups:
        others = np.arange(n_folds) != k
        return Groups(n_real[:, others].sum(axis=1), sums[:, others].sum(axis=1))

    def score(x: Matrix, weights: np.ndarray, k: int, out: np.ndarray) -> None:
        for label in range(n_labels):
            rows = np.flatnonzero((fold == k) & (of_real == label))
            out[rows] = np.asarray(x[rows] @ weights[label]).ravel()

    scores = {"likelihood": np.empty(len(fold))}
    made = Groups(n_generated, sums_by(generated.values, of_generated, n_labels))
    squares = _squares(generated.values).sum(axis=0)
    of_fold = by_fold(real.values)
    squares_of_fold = sums_by(_squares(real.values), fold, n_folds)
    for k in range(n_folds):
        known = reference(of_fold, k)
        total = np.asarray(squares).ravel() + squares_of_fold[np.arange(n_folds) != k].sum(axis=0)
        variance = _pooled_variance(total, (made, known))
        means = made.means(), known.means()
        weights = (means[0] - means[1]) / variance
        score(real.values, weights, k, scores["likelihood"])
        scores["likelihood"][fold == k] -= ((means[0] + means[1]) / 2 * weights).sum(axis=1)[
            of_real[fold == k]
        ]
    if generated.counts:
        scores["genes"] = np.empty(len(fold))
        made, of_fold = Groups(n_generated, sums_by(generated.raw, of_generated, n_labels)), by_fold(real.raw)
        logs = real.raw.log1p() if sp.issparse(real.raw) else np.log1p(real.raw)
        for k in range(n_folds):
            weights = np.log(made.frequencies() / reference(of_fold, k).frequencies())
            score(logs, weights, k, scores["genes"])
    return scores


def _squares(x: Matrix) -> Matrix:
    return x.multiply(x).tocsr() if sp.issparse(x) else np.square(x, dtype=np.float64)


def _pooled_variance(squares: np.ndarray, parts: tuple[Groups, ...]) -> np.ndarray:
    """Return the variance of each gene within labels and sets, at least a small positive number."""
    between = sum((part.sums**2 / np.maximum(part.n, 1)[:, None]).sum(axis=0) for part in parts)
    variance = np.maximum(squares - between, 0) / sum(int(part.n.sum()) for part in parts)
    return _positive(variance)


def _positive(variance: np.ndarray) -> np.ndarray:
    positive = variance[variance > 0]
    return np.asarray(np.maximum(variance, MIN_VARIANCE * np.median(positive) if len(positive) else 1.0))


def total_score(generated: CellSet, real: CellSet, fold: np.ndarray, seed: int) -> np.ndarray:
    """Return the score of an attack with the means of the genes over all labels, (n_cells,).

    The log likelihood ratio of normal distributions with the means of generated and of reference cells. It is
    computed without the first 10 principal axes of the real cells, in which types and library sizes differ
    more than membership changes the means.

    Parameters
    ----------
    generated
        Generated cells.
    real
        Training and held-out cells.
    fold
        Fold of each real cell, (n_cells,).
    seed
        Seed of the axes.
    """
    axes = Axes.of([real.values], seed, TYPE_AXES)
    made, mean = (np.asarray(x.mean(axis=0), np.float64).ravel() for x in (generated.values, real.values))
    squares = np.asarray(_squares(real.values).mean(axis=0), np.float64).ravel()
    explained = axes.of_cells(real.values).var(axis=0) @ axes.components**2
    variance = _positive(np.maximum(squares - mean**2 - explained, 0))

    def without_axes(x: np.ndarray) -> np.ndarray:
        return x - (axes.components @ x) @ axes.components

    score = np.empty(len(fold))
    for k in np.unique(fold):
        reference = np.flatnonzero(fold != k)
        known = np.asarray(real.values[reference].mean(axis=0), np.float64).ravel()
        weights = without_axes(without_axes(made - known) / variance)
        score[fold == k] = np.asarray(real.values[fold == k] @ weights).ravel()
    return score
