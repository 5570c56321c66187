"""Latent density of each condition, as Gaussian mixtures.

Fitted to posterior samples of the training cells. For counts the log library size is an additional dimension,
so that the correlation between sequencing depth and cell state is modelled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd

from vaexprs.latent.continuous import ContinuousEffects, fit_effects
from vaexprs.mixture.em import Mixture, SingularFitError
from vaexprs.mixture.selection import select_mixture
from vaexprs.preprocessing.conditions import Conditions

CELLS_FOR_OWN_COVARIANCE = 3  # conditions with fewer cells use the pooled within-condition covariance
CELLS_PER_COMPONENT = 15  # number of cells of a condition per mixture component
MAX_COMPONENTS = 30
MODEL = "EEE"  # one covariance shared by all components, so that few cells suffice for many components
PRIOR_CELLS = 5  # weight of the pooled covariance relative to a condition's own, in cells
MAX_CELLS = 5_000  # maximum number of cells of a condition to fit; of more a seeded random subset is used
POINTS = 2_000  # target number of posterior samples of a condition
MAX_DRAWS = 10  # maximum number of posterior samples per cell
STARTING_POINTS = 500  # number of points used for the hierarchical clustering that initialises EM
BORROWED = "pooled"  # model names of mixtures not fitted by EM
SHRUNKEN = "shrunken"
UNSEEN = "additive"
FLOOR = 1e-4  # added to the pooled variances
MIN_LIBRARY_VARIANCE = 0.05  # minimum fraction of the log library size variance left after subtracting noise


@dataclass(frozen=True)
class LatentDensity:
    """Mixtures of conditions with training cells, and parameters to derive mixtures of other conditions.

    Parameters
    ----------
    conditions
        Label and covariates.
    seen
        Combinations of levels in the training cells, as dicts; one empty dict without conditions.
    cells
        Number of training cells of each combination, (n_seen,).
    mixtures
        Mixture of each combination.
    bic
        BIC of each mixture, (n_seen,).
    pooled
        Within-condition covariance, (n_dims, n_dims).
    effects
        Least-squares effect of each one-hot column on the mean, (n_levels, n_dims).
    continuous
        Effects of continuous covariates, or None without any. If there are any, the mixtures and `effects`
        are those at the mean of the basis, zero.
    """

    conditions: Conditions
    seen: tuple[dict[str, str], ...]
    cells: np.ndarray
    mixtures: tuple[Mixture, ...]
    bic: np.ndarray
    pooled: np.ndarray
    effects: np.ndarray
    continuous: ContinuousEffects | None = None

    def index(self, levels: Mapping[str, str]) -> int:
        """Return the index of a combination of levels in `seen`, or `len(seen)` without training cells."""
        return self.seen.index(dict(levels)) if levels in self.seen else len(self.seen)

    def slopes(self, levels: Mapping[str, str]) -> np.ndarray:
        """Return the slopes of the mean on the basis of continuous covariates, (n_basis, n_dims)."""
        if self.continuous is None:
            return np.zeros((0, len(self.pooled)))
        return self.continuous.slopes[self.index(levels)]

    def mixture(self, levels: Mapping[str, str]) -> Mixture:
        """Return the mixture of a combination of levels.

        A combination without training cells gets one component: its mean is the sum of the effects of its
        levels, its covariance is the pooled one.
        """
        if levels in self.seen:
            return self.mixtures[self.seen.index(dict(levels))]
        code = self.conditions.one_hot(pd.DataFrame([dict(levels)]))
        return Mixture(np.ones(1), code @ self.effects, self.pooled[None], UNSEEN)

    def summary(self) -> pd.DataFrame:
        """Return a table with levels, cells, model, components and BIC of each condition."""
        return pd.DataFrame(self.seen, columns=self.conditions.keys).assign(
            cells=self.cells,
            model=[mixture.model for mixture in self.mixtures],
            components=[mixture.n_components for mixture in self.mixtures],
            bic=self.bic,
        )

    @classmethod
    def normal(
        cls,
        conditions: Conditions,
        seen: tuple[dict[str, str], ...],
        cells: np.ndarray,
        means: np.ndarray,
        covariance: np.ndarray,
    ) -> LatentDensity:
        """Return a density with one normal distribution per combination and a common covariance.

        Parameters
        ----------
        conditions, seen, cells
            See `LatentDensity`.
        means
            Mean of each combination, (n_seen, n_dims).
        covariance
            Common covariance, (n_dims, n_dims).
        """
        mixtures = tuple(Mixture(np.ones(1), mean[None], covariance[None], BORROWED) for mean in means)
        effects = _effects(conditions, seen, means, cells / cells.sum())
        bic = np.full(len(seen), np.nan)  # computing the BIC requires the cells
        return cls(conditions, seen, cells, mixtures, bic, covariance, effects)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the parameters as arrays for saving."""
        arrays = {
            "seen": np.array([list(levels.values()) for levels in self.seen], np.str_),
            "cells": self.cells,
            "bic": self.bic,
            "pooled": self.pooled,
            "effects": self.effects,
            "models": np.array([mixture.model for mixture in self.mixtures], np.str_),
            "components": np.array([mixture.n_components for mixture in self.mixtures]),
            "weights": np.concatenate([mixture.weights for mixture in self.mixtures]),
            "means": np.concatenate([mixture.means for mixture in self.mixtures]),
            "covariances": np.concatenate([mixture.covariances for mixture in self.mixtures]),
        }
        return arrays if self.continuous is None else arrays | vars(self.continuous)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], conditions: Conditions) -> LatentDensity:
        """Return the density from the arrays of `to_arrays`."""
        ends = np.cumsum(arrays["components"])[:-1]
        parts = (np.split(arrays[name], ends) for name in ("weights", "means", "covariances"))
        mixtures = tuple(
            Mixture(weights, means, covariances, str(model))
            for weights, means, covariances, model in zip(*parts, arrays["models"], strict=True)
        )
        rows = arrays["seen"].reshape(len(mixtures), -1)
        seen = tuple({key: str(v) for key, v in zip(conditions.keys, row, strict=True)} for row in rows)
        continuous = None
        if conditions.continuous:
            continuous = ContinuousEffects(*(arrays[part.name] for part in fields(ContinuousEffects)))
        return cls(
            conditions,
            seen,
            arrays["cells"],
            mixtures,
            arrays["bic"],
            arrays["pooled"],
            arrays["effects"],
            continuous,
        )


def fit_density(
    mean: np.ndarray,
    sd: np.ndarray,
    log_library: np.ndarray | None,
    obs: pd.DataFrame,
    conditions: Conditions,
    *,
    seed: int,
    sizes: np.ndarray | None = None,
    library_noise: Callable[[np.ndarray], tuple[float, float]] | None = None,
) -> LatentDensity:
    """Fit the latent density of each condition.

    Parameters
    ----------
    mean, sd
        Posterior mean and standard deviation of the training cells, (n_cells, latent_dim).
    log_library
        Log library size of each cell, (n_cells,), or None.
    obs
        Label and covariates of each cell.
    conditions
        Label and covariates.
    seed
        Seed of the posterior samples and of EM.
    sizes
        Number of training cells of each combination of levels, in the order of `groups_of`. By default the
        given cells are counted; needed if they are a subset.
    library_noise
        Callable: for given rows, mean and variance of the log ratio of the totals of sampled counts to the
        library sizes. They are subtracted from those of the log library size, so that the totals of generated
        cells are distributed as those of real cells.

    Notes
    -----
    The model depends on the number n of cells of a condition:

    * 1 or 2: one component with the pooled within-condition covariance ("pooled");
    * 3 to 29: one component whose covariance is the condition's own covariance S shrunken towards the pooled
      one, as the mean of an inverse-Wishart posterior with a prior worth 5 cells,
      (5 pooled + n S) / (5 + n) ("shrunken");
    * 30 or more: one component per 15 cells, at most 30, with a common covariance ("EEE"). Components
      describe the shape of the density and need not correspond to cell types.

    With continuous covariates the models are fitted to the points minus the regression of their means on the
    basis of the covariates (see `vaexprs.latent.continuous`).
    """
    groups = groups_of(obs, conditions)
    rng = np.random.default_rng(seed)
    fixed = np.zeros((len(mean), 0)) if log_library is None else np.asarray(log_library, float)[:, None]
    continuous = None
    if conditions.continuous:
        joined = np.concatenate([mean, fixed], axis=1)
        continuous, joined = without_continuous(joined, obs, conditions)
        mean, fixed = np.split(joined, [mean.shape[1]], axis=1)
    points, cells = [], []
    for rows in groups.values():
        if len(rows) > MAX_CELLS:
            rows = rng.choice(rows, MAX_CELLS, replace=False)
        draws = int(np.clip(POINTS // len(rows), 1, MAX_DRAWS))
        noise = rng.standard_normal((draws, len(rows), mean.shape[1]))
        sample = mean[rows] + sd[rows] * noise
        joined = np.concatenate([sample, np.broadcast_to(fixed[rows], (draws, *fixed[rows].shape))], axis=2)
        points.append(joined.reshape(draws * len(rows), -1))
        cells.append(len(rows))
    if sizes is None:
        sizes = np.array([len(rows) for rows in groups.values()])
    centres = np.stack([np.r_[mean[rows].mean(axis=0), fixed[rows].mean(axis=0)] for rows in groups.values()])
    share = sizes / sizes.sum()
    pooled = sum(
        w * np.cov(sample.T, bias=True).reshape(sample.shape[1], -1)
        for w, sample in zip(share, points, strict=True)
    )
    # if every condition has a single cell, the pooled covariance is that of the posterior only
    pooled = np.asarray(pooled) + FLOOR * np.eye(centres.shape[1])
    scale = np.sqrt(np.diag(pooled))
    seen = tuple(dict(zip(conditions.keys, levels, strict=True)) for levels in groups)
    fitted = [
        _fit_one(sample, centre, n, pooled, scale, seed)
        for sample, centre, n in zip(points, centres, cells, strict=True)
    ]
    density = LatentDensity(
        conditions,
        seen,
        sizes,
        tuple(mixture for mixture, _ in fitted),
        np.array([bic for _, bic in fitted]),
        pooled,
        _effects(conditions, seen, centres, share),
        continuous,
    )
    if library_noise is None:
        return density
    return without_noise(density, np.array([library_noise(rows) for rows in groups.values()]))


def without_continuous(
    points: np.ndarray, obs: pd.DataFrame, conditions: Conditions
) -> tuple[ContinuousEffects, np.ndarray]:
    """Return the effects of continuous covariates, and the points, (n_cells, n_dims), without them."""
    groups = groups_of(obs, conditions)
    basis, values = conditions.basis(obs), obs[list(conditions.continuous)].to_numpy(np.float64)
    degrees = [spline.degrees for spline in conditions.continuous.values()]
    effects = fit_effects(points, basis, values, degrees, list(groups.values()))
    rest = points.copy()
    for rows, slopes in zip(groups.values(), effects.slopes, strict=False):  # the last is of no group
        rest[rows] -= basis[rows] @ slopes
    return effects, rest


def without_noise(density: LatentDensity, noise: np.ndarray) -> LatentDensity:
    """Return the density after subtracting noise from its last dimension, the log library size.

    Parameters
    ----------
    density
        Density with the log library size as its last dimension.
    noise
        Mean and variance to subtract for each combination of levels, (n_seen, 2).
    """
    mixtures = []
    for mixture, (shift, extra) in zip(density.mixtures, noise, strict=True):
        level = mixture.means[:, -1]
        middle = mixture.weights @ level
        variance = mixture.weights @ (mixture.covariances[:, -1, -1] + (level - middle) ** 2)
        narrower = np.ones(mixture.means.shape[1])
        narrower[-1] = _narrower(variance, extra)
        means = mixture.means.copy()
        means[:, -1] = middle + narrower[-1] * (level - middle) - shift
        covariances = mixture.covariances * np.outer(narrower, narrower)
        mixtures.append(Mixture(mixture.weights, means, covariances, mixture.model))
    narrower = np.ones(len(density.pooled))
    narrower[-1] = _narrower(density.pooled[-1, -1], np.average(noise[:, 1], weights=density.cells))
    pooled = density.pooled * np.outer(narrower, narrower)
    return replace(density, mixtures=tuple(mixtures), pooled=pooled)


def _narrower(variance: float, noise: float) -> float:
    return float(np.sqrt(max(1 - noise / variance, MIN_LIBRARY_VARIANCE)))


def chosen_rows(groups: Mapping[tuple[str, ...], np.ndarray], seed: int) -> dict[tuple[str, ...], np.ndarray]:
    """Return the rows of each condition, a random subset of MAX_CELLS if there are more."""
    rng = np.random.default_rng(seed)
    return {
        levels: np.sort(rng.choice(rows, MAX_CELLS, replace=False)) if len(rows) > MAX_CELLS else rows
        for levels, rows in groups.items()
    }


def groups_of(obs: pd.DataFrame, conditions: Conditions) -> dict[tuple[str, ...], np.ndarray]:
    """Return the rows of each combination of levels, ordered by level."""
    if not conditions.levels:
        return {(): np.arange(len(obs))}
    columns = conditions.columns(obs)
    names = [level for levels in conditions.levels.values() for level in levels]
    table = pd.DataFrame(columns)
    return {
        tuple(names[column] for column in key): np.asarray(rows)
        for key, rows in sorted(table.groupby(list(table.columns)).indices.items())
        for key in [key if isinstance(key, tuple) else (key,)]
    }


def _fit_one(
    sample: np.ndarray, centre: np.ndarray, cells: int, pooled: np.ndarray, scale: np.ndarray, seed: int
) -> tuple[Mixture, float]:
    """Return the mixture of one condition and its BIC; EM runs in units of `scale`."""
    d = sample.shape[1]
    components = min(cells // CELLS_PER_COMPONENT, MAX_COMPONENTS)
    if components > 1:
        with suppress(SingularFitError):  # for example if all library sizes are equal
            chosen = select_mixture(
                sample / scale,
                components=[components],
                models=[MODEL],
                n_independent=cells,
                starting_points=STARTING_POINTS,
                seed=seed,
            )
            bic = chosen.bic + 2 * cells * float(np.log(scale).sum())  # in the units of `sample`
            best = chosen.best.mixture_
            covariances = best.covariances * np.outer(scale, scale)
            return Mixture(best.weights, best.means * scale, covariances, MODEL), bic
    covariance, model = pooled, BORROWED
    if cells >= CELLS_FOR_OWN_COVARIANCE:
        own = np.cov(sample.T, bias=True).reshape(d, d)
        covariance, model = (PRIOR_CELLS * pooled + cells * own) / (PRIOR_CELLS + cells), SHRUNKEN
    mixture = Mixture(np.ones(1), centre[None], covariance[None], model)
    return mixture, -2 * cells * float(mixture.log_prob(sample).mean()) + d * np.log(cells)


def _effects(
    conditions: Conditions, seen: Sequence[Mapping[str, str]], centres: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return the minimum-norm least-squares effect of each one-hot column on the centres.

    A level without cells gets the mean effect of its key.
    """
    codes = conditions.one_hot(pd.DataFrame(seen))
    root = np.sqrt(weights)[:, None]
    effects = np.linalg.lstsq(codes * root, centres * root, rcond=None)[0]
    share = weights @ codes
    first = 0
    for levels in conditions.levels.values():
        block = slice(first, first + len(levels))
        effects[block][share[block] == 0] = share[block] @ effects[block]
        first += len(levels)
    return effects
