"""Metrics of two samples: arrays in, floats out."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

TREES = 100
FOLDS = 5
PENALTY = 100.0  # of squared weights, on standardised features: most of 2,000 genes tell nothing
BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the kernels, times the median squared distance
NEIGHBOURS = 15
LISI_PERPLEXITY = 30
TREND_BINS = 20


def forest_auc(a: np.ndarray, b: np.ndarray, seed: int = 0) -> float:
    """Return the AUC with which a random forest tells `a` from `b`; 0.5: it cannot.

    Each cell is judged by the trees that did not see it, as in the out-of-bag two-sample test of Hediger,
    Michel & Näf (2022, doi:10.1016/j.csda.2022.107435).
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score

    forest = RandomForestClassifier(TREES, oob_score=_no_score, n_jobs=1, random_state=seed)
    x, y = _stacked(a, b)
    votes = forest.fit(x, y).oob_decision_function_[:, 1]
    return float(roc_auc_score(y, np.nan_to_num(votes, nan=0.5)))


def _no_score(*_: np.ndarray) -> float:
    return float("nan")  # only the votes are wanted


def logistic_auc(a: np.ndarray, b: np.ndarray, seed: int = 0) -> float:
    """Return the AUC with which a logistic regression tells `a` from `b`, mean of five folds; 0.5: it cannot.

    Features are standardised, their weights have an L2 penalty.
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
    """Return the median squared distance between the rows of `x`, the scale of the kernels of `mmd`."""
    from scipy.spatial.distance import pdist

    return float(np.median(pdist(x, "sqeuclidean"))) or 1.0


def mmd(a: np.ndarray, b: np.ndarray, scale: float | None = None) -> float:
    """Return the squared maximum mean discrepancy; 0 in the mean for samples of one distribution.

    ``E k(x, x') + E k(y, y') - 2 E k(x, y)`` without the terms of a cell with itself, so that it can be
    below 0; ``k`` is the mean of ``exp(-d^2 / (2 f scale))`` over f = 1/4, 1/2, 1, 2, 4 (Gretton et al.
    2012, eq. 3, jmlr.org/papers/v13/gretton12a.html).

    Parameters
    ----------
    a, b
        Samples, (n_cells, n_features), at least two rows each.
    scale
        Squared distance; by default the median one between cells of `b`.
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
    """Return the Wasserstein distance of the given power between two samples, with Euclidean costs.

    ``(min over couplings of E |x - y|^power)^(1/power)``, solved exactly by the network simplex of POT.
    """
    import ot

    costs = ot.dist(np.asarray(a, np.float64), np.asarray(b, np.float64), metric="euclidean")
    return float(ot.emd2([], [], costs**power, numItermax=10_000_000)) ** (1 / power)


def nearest_same(a: np.ndarray, b: np.ndarray) -> float:
    """Return the fraction of a cell's 15 nearest neighbours that come from its own sample.

    For equal samples of one distribution it is (n - 1) / (2n - 1), close to 0.5; 1 where they lie apart
    (Schilling 1986, doi:10.1080/01621459.1986.10478337).
    """
    from sklearn.neighbors import NearestNeighbors

    x, y = _stacked(a, b)
    near = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(x) - 1)).fit(x)
    return float((y[near.kneighbors(return_distance=False)] == y[:, None]).mean())


def mixing(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return for each cell, those of `a` first, how mixed its neighbours are, (n_a + n_b,): 0 to 1.

    The local inverse Simpson's index (Korsunsky et al. 2019, doi:10.1038/s41592-019-0619-0) minus one:
    1 where both samples are equally near, 0 where one is alone.
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
    """What a sample says of each gene, (n_genes,) each."""

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
    """Return Pearson's correlation of two vectors, where both are finite; NaN if one is constant."""
    ok = np.isfinite(a) & np.isfinite(b)
    a, b = a[ok], b[ok]
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def ks(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Kolmogorov-Smirnov distance of two samples of numbers: 0 alike, 1 apart."""
    from scipy.stats import ks_2samp

    with np.errstate(divide="ignore"):  # of a p value that nobody asked for
        return float(ks_2samp(a, b, method="asymp").statistic)


def log_variance(variance: np.ndarray) -> np.ndarray:
    """Return log10 of variances, NaN where one is 0."""
    with np.errstate(divide="ignore"):
        logs = np.log10(variance)
    return np.where(np.isfinite(logs), logs, np.nan)


def trend_gap(mean_a: np.ndarray, y_a: np.ndarray, mean_b: np.ndarray, y_b: np.ndarray) -> float:
    """Return how far the trend of `y` over the gene mean is from the real one, in units of `y`.

    Genes are put into 20 bins with equal numbers of real gene means; the figure is the mean over bins of
    the absolute difference of the medians of `y`. All arrays are (n_genes,).
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
    """Return the median over genes with a real mean above 0.05 of the ratio of standard deviations."""
    on = (b.mean > 0.05) & (b.variance > 0)
    return float(np.median(np.sqrt(a.variance[on] / b.variance[on]))) if on.any() else float("nan")


def correlation_structure(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Return how well the gene-gene correlations of `a` agree with those of `b`, over the same genes.

    Returns
    -------
    Pearson's correlation of the correlations above the diagonal, and the slope (through the origin) of
    those of `a` on those of `b`: below 1 where correlations are attenuated.
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
    """How the cells of a label differ from the others, (n_genes,) each."""

    change: np.ndarray
    t: np.ndarray


def contrasts(parts: list[GeneStatistics], sizes: np.ndarray) -> list[Contrast]:
    """Return for each label the difference of means to all other cells, and Welch's t.

    Parameters
    ----------
    parts
        Statistics of each label on the log scale.
    sizes
        Cells of each, (n_labels,).
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


def marker_overlap(a: Contrast, b: Contrast, most: int) -> float:
    """Return the fraction of the `most` genes with the highest t in `b` that are also those of `a`."""
    top = [set(np.argsort(-each.t, kind="stable")[:most]) for each in (a, b)]
    return len(top[0] & top[1]) / most


def change_slope(a: Contrast, b: Contrast, most: int) -> float:
    """Return the slope of the log fold changes of `a` on those of `b`, over the `most` largest of `b`.

    Below 1: differences between types are attenuated.
    """
    top = np.argsort(-np.abs(b.change), kind="stable")[:most]
    return slope(a.change[top], b.change[top])


def recalls(
    x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray
) -> dict[str, float]:
    """Return for each label the fraction of its test cells that a logistic regression finds."""
    said = classifier().fit(x_train, y_train).predict(x_test)
    return {str(label): float((said[y_test == label] == label).mean()) for label in np.unique(y_test)}


def f1(x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray, label: str) -> float:
    """Return the F1 with which a logistic regression finds a label in the test cells."""
    from sklearn.metrics import f1_score

    said = classifier().fit(x_train, y_train).predict(x_test)
    return float(f1_score(y_test == label, said == label, zero_division=0))


def classifier() -> Any:
    """Return the classifier of labels: standardised features, logistic regression."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))


def _stacked(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both samples in one array, and 1 for the rows of `a`, 0 for those of `b`."""
    return np.concatenate([a, b]), np.repeat([1, 0], [len(a), len(b)])
