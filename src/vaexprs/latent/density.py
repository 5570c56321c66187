"""The latent density of each condition, built of mixtures.

It is fitted to posterior samples of the training cells, with the log library size as one more dimension
where the values are counts, so that depth comes with its correlation to state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from vaexprs.mixture.em import Mixture, SingularFitError
from vaexprs.mixture.selection import select_mixture
from vaexprs.preprocessing.conditions import Conditions

# The rules, by number of cells of a condition:
CELLS_FOR_OWN_COVARIANCE = 3  # with fewer the pooled within-condition covariance is borrowed
CELLS_PER_COMPONENT = 15  # one component for every so many cells, at most MAX_COMPONENTS
MAX_COMPONENTS = 30
MODEL = "EEE"  # the components' covariance is one, so that many of them can be told from few cells
PRIOR_CELLS = 5  # what the pooled covariance weighs against a condition's own, in cells
MAX_CELLS = 5_000  # of a condition are looked at, a seeded random subset
POINTS = 2_000  # posterior samples of a condition to aim at ...
MAX_DRAWS = 10  # ... with at most so many of each cell
STARTING_POINTS = 500  # of them EM starts from a tree
BORROWED = "pooled"
SHRUNKEN = "shrunken"
UNSEEN = "additive"
FLOOR = 1e-4  # added to the pooled variances
MIN_LIBRARY_VARIANCE = 0.05  # of log library sizes that noise may leave, as a fraction


@dataclass(frozen=True)
class LatentDensity:
    """A mixture for each condition that has cells, and what is needed to make one for those without.

    Parameters
    ----------
    conditions
        Levels of label and covariates in use, and their codes.
    seen
        Combinations of levels in the training cells, as dicts; one empty dict where there are no conditions.
    cells
        Training cells of each, (n_seen,).
    mixtures
        Mixture of each.
    bic
        BIC of each.
    pooled
        Within-condition covariance, (n_dims, n_dims).
    effects
        Least-squares effect of each one-hot column on the mean, (width, n_dims).
    """

    conditions: Conditions
    seen: tuple[dict[str, str], ...]
    cells: np.ndarray
    mixtures: tuple[Mixture, ...]
    bic: np.ndarray
    pooled: np.ndarray
    effects: np.ndarray

    def mixture(self, levels: Mapping[str, str]) -> Mixture:
        """Return the mixture of a combination of levels.

        For a combination without training cells: one component, its mean the sum of the effects of its
        levels, its covariance the pooled one.
        """
        if levels in self.seen:
            return self.mixtures[self.seen.index(dict(levels))]
        code = self.conditions.one_hot(pd.DataFrame([dict(levels)]))
        return Mixture(np.ones(1), code @ self.effects, self.pooled[None], UNSEEN)

    def summary(self) -> pd.DataFrame:
        """Return a row for each condition: its levels, cells, model, components and BIC."""
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
        """Return a density of one normal distribution for each combination, with one covariance for all.

        Parameters
        ----------
        conditions, seen, cells
            See `LatentDensity`.
        means
            (n_seen, n_dims).
        covariance
            (n_dims, n_dims).
        """
        mixtures = tuple(Mixture(np.ones(1), mean[None], covariance[None], BORROWED) for mean in means)
        effects = _effects(conditions, seen, means, cells / cells.sum())
        bic = np.full(len(seen), np.nan)  # it would take the cells to know
        return cls(conditions, seen, cells, mixtures, bic, covariance, effects)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the numbers as arrays, to be saved."""
        return {
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

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], conditions: Conditions) -> LatentDensity:
        """Return the density that `to_arrays` took apart."""
        ends = np.cumsum(arrays["components"])[:-1]
        parts = (np.split(arrays[name], ends) for name in ("weights", "means", "covariances"))
        mixtures = tuple(
            Mixture(weights, means, covariances, str(model))
            for weights, means, covariances, model in zip(*parts, arrays["models"], strict=True)
        )
        rows = arrays["seen"].reshape(len(mixtures), -1)
        seen = tuple({key: str(v) for key, v in zip(conditions.keys, row, strict=True)} for row in rows)
        return cls(
            conditions,
            seen,
            arrays["cells"],
            mixtures,
            arrays["bic"],
            arrays["pooled"],
            arrays["effects"],
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
    library_noise: Callable[[np.ndarray], float] | None = None,
) -> LatentDensity:
    """Fit the density of each condition.

    Parameters
    ----------
    mean, sd
        Posterior mean and standard deviation of the training cells, (n_cells, latent_dim).
    log_library
        Log library size of each, (n_cells,), or None.
    obs
        Levels of label and covariates of each.
    conditions
        Levels in use.
    seed
        Seed of the posterior samples and of EM.
    sizes
        Number of cells of each combination of levels, in the order of `groups_of`, where these are only
        some of them.
    library_noise
        Tells for some cells, given as their rows, by what variance the logarithm of a total of drawn counts
        spreads around the library size they are drawn for. The library sizes of the density are narrower by
        it, so that the totals of generated cells vary as those of real ones do.

    Notes
    -----
    By the number n of cells of a condition:

    * 1 or 2: the pooled within-condition covariance around their own mean ("pooled");
    * 3 to 29: one component whose covariance is shrunken toward the condition's own covariance S as the mean
      of an inverse-Wishart posterior with a prior worth 5 cells, (5 pooled + n S) / (5 + n) ("shrunken");
    * 30 or more: one component for every 15 cells, at most 30, with a covariance in common ("EEE"). A
      component is a place where cells are, not a claim that there is a type.
    """
    groups = groups_of(obs, conditions)
    rng = np.random.default_rng(seed)
    fixed = np.zeros((len(mean), 0)) if log_library is None else np.asarray(log_library, float)[:, None]
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
    # where no cell has company the pooled covariance is that of the posterior alone
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
    )
    if library_noise is None:
        return density
    return without_noise(density, np.array([library_noise(rows) for rows in groups.values()]))


def without_noise(density: LatentDensity, noise: np.ndarray) -> LatentDensity:
    """Return the density with the variance of its last dimension, the log library size, less the noise."""
    mixtures = []
    for mixture, extra in zip(density.mixtures, noise, strict=True):
        level = mixture.means[:, -1]
        middle = mixture.weights @ level
        variance = mixture.weights @ (mixture.covariances[:, -1, -1] + (level - middle) ** 2)
        narrower = np.ones(mixture.means.shape[1])
        narrower[-1] = _narrower(variance, extra)
        means = mixture.means.copy()
        # the logarithm of a noisy total is on average half the noise below that of its expectation
        means[:, -1] = middle + narrower[-1] * (level - middle) + extra / 2
        covariances = mixture.covariances * np.outer(narrower, narrower)
        mixtures.append(Mixture(mixture.weights, means, covariances, mixture.model))
    narrower = np.ones(len(density.pooled))
    narrower[-1] = _narrower(density.pooled[-1, -1], np.average(noise, weights=density.cells))
    pooled = density.pooled * np.outer(narrower, narrower)
    return replace(density, mixtures=tuple(mixtures), pooled=pooled)


def _narrower(variance: float, noise: float) -> float:
    return float(np.sqrt(max(1 - noise / variance, MIN_LIBRARY_VARIANCE)))


def chosen_rows(groups: Mapping[tuple[str, ...], np.ndarray], seed: int) -> dict[tuple[str, ...], np.ndarray]:
    """Return some rows of each condition, at random where there are more than are looked at."""
    rng = np.random.default_rng(seed)
    return {
        levels: np.sort(rng.choice(rows, MAX_CELLS, replace=False)) if len(rows) > MAX_CELLS else rows
        for levels, rows in groups.items()
    }


def groups_of(obs: pd.DataFrame, conditions: Conditions) -> dict[tuple[str, ...], np.ndarray]:
    """Return the rows of each combination of levels, in the order of the levels."""
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
    """Return the mixture of one condition and its BIC; EM works in units of `scale`."""
    d = sample.shape[1]
    components = min(cells // CELLS_PER_COMPONENT, MAX_COMPONENTS)
    if components > 1:
        with suppress(SingularFitError):  # library sizes all alike, say
            chosen = select_mixture(
                sample / scale,
                components=[components],
                models=[MODEL],
                n_independent=cells,
                starting_points=STARTING_POINTS,
                seed=seed,
            )
            bic = chosen.bic + 2 * cells * float(np.log(scale).sum())  # the density in the units of `sample`
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
    """Return the least-squares effect of each one-hot column on the centres, of minimal norm.

    A level without cells has the mean effect of its key.
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
