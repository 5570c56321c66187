"""Sampling of counts in compiled loops that release the GIL.

Imports numba; import this module lazily.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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
MAX_RATE = 100.0  # maximum -log P(0) in the choice of rows; P(0) is 4e-44 there
RECIPROCALS = 1 / np.arange(1, 257)


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
) -> sp.csr_matrix:
    """Sample negative binomial counts of a block of cells, CSR of shape (n, n_genes), int32.

    All counts are independent. The cells of a group are sampled together, gene by gene: see `_draw`.

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
    """
    n, genes = proportion.shape
    proportion = np.ascontiguousarray(proportion, np.float32)
    library = np.ascontiguousarray(library, np.float64).ravel()
    logit = np.ascontiguousarray(np.empty((0, 0)) if zero_logit is None else zero_logit, np.float32)
    theta = dispersion.astype(np.float64)
    parts = [
        _draw(rng, proportion, library, theta[i], logit, np.ascontiguousarray(rows, np.int64))
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
    return math.exp(-_rate(mean, theta))


@njit(nogil=True, cache=True)
def _rate(mean: float, theta: float) -> float:
    """Return -log P(0)."""
    return mean if math.isinf(theta) else theta * math.log1p(mean / theta)


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
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    r"""Return row, gene, count and uniform number of the non-zero counts of the rows, sorted by gene.

    A count is the quantile at :math:`u = e^{-w}` of a standard exponential number w: it is zero if
    :math:`w > -\log P(0)`. Let the rate of a gene be the largest :math:`-\log P(0)` of the rows. In a Poisson
    process with one interval of this length for each row, the first event of an interval is at w, and a row
    without an event has a zero. The distance to the next event is an exponential number, also across rows and
    genes that are skipped: few random numbers are needed for many zeros.
    """
    k, genes = len(rows), len(theta)
    most, least = _extremes(proportion, library, logit, rows)
    largest, kept, rate = np.empty(genes), np.ones(genes), np.empty(genes)
    for j in range(genes):
        largest[j] = _rate(most[j], theta[j])
        rate[j] = min(largest[j], MAX_RATE)
        if logit.size:
            kept[j] = 1 - _sigmoid(least[j])
            rate[j] = -math.log(1 - kept[j] + kept[j] * math.exp(-rate[j]))
        rate[j] += ROUNDING
    space = int(1.1 * k * np.minimum(rate, 1).sum()) + k
    row, gene = np.empty(space, np.int32), np.empty(space, np.int32)
    count, uniform = np.empty(space, np.int32), np.empty(space)
    n, w = 0, rng.standard_exponential()
    for j in range(genes):
        if n + k > len(row):
            row, gene = _enlarged(row, n + k), _enlarged(gene, n + k)
            count, uniform = _enlarged(count, n + k), _enlarged(uniform, n + k)
        # -log P(0) is concave in the mean: it lies below its tangent at the largest mean
        slope = 1 / (1 + most[j] / theta[j])
        t, scale = 0, 1 / rate[j]
        while w < (k - t) * rate[j]:
            skipped = min(int(w * scale), k - t - 1)  # rounding must not skip the last row
            w -= skipped * rate[j]
            i = rows[t + skipped]
            t += skipped + 1
            at, w = w, rng.standard_exponential()
            mean = library[i] * proportion[i, j]
            # with excess zeros, P(count > 0) is multiplied by at most `kept`, and -log(1 - P) by less
            if at > kept[j] * min(mean, largest[j] - slope * (most[j] - mean)) + ROUNDING:
                continue
            u = math.exp(-at)
            if logit.size:
                excess = _sigmoid(logit[i, j])
                if u <= excess:
                    continue
                u = (u - excess) / (1 - excess)
            found = _quantile(u, mean, theta[j])
            if found != 0:
                row[n], gene[n], count[n], uniform[n] = i, j, found, u
                n += 1
        w -= (k - t) * rate[j]
    return row[:n], gene[:n], count[:n], uniform[:n]


@njit(nogil=True, cache=True)
def _enlarged(values: np.ndarray, size: int) -> np.ndarray:
    """Return a copy with at least `size` elements and at least twice as many as before."""
    larger = np.empty(max(size, 2 * len(values)), values.dtype)
    larger[: len(values)] = values
    return larger


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
