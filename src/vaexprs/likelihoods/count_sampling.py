"""Stratified uniform numbers and sampling of counts, in compiled loops that release the GIL.

Imports numba; import this module lazily.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
import scipy.sparse as sp
from numba import njit
from scipy import stats

from vaexprs.data.matrix import MAX_COUNT

SEARCHED_MEAN = 500.0  # maximum mean for summing up probabilities; larger means use SciPy's quantiles
LARGE = -1  # marks a count whose quantile is left to SciPy
# Mean above which counts are treated as continuous: SciPy's search for whole numbers may take minutes there.
CONTINUOUS_MEAN = 2.0**24
INSIDE = (1e-12, 1 - 1e-12)  # range of probabilities with finite quantiles
ROUNDING = 1e-9  # tolerance for rounding in the bounds that skip the search
RECIPROCALS = 1 / np.arange(1, 257)


def evenly_spread(
    rng: np.random.Generator, n: int, columns: int, strata: Collection[np.ndarray]
) -> np.ndarray:
    """Return uniform numbers, (n, columns), stratified within sets of rows in each column.

    Parameters
    ----------
    rng
        Source of randomness.
    n, columns
        Number of rows and columns.
    strata
        Sets of rows. In each column the numbers of a set of k rows fall one into each of k equal strata of
        (0, 1). Numbers of rows outside all sets are independent.
    """
    uniform = rng.random((n, columns))
    for rows in strata:
        _spread(rng, uniform, np.ascontiguousarray(rows, np.int64))
    return uniform


@njit(nogil=True, cache=True)
def _spread(rng: np.random.Generator, uniform: np.ndarray, rows: np.ndarray) -> None:
    """Assign the numbers of the rows to one stratum each, by a Fisher-Yates shuffle in each column."""
    k, columns = len(rows), uniform.shape[1]
    order = np.empty((k, columns), np.int32)
    for i in range(k):
        order[i, :] = i
    for i in range(k - 1, 0, -1):
        for j in range(columns):
            other = int(rng.random() * (i + 1))
            order[i, j], order[other, j] = order[other, j], order[i, j]
    for i in range(k):
        for j in range(columns):
            uniform[rows[i], j] = (order[i, j] + uniform[rows[i], j]) / k


def count_quantiles(uniform: np.ndarray, mean: np.ndarray, dispersion: np.ndarray) -> np.ndarray:
    r"""Return the smallest counts whose negative binomial distribution function exceeds `uniform`.

    Most counts of single cells are zero, which follows directly from :math:`u < 1 - \mu \le P(0)`. The others
    are found by summing up probabilities,
    :math:`p_{k+1} = p_k \frac{k + \theta}{k + 1} \frac{\mu}{\mu + \theta}`.

    Parameters
    ----------
    uniform
        Numbers in [0, 1).
    mean, dispersion
        Means and inverse dispersions of the same shape; infinite for a Poisson distribution.
    """
    flat = [np.ascontiguousarray(x, np.float64).ravel() for x in (uniform, mean, dispersion)]
    counts = np.empty(flat[0].size, np.int64)
    _quantiles(*flat, counts)
    large = np.flatnonzero(counts == LARGE)
    if len(large):
        counts[large] = _large_quantiles(*(x[large] for x in flat))
    return counts.reshape(np.shape(mean))


def draw_counts(
    rng: np.random.Generator,
    proportion: np.ndarray,
    library: np.ndarray,
    dispersion: np.ndarray,
    zero_logit: np.ndarray | None,
    groups: Sequence[np.ndarray],
    stratified: bool,
) -> sp.csr_matrix:
    """Sample negative binomial counts of a block of cells, CSR of shape (n, n_genes), int32.

    The cells of a group are sampled together, gene by gene. The probability of zero at the largest mean is a
    lower bound for all cells of the group, so that uniform numbers below it need not be generated.

    Parameters
    ----------
    rng
        Source of randomness.
    proportion
        Expected fractions of a cell's counts, (n, n_genes).
    library
        Library sizes, (n,): the means are ``library * proportion``.
    dispersion
        Inverse dispersion of each group, (n_groups, n_genes); infinite for Poisson counts.
    zero_logit
        Logit of the probability of excess zeros, (n, n_genes); None without zero inflation.
    groups
        Rows of the cells of each group; together they cover all rows.
    stratified
        Whether the uniform numbers of a group's cells are stratified in each gene, as by `evenly_spread`;
        independent otherwise.
    """
    n, genes = proportion.shape
    proportion = np.ascontiguousarray(proportion, np.float32)
    library = np.ascontiguousarray(library, np.float64).ravel()
    logit = np.ascontiguousarray(np.empty((0, 0)) if zero_logit is None else zero_logit, np.float32)
    theta = dispersion.astype(np.float64)
    parts = [
        _draw(rng, proportion, library, theta[i], logit, np.ascontiguousarray(rows, np.int64), stratified)
        for i, rows in enumerate(groups)
    ]
    for (row, gene, count, uniform), dispersions in zip(parts, theta, strict=True):
        large = np.flatnonzero(count == LARGE)
        if len(large):
            mean = library[row[large]] * proportion[row[large], gene[large]]
            count[large] = _large_quantiles(uniform[large], mean, dispersions[gene[large]])
    row, gene, count = (np.concatenate(part) for part in list(zip(*parts, strict=True))[:3])
    drawn = count != 0  # counts with a large mean can be zero too
    row, gene, count = row[drawn], gene[drawn], count[drawn]
    return sp.csr_matrix(_by_row(row, gene, count, n), (n, genes))


def _large_quantiles(uniform: np.ndarray, mean: np.ndarray, dispersion: np.ndarray) -> np.ndarray:
    r"""Return the quantiles of counts with large means, at most MAX_COUNT, from SciPy.

    Above CONTINUOUS_MEAN they are approximated by a gamma distribution with the same mean and variance, which
    has shape :math:`1 / (1/\mu + 1/\theta)`.
    """
    u, poisson = np.clip(uniform, *INSIDE), np.isinf(dispersion)
    theta = np.where(poisson, 1.0, dispersion)
    shape = 1 / (1 / mean + 1 / dispersion)
    found = np.floor(stats.gamma.ppf(u, shape, scale=mean / shape))
    for selected, quantile in (
        (poisson, lambda i: stats.poisson.ppf(u[i], mean[i])),
        (~poisson, lambda i: stats.nbinom.ppf(u[i], theta[i], theta[i] / (theta[i] + mean[i]))),
    ):
        searched = np.flatnonzero(selected & (mean <= CONTINUOUS_MEAN))
        found[searched] = quantile(searched)
    return np.minimum(found, MAX_COUNT)


@njit(nogil=True, cache=True)
def _zero(mean: float, theta: float) -> float:
    """Return the probability of zero."""
    if math.isinf(theta):
        return math.exp(-mean)
    return math.exp(-theta * math.log1p(mean / theta))


@njit(nogil=True, cache=True)
def _quantile(u: float, mean: float, theta: float) -> int:
    """Return the quantile of a count at a uniform number; LARGE if the search would take long."""
    if u < 1 - mean:
        return 0
    if mean > SEARCHED_MEAN:
        return LARGE
    u = min(max(u, INSIDE[0]), INSIDE[1])
    p = _zero(mean, theta)
    # p_{k+1} / p_k = (first + k * step) / (k + 1)
    if math.isinf(theta):
        step, first = 0.0, mean
    else:
        step = mean / (mean + theta)
        first = step * theta
    below, k = p, 0
    # beyond the mean, stop once probabilities are below rounding error: `below` no longer grows
    while u >= below and (p > 1e-17 or k < mean):
        if k < len(RECIPROCALS):
            p *= (first + k * step) * RECIPROCALS[k]  # faster than a division
        else:
            p *= (first + k * step) / (k + 1)
        below += p
        k += 1
    return k


@njit(nogil=True, cache=True)
def _quantiles(uniform: np.ndarray, mean: np.ndarray, dispersion: np.ndarray, counts: np.ndarray) -> None:
    for i in range(len(uniform)):
        counts[i] = _quantile(uniform[i], mean[i], dispersion[i])


@njit(nogil=True, cache=True)
def _draw(
    rng: np.random.Generator,
    proportion: np.ndarray,
    library: np.ndarray,
    theta: np.ndarray,
    logit: np.ndarray,
    rows: np.ndarray,
    stratified: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return row, gene, count and uniform number of the non-zero counts of the rows, sorted by gene."""
    k, genes = len(rows), len(theta)
    most, least = _extremes(proportion, library, logit, rows)
    strata, all_zero, slope = np.empty(genes, np.int64), np.empty(genes), np.empty(genes)
    for j in range(genes):
        # P(0) is convex in the mean: it is smallest at the largest mean and lies above its tangent there
        all_zero[j] = _zero(most[j], theta[j])
        slope[j] = all_zero[j] / (1 + most[j] / theta[j])
        kept = 1 - _sigmoid(least[j]) if logit.size else 1.0
        beyond = min(1.0, kept * (1 - all_zero[j]) + ROUNDING)  # uniform numbers below 1 - beyond give zeros
        strata[j] = min(k, int(beyond * k) + 1) if stratified else k
    space = strata.sum()
    row, gene = np.empty(space, np.int32), np.empty(space, np.int32)
    count, uniform = np.empty(space, np.int32), np.empty(space)
    order, n = rows.copy(), 0
    for j in range(genes):
        for t in range(strata[j]):
            if stratified:
                # Fisher-Yates from the highest stratum down: choose one of the k - t rows that are left. The
                # fraction of the random number is uniform as well and gives the position in the stratum.
                drawn = rng.random() * (k - t)
                other = int(drawn)
                order[t], order[t + other] = order[t + other], order[t]
                u = (k - 1 - t + (drawn - other)) / k
            else:
                u = rng.random()
            i = order[t]
            mean = library[i] * proportion[i, j]
            if logit.size:
                excess = _sigmoid(logit[i, j])
                u = (u - excess) / (1 - excess)
            if u < 1 - mean or u < all_zero[j] + slope[j] * (most[j] - mean) - ROUNDING:
                continue
            found = _quantile(u, mean, theta[j])
            if found != 0:
                row[n], gene[n], count[n], uniform[n] = i, j, found, u
                n += 1
    return row[:n], gene[:n], count[:n], uniform[:n]


@njit(nogil=True, cache=True)
def _extremes(
    proportion: np.ndarray, library: np.ndarray, logit: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest mean and the smallest logit of excess zeros of the rows, (n_genes,) each."""
    genes = proportion.shape[1]
    most, least = np.zeros(genes), np.full(genes, np.inf, np.float32)
    for i in rows:
        for j in range(genes):
            most[j] = max(most[j], library[i] * proportion[i, j])
        if logit.size:
            for j in range(genes):
                least[j] = min(least[j], logit[i, j])
    return most, least


@njit(nogil=True, cache=True)
def _sigmoid(logit: float) -> float:
    """Return 1 / (1 + exp(-x)); a compiled scalar version of `likelihoods.base.sigmoid`."""
    return 0.5 * (1 + math.tanh(0.5 * logit))


@njit(nogil=True, cache=True)
def _by_row(
    row: np.ndarray, gene: np.ndarray, count: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return data, indices and indptr of a CSR matrix from entries sorted by gene."""
    indptr = np.zeros(n + 1, np.int32)
    for i in row:
        indptr[i + 1] += 1
    indptr = np.cumsum(indptr).astype(np.int32)
    free = indptr[:-1].copy()
    data, indices = np.empty(len(row), np.int32), np.empty(len(row), np.int32)
    for t in range(len(row)):
        at = free[row[t]]
        data[at], indices[at] = count[t], gene[t]
        free[row[t]] += 1
    return data, indices, indptr
