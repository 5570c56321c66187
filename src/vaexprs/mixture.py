"""Finite mixtures of normal distributions: mclust's family of models, in scikit-learn's manner.

Knows nothing of cells.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy.linalg import solve_triangular
from scipy.special import logsumexp
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, check_random_state, validate_data
from threadpoolctl import threadpool_limits

from vaexprs._checks import check_choice, check_integer, warn
from vaexprs.covariances import DIAGONAL, FULL, WHOLE_SCATTER, n_parameters
from vaexprs.hierarchical import cut, merge_tree, svd_scaled

MODELS = (*DIAGONAL, *FULL)
UNIVARIATE = {"E": "EII", "V": "VII"}  # mclust's names in one dimension
LEAST_VARIANCE = 1e-12  # of a component in any direction, as a fraction of that of all points
TOLERANCE = 5e-6
MOST_STEPS = 1_000
TIE = 1e-9  # relative: BICs as near as this are equal but for rounding, and of equal models the first stays
STARTING_POINTS = 2_000


class SingularFitError(ValueError):
    """A component has contracted to fewer dimensions than the points have."""


@dataclass(frozen=True)
class Mixture:
    """A finite mixture of normal distributions.

    Parameters
    ----------
    weights
        Mixing proportions, (n_components,), with sum 1.
    means
        (n_components, n_features).
    covariances
        (n_components, n_features, n_features), positive definite.
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
        """Return the component that each of some uniform numbers falls to."""
        return np.searchsorted(np.cumsum(self.weights)[:-1], uniform, side="right")

    def transform(self, uniform: np.ndarray, normal: np.ndarray) -> np.ndarray:
        """Return draws made of a uniform number, (n,), and normal ones, (n, n_features), for each."""
        component = self.component(uniform)
        return self.means[component] + np.einsum("nij,nj->ni", self._factors[component], normal)

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw `n` points, (n, n_features), components shuffled."""
        return self.transform(rng.random(n), rng.standard_normal((n, self.means.shape[1])))

    def log_joint(self, x: np.ndarray) -> np.ndarray:
        """Return the log of weight times density of each component, (n_components, n)."""
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


class GaussianMixture(DensityMixin, BaseEstimator):
    r"""Mixture of normal distributions with one of mclust's fourteen covariance models, fitted by EM.

    .. math:: f(x) = \sum_{k=1}^G \pi_k \, \mathcal{N}(x; \mu_k, \lambda_k D_k A_k D_k^T)

    (Fraley & Raftery 2002, doi:10.1198/016214502760047131; Scrucca et al. 2016, doi:10.32614/RJ-2016-021.)
    `vaexprs.covariances` has the models, their estimates and numbers of parameters.

    Parameters
    ----------
    n_components
        Number of components.
    model
        EII, VII, EEI, VEI, EVI, VVI, EEE, VEE, EVE, VVE, EEV, VEV, EVV or VVV. In one dimension there are
        only equal and varying variances, E and V: the other names stand for their first letter.
    tol
        EM ends when a step raises the log likelihood by less than this times n_samples * n_features.
    max_iter
        Steps at most.
    start
        Responsibilities to start from, (n_components, n_samples), or the number of each point's component,
        (n_samples,). By default a partition by `vaexprs.hierarchical.merge_tree`, in one dimension by
        quantiles.
    random_state
        Where there are more than 2,000 points, so many of them, drawn with this seed, are partitioned.

    Attributes
    ----------
    weights_
        Mixing proportions, (n_components,).
    means_
        (n_components, n_features).
    covariances_
        (n_components, n_features, n_features).
    mixture_
        The three together as a `Mixture`.
    lower_bounds_
        Mean log likelihood of a point after each step, list of float.
    n_iter_
        Steps taken.
    converged_
        Whether EM ended before `max_iter`.
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        model: str = "VVV",
        tol: float = TOLERANCE,
        max_iter: int = MOST_STEPS,
        start: Any = None,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.model = model
        self.tol = tol
        self.max_iter = max_iter
        self.start = start
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit to points, (n_samples, n_features).

        Raises
        ------
        SingularFitError
            If a component contracts to fewer dimensions than the points have.
        ValueError
            If there are fewer points than components, or arguments are wrong.
        """
        x = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        model = _check_model(self.model, x.shape[1])
        check_integer("max_iter", self.max_iter, 1)
        if check_integer("n_components", self.n_components, 1) > len(x):
            raise ValueError(
                f"n_components must be at most the number of points, {len(x)}, got {self.n_components}."
            )
        points = _Points(x)
        if self.start is None:
            starts = _Starts(x, check_random_state(self.random_state), STARTING_POINTS)
            responsibility = starts.responsibility(self.n_components)
        else:
            responsibility = _as_responsibility(self.start, self.n_components, len(x))
        try:
            with threadpool_limits(1):
                fitted = _maximise(points, responsibility, model, self.tol, self.max_iter)
        except SingularFitError:
            raise SingularFitError(
                f"The fit of model {self.model!r} with {self.n_components} components is singular: a "
                f"component has contracted to fewer than the {x.shape[1]} dimensions of the points. Try "
                "fewer components or a model with fewer parameters, such as 'EEI'."
            ) from None
        return self._take(fitted, len(x))

    def _take(self, fitted: _Fitted, n: int) -> Self:
        self.mixture_ = fitted.mixture
        self.weights_, self.means_ = fitted.mixture.weights, fitted.mixture.means
        self.covariances_ = fitted.mixture.covariances
        self.lower_bounds_ = [value / n for value in fitted.log_likelihoods]
        self.n_iter_ = len(self.lower_bounds_)
        self.converged_ = fitted.converged
        if not fitted.converged:
            warn(
                f"EM has not converged in {self.n_iter_} steps; try a larger max_iter or tol.",
                ConvergenceWarning,
            )
        return self

    def _validated(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return np.asarray(validate_data(self, X, dtype=np.float64, reset=False))

    def score_samples(self, X: Any) -> np.ndarray:
        """Return the log density at each point, (n_samples,)."""
        x = self._validated(X)
        return self.mixture_.log_prob(x)

    def score(self, X: Any, y: Any = None) -> float:
        """Return the mean log density."""
        return float(self.score_samples(X).mean())

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each component given the point, (n_samples, n_components)."""
        x = self._validated(X)
        joint = self.mixture_.log_joint(x)
        return np.asarray(np.exp(joint - logsumexp(joint, axis=0)).T)

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable component of each point, (n_samples,)."""
        x = self._validated(X)
        return np.asarray(self.mixture_.log_joint(x).argmax(axis=0))

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:
        """Fit and return the most probable component of each point, (n_samples,)."""
        return self.fit(X).predict(X)

    def n_parameters(self) -> int:
        """Return the number of free parameters."""
        check_is_fitted(self)
        model = _check_model(self.model, self.n_features_in_)
        return n_parameters(model, self.n_components, self.n_features_in_)

    def bic(self, X: Any) -> float:
        r"""Return the Bayesian information criterion, :math:`-2 \log L + k \log n`: lower is better.

        (Schwarz 1978, doi:10.1214/aos/1176344136.) mclust reports its negative.
        """
        log_density = self.score_samples(X)
        return float(-2 * log_density.sum() + self.n_parameters() * np.log(len(log_density)))

    def aic(self, X: Any) -> float:
        r"""Return Akaike's information criterion, :math:`-2 \log L + 2 k`: lower is better."""
        return float(-2 * self.score_samples(X).sum() + 2 * self.n_parameters())

    def sample(
        self, n_samples: int = 1, random_state: np.random.Generator | int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw points; components come shuffled.

        Parameters
        ----------
        n_samples
            How many.
        random_state
            Generator, which goes on, or seed, which gives the same points each time. By default the
            estimator's own `random_state` where that is a number, otherwise a new seed.

        Returns
        -------
        tuple
            Points, (n_samples, n_features), and the component of each, (n_samples,).
        """
        check_is_fitted(self)
        if n_samples < 1:
            raise ValueError(f"n_samples must be at least 1, got {n_samples}.")
        if random_state is None and isinstance(self.random_state, int):
            random_state = self.random_state
        rng = np.random.default_rng(random_state)
        uniform, normal = rng.random(n_samples), rng.standard_normal((n_samples, self.n_features_in_))
        return self.mixture_.transform(uniform, normal), self.mixture_.component(uniform)


@dataclass(frozen=True)
class Selection:
    """Mixtures compared by BIC.

    Parameters
    ----------
    best
        The fitted one with the smallest BIC.
    table
        A row for each model and number of components: model, components, parameters, log_likelihood, bic and
        note; where there is no fit the numbers are NaN and the note says why.
    """

    best: GaussianMixture
    table: pd.DataFrame

    @property
    def bic(self) -> float:
        """BIC of the best."""
        return float(self.table["bic"].min())


def select_mixture(
    x: Any,
    *,
    components: Collection[int] = range(1, 10),
    models: Collection[str] | None = None,
    n_independent: int | None = None,
    starting_points: int = STARTING_POINTS,
    seed: int = 0,
) -> Selection:
    r"""Fit mixtures by EM and choose the one with the smallest BIC.

    .. math:: \mathrm{BIC} = -2 \log L + k \log n

    with the number of free parameters k (Schwarz 1978, doi:10.1214/aos/1176344136). All start from one tree
    of clusters (`vaexprs.hierarchical.merge_tree`). mclust reports the negative of this BIC.

    Parameters
    ----------
    x
        Points, (n, n_features).
    components
        Numbers of components to try.
    models
        Covariance models to try, by default all: see `GaussianMixture`. E and V in one dimension.
    n_independent
        How many independent observations the points stand for, where each was repeated with noise: the log
        likelihood and n are counted for so many. By default n.
    starting_points
        The tree is made of so many points at most, drawn with `seed`.
    seed
        Seed of the points that the tree is made of.

    Raises
    ------
    SingularFitError
        If no model can be fitted with any of the numbers of components.
    """
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or not x.size or not np.isfinite(x).all():
        raise ValueError(f"x must be finite points, (n, n_features), got an array of shape {x.shape}.")
    n, d = x.shape
    observations = n if n_independent is None else n_independent
    if models is None:
        models = MODELS if d > 1 else tuple(UNIVARIATE)
    names = {model: _check_model(model, d) for model in models}
    components = [check_integer("components", g, 1) for g in components]
    if not names or not components:
        raise ValueError("components and models must name at least one each.")
    check_integer("starting_points", starting_points, max(components))
    points = _Points(x)
    starts = _Starts(x, np.random.RandomState(seed), starting_points)
    rows: list[tuple[Any, ...]] = []
    best: tuple[float, str, _Fitted] | None = None
    # one thread: on matrices of this size more of them only wait for each other
    with threadpool_limits(1):
        for g in components:
            start = starts.responsibility(min(g, n))  # one for all models; more than n are not fitted
            for name, model in names.items():
                k = n_parameters(model, g, d)
                try:
                    if g > n or (n <= d and model in FULL):
                        raise SingularFitError("too few points")
                    fitted = _maximise(points, start, model, TOLERANCE, MOST_STEPS)
                except SingularFitError as reason:
                    rows.append((name, g, k, np.nan, np.nan, str(reason)))
                    continue
                log_likelihood = fitted.log_likelihoods[-1] * observations / n
                bic = -2 * log_likelihood + k * np.log(observations)
                rows.append((name, g, k, log_likelihood, bic, "" if fitted.converged else "not converged"))
                if best is None or bic < best[0] - TIE * abs(best[0]):
                    best = bic, name, fitted
    if best is None:
        raise SingularFitError(
            f"None of the models {', '.join(names)} can be fitted to {n} points in {d} dimensions with "
            f"{', '.join(map(str, components))} components: they are too few or lie in fewer dimensions."
        )
    columns = ["model", "components", "parameters", "log_likelihood", "bic", "note"]
    _, name, fitted = best
    chosen = GaussianMixture(fitted.mixture.n_components, model=name, random_state=seed)
    chosen.n_features_in_ = d
    return Selection(chosen._take(fitted, n), pd.DataFrame(rows, columns=columns))


def _check_model(model: str, d: int) -> str:
    """Return the model's name among the fourteen."""
    if d == 1:
        check_choice("model", model, (*UNIVARIATE, *MODELS))
        return UNIVARIATE[model[0]]
    check_choice("model", model, MODELS)
    return model


def _as_responsibility(start: Any, components: int, n: int) -> np.ndarray:
    """Return responsibilities, (n_components, n), from them or from the components of points."""
    start = np.asarray(start)
    if start.shape == (n,) and np.isin(start, np.arange(components)).all():
        return np.asarray(np.arange(components)[:, None] == start, float)
    if start.shape == (components, n) and np.isfinite(start).all() and (start >= 0).all():
        return start.astype(float)
    raise ValueError(
        f"start must be responsibilities, ({components}, {n}), not negative, or whole numbers from 0 to "
        f"{components - 1}, ({n},); got an array of shape {start.shape}."
    )


class _Starts:
    """Partitions of the same points into any number of clusters."""

    def __init__(self, x: np.ndarray, rng: np.random.RandomState, most: int) -> None:
        self._n = len(x)
        self._rows = np.arange(len(x)) if len(x) <= most else np.sort(rng.permutation(len(x))[:most])
        self._x = x[self._rows]
        self._steps: np.ndarray | None = None

    def responsibility(self, components: int) -> np.ndarray:
        """Return responsibilities, (n_components, n), 1 or 0; those of points not looked at are all 0."""
        responsibility = np.zeros((components, self._n))
        responsibility[self._members(components), self._rows] = 1
        return responsibility

    def _members(self, components: int) -> np.ndarray:
        if components == 1:
            return np.zeros(len(self._x), int)
        if self._x.shape[1] == 1:
            inner = np.quantile(self._x[:, 0], np.arange(1, components) / components)
            return np.searchsorted(inner, self._x[:, 0])
        if self._steps is None:
            self._steps = merge_tree(svd_scaled(self._x))
        return cut(self._steps, components)


class _Points:
    """Points as EM needs them: centred, in a unit of their size, with their squares and products.

    The log density of a normal distribution is linear in the features (x_i x_j, x, 1) of a point, and sums of
    features with responsibilities as weights are all that the estimates need: both steps of EM are a matrix
    product.
    """

    def __init__(self, x: np.ndarray) -> None:
        self.centre = x.mean(axis=0)
        # a power of 2, so that other units of the points change nothing but these
        spread = np.sqrt(x.var(axis=0).mean())
        self.unit = float(2.0 ** np.round(np.log2(spread))) if spread > 0 else 1.0
        self.z = (x - self.centre) / self.unit
        self.variance = self.z.var(axis=0)
        self._features: dict[bool, np.ndarray] = {}

    def features(self, diagonal: bool) -> np.ndarray:
        """Return the features, (n, n_products + d + 1): squares, or all products in the order of `pairs`."""
        if diagonal not in self._features:
            first, second = self.pairs(diagonal)
            one = np.ones((len(self.z), 1))
            self._features[diagonal] = np.hstack([self.z[:, first] * self.z[:, second], self.z, one])
        return self._features[diagonal]

    def pairs(self, diagonal: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return which dimensions are multiplied."""
        d = self.z.shape[1]
        return (np.arange(d), np.arange(d)) if diagonal else np.triu_indices(d)


@dataclass(frozen=True)
class _Fitted:
    mixture: Mixture
    log_likelihoods: list[float]
    converged: bool


def _maximise(points: _Points, start: np.ndarray, model: str, tol: float, max_iter: int) -> _Fitted:
    """Return what EM converges to from responsibilities, (n_components, n).

    Raises
    ------
    SingularFitError
        If a component contracts to fewer dimensions.
    """
    n, d = points.z.shape
    log_likelihoods: list[float] = []
    converged = False
    steps = _steps(points, start, model)
    # a component that contracts divides by 0 before it is found out
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
    return _Fitted(mixture, log_likelihoods, converged)


def _steps(
    points: _Points, responsibility: np.ndarray, model: str
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, float]]:
    """Yield weights, means, covariances (or their diagonals) and the log likelihood after each step of EM."""
    d = points.z.shape[1]
    diagonal = model in DIAGONAL
    estimate = (DIAGONAL if diagonal else FULL)[model]
    first, second = points.pairs(diagonal)
    products = len(first)
    order = np.zeros((d, d), int)  # of the products that make up a matrix
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
        # in place from here on: these are the large arrays
        responsibility = linear @ transposed
        highest = responsibility.max(axis=0)
        responsibility -= highest
        np.exp(responsibility, out=responsibility)
        total = responsibility.sum(axis=0)
        responsibility /= total
        yield weights, means, covariances, float((np.log(total) + highest).sum())


def _invert_diagonal(variances: np.ndarray, whole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the inverses of variances, (G, d), and the log determinants, (G,)."""
    if not (variances > LEAST_VARIANCE * whole).all():  # so that NaN is found as well
        raise SingularFitError("singular")
    return 1 / variances, np.log(variances).sum(axis=1)


def _check_whole(covariances: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return the variance of each dimension given those before it, (G, d), if there is any left."""
    try:
        factors = np.linalg.cholesky(covariances)
    except np.linalg.LinAlgError:
        raise SingularFitError("singular") from None
    left = np.diagonal(factors, axis1=1, axis2=2) ** 2
    if not (left > LEAST_VARIANCE * whole).all():
        raise SingularFitError("singular")
    return left


def _invert(covariances: np.ndarray, whole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the inverses of covariances, (G, d, d), and the log determinants, (G,)."""
    left = _check_whole(covariances, whole)
    return np.linalg.inv(covariances), np.log(left).sum(axis=1)
