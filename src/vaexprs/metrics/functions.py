"""Metrics of two samples of cells, as functions of arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

TREES = 100  # number of trees of the random forest
FOLDS = 5  # number of cross-validation folds
PENALTY = 100.0  # L2 penalty on standardised features, strong since most of 2,000 genes are uninformative
BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # kernel bandwidths of the MMD, times the median squared distance
NEIGHBOURS = 15  # number of neighbours in `nearest_same`
LISI_PERPLEXITY = 30
TREND_BINS = 20  # number of bins of gene means in `trend_gap`
MIN_MEAN = 0.05  # real mean above which a gene counts as expressed in `spread_ratio`


def forest_auc(a: np.ndarray, b: np.ndarray, seed: int = 0) -> float:
    """Return the AUC of a random forest that separates `a` from `b`; 0.5: chance level.

    Each cell is predicted by the trees not trained on it, as in the out-of-bag two-sample test of Hediger,
    Michel & Näf (2022, doi:10.1016/j.csda.2022.107435).
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score

    forest = RandomForestClassifier(TREES, oob_score=_no_score, n_jobs=1, random_state=seed)
    x, y = _stacked(a, b)
    votes = forest.fit(x, y).oob_decision_function_[:, 1]
    return float(roc_auc_score(y, np.nan_to_num(votes, nan=0.5)))


def _no_score(*_: np.ndarray) -> float:
    return float("nan")  # only the out-of-bag votes are used


def logistic_auc(a: np.ndarray, b: np.ndarray, seed: int = 0) -> float:
    """Return the cross-validated AUC of a logistic regression that separates `a` from `b`; 0.5: chance level.

    Mean of five folds; features are standardised and their weights have an L2 penalty.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = _stacked(a, b)
    folds = StratifiedKFold(min(FOLDS, len(a), len(b)), shuffle=True, random_state=seed)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1 / PENALTY, max_iter=500))
    return float(np.mean(cross_val_score(model, x, y, cv=folds, scoring="roc_auc")))


def median_squared_distance(x: np.ndarray) -> float:
    """Return the median squared distance between rows of `x`, the kernel scale of `mmd`."""
    from scipy.spatial.distance import pdist

    return float(np.median(pdist(x, "sqeuclidean"))) or 1.0


def mmd(a: np.ndarray, b: np.ndarray, scale: float | None = None) -> float:
    """Return the squared maximum mean discrepancy, with expectation 0 for samples of one distribution.

    ``E k(x, x') + E k(y, y') - 2 E k(x, y)``, unbiased (without self-pairs), so it can be below 0; ``k`` is
    the mean of ``exp(-d^2 / (2 f scale))`` over f = 1/4, 1/2, 1, 2, 4 (Gretton et al. 2012, eq. 3,
    jmlr.org/papers/v13/gretton12a.html).

    Parameters
    ----------
    a, b
        Samples, (n_cells, n_features), at least two rows each.
    scale
        Squared distance (default: the median squared distance between cells of `b`).
    """
    from sklearn.metrics.pairwise import euclidean_distances

    scale = scale or median_squared_distance(b)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        squared = euclidean_distances(x, y, squared=True)
        return np.mean([np.exp(-squared / (2 * f * scale)) for f in BANDWIDTHS], axis=0)

    def within(x: np.ndarray) -> float:
        k, n = kernel(x, x), len(x)
        return float((k.sum() - np.trace(k)) / (n * (n - 1)))

    return within(a) + within(b) - 2 * float(kernel(a, b).mean())


def wasserstein(a: np.ndarray, b: np.ndarray, power: int) -> float:
    """Return the Wasserstein distance of the given power between two samples, with Euclidean distance.

    ``(min over couplings of E |x - y|^power)^(1/power)``, solved exactly by the network simplex of POT.
    """
    import ot

    costs = ot.dist(np.asarray(a, np.float64), np.asarray(b, np.float64), metric="euclidean")
    return float(ot.emd2([], [], costs**power, numItermax=10_000_000)) ** (1 / power)


def nearest_same(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean fraction of a cell's 15 nearest neighbours that come from its own sample.

    The expectation for equal sizes and one distribution is (n - 1) / (2n - 1), close to 0.5; 1: separate
    samples (Schilling 1986, doi:10.1080/01621459.1986.10478337).
    """
    from sklearn.neighbors import NearestNeighbors

    x, y = _stacked(a, b)
    near = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(x) - 1)).fit(x)
    return float((y[near.kneighbors(return_distance=False)] == y[:, None]).mean())


def mixing(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the mixing of samples among the neighbours of each cell, cells of `a` first, (n_a + n_b,).

    The local inverse Simpson's index (Korsunsky et al. 2019, doi:10.1038/s41592-019-0619-0) minus one:
    1 for equal proportions of both samples, 0 for one sample only.
    """
    from scib_metrics import lisi_knn
    from scib_metrics.nearest_neighbors import NeighborsResults
    from sklearn.neighbors import NearestNeighbors

    x, y = _stacked(a, b)
    k = min(3 * LISI_PERPLEXITY, len(x) - 1)
    distances, indices = NearestNeighbors(n_neighbors=k).fit(x).kneighbors()
    index = lisi_knn(NeighborsResults(indices=indices, distances=distances), y, perplexity=k / 3)
    return np.asarray(index, np.float64) - 1


class GeneStatistics(NamedTuple):
    """Statistics of each gene, (n_genes,) each."""

    mean: np.ndarray
    variance: np.ndarray
    zero_fraction: np.ndarray


def gene_statistics(values: np.ndarray) -> GeneStatistics:
    """Return mean, variance and fraction of zeros of each gene of `values`, (n_cells, n_genes)."""
    ddof = min(1, len(values) - 1)
    return GeneStatistics(
        values.mean(axis=0, dtype=np.float64),
        values.var(axis=0, ddof=ddof, dtype=np.float64),
        (values == 0).mean(axis=0),
    )


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Pearson's correlation over the finite pairs of two vectors; NaN if one is constant."""
    ok = np.isfinite(a) & np.isfinite(b)
    a, b = a[ok], b[ok]
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def ks(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Kolmogorov-Smirnov distance of two samples of numbers, 0 to 1."""
    from scipy.stats import ks_2samp

    with np.errstate(divide="ignore"):  # from the p value, which is not used
        return float(ks_2samp(a, b, method="asymp").statistic)


def log_variance(variance: np.ndarray) -> np.ndarray:
    """Return log10 of variances, NaN for a variance of 0."""
    with np.errstate(divide="ignore"):
        logs = np.log10(variance)
    return np.where(np.isfinite(logs), logs, np.nan)


def trend_gap(mean_a: np.ndarray, y_a: np.ndarray, mean_b: np.ndarray, y_b: np.ndarray) -> float:
    """Return the mean distance between the trends of `y` over the gene mean in `a` and in `b`.

    Genes are divided into 20 quantile bins of their mean in `b`; the result is the mean over bins of the
    absolute difference of the medians of `y`, in units of `y`. All arrays are (n_genes,).
    """
    from scipy.stats import binned_statistic

    on = mean_b[mean_b > mean_b.min()]
    if min(len(on), np.isfinite(y_a).sum(), np.isfinite(y_b).sum()) < 3:
        return float("nan")
    edges = np.unique(np.quantile(on, np.linspace(0, 1, TREND_BINS + 1)))
    if len(edges) < 3:
        return float("nan")
    edges[-1] = max(edges[-1], mean_a.max())
    trends = [
        binned_statistic(mean[np.isfinite(y)], y[np.isfinite(y)], "median", bins=edges).statistic
        for mean, y in ((mean_a, y_a), (mean_b, y_b))
    ]
    gaps = np.abs(trends[0] - trends[1])
    return float(np.nanmean(gaps)) if np.isfinite(gaps).any() else float("nan")


def spread_ratio(a: GeneStatistics, b: GeneStatistics) -> float:
    """Return the median ratio of standard deviations, over genes with a mean above 0.05 in `b`."""
    on = (b.mean > MIN_MEAN) & (b.variance > 0)
    return float(np.median(np.sqrt(a.variance[on] / b.variance[on]))) if on.any() else float("nan")


def correlation_structure(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Return the agreement of the gene-gene correlations of `a` and `b`, over the same genes.

    Returns
    -------
    Pearson's correlation of the correlations above the diagonal, and the slope through the origin of the
    correlations of `a` on those of `b`: below 1 for attenuated correlations.
    """
    if a.shape[1] < 3:
        return float("nan"), float("nan")
    with np.errstate(all="ignore"):
        both = [np.corrcoef(x, rowvar=False)[np.triu_indices(x.shape[1], 1)] for x in (a, b)]
    ok = np.isfinite(both[0]) & np.isfinite(both[1])
    return correlation(*both), slope(both[0][ok], both[1][ok])


def slope(a: np.ndarray, b: np.ndarray) -> float:
    """Return the least-squares slope through the origin of `a` on `b`."""
    square = float(b @ b)
    return float(a @ b) / square if square > 0 else float("nan")


class Contrast(NamedTuple):
    """Difference of means between a label and the other cells, and Welch's t, (n_genes,) each."""

    change: np.ndarray
    t: np.ndarray


def contrasts(parts: list[GeneStatistics], sizes: np.ndarray) -> list[Contrast]:
    """Return the contrast of each label with all other cells.

    Parameters
    ----------
    parts
        Gene statistics of each label on the log scale.
    sizes
        Number of cells of each label, (n_labels,).
    """
    from scipy.stats import ttest_ind_from_stats

    mean = np.stack([part.mean for part in parts])
    square = np.stack([part.variance for part in parts]) * ((sizes - 1) / sizes)[:, None] + mean**2
    found = []
    for i, n in enumerate(sizes):
        weights = np.delete(sizes, i) / np.delete(sizes, i).sum()
        others = int(np.delete(sizes, i).sum())
        rest = weights @ np.delete(mean, i, axis=0)
        rest_variance = np.maximum(weights @ np.delete(square, i, axis=0) - rest**2, 0)
        with np.errstate(all="ignore"):
            t = ttest_ind_from_stats(
                mean[i],
                np.sqrt(parts[i].variance),
                int(n),
                rest,
                np.sqrt(rest_variance * others / max(others - 1, 1)),
                others,
                equal_var=False,
            ).statistic
        found.append(Contrast(mean[i] - rest, np.nan_to_num(t, posinf=0, neginf=0)))
    return found


def marker_overlap(a: Contrast, b: Contrast, n_genes: int) -> float:
    """Return the fraction of the `n_genes` genes with the highest t shared by `a` and `b`."""
    top = [set(np.argsort(-each.t, kind="stable")[:n_genes]) for each in (a, b)]
    return len(top[0] & top[1]) / n_genes


def change_slope(a: Contrast, b: Contrast, n_genes: int) -> float:
    """Return the slope of the log fold changes of `a` on those of `b`, over the `n_genes` largest of `b`.

    Below 1 for attenuated differences between types.
    """
    top = np.argsort(-np.abs(b.change), kind="stable")[:n_genes]
    return slope(a.change[top], b.change[top])


def recalls(
    x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray
) -> dict[str, float]:
    """Return the recall of each label of the test cells by a logistic regression."""
    predicted = classifier().fit(x_train, y_train).predict(x_test)
    return {str(label): float((predicted[y_test == label] == label).mean()) for label in np.unique(y_test)}


def f1(x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray, label: str) -> float:
    """Return the F1 of a logistic regression for one label of the test cells."""
    from sklearn.metrics import f1_score

    predicted = classifier().fit(x_train, y_train).predict(x_test)
    return float(f1_score(y_test == label, predicted == label, zero_division=0))


def classifier() -> Any:
    """Return an untrained classifier of labels: logistic regression on standardised features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))


def _stacked(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of both samples in one array, and their membership: 1 for `a`, 0 for `b`."""
    return np.concatenate([a, b]), np.repeat([1, 0], [len(a), len(b)])
