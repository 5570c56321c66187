"""Uniform numbers and the counts they stand for, in compiled loops that run beside other threads.

Importing it loads numba, so the rooms that draw do it when they draw.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
from numba import njit
from scipy import stats

# Counts with a larger mean are found with SciPy's quantiles, smaller ones by summing up probabilities.
SEARCHED_MEAN = 50.0
LARGE = -1  # stands for a count that was not searched


def evenly_spread(
    rng: np.random.Generator, n: int, columns: int, strata: Collection[np.ndarray]
) -> np.ndarray:
    """Return uniform numbers, (n, columns), those of some rows spread evenly in each column.

    Parameters
    ----------
    rng
        Source of randomness.
    n, columns
        How many numbers.
    strata
        Sets of rows; in each column the numbers of k such rows lie one in each of k equal strata of (0, 1).
        Those of other rows are independent.
    """
    uniform = rng.random((n, columns))
    for rows in strata:
        _spread(rng, uniform, np.ascontiguousarray(rows, np.int64))
    return uniform


@njit(nogil=True, cache=True)
def _spread(rng: np.random.Generator, uniform: np.ndarray, rows: np.ndarray) -> None:
    """Move the numbers of some rows into a stratum each, in random order (Fisher & Yates) in each column."""
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

    Most counts of single cells are zero, which :math:`u < 1 - \mu \le P(0)` tells at once; the others are
    found by summing up the probabilities,
    :math:`p_{k+1} = p_k \frac{k + \theta}{k + 1} \frac{\mu}{\mu + \theta}`.

    Parameters
    ----------
    uniform
        Numbers in [0, 1).
    mean, dispersion
        Means and inverse dispersions of the same shape; a dispersion of infinity is a Poisson distribution.
    """
    flat = [np.ascontiguousarray(x, np.float64).ravel() for x in (uniform, mean, dispersion)]
    flat[0] = np.clip(flat[0], 1e-12, 1 - 1e-12)
    counts = np.empty(flat[0].size, np.int64)
    _search(*flat, counts)
    large = np.flatnonzero(counts == LARGE)
    if len(large):
        u, m, theta = (x[large] for x in flat)
        poisson = np.isinf(theta)
        theta[poisson] = 1.0
        counts[large] = np.where(
            poisson, stats.poisson.ppf(u, m), stats.nbinom.ppf(u, theta, theta / (theta + m))
        )
    return counts.reshape(np.shape(mean))


@njit(nogil=True, cache=True)
def _search(uniform: np.ndarray, mean: np.ndarray, dispersion: np.ndarray, counts: np.ndarray) -> None:
    for i in range(len(uniform)):
        u, m, theta = uniform[i], mean[i], dispersion[i]
        if u < 1 - m:
            counts[i] = 0
            continue
        if m > SEARCHED_MEAN:
            counts[i] = LARGE
            continue
        # p_{k+1} / p_k = (first + k * step) / (k + 1)
        if math.isinf(theta):
            p, step, first = math.exp(-m), 0.0, m
        else:
            p, step = math.exp(-theta * math.log1p(m / theta)), m / (m + theta)
            first = step * theta
        below, k = p, 0
        # beyond the mean a probability below rounding ends the search: `below` no longer grows
        while u >= below and (p > 1e-17 or k < m):
            p = p * (first + k * step) / (k + 1)
            below += p
            k += 1
        counts[i] = k
