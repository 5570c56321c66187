"""Metrics that need more than two samples of one label: contrasts, covariates, forests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vaexprs.metrics import functions as metrics
from vaexprs.metrics.reference import Sample
from vaexprs.metrics.registry import ALL, METRICS, MIN_CELLS

MAX_MARKERS = 50  # number of genes per contrast; at most a tenth of the genes
MAX_FOLDS = 5  # maximum number of folds of a forest
FOLDS_TIMES_CELLS = 1_500  # maximum product of folds and cells per side, unless there are two folds
MAX_AXES = 50  # maximum number of principal components of a forest
# values of metrics by (metric, label)
MetricValues = dict[tuple[str, str], float]


def forest_values(
    a: Sample, b: Sample, tested: Sample, labels: Sequence[str], wanted: set[str], seed: int
) -> MetricValues:
    """Return the AUC of forests that separate `a` from `b`, over all cells and within each label.

    The cells are divided into two to five folds, the fewer the more cells there are. A forest learns on all
    but one fold of both samples and is tested on that fold; the AUC is averaged over folds. Pooled votes of
    several forests have an AUC below 0.5 for equal distributions (Parker, Günter & Bedo 2007,
    doi:10.1186/1471-2105-8-326).

    Parameters
    ----------
    a, b
        The samples; `a` is the evaluated one.
    tested
        Cells that replace `a` in the test: a second set, drawn independently of `a`, or `a` itself.
    labels
        Labels with metrics of their own.
    wanted
        Names of metrics.
    seed
        Seed of the forests.
    """
    n_folds = int(np.clip(FOLDS_TIMES_CELLS // max(len(b), 1), 2, MAX_FOLDS))
    if min(len(a), len(b), len(tested)) < MIN_CELLS * n_folds:
        return {}
    rng = np.random.default_rng(seed)
    fold_a, fold_b = folds(a.labels, n_folds, rng), folds(b.labels, n_folds, rng)
    fold_tested = fold_a if tested is a else folds(tested.labels, n_folds, rng)
    found: dict[tuple[str, str], list[float]] = {}
    for k in range(n_folds):
        learn = [x.values[fold != k] for x, fold in ((a, fold_a), (b, fold_b))]
        test = [x.values[fold == k] for x, fold in ((tested, fold_tested), (b, fold_b))]
        y, truth = (np.repeat([1, 0], [len(x) for x in parts]) for parts in (learn, test))
        column = np.concatenate([tested.labels[fold_tested == k], b.labels[fold_b == k]])
        x, x_test = np.concatenate(learn), np.concatenate(test)
        for name in ("forest_auc_genes", "forest_auc_pcs"):
            if name not in wanted:
                continue
            if name == "forest_auc_pcs":
                x, x_test = _on_axes(x, x_test, seed)
            votes = metrics.forest_votes(x, y, x_test, seed)
            found.setdefault((name, ALL), []).append(metrics.auc(votes, truth))
            for label in labels:
                rows = column == label
                if min(np.bincount(truth[rows], minlength=2)) * n_folds >= METRICS[name].cells:
                    found.setdefault((name, label), []).append(metrics.auc(votes[rows], truth[rows]))
    return {key: float(np.mean(values)) for key, values in found.items()}


def folds(labels: np.ndarray, n_folds: int, rng: np.random.Generator) -> np.ndarray:
    """Return the fold of each cell, at random with equal numbers of each label."""
    found = np.zeros(len(labels), int)
    first = 0
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        found[rows] = (first + np.arange(len(rows))) % n_folds
        first += len(rows)
    return found


def _on_axes(x: np.ndarray, x_test: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return training and test cells on the principal axes of the training cells."""
    from sklearn.decomposition import PCA

    with np.errstate(invalid="ignore"):  # identical cells have a variance of 0
        pca = PCA(max(1, min(MAX_AXES, len(x) - 1, x.shape[1])), random_state=seed).fit(x)
    return pca.transform(x), pca.transform(x_test)


def contrast_values(
    a: Sample, b: Sample, labels: Sequence[str], strongest: Mapping[str, np.ndarray], wanted: set[str]
) -> MetricValues:
    """Return the slope of the log fold changes of each label against the other labels.

    Parameters
    ----------
    a, b
        The samples; `a` is the evaluated one.
    labels
        Labels with metrics of their own.
    strongest
        Genes with the largest fold changes of each label in the real cells.
    wanted
        Names of metrics.
    """
    name = "fold_change_slope"
    if name not in wanted or len(labels) < 2:
        return {}
    values: MetricValues = {}
    for label in labels:
        member = a.labels == label
        if min(member.sum(), (~member).sum()) < METRICS[name].cells:
            continue
        genes = strongest[label]
        both = [metrics.contrast(x.values[:, genes], x.labels == label) for x in (a, b)]
        values[name, label] = metrics.slope(*both)
    if values:
        values[name, ALL] = float(np.mean(list(values.values())))
    return values


def covariate_values(
    a: Sample, b: Sample, covariates: Mapping[str, Sequence[str]], wanted: set[str]
) -> MetricValues:
    """Return the recall of levels of covariates, and the slope of their log fold changes within labels.

    Parameters
    ----------
    a, b
        The samples; `a` is the evaluated one.
    covariates
        Levels of each covariate, in the order of their codes.
    wanted
        Names of metrics.
    """
    values: MetricValues = {}
    for i, (key, levels) in enumerate(covariates.items()):
        if "covariate_recall" in wanted:
            values["covariate_recall", key] = float(a.level_hits[:, i].mean())
        for code, level in enumerate(levels):
            rows = [x.levels[:, i] == code for x in (a, b)]
            cells = METRICS["covariate_recall"].cells
            if min(x.sum() for x in rows) < cells or min((~x).sum() for x in rows) < cells:
                continue
            label = level_name(key, level)
            if "covariate_recall" in wanted:
                values["covariate_recall", label] = float(a.level_hits[rows[0], i].mean())
            if "covariate_slope" in wanted:
                changes = [metrics.contrast(x.centred, r) for x, r in zip((a, b), rows, strict=True)]
                genes = strongest_genes(changes[1])
                values["covariate_slope", label] = metrics.slope(changes[0][genes], changes[1][genes])
    return values


def level_name(key: str, level: str) -> str:
    """Return the value of the column "label" for a level of a covariate."""
    return f"{key}: {level}"


def strongest_genes(change: np.ndarray) -> np.ndarray:
    """Return the columns with the largest absolute changes, at most 50 and a tenth of the genes."""
    n = max(3, min(MAX_MARKERS, len(change) // 10))
    return np.argsort(-np.abs(change), kind="stable")[:n]
