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
MANY_EVENTS = np.float32(1.5)  # expected events of a count above which other ways to sample it are faster
INFINITE, ABOVE_ROUNDING = np.float32(np.inf), np.float32(1 + 1e-6)
SHORT_TAIL = 0.8  # largest p whose logarithmic distribution is summed up
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
    r"""Sample negative binomial counts of a block of cells, CSR of shape (n, n_genes), int32.

    A negative binomial count is the sum of the marks of the events of a Poisson process in an interval of
    length :math:`r = -\log P(0) = \theta \log(1 + \mu / \theta)`, if marks have a logarithmic distribution
    with :math:`p = \mu / (\mu + \theta)` (Quenouille 1949, doi:10.2307/3001917). The intervals of all genes
    and cells follow each other: random numbers are needed for the events, not for zeros.

    All counts are independent, and at most MAX_COUNT.

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
    group = np.empty(n, np.int64)
    for number, rows in enumerate(groups):
        group[rows] = number
    drawn = _draw(
        rng,
        np.ascontiguousarray(proportion, np.float32),
        np.ascontiguousarray(library, np.float64).ravel(),
        np.ascontiguousarray(dispersion, np.float64),
        group,
        np.ascontiguousarray(np.empty((0, 0)) if zero_logit is None else zero_logit, np.float32),
    )
    return sp.csr_matrix(drawn, (n, genes))


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
    dispersion: np.ndarray,
    group: np.ndarray,
    logit: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return data, indices and indptr of the counts as a CSR matrix; see `draw_counts`.

    Intervals are a little longer than `_rate`, which needs a logarithm; events in the rest do not count.
    Counts with many expected events are sampled directly.
    """
    n, genes = proportion.shape
    data, indices = np.empty(n * genes // 8, np.int32), np.empty(n * genes // 8, np.int32)
    indptr, stored = np.zeros(n + 1, np.int32), 0
    length, inverse = np.empty(genes, np.float32), (1 / dispersion).astype(np.float32)
    at = rng.standard_exponential()  # distance from the start of the interval to the next event
    for i in range(n):
        if stored + genes > len(data):
            data, indices = _enlarged(data, stored + genes), _enlarged(indices, stored + genes)
        theta = dispersion[group[i]]
        _lengths(np.float32(library[i]), proportion[i], inverse[group[i]], length)
        for j in range(genes):
            if at >= length[j]:
                at -= length[j]
                continue
            mean, count = library[i] * proportion[i, j], 0
            if math.isinf(length[j]):
                count = _direct(rng, mean, theta[j])
            else:
                while at < length[j]:
                    count += _mark(rng, at, mean, theta[j])
                    at += rng.standard_exponential()
                at -= length[j]
            if count and not (logit.size and rng.random() < _sigmoid(logit[i, j])):
                data[stored], indices[stored] = min(count, MAX_COUNT), j
                stored += 1
        indptr[i + 1] = stored
    return data[:stored].copy(), indices[:stored].copy(), indptr


@njit(nogil=True, cache=True, error_model="numpy")
def _lengths(library: float, proportion: np.ndarray, inverse: np.ndarray, length: np.ndarray) -> None:
    r"""Fill in a bound of `_rate` for each gene of a cell, :math:`\log(1 + x) \le x / \sqrt{1 + x}`.

    It is infinite above MANY_EVENTS. All numbers are float32, which is four times as fast.
    """
    one = np.float32(1)
    for j in range(len(length)):
        mean = library * proportion[j]
        bound = ABOVE_ROUNDING * mean / np.sqrt(one + mean * inverse[j])
        length[j] = bound if bound <= MANY_EVENTS else INFINITE


@njit(nogil=True, cache=True)
def _mark(rng: np.random.Generator, at: float, mean: float, theta: float) -> int:
    r"""Return the mark of an event at a distance from the start of its interval; 0 beyond `_rate`.

    The events whose mark is m are those in a part of the interval of length :math:`\theta p^m / m`. Most
    events of small means are in the first part, which is known without a logarithm.
    """
    if math.isinf(theta):
        return int(at < mean)
    p = mean / (mean + theta)
    below = theta * p
    if p <= SHORT_TAIL and at < below:
        return 1
    if at >= _rate(mean, theta):
        return 0
    if p > SHORT_TAIL:
        return rng.logseries(p)
    power, m = p, 1
    while at >= below and m < len(RECIPROCALS):
        power *= p
        below += theta * power * RECIPROCALS[m]
        m += 1
    return m


@njit(nogil=True, cache=True)
def _direct(rng: np.random.Generator, mean: float, theta: float) -> int:
    """Return a count: a quantile of a small mean, and a Poisson count with a gamma mean of a large one."""
    if mean < SEARCHED_MEAN:
        return _quantile(rng.random(), mean, theta)
    if not math.isinf(theta):
        mean *= rng.standard_gamma(theta) / theta
    return MAX_COUNT if mean >= MAX_COUNT else rng.poisson(mean)


@njit(nogil=True, cache=True)
def _enlarged(values: np.ndarray, size: int) -> np.ndarray:
    """Return a copy with at least `size` elements and at least twice as many as before."""
    larger = np.empty(max(size, 2 * len(values)), values.dtype)
    larger[: len(values)] = values
    return larger


@njit(nogil=True, cache=True)
def _sigmoid(logit: float) -> float:
    """Return 1 / (1 + exp(-x)); a compiled scalar version of `likelihoods.base.sigmoid`."""
    return 0.5 * (1 + math.tanh(0.5 * logit))
