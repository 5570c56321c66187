"""Gaussian mixture with the interface of scikit-learn."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from scipy.special import logsumexp
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, check_random_state, validate_data
from threadpoolctl import threadpool_limits

from vaexprs.interface.errors import warn
from vaexprs.interface.validation import check_choice, check_integer
from vaexprs.mixture.covariances import n_parameters
from vaexprs.mixture.em import (
    MAX_STEPS,
    MODELS,
    TOLERANCE,
    UNIVARIATE,
    Fitted,
    Points,
    SingularFitError,
    maximise,
)
from vaexprs.mixture.hierarchical import cut, merge_tree, svd_scaled

STARTING_POINTS = 2_000
# Number of leading principal axes used by the hierarchical clustering. Its time grows with their third power,
# and it only initialises EM.
CLUSTERED_AXES = 12


class GaussianMixture(DensityMixin, BaseEstimator):
    r"""Mixture of normal distributions with one of mclust's fourteen covariance models, fitted by EM.

    .. math:: f(x) = \sum_{k=1}^G \pi_k \, \mathcal{N}(x; \mu_k, \lambda_k D_k A_k D_k^T)

    (Fraley & Raftery 2002, doi:10.1198/016214502760047131; Scrucca et al. 2016, doi:10.32614/RJ-2016-021.)
    See `vaexprs.mixture.covariances` for the models, their estimates and numbers of parameters.

    Parameters
    ----------
    n_components
        Number of components.
    model
        EII, VII, EEI, VEI, EVI, VVI, EEE, VEE, EVE, VVE, EEV, VEV, EVV or VVV. In one dimension only the
        first letter matters: equal (E) or varying (V) variances.
    tol
        EM ends when a step increases the log likelihood by less than this times n_samples * n_features.
    max_iter
        Maximum number of EM steps.
    start
        Initial responsibilities, (n_components, n_samples), or the component of each point, (n_samples,). By
        default a partition by `vaexprs.mixture.hierarchical.merge_tree`, in one dimension by quantiles.
    random_state
        Seed of the random 2,000 points that are partitioned if there are more.

    Attributes
    ----------
    weights_
        Mixing proportions, (n_components,).
    means_
        Means, (n_components, n_features).
    covariances_
        Covariances, (n_components, n_features, n_features).
    mixture_
        The fitted `Mixture` with these parameters.
    lower_bounds_
        Mean log likelihood per point after each step, list of float.
    n_iter_
        Number of EM steps.
    converged_
        Whether EM converged within `max_iter` steps.
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        model: str = "VVV",
        tol: float = TOLERANCE,
        max_iter: int = MAX_STEPS,
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
            If a component collapses to fewer dimensions than the points have.
        ValueError
            If there are fewer points than components, or an argument is invalid.
        """
        x = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        model = check_model(self.model, x.shape[1])
        check_integer("max_iter", self.max_iter, 1)
        if check_integer("n_components", self.n_components, 1) > len(x):
            raise ValueError(
                f"n_components must be at most the number of points, {len(x)}, got {self.n_components}."
            )
        points = Points(x)
        if self.start is None:
            starts = Starts(x, check_random_state(self.random_state), STARTING_POINTS)
            responsibility = starts.responsibility(self.n_components)
        else:
            responsibility = _as_responsibility(self.start, self.n_components, len(x))
        try:
            with threadpool_limits(1):
                fitted = maximise(points, responsibility, model, self.tol, self.max_iter)
        except SingularFitError:
            raise SingularFitError(
                f"The fit of model {self.model!r} with {self.n_components} components is singular: a "
                f"component has collapsed to fewer than the {x.shape[1]} dimensions of the points. Try "
                "fewer components or a model with fewer parameters, such as 'EEI'."
            ) from None
        return self._take(fitted, len(x))

    def _take(self, fitted: Fitted, n: int) -> Self:
        self.mixture_ = fitted.mixture
        self.weights_, self.means_ = fitted.mixture.weights, fitted.mixture.means
        self.covariances_ = fitted.mixture.covariances
        self.lower_bounds_ = [value / n for value in fitted.log_likelihoods]
        self.n_iter_ = len(self.lower_bounds_)
        self.converged_ = fitted.converged
        if not fitted.converged:
            warn(
                f"EM did not converge in {self.n_iter_} steps. Try a larger max_iter or tol.",
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
        model = check_model(self.model, self.n_features_in_)
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
        """Sample points, with components in random order.

        Parameters
        ----------
        n_samples
            Number of points.
        random_state
            Generator, or seed for reproducible points. By default the estimator's `random_state` if that is
            a number, otherwise a random seed.

        Returns
        -------
        tuple
            Points, (n_samples, n_features), and their components, (n_samples,).
        """
        check_is_fitted(self)
        if n_samples < 1:
            raise ValueError(f"n_samples must be at least 1, got {n_samples}.")
        if random_state is None and isinstance(self.random_state, int):
            random_state = self.random_state
        rng = np.random.default_rng(random_state)
        uniform, normal = rng.random(n_samples), rng.standard_normal((n_samples, self.n_features_in_))
        return self.mixture_.transform(uniform, normal), self.mixture_.component(uniform)


def check_model(model: str, d: int) -> str:
    """Return which of the fourteen models `model` is in `d` dimensions; raise ValueError if it is unknown."""
    if d == 1:
        check_choice("model", model, (*UNIVARIATE, *MODELS))
        return UNIVARIATE[model[0]]
    check_choice("model", model, MODELS)
    return model


def _as_responsibility(start: Any, components: int, n: int) -> np.ndarray:
    """Return responsibilities, (n_components, n), from responsibilities or components of points."""
    start = np.asarray(start)
    if start.shape == (n,) and np.isin(start, np.arange(components)).all():
        return np.asarray(np.arange(components)[:, None] == start, float)
    if start.shape == (components, n) and np.isfinite(start).all() and (start >= 0).all():
        return start.astype(float)
    raise ValueError(
        f"start must be non-negative responsibilities, ({components}, {n}), or whole numbers from 0 to "
        f"{components - 1}, ({n},); got an array of shape {start.shape}."
    )


class Starts:
    """Initial partitions of the same points into any number of clusters."""

    def __init__(self, x: np.ndarray, rng: np.random.RandomState, most: int) -> None:
        self._n = len(x)
        self._rows = np.arange(len(x)) if len(x) <= most else np.sort(rng.permutation(len(x))[:most])
        self._x = x[self._rows]
        self._steps: np.ndarray | None = None

    def responsibility(self, components: int) -> np.ndarray:
        """Return responsibilities, (n_components, n), of 1 or 0; 0 for points outside the random subset."""
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
            self._steps = merge_tree(svd_scaled(self._x)[:, :CLUSTERED_AXES])
        return cut(self._steps, components)
