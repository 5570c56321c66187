"""Metrics of two samples of cells, as functions of arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

BALANCED_C = 0.1  # inverse L2 penalty of the logistic regression in `balanced_classifiers`
TREES = 100  # number of trees of the random forest
BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # kernel bandwidths of the MMD, times the median squared distance
MAX_KERNEL_CELLS = 500  # maximum number of cells per side of the MMD
MIN_DETECTED = 10  # minimum number of cells of both sides with a value for a gene in `mean_difference`
TOP_SHARE = 0.02  # share of genes with the largest differences that `mean_difference` averages
MIN_MEAN = 0.05  # mean above which a gene counts as expressed in `spread_ratio`


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


def centred_within(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return values minus the mean of their group, (n_cells, n_genes), float32."""
    centred = np.array(values, np.float32)
    for group in np.unique(groups):
        rows = groups == group
        centred[rows] -= centred[rows].mean(axis=0, dtype=np.float64)
    return centred


def forest_votes(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, seed: int) -> np.ndarray:
    """Return the votes for class 1 of a random forest trained on `x`, `y`, for test cells, (n_test,)."""
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(TREES, n_jobs=1, random_state=seed).fit(x, y)
    return np.asarray(forest.predict_proba(x_test)[:, 1])


def auc(votes: np.ndarray, truth: np.ndarray) -> float:
    """Return the area under the ROC curve; NaN if there is one class only."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth, votes)) if len(np.unique(truth)) == 2 else float("nan")


def median_squared_distance(x: np.ndarray) -> float:
    """Return the median squared distance between rows of `x`, the kernel scale of `mmd`."""
    from scipy.spatial.distance import pdist

    return float(np.median(pdist(x, "sqeuclidean"))) or 1.0


def mmd(a: np.ndarray, b: np.ndarray, scale: float | None = None) -> float:
    """Return the squared maximum mean discrepancy, with expectation 0 for samples of one distribution.

    ``E k(x, x') + E k(y, y') - 2 E k(x, y)``, unbiased (without self-pairs), so it can be below 0; ``k`` is
    the mean of ``exp(-d^2 / (2 f scale))`` over f = 1/4, 1/2, 1, 2, 4 (Gretton et al. 2012, eq. 3,
    jmlr.org/papers/v13/gretton12a.html). The features must not depend on which cells are in `a` or in `b`.

    Parameters
    ----------
    a, b
        Samples, (n_cells, n_features), at least two rows each; the first 500 rows are used.
    scale
        Squared distance (default: the median squared distance between cells of `b`).
    """
    from sklearn.metrics.pairwise import euclidean_distances

    a, b = a[:MAX_KERNEL_CELLS], b[:MAX_KERNEL_CELLS]
    scale = scale or median_squared_distance(b)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        # exp(-d / (2 f s)) of the widest kernel; the others are its powers 2, 4, 8 and 16
        part = np.exp(-euclidean_distances(x, y, squared=True) / (2 * BANDWIDTHS[-1] * scale))
        total = part.copy()
        for _ in BANDWIDTHS[1:]:
            part *= part
            total += part
        return np.asarray(total / len(BANDWIDTHS))

    def within(x: np.ndarray) -> float:
        k, n = kernel(x, x), len(x)
        return float((k.sum() - np.trace(k)) / (n * (n - 1)))

    return within(a) + within(b) - 2 * float(kernel(a, b).mean())


def mean_difference(a: np.ndarray, b: np.ndarray, variance_a: np.ndarray, variance_b: np.ndarray) -> float:
    """Return the root mean square of the largest Welch's t of gene means, over 2% of the genes.

    Genes with values other than zero in at least ten cells are used. About 2.5 for samples of one
    distribution, whatever their size. Below that, the means agree better than
    those of independent samples can.

    Parameters
    ----------
    a, b
        Samples of the same composition, (n_cells, n_genes).
    variance_a, variance_b
        Variance of each gene within labels, (n_genes,).
    """
    error = variance_a / len(a) + variance_b / len(b)
    # with fewer values above zero, Welch's t has heavy tails
    on = (error > 0) & ((a != 0).sum(axis=0) + (b != 0).sum(axis=0) >= MIN_DETECTED)
    if not on.any():
        return float("nan")
    difference = a.mean(axis=0, dtype=np.float64) - b.mean(axis=0, dtype=np.float64)
    squares = np.sort(difference[on] ** 2 / error[on])
    return float(np.sqrt(squares[-max(5, round(TOP_SHARE * len(squares))) :].mean()))


def spread_ratio(mean: np.ndarray, variance_a: np.ndarray, variance_b: np.ndarray) -> float:
    """Return the median ratio of standard deviations within labels, over expressed genes.

    Parameters
    ----------
    mean
        Mean absolute value of each gene in `b`, (n_genes,).
    variance_a, variance_b
        Variances within labels, (n_genes,).
    """
    on = (mean > MIN_MEAN) & (variance_b > 0)
    return float(np.median(np.sqrt(variance_a[on] / variance_b[on]))) if on.any() else float("nan")


def excess_variance(scaled: np.ndarray, library: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the squared coefficient of variation of genes within labels beyond Poisson noise.

    The mean over labels of ``(variance - mean m E[1 / library]) / mean^2``, weighted by ``n mean^2``, where m
    is the median library size; 1 / theta for negative binomial counts of equal proportions. (n_genes,)

    Parameters
    ----------
    scaled
        Counts divided by the library size and multiplied by m, (n_cells, n_genes).
    library
        Library size divided by m, (n_cells,).
    labels
        Label of each cell, (n_cells,).
    """
    excess, square = np.zeros(scaled.shape[1]), np.zeros(scaled.shape[1])
    for label in np.unique(labels):
        x, inverse = scaled[labels == label], (1 / library[labels == label]).mean()
        if len(x) > 2:
            mean = x.mean(axis=0, dtype=np.float64)
            excess += len(x) * (x.var(axis=0, ddof=1, dtype=np.float64) - mean * inverse)
            square += len(x) * mean**2
    return np.divide(excess, square, out=np.full(len(square), np.nan), where=square > 0)


def sd_ratio(a: np.ndarray, b: np.ndarray) -> float:
    """Return the ratio of the standard deviations of two vectors; NaN if one is constant."""
    first, second = float(np.std(a)), float(np.std(b))
    return first / second if first > 0 and second > 0 else float("nan")


def slope(a: np.ndarray, b: np.ndarray) -> float:
    """Return the least-squares slope through the origin of `a` on `b`."""
    square = float(b @ b)
    return float(a @ b) / square if square > 0 else float("nan")


def largest_variance_ratio(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest ratio of variances over columns, larger over smaller; at least 1."""
    both = np.stack([a.var(axis=0, dtype=np.float64), b.var(axis=0, dtype=np.float64)])
    both = both[:, (both > 0).all(axis=0)]
    return float(np.exp(np.abs(np.log(both[0] / both[1])).max())) if both.size else float("nan")


def contrast(values: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Return the mean of the member cells minus the mean of the others, (n_genes,)."""
    member_mean = values[member].mean(axis=0, dtype=np.float64)
    return np.asarray(member_mean - values[~member].mean(axis=0, dtype=np.float64))


def f1(
    x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray, label: str, model: Any
) -> float:
    """Return the F1 for one label of the test cells; `model` is fitted to the training cells in place."""
    from sklearn.metrics import f1_score

    predicted = model.fit(x_train, y_train).predict(x_test)
    return float(f1_score(y_test == label, predicted == label, zero_division=0))


class UniformLda:
    """Linear discriminant analysis with equal priors and a shrunken covariance.

    The within-label covariance, pooled over labels, is shrunk as by Ledoit & Wolf (2004,
    doi:10.1016/S0047-259X(03)00096-4), or replaced by the identity if `spherical`: nearest centroids.
    """

    def __init__(self, spherical: bool = False) -> None:
        self.spherical = spherical

    def fit(self, x: np.ndarray, y: np.ndarray) -> UniformLda:
        """Fit to features, (n_cells, n_features), and labels, (n_cells,)."""
        from sklearn.covariance import ledoit_wolf

        self.labels, codes = np.unique(y, return_inverse=True)
        means = np.stack([x[codes == i].mean(axis=0) for i in range(len(self.labels))])
        self.weights = means.T
        if not self.spherical:
            covariance, _ = ledoit_wolf(x - means[codes], assume_centered=True)
            self.weights = np.linalg.pinv(covariance, hermitian=True) @ means.T
        self.intercepts = -np.einsum("kd,dk->k", means, self.weights) / 2
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return the most probable label of each cell, (n_cells,)."""
        return np.asarray(self.labels[(x @ self.weights + self.intercepts).argmax(axis=1)])


def balanced_classifiers() -> list[Any]:
    """Return untrained classifiers that cope with labels of few cells.

    Logistic regression with balanced class weights for features with a mean variance of 1, linear
    discriminant analysis with equal priors, and nearest centroids.
    """
    from sklearn.linear_model import LogisticRegression

    logistic = LogisticRegression(
        C=BALANCED_C, tol=1e-3, class_weight="balanced", max_iter=500, warm_start=True
    )
    return [logistic, UniformLda(), UniformLda(spherical=True)]
