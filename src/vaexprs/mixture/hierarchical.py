"""Model-based hierarchical clustering, which initialises the EM algorithm of mixtures."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import pdist, squareform


def svd_scaled(x: np.ndarray) -> np.ndarray:
    r"""Return points scaled along the axes of their singular value decomposition, (n, rank).

    For standardised points :math:`Z = U \Lambda V^T` the result is :math:`Z V \Lambda^{-1/2}`, which reduces
    the influence of units and correlations on distances (Scrucca & Raftery 2015,
    doi:10.1007/s11634-015-0220-z).
    """
    spread = x.std(axis=0, ddof=1)
    varies = spread > 0
    z = (x[:, varies] - x[:, varies].mean(axis=0)) / spread[varies]
    u, singular, _ = np.linalg.svd(z, full_matrices=False)
    there = singular > singular.max(initial=0.0) * max(z.shape) * np.finfo(float).eps
    return np.asarray(u[:, there] * np.sqrt(singular[there]))


def merge_tree(x: np.ndarray) -> np.ndarray:
    r"""Merge points hierarchically into clusters of normal distributions with separate covariances.

    Each step merges the two clusters with the smallest increase of

    .. math:: \sum_k n_k \log\left(\left|\frac{W_k}{n_k}\right|
              + \frac{\operatorname{tr} W_k + \operatorname{tr} W / (n d)}{n_k}\right)

    with the sizes :math:`n_k` and scatter matrices :math:`W_k` of the clusters and W of all points; the
    second term distinguishes small clusters, whose determinants are 0 (Fraley 1998,
    doi:10.1137/S1064827596311451).

    Parameters
    ----------
    x
        Points, (n, d).

    Returns
    -------
    np.ndarray
        Numbers of the two clusters merged in each step, (n - 1, 2), the smaller one first. The merged cluster
        keeps the smaller number. Initially each point is the cluster with its row number.
    """
    n = len(x)
    clusters = _Clusters(x)
    if clusters.least == 0:  # all points are equal
        return np.stack([np.zeros(n - 1, int), np.arange(1, n)], axis=1)
    # costs of merging two clusters, infinite on the diagonal and for clusters that no longer exist
    cost = clusters.pair_costs(x)
    nearest = cost.argmin(axis=1)
    lowest = cost[np.arange(n), nearest]
    there = np.ones(n, bool)
    steps = np.empty((n - 1, 2), int)
    for step in range(n - 1):
        a = int(lowest.argmin())
        a, b = sorted((a, int(nearest[a])))
        steps[step] = a, b
        clusters.merge(a, b)
        there[b] = False
        cost[b], cost[:, b], lowest[b] = np.inf, np.inf, np.inf
        others = np.flatnonzero(there)
        others = others[others != a]
        new = clusters.costs(a, others)
        cost[a, others] = cost[others, a] = new
        closer = new < lowest[others]
        lowest[others[closer]], nearest[others[closer]] = new[closer], a
        # clusters whose nearest cluster was merged search all remaining ones
        lost = others[~closer & np.isin(nearest[others], (a, b))]
        lost = np.append(lost, a)
        nearest[lost] = cost[lost].argmin(axis=1)
        lowest[lost] = cost[lost, nearest[lost]]
    return steps


class _Clusters:
    """Sizes, means, scatter matrices and criterion terms of clusters, initially of single points."""

    def __init__(self, x: np.ndarray) -> None:
        n, d = x.shape
        self.least = x.var(axis=0).sum() / max(d, 1)  # tr W / (n d)
        self.size, self.mean = np.ones(n), x.copy()
        self.scatter, self.trace = np.zeros((n, d, d)), np.zeros(n)
        with np.errstate(divide="ignore"):
            self.term = np.full(n, np.log(self.least))

    def pair_costs(self, x: np.ndarray) -> np.ndarray:
        """Return the increase of the criterion for merging each pair of points, (n, n)."""
        trace = squareform(pdist(x, "sqeuclidean")) / 2
        determinant = trace / 2 if x.shape[1] == 1 else 0
        cost = 2 * np.log((trace + self.least) / 2 + determinant) - 2 * np.log(self.least)
        np.fill_diagonal(cost, np.inf)
        return np.asarray(cost)

    def merge(self, a: int, b: int) -> None:
        """Merge cluster b into cluster a."""
        away = self.mean[b] - self.mean[a]
        joint = self.size[a] + self.size[b]
        self.scatter[a] += self.scatter[b] + self.size[a] * self.size[b] / joint * np.outer(away, away)
        self.trace[a] = np.trace(self.scatter[a])
        self.mean[a] += self.size[b] / joint * away
        self.size[a] = joint
        self.term[a] = self._terms(self.size[[a]], self.scatter[[a]], self.trace[[a]])[0]

    def costs(self, a: int, others: np.ndarray) -> np.ndarray:
        """Return the increase of the criterion for merging a cluster with each of the others, (n_others,)."""
        joint = self.size[a] + self.size[others]
        away = self.mean[others] - self.mean[a]
        weight = self.size[a] * self.size[others] / joint
        trace = self.trace[a] + self.trace[others] + weight * (away**2).sum(axis=1)
        scatter = self.scatter[others] + self.scatter[a]
        scatter += (weight[:, None] * away)[:, :, None] * away[:, None, :]
        return self._terms(joint, scatter, trace) - self.term[others] - self.term[a]

    def _terms(self, size: np.ndarray, scatter: np.ndarray, trace: np.ndarray) -> np.ndarray:
        value = (trace + self.least) / size
        full = np.flatnonzero(size > scatter.shape[1])  # smaller clusters have determinant 0
        if len(full):
            value[full] += np.maximum(np.linalg.det(scatter[full] / size[full, None, None]), 0)
        return np.asarray(size * np.log(value))


def cut(steps: np.ndarray, clusters: int) -> np.ndarray:
    """Return the cluster of each point, (n,), numbered 0, 1, ... by the smallest row of each cluster."""
    n = len(steps) + 1
    member = np.arange(n)
    for a, b in steps[: n - clusters]:
        member[member == b] = a
    return np.unique(member, return_inverse=True)[1]
