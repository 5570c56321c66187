"""Finite Gaussian mixtures: fitting, choosing by BIC, sampling. Knows nothing of cells."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.linalg import solve_triangular
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

# mclust's name of each covariance model (Scrucca et al. 2016, doi:10.32614/RJ-2016-021): scikit-learn's name
MODELS = {"VII": "spherical", "VVI": "diag", "EEE": "tied", "VVV": "full"}
FLOOR = 1e-4  # added to the variances; the data should be about standardised


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

    def transform(self, uniform: np.ndarray, normal: np.ndarray) -> np.ndarray:
        """Return draws made of a uniform number, (n,), and normal ones, (n, n_features), for each."""
        component = np.searchsorted(np.cumsum(self.weights)[:-1], uniform, side="right")
        return self.means[component] + np.einsum("nij,nj->ni", self._factors[component], normal)

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw `n` points, (n, n_features), components shuffled."""
        return self.transform(rng.random(n), rng.standard_normal((n, self.means.shape[1])))

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """Return the log density of points, (n,) for x of shape (n, n_features)."""
        d = x.shape[1]
        parts = []
        for weight, mean, factor in zip(self.weights, self.means, self._factors, strict=True):
            z = solve_triangular(factor, (x - mean).T, lower=True)
            log_det = np.log(np.diag(factor)).sum()
            parts.append(np.log(weight) - 0.5 * (d * np.log(2 * np.pi) + (z**2).sum(axis=0)) - log_det)
        return logsumexp(parts, axis=0)


@dataclass(frozen=True)
class Selection:
    """Mixtures compared by BIC.

    Parameters
    ----------
    best
        The one with the smallest BIC.
    table
        A row for each fitted mixture: model, components, parameters, log_likelihood, bic.
    """

    best: Mixture
    table: pd.DataFrame

    @property
    def bic(self) -> float:
        """BIC of the best."""
        return float(self.table["bic"].min())


def n_parameters(model: str, components: int, d: int) -> int:
    """Return the number of free parameters of a mixture in `d` dimensions."""
    covariance = {
        "VII": components,
        "VVI": components * d,
        "EEE": d * (d + 1) // 2,
        "VVV": components * d * (d + 1) // 2,
    }
    return covariance[model] + components * d + components - 1


def select_mixture(
    x: np.ndarray,
    *,
    components: Sequence[int],
    models: Sequence[str] = tuple(MODELS),
    n_independent: int | None = None,
    seed: int = 0,
) -> Selection:
    r"""Fit mixtures by EM and choose the one with the smallest BIC.

    .. math:: \mathrm{BIC} = -2 \log L + k \log n

    (Schwarz 1978, doi:10.1214/aos/1176344136; mclust reports its negative.) For each model the number of
    components grows until BIC has got worse twice.

    Parameters
    ----------
    x
        Points, (n, n_features), about standardised.
    components
        Numbers of components to try, ascending.
    models
        Covariance models to try, by mclust's names.
    n_independent
        How many independent observations the points stand for, where each was repeated with noise: the log
        likelihood and n are counted for so many. By default n.
    seed
        Seed of the starting partition.
    """
    n, d = x.shape
    observations = n if n_independent is None else n_independent
    rows, fitted = [], []
    for model in models:
        worse, least = 0, np.inf
        for g in components:
            em = GaussianMixture(
                g, covariance_type=MODELS[model], reg_covar=FLOOR, random_state=seed, max_iter=200
            )
            # one thread: on matrices of this size more of them only wait for each other
            with warnings.catch_warnings(), threadpool_limits(1):
                warnings.simplefilter("ignore", ConvergenceWarning)
                em.fit(x)
            k = n_parameters(model, g, d)
            log_likelihood = float(em.score(x)) * observations
            bic = -2 * log_likelihood + k * np.log(observations)
            rows.append((model, g, k, log_likelihood, bic))
            fitted.append(em)
            worse = 0 if bic < least else worse + 1
            least = min(least, bic)
            if worse == 2:
                break
    table = pd.DataFrame(rows, columns=["model", "components", "parameters", "log_likelihood", "bic"])
    best = int(table["bic"].argmin())
    return Selection(_as_mixture(fitted[best], str(table["model"][best])), table)


def _as_mixture(em: GaussianMixture, model: str) -> Mixture:
    g, d = em.means_.shape
    covariances = {
        "VII": lambda c: c[:, None, None] * np.eye(d),
        "VVI": lambda c: c[:, :, None] * np.eye(d),
        "EEE": lambda c: np.broadcast_to(c, (g, d, d)),
        "VVV": lambda c: c,
    }[model](em.covariances_)
    return Mixture(em.weights_, em.means_, np.array(covariances), model)
