"""Random effects of donors: those of the training donors, and their distribution for new donors.

A donor shifts the latent density of each group of cells (a combination of label and covariates) including the
log library size, multiplies the proportion of each gene by a factor, and has a composition of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import logsumexp

MIN_DONORS = 3  # fewer donors do not determine a variance between donors
PRIOR_CELLS = 10  # cells at which a donor's mean has half its full weight in moments
PRIOR_DONORS = 5  # weight of all groups in the variance of one, in donors
FACTOR_LIMITS = (0.1, 10.0)  # of this variance relative to that of all groups
MIN_EXPECTED = 0.1  # expected counts of a donor below which a gene is uninformative
# Variances of the log factor of a gene between donors; their weights are learned over all genes.
VARIANCES = np.array([0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0])
EM_STEPS = 50
DISPERSION_STEPS = 3  # repetitions of the estimation of the variances between and within donors
MIN_WITHIN = 0.1  # minimum dispersion within donors, as a fraction of that of the model
RANGE = 1.25  # factors of new donors are limited to the range of the training donors, times this
MEAN_DRAWS = 256  # new donors drawn to normalise mean factors and the mean composition


@dataclass(frozen=True)
class DonorEffects:
    """Effects of the training donors, and scales that give new donors the variance between real donors.

    A new donor is a random linear combination of the effects of the n training donors. With coefficients
    from N(0, 1 / (n - 1)) it has their covariance between genes, labels, depth and composition. Each effect
    is then scaled to the estimated variance between donors, because the effects of training donors are
    shrunk.

    Parameters
    ----------
    key
        Column of `obs` with the donor.
    names
        Names of the training donors, (n_donors,).
    cells
        Number of training cells of each donor and group, (n_donors, n_groups). Groups are the combinations of
        levels in `LatentDensity.seen`.
    shifts
        Shift of the latent vector and the log library size, (n_donors, n_groups, n_dims).
    offsets
        Log factor of the proportion of each gene, (n_donors, n_groups, n_genes).
    composition
        Log proportion of each group among the cells of a donor, (n_donors, n_groups).
    shift_scale, offset_scale, composition_scale
        Factors of the combinations, (n_groups, n_dims), (n_groups, n_genes) and (n_groups,).
    offset_mean
        Log of the mean factor of new donors, (n_groups, n_genes).
    composition_mean
        Log proportion of each group that gives new donors the mean composition, (n_groups,).
    dispersion_ratio
        Dispersion of the model, which does not know donors, relative to that within donors,
        (n_groups, n_genes).
    value_keys, values
        Continuous covariates that are constant within donors, and their values, (n_donors, n_value_keys).
    """

    key: str
    names: tuple[str, ...]
    cells: np.ndarray
    shifts: np.ndarray
    offsets: np.ndarray
    composition: np.ndarray
    shift_scale: np.ndarray
    offset_scale: np.ndarray
    composition_scale: np.ndarray
    offset_mean: np.ndarray
    composition_mean: np.ndarray
    dispersion_ratio: np.ndarray
    value_keys: tuple[str, ...] = ()
    values: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))

    @property
    def n_donors(self) -> int:
        """Number of training donors."""
        return len(self.names)

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Return the coefficients of new donors, (n, n_donors)."""
        return rng.standard_normal((n, self.n_donors)) / np.sqrt(self.n_donors - 1)

    def shift(self, donor: int | np.ndarray, group: int) -> np.ndarray:
        """Return the shift of the latent vector and the log library size of a group, (n_dims,).

        Parameters
        ----------
        donor
            Number of a training donor, or coefficients of a new one, (n_donors,).
        group
            Number of the group.
        """
        own = self.shifts[:, group]
        if isinstance(donor, np.ndarray):
            return np.asarray(donor @ (own - own.mean(axis=0)) * self.shift_scale[group])
        return np.asarray(own[donor])

    def offset(self, donor: int | np.ndarray, group: int) -> np.ndarray:
        """Return the log factor of the proportion of each gene in a group, (n_genes,)."""
        own = self.offsets[:, group]
        if not isinstance(donor, np.ndarray):
            return np.asarray(own[donor])
        return combined(donor, own, self.offset_scale[group]) - self.offset_mean[group]

    def proportions(self, donor: int | np.ndarray) -> np.ndarray:
        """Return the proportion of each group among the cells of a donor, (n_groups,)."""
        if isinstance(donor, np.ndarray):
            moved = donor @ (self.composition - self.composition.mean(axis=0)) * self.composition_scale
            values = self.composition_mean + moved
        else:
            values = self.composition[donor]
        return np.asarray(np.exp(values - logsumexp(values)))

    def with_values(self, table: pd.DataFrame) -> DonorEffects:
        """Return the same effects with continuous covariates of the donors, a row for each donor."""
        return replace(self, value_keys=tuple(map(str, table)), values=table.to_numpy(np.float64))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the effects as arrays for saving."""
        arrays = {part.name: getattr(self, part.name) for part in fields(self)}
        texts = {"names": self.names, "value_keys": self.value_keys}
        return arrays | {name: np.array(text, np.str_) for name, text in (texts | {"key": self.key}).items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> DonorEffects:
        """Return the effects from the arrays of `to_arrays`."""
        values: dict[str, Any] = {part.name: arrays[part.name] for part in fields(cls)}
        for name in ("names", "value_keys"):
            values[name] = tuple(str(text) for text in arrays[name])
        return cls(**(values | {"key": str(arrays["key"])}))


def combined(coefficients: np.ndarray, effects: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return scaled combinations of centred effects, limited to 1.25 times the range of the scaled effects.

    Parameters
    ----------
    coefficients
        (..., n_donors).
    effects
        (n_donors, n_genes).
    scale
        (n_genes,).
    """
    centred = (effects - effects.mean(axis=0)) * scale
    return np.clip(coefficients @ centred, RANGE * centred.min(axis=0), RANGE * centred.max(axis=0))


@dataclass(frozen=True)
class DonorCounts:
    """Observed and expected counts of each donor and group, (n_donors, n_groups, n_genes) each.

    Parameters
    ----------
    observed
        Total counts.
    expected
        Their expectation by the model without donors.
    variance, squares
        Parts of their variance by this model, which is ``variance + dispersion * squares``.
    dispersion
        Dispersion of each gene in the model, (n_groups, n_genes).
    """

    observed: np.ndarray
    expected: np.ndarray
    variance: np.ndarray
    squares: np.ndarray
    dispersion: np.ndarray


def fit_donor_shifts(
    values: np.ndarray, donors: np.ndarray, groups: np.ndarray, n_donors: int, n_groups: int
) -> tuple[np.ndarray, np.ndarray]:
    r"""Return best linear predictions of the shifts, (n_donors, n_groups, n_dims), and their scales.

    The mean of donor d in group k is :math:`c_k + a_d + b_{dk}` with :math:`a_d \sim N(0, A)` and
    :math:`b_{dk} \sim N(0, B)`. Both covariances are estimated by moments: the covariance of means of one
    group between donors, minus that due to the number of cells, estimates A + B; the covariance of means of
    one donor between groups estimates A (Searle, Casella & McCulloch 1992, doi:10.1002/9780470316856). Groups
    differ by a factor of A + B, one for the latent vector and one for the log library size.

    Parameters
    ----------
    values
        Latent vector and log library size of each cell, (n_cells, n_dims).
    donors, groups
        Number of the donor and of the group of each cell, (n_cells,).
    n_donors, n_groups
        Number of donors and groups.

    Returns
    -------
    tuple
        The shifts, and the factor that gives combinations of them the variance between donors,
        (n_groups, n_dims).
    """
    dims = values.shape[1]
    pair = donors * n_groups + groups
    cells = np.bincount(pair, minlength=n_donors * n_groups).astype(float)
    sums = np.zeros((n_donors * n_groups, dims))
    np.add.at(sums, pair, values)
    means = sums / np.maximum(cells, 1)[:, None]
    residuals = values - means[pair]
    within = residuals.T @ residuals / max(len(values) - np.count_nonzero(cells), 1)
    cells, means = cells.reshape(n_donors, n_groups), means.reshape(n_donors, n_groups, dims)

    weights = cells / (cells + PRIOR_CELLS)
    weights = weights / np.maximum(weights.sum(axis=0), 1e-12)
    deviations = means - np.einsum("dk,dki->ki", weights, means)
    deviations[cells == 0] = 0
    free = 1 - (weights**2).sum(axis=0)  # 0 where one donor has all cells
    noise = ((weights - weights**2) / np.maximum(cells, 1)).sum(axis=0)
    moments = np.einsum("dk,dki,dkj->kij", weights, deviations, deviations) - noise[:, None, None] * within
    informative = free > 0.5
    if not informative.any():
        return np.zeros_like(means), np.zeros((n_groups, dims))
    total = positive(moments[informative].sum(axis=0) / free[informative].sum())
    shared = np.zeros_like(total)
    if informative.sum() > 1:
        root = np.sqrt(weights)[..., None] * deviations
        summed = root.sum(axis=1)
        cross = summed.T @ summed - np.einsum("dki,dkj->ij", root, root)
        overlap = np.sqrt(weights).sum(axis=1)
        norm = (overlap**2).sum() - weights.sum()
        shared = positive(cross / max(norm, 1e-12))
    own = positive(total - shared)
    # variances of a group relative to all: one factor for the latent vector, one for the library size
    inverse = np.linalg.inv(within + 1e-6 * np.trace(within) / dims * np.eye(dims))
    level = np.empty((n_groups, dims))
    level[:] = (np.einsum("ij,kji->k", inverse, moments) / max(np.trace(inverse @ total), 1e-12))[:, None]
    level[:, -1] = moments[:, -1, -1] / max(total[-1, -1], 1e-12)
    ratio = np.where(informative[:, None], level / np.maximum(free, 1e-12)[:, None], 1.0)
    root_factor = np.sqrt(
        np.clip((n_donors * ratio + PRIOR_DONORS) / (n_donors + PRIOR_DONORS), *FACTOR_LIMITS)
    )

    shifts = np.zeros_like(means)
    for d in range(n_donors):
        precision, weighted = np.eye(dims), np.zeros(dims)
        covariances: dict[int, np.ndarray] = {}
        root_shared = np.linalg.cholesky(shared + 1e-9 * np.eye(dims))
        for k in np.flatnonzero(cells[d]).tolist():
            loading = root_factor[k][:, None] * root_shared
            own_k = own * np.outer(root_factor[k], root_factor[k])
            covariances[k] = np.linalg.inv(own_k + within / cells[d, k] + 1e-9 * np.eye(dims))
            precision += loading.T @ covariances[k] @ loading
            weighted += loading.T @ covariances[k] @ deviations[d, k]
        common = root_shared @ np.linalg.solve(precision, weighted)
        for k in range(n_groups):
            shifts[d, k] = root_factor[k] * common
            if k in covariances:
                rest = deviations[d, k] - shifts[d, k]
                own_k = own * np.outer(root_factor[k], root_factor[k])
                shifts[d, k] += own_k @ covariances[k] @ rest
    sd = root_factor * np.sqrt(np.diag(total))
    return shifts, scale_to(sd, shifts)


def fit_gene_offsets(counts: DonorCounts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Return shrunken log factors of the genes, their scales, and the dispersion within donors.

    With observed counts Y, expected counts E and their variance V within donors,
    :math:`r = \log((Y + 1) / (E + 1)) (E + 1) / E` estimates a donor's log factor of a gene with variance
    :math:`V / E^2`. The log factors of a gene have the prior :math:`N(0, \tau^2)`; the distribution of
    :math:`\tau^2` over the genes of a group is learned as a mixture (empirical Bayes, in the spirit of
    Stephens 2017, doi:10.1093/biostatistics/kxw041). The correlation of a donor's log factors between groups
    is one number, estimated by moments.

    The dispersion :math:`\phi` of the model without donors contains the variance
    :math:`t = e^{\tau^2} - 1` between donors; within donors it is :math:`(\phi - t) / (1 + t)`.

    Returns
    -------
    tuple
        The log factors, (n_donors, n_groups, n_genes), their scales, (n_groups, n_genes), and the ratio of
        the dispersion of the model to that within donors, (n_groups, n_genes).
    """
    n_groups = counts.observed.shape[1]
    expected = np.maximum(counts.expected, MIN_EXPECTED)
    ratio = np.log((counts.observed + 1) / (expected + 1)) * (expected + 1) / expected
    known = counts.expected > MIN_EXPECTED
    ratio = np.where(known, ratio, 0.0)
    within = counts.dispersion
    for _ in range(DISPERSION_STEPS):
        noise = np.where(known, (counts.variance + within * counts.squares) / expected**2, 1e12)
        variance = np.stack([_gene_variances(ratio[:, k], noise[:, k], known[:, k]) for k in range(n_groups)])
        between = np.expm1(np.minimum(variance, 10.0))
        within = np.maximum((counts.dispersion - between) / (1 + between), MIN_WITHIN * counts.dispersion)

    sd = np.sqrt(variance)
    correlation = 0.0
    if n_groups > 1:
        seen = np.where(known, ratio, 0.0)
        weighted = np.where(noise < 1, seen, 0.0)
        both = np.where(noise < 1, sd, 0.0)
        products = (weighted.sum(axis=1) ** 2 - (weighted**2).sum(axis=1)).sum()
        most = (both.sum(axis=1) ** 2 - (both**2).sum(axis=1)).sum()
        correlation = float(np.clip(products / max(most, 1e-12), 0, 0.99))
    rest = variance * (1 - correlation) + noise
    loading = np.sqrt(correlation) * sd
    factor = (loading * ratio / rest).sum(axis=1) / (1 + (loading**2 / rest).sum(axis=1))
    common = loading * factor[:, None]
    offsets = common + variance * (1 - correlation) / rest * (ratio - common)
    less = np.where(within > 0, counts.dispersion / np.maximum(within, 1e-12), 1.0)
    return offsets.astype(np.float32), scale_to(sd, offsets).astype(np.float32), less.astype(np.float32)


def _gene_variances(ratio: np.ndarray, noise: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the posterior mean variance of each gene between donors, (n_genes,)."""
    spread = VARIANCES[:, None, None] + noise
    log_likelihood = np.where(known, -0.5 * (np.log(spread) + ratio**2 / spread), 0.0).sum(axis=1)
    log_weights = np.full(len(VARIANCES), -np.log(len(VARIANCES)))
    informative = known.any(axis=0)
    for _ in range(EM_STEPS):
        joint = log_likelihood + log_weights[:, None]
        posterior = np.exp(joint - logsumexp(joint, axis=0))
        if informative.any():
            log_weights = np.log(posterior[:, informative].mean(axis=1) + 1e-6)
    return np.asarray(VARIANCES @ posterior)


def fit_composition(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the log proportion of each group among a donor's cells, (n_donors, n_groups), and their scales.

    One cell with the mean composition is added to each donor. The variance between donors is that of the log
    proportions minus that of multinomial sampling.
    """
    share = cells.sum(axis=0) / cells.sum()
    total = cells.sum(axis=1, keepdims=True)
    values = np.log((cells + share) / (total + 1))
    noise = ((1 - share) / ((total + 1) * share)).mean(axis=0)
    between = np.maximum(values.var(axis=0, ddof=1) - noise, 0)
    return values, scale_to(np.sqrt(between), values)


def scale_to(sd: np.ndarray, effects: np.ndarray) -> np.ndarray:
    """Return the factor that gives combinations of effects, (n_donors, ...), the standard deviations `sd`."""
    own = effects.std(axis=0, ddof=1)
    return np.asarray(np.where(own > 1e-9, sd / np.maximum(own, 1e-9), 0.0))


def positive(matrix: np.ndarray) -> np.ndarray:
    """Return the nearest positive semidefinite matrix to a symmetric one."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vectors * np.maximum(values, 0)) @ vectors.T)


def donor_effects(
    key: str,
    names: Sequence[str],
    cells: np.ndarray,
    shifts: tuple[np.ndarray, np.ndarray],
    counts: DonorCounts,
    seed: int,
) -> DonorEffects:
    """Return the effects of donors from their shifts and counts.

    Parameters
    ----------
    key, names, cells
        See `DonorEffects`.
    shifts
        Result of `fit_donor_shifts`.
    counts
        Observed and expected counts.
    seed
        Seed of the draws that normalise mean factors and composition.
    """
    offsets, offset_scale, dispersion_ratio = fit_gene_offsets(counts)
    composition, composition_scale = fit_composition(cells)
    draws = np.random.default_rng(seed).standard_normal((MEAN_DRAWS, len(names))) / np.sqrt(len(names) - 1)
    offset_mean = np.stack(
        [
            np.log(np.exp(combined(draws, offsets[:, k], offset_scale[k])).mean(axis=0))
            for k in range(cells.shape[1])
        ]
    )
    share = cells.sum(axis=0) / cells.sum()
    moved = draws @ (composition - composition.mean(axis=0)) * composition_scale
    mean = np.log(share)
    for _ in range(20):
        drawn = np.exp(mean + moved - logsumexp(mean + moved, axis=1, keepdims=True)).mean(axis=0)
        mean = mean + np.log(share / drawn)
    return DonorEffects(
        key,
        tuple(names),
        cells,
        shifts[0],
        offsets,
        composition,
        shifts[1],
        offset_scale,
        composition_scale,
        offset_mean.astype(np.float32),
        mean,
        dispersion_ratio,
    )
