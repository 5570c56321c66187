"""Effects of continuous covariates on the latent mean, and the distribution of their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

from vaexprs.preprocessing.splines import MIN_UNITS

POOLED_OBSERVATIONS = 10  # weight of the prior of pooled slopes (zero), in independent observations
OWN_OBSERVATIONS = 100  # weight of the prior of a condition's own slopes (the pooled ones)
QUANTILES = 101  # number of stored quantiles of each covariate in each condition
MAX_CORRELATION = 0.99  # factor of the rank correlations, so that their matrix is positive definite


@dataclass(frozen=True)
class ContinuousEffects:
    """Effects of continuous covariates on the latent mean, and the distribution of their values.

    The last entry of `slopes` and `quantiles` is for combinations of levels without training cells.

    Parameters
    ----------
    slopes
        Slopes of the latent mean (and of the log library size) on the basis columns for each combination of
        levels, (n_seen + 1, n_basis, n_dims).
    quantiles
        Equally spaced quantiles of each covariate for each combination, (n_seen + 1, n_keys, n_quantiles).
    correlation
        Correlation of the covariates within combinations, (n_keys, n_keys), on the scale of normal scores.
    discrete
        Whether sampled values are stored quantiles (1), or also values in between (0), (n_keys,).
    """

    slopes: np.ndarray
    quantiles: np.ndarray
    correlation: np.ndarray
    discrete: np.ndarray

    def draw(self, group: np.ndarray, requested: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return values of the covariates, (n_cells, n_keys), with those that are NaN in `requested` sampled.

        They are sampled from a Gaussian copula with the quantiles of the cell's combination, given the
        requested values of the other covariates.

        Parameters
        ----------
        group
            Index of each cell's combination, (n_cells,); the last for one without training cells.
        requested
            Requested values, (n_cells, n_keys); NaN where none is requested.
        rng
            Random generator; the number of draws does not depend on `requested`.
        """
        values = np.array(requested, np.float64)
        noise = rng.standard_normal(values.shape)
        last = self.quantiles.shape[2] - 1
        probabilities = np.linspace(0, 1, last + 1)
        patterns, which = np.unique(np.isnan(values), axis=0, return_inverse=True)
        for i, free in enumerate(patterns):
            fixed = ~free
            to_fixed = self.correlation[np.ix_(free, fixed)]
            coefficients = to_fixed @ np.linalg.inv(self.correlation[np.ix_(fixed, fixed)])
            spread = np.linalg.cholesky(self.correlation[np.ix_(free, free)] - coefficients @ to_fixed.T)
            of_pattern = which.ravel() == i
            for g in np.unique(group[of_pattern]):
                rows, table = np.flatnonzero(of_pattern & (group == g)), self.quantiles[g]
                level = [
                    np.interp(values[rows, key], table[key], probabilities) for key in np.flatnonzero(fixed)
                ]
                score = ndtri(np.clip(np.array(level).T.reshape(len(rows), -1), 0.005, 0.995))
                drawn = ndtr(score @ coefficients.T + noise[np.ix_(rows, free)] @ spread.T)
                for column, key in zip(drawn.T, np.flatnonzero(free), strict=True):
                    column = np.rint(column * last) / last if self.discrete[key] else column
                    values[rows, key] = np.interp(column, probabilities, table[key])
        return values


def fit_effects(
    points: np.ndarray,
    basis: np.ndarray,
    values: np.ndarray,
    degrees: Sequence[int],
    groups: Sequence[np.ndarray],
) -> ContinuousEffects:
    """Fit the effects of continuous covariates by penalised least squares.

    The pooled slopes are those within combinations of levels, with an intercept for each, shrunken towards
    zero. The slopes of a combination are its own, shrunken towards the pooled ones: with the cross-products
    A of its centred basis, and C of basis and points, they are (A + P)^-1 (C + P pooled). The diagonal matrix
    P has the weight of 100 observations (10 for the pooled slopes). If a covariate has fewer distinct values
    than cells, an observation is a distinct value, as cells of one donor have the same age and are not
    independent; with fewer than six distinct values, such as doses, it is a cell.

    Parameters
    ----------
    points
        Posterior mean of each cell (and its log library size), (n_cells, n_dims).
    basis
        Basis columns of the covariates, (n_cells, n_basis).
    values
        Values of the covariates, (n_cells, n_keys).
    degrees
        Number of basis columns of each covariate, (n_keys,).
    groups
        Rows of the cells of each combination of levels.
    """
    whole = np.arange(len(values))
    few = np.array([len(np.unique(column)) < MIN_UNITS for column in values.T])

    def prior(rows: np.ndarray, observations: int) -> np.ndarray:
        """Return the weight of a number of observations of these cells, in cells."""
        distinct = np.array([len(np.unique(column)) for column in values[rows].T])
        return np.diag(np.repeat(observations * np.where(few, 1, len(rows) / distinct), degrees))

    products, crossed, scores = [], [], np.empty(values.shape)
    for rows in groups:
        own = basis[rows].astype(np.float64) - basis[rows].mean(axis=0, dtype=np.float64)
        products.append(own.T @ own)
        crossed.append(own.T @ (points[rows] - points[rows].mean(axis=0)))
        scores[rows] = ndtri(rankdata(values[rows], axis=0) / (len(rows) + 1))
    weight = prior(whole, POOLED_OBSERVATIONS)
    pooled = np.linalg.solve(np.sum(products, axis=0) + weight, np.sum(crossed, axis=0))
    slopes = []
    for rows, a, c in zip(groups, products, crossed, strict=True):
        weight = prior(rows, OWN_OBSERVATIONS)
        slopes.append(np.linalg.solve(a + weight, c + weight @ pooled))
    probabilities = np.linspace(0, 1, QUANTILES)
    discrete = np.array([len(np.unique(column)) <= QUANTILES for column in values.T], int)
    quantiles = [
        [
            np.quantile(column[rows], probabilities, method="inverted_cdf" if steps else "linear")
            for column, steps in zip(values.T, discrete, strict=True)
        ]
        for rows in [*groups, whole]
    ]
    return ContinuousEffects(np.stack([*slopes, pooled]), np.array(quantiles), _correlation(scores), discrete)


def _correlation(scores: np.ndarray) -> np.ndarray:
    """Return a correlation matrix that is bounded away from singularity; 0 for scores without variance."""
    covariance = scores.T @ scores / len(scores)
    sd = np.sqrt(np.diag(covariance))
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = np.nan_to_num(covariance / np.outer(sd, sd))
    correlation *= MAX_CORRELATION
    np.fill_diagonal(correlation, 1.0)
    return np.asarray(correlation)
