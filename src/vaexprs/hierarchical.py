"""Model-based hierarchical clustering: where the EM of a mixture starts. Knows nothing of cells."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import pdist, squareform


def svd_scaled(x: np.ndarray) -> np.ndarray:
    r"""Return points on the axes of their singular value decomposition, (n, rank).

    With the standardised points :math:`Z = U \Lambda V^T` it is :math:`Z V \Lambda^{-1/2}`: neither units nor
    correlations decide which points are near (Scrucca & Raftery 2015, doi:10.1007/s11634-015-0220-z).
    """
    spread = x.std(axis=0, ddof=1)
    varies = spread > 0
    z = (x[:, varies] - x[:, varies].mean(axis=0)) / spread[varies]
    u, singular, _ = np.linalg.svd(z, full_matrices=False)
    there = singular > singular.max(initial=0.0) * max(z.shape) * np.finfo(float).eps
    return np.asarray(u[:, there] * np.sqrt(singular[there]))


def merge_tree(x: np.ndarray) -> np.ndarray:
    r"""Merge points pair by pair into clusters of normal distributions with covariances of their own.

    Each step merges the two clusters that raise least

    .. math:: \sum_k n_k \log\left(\left|\frac{W_k}{n_k}\right|
              + \frac{\operatorname{tr} W_k + \operatorname{tr} W / (n d)}{n_k}\right)

    with the sizes :math:`n_k` and scatter matrices :math:`W_k` of the clusters and W of all points; the
    second term tells small clusters apart, whose determinants are 0 (Fraley 1998,
    doi:10.1137/S1064827596311451).

    Parameters
    ----------
    x
        Points, (n, d).

    Returns
    -------
    np.ndarray
        For each step the two clusters merged, the smaller number first, whose number the new one keeps,
        (n - 1, 2). A point is the cluster of its row.
    """
    n, d = x.shape
    least = x.var(axis=0).sum() / max(d, 1)
    if least == 0:  # the points are all alike
        return np.stack([np.zeros(n - 1, int), np.arange(1, n)], axis=1)
    size, mean, scatter, trace = np.ones(n), x.copy(), np.zeros((n, d, d)), np.zeros(n)
    # costs of a cluster with itself and with those gone are infinite
    term = np.full(n, np.log(least))
    cost = 2 * np.log((squareform(pdist(x, "sqeuclidean")) / 2 + least) / 2) - 2 * np.log(least)
    np.fill_diagonal(cost, np.inf)
    nearest = cost.argmin(axis=1)
    lowest = cost[np.arange(n), nearest]
    alive = np.ones(n, bool)
    steps = np.empty((n - 1, 2), int)
    for step in range(n - 1):
        a = int(lowest.argmin())
        a, b = sorted((a, int(nearest[a])))
        steps[step] = a, b
        away = mean[b] - mean[a]
        joint = size[a] + size[b]
        scatter[a] += scatter[b] + size[a] * size[b] / joint * np.outer(away, away)
        trace[a] = np.trace(scatter[a])
        mean[a] += size[b] / joint * away
        size[a] = joint
        alive[b] = False
        term[a] = _terms(size[[a]], scatter[[a]], trace[[a]], least)[0]
        cost[b], cost[:, b], lowest[b] = np.inf, np.inf, np.inf
        others = np.flatnonzero(alive)
        others = others[others != a]
        if not len(others):
            break
        joint = size[a] + size[others]
        away = mean[others] - mean[a]
        weight = size[a] * size[others] / joint
        traces = trace[a] + trace[others] + weight * (away**2).sum(axis=1)
        merged = scatter[others] + scatter[a]
        merged += (weight[:, None] * away)[:, :, None] * away[:, None, :]
        new = _terms(joint, merged, traces, least) - term[others] - term[a]
        cost[a, others] = cost[others, a] = new
        closer = new < lowest[others]
        lowest[others[closer]], nearest[others[closer]] = new[closer], a
        lost = others[~closer & ((nearest[others] == a) | (nearest[others] == b))]
        lost = np.append(lost, a)
        nearest[lost] = cost[lost].argmin(axis=1)
        lowest[lost] = cost[lost, nearest[lost]]
    return steps


def _terms(size: np.ndarray, scatter: np.ndarray, trace: np.ndarray, least: float) -> np.ndarray:
    """Return what clusters contribute to the criterion, (n_clusters,)."""
    d = scatter.shape[1]
    value = (trace + least) / size
    full = np.flatnonzero(size > d)  # the determinants of others are 0
    if len(full):
        value[full] += np.maximum(np.linalg.det(scatter[full] / size[full, None, None]), 0)
    return np.asarray(size * np.log(value))


def cut(steps: np.ndarray, clusters: int) -> np.ndarray:
    """Return which of a number of clusters each point is in, (n,): 0, 1, ... in the order of their points."""
    n = len(steps) + 1
    member = np.arange(n)
    for a, b in steps[: n - clusters]:
        member[member == b] = a
    return np.unique(member, return_inverse=True)[1]
