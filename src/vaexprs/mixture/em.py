"""The EM algorithm for Gaussian mixtures under the fourteen covariance models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

from vaexprs.mixture.covariances import DIAGONAL, FULL, WHOLE_SCATTER

MODELS = (*DIAGONAL, *FULL)
UNIVARIATE = {"E": "EII", "V": "VII"}  # names of mclust for one dimension
MIN_VARIANCE = 1e-12  # minimum variance of a component in any direction, relative to that of all points
TOLERANCE = 5e-6
MAX_STEPS = 1_000


class SingularFitError(ValueError):
    """A component has collapsed to fewer dimensions than the points have."""


@dataclass(frozen=True)
class Mixture:
    """A finite mixture of normal distributions.

    Parameters
    ----------
    weights
        Mixing proportions, (n_components,), with sum 1.
    means
        Means, (n_components, n_features).
    covariances
        Covariances, (n_components, n_features, n_features), positive definite.
    model
        Name of the covariance model.
    """

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    model: str
    _factors: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_factors", np.linalg.cholesky(self.covariances))

    @property
    def n_components(self) -> int:
        """Number of components."""
        return len(self.weights)

    def component(self, uniform: np.ndarray) -> np.ndarray:
        """Return the component of each uniform number, (n,)."""
        return np.searchsorted(np.cumsum(self.weights)[:-1], uniform, side="right")

    def transform(self, uniform: np.ndarray, normal: np.ndarray) -> np.ndarray:
        """Return samples from uniform numbers, (n,), and standard normal numbers, (n, n_features)."""
        component = self.component(uniform)
        return self.means[component] + np.einsum("nij,nj->ni", self._factors[component], normal)

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Sample `n` points, (n, n_features), with components in random order."""
        return self.transform(rng.random(n), rng.standard_normal((n, self.means.shape[1])))

    def log_joint(self, x: np.ndarray) -> np.ndarray:
        """Return log(weight * density) of each component, (n_components, n)."""
        d = x.shape[1]
        parts = []
        for weight, mean, factor in zip(self.weights, self.means, self._factors, strict=True):
            z = solve_triangular(factor, (x - mean).T, lower=True)
            log_det = np.log(np.diag(factor)).sum()
            parts.append(np.log(weight) - 0.5 * (d * np.log(2 * np.pi) + (z**2).sum(axis=0)) - log_det)
        return np.stack(parts)

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """Return the log density of points, (n,) for x of shape (n, n_features)."""
        return np.asarray(logsumexp(self.log_joint(x), axis=0))


class Points:
    """Centred and scaled points with the features that EM needs.

    The log density of a normal distribution is linear in the features (x_i x_j, x, 1) of a point, and the
    M step only needs sums of features weighted by responsibilities: both steps of EM are a matrix product.
    """

    def __init__(self, x: np.ndarray) -> None:
        self.centre = x.mean(axis=0)
        # a power of 2, so that scaling the points does not change rounding
        spread = np.sqrt(x.var(axis=0).mean())
        self.unit = float(2.0 ** np.round(np.log2(spread))) if spread > 0 else 1.0
        self.z = (x - self.centre) / self.unit
        self.variance = self.z.var(axis=0)
        self._features: dict[bool, np.ndarray] = {}

    def features(self, diagonal: bool) -> np.ndarray:
        """Return the features, (n, n_products + d + 1), with products in the order of `pairs`."""
        if diagonal not in self._features:
            first, second = self.pairs(diagonal)
            one = np.ones((len(self.z), 1))
            self._features[diagonal] = np.hstack([self.z[:, first] * self.z[:, second], self.z, one])
        return self._features[diagonal]

    def pairs(self, diagonal: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return the dimensions of each product: squares if `diagonal`, otherwise all pairs."""
        d = self.z.shape[1]
        return (np.arange(d), np.arange(d)) if diagonal else np.triu_indices(d)


@dataclass(frozen=True)
class Fitted:
    """Mixture fitted by EM, with the log likelihood after each step."""

    mixture: Mixture
    log_likelihoods: list[float]
    converged: bool


def maximise(points: Points, start: np.ndarray, model: str, tol: float, max_iter: int) -> Fitted:
    """Fit a mixture by EM, starting from responsibilities, (n_components, n).

    Raises
    ------
    SingularFitError
        If a component collapses to fewer dimensions.
    """
    n, d = points.z.shape
    log_likelihoods: list[float] = []
    converged = False
    steps = _steps(points, start, model)
    # a collapsing component may divide by 0 before it is detected
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        while not converged and len(log_likelihoods) < max_iter:
            weights, means, covariances, log_likelihood = next(steps)
            log_likelihoods.append(log_likelihood - n * d * np.log(points.unit))
            gain = log_likelihoods[-1] - log_likelihoods[-2] if len(log_likelihoods) > 1 else np.inf
            converged = gain < tol * n * d
    if covariances.ndim == 2:
        covariances = covariances[:, :, None] * np.eye(d)
    covariances = np.repeat(covariances, len(weights) // len(covariances), axis=0) * points.unit**2
    mixture = Mixture(weights, means * points.unit + points.centre, covariances, model)
    return Fitted(mixture, log_likelihoods, converged)


def _steps(
    points: Points, responsibility: np.ndarray, model: str
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, float]]:
    """Yield weights, means, covariances (or their diagonals) and the log likelihood after each step of EM."""
    d = points.z.shape[1]
    diagonal = model in DIAGONAL
    estimate = (DIAGONAL if diagonal else FULL)[model]
    first, second = points.pairs(diagonal)
    products = len(first)
    order = np.zeros((d, d), int)  # index of the product for each matrix element
    order[first, second] = order[second, first] = np.arange(products)
    twice = np.where(first == second, -0.5, -1.0)
    features = points.features(diagonal)
    transposed = np.ascontiguousarray(features.T)
    linear = np.empty((len(responsibility), features.shape[1]))
    state = None
    while True:
        sums = responsibility @ features
        sizes, means = sums[:, -1], sums[:, products:-1] / sums[:, -1:]
        if diagonal:
            scatter = np.maximum(sums[:, :products] - sizes[:, None] * means**2, 0)
            covariances, state = estimate(sizes, scatter, state)
            precisions, log_det = _invert_diagonal(covariances, points.variance)
            linear[:, :products] = -0.5 * precisions
            linear[:, products:-1] = precisions * means
        else:
            outer = means[:, :, None] * means[:, None, :]
            scatter = sums[:, order] - sizes[:, None, None] * outer
            if model in WHOLE_SCATTER:
                _check_whole(scatter / sizes[:, None, None], points.variance)
            try:
                covariances, state = estimate(sizes, scatter, state)
            except np.linalg.LinAlgError:
                raise SingularFitError("singular") from None
            precisions, log_det = _invert(covariances, points.variance)
            linear[:, :products] = precisions[:, first, second] * twice
            linear[:, products:-1] = (precisions @ means[:, :, None])[:, :, 0]
        weights = sizes / sizes.sum()
        square = (linear[:, products:-1] * means).sum(axis=1)
        linear[:, -1] = np.log(weights) - 0.5 * (d * np.log(2 * np.pi) + log_det + square)
        # in place, because these are the large arrays
        responsibility = linear @ transposed
        highest = responsibility.max(axis=0)
        responsibility -= highest
        np.exp(responsibility, out=responsibility)
        total = responsibility.sum(axis=0)
        responsibility /= total
        yield weights, means, covariances, float((np.log(total) + highest).sum())


def _invert_diagonal(variances: np.ndarray, whole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the inverses of variances, (G, d), and the log determinants, (G,)."""
    if not (variances > MIN_VARIANCE * whole).all():  # negated so that NaN is rejected too
        raise SingularFitError("singular")
    return 1 / variances, np.log(variances).sum(axis=1)


def _check_whole(covariances: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return the variance of each dimension given the previous ones, (G, d); raise if it is too small."""
    try:
        factors = np.linalg.cholesky(covariances)
    except np.linalg.LinAlgError:
        raise SingularFitError("singular") from None
    left = np.diagonal(factors, axis1=1, axis2=2) ** 2
    if not (left > MIN_VARIANCE * whole).all():
        raise SingularFitError("singular")
    return left


def _invert(covariances: np.ndarray, whole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the inverses of covariances, (G, d, d), and the log determinants, (G,)."""
    left = _check_whole(covariances, whole)
    return np.linalg.inv(covariances), np.log(left).sum(axis=1)
