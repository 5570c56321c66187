"""Scale the effects of conditions and donors: remove, reduce or enlarge them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np

from vaexprs.interface.validation import check_real, did_you_mean, listed
from vaexprs.mixture.em import Mixture
from vaexprs.model.vae_fit import VAEFit


def check_scale(fit: VAEFit, scale: Any) -> dict[str, float]:
    """Return the factors of effects by covariate or donor key.

    Raises
    ------
    ValueError
        If a key is not a covariate or the donor of the fit, or a factor is negative.
    TypeError
        If a factor is not a number.
    """
    known = [key for key in fit.levels if key != fit.preprocessing.conditions.label_key]
    if not isinstance(scale, Mapping):
        raise TypeError(f"scale must map covariates to factors ({{'batch': 0}}), got {scale!r}.")
    for key in scale:
        if key not in known:
            raise ValueError(
                f"scale must name covariates or the donor of the fit ({listed(known) or 'it has none'}), "
                f"got {key!r}.{did_you_mean(key, known)}"
            )
    return {key: check_real(f"scale[{key!r}]", factor, 0) for key, factor in scale.items()}


def scaled_codes(fit: VAEFit, codes: np.ndarray, scale: Mapping[str, float]) -> np.ndarray:
    """Return the codes of conditions, (n, width), with the deviations of the scaled keys from their means.

    Effects are linear in the code. The code of a key is its mean over the training cells plus the factor
    times the difference from the mean.
    """
    conditions, first, scaled = fit.preprocessing.conditions, 0, codes.copy()
    for key, levels in conditions.levels.items():
        block = slice(first, first + len(levels))
        if key in scale:
            share = np.array(list(fit.cells_of(key).values()), float)
            mean = share / share.sum()
            scaled[:, block] = mean + scale[key] * (codes[:, block] - mean)
        first += len(levels)
    return scaled


def scaled_mixture(fit: VAEFit, levels: Mapping[str, str], scale: Mapping[str, float]) -> Mixture:
    """Return the latent density of a combination of levels with scaled effects on the latent vector.

    The mean is moved from its mean over the levels of a scaled key by the factor of the key. With a factor s
    below 1 the shape is a mixture of those of all levels of the key, with weight s for the own shape, so that
    with a factor of 0 all levels have one density. The distribution of library sizes keeps its mean.
    """
    own = fit.density.mixture(levels)
    keys = [key for key in scale if key in fit.preprocessing.conditions.levels]
    if not keys:
        return own
    target = _mean(own)
    for key in keys:
        others = _alternatives(fit, levels, [key], scale)
        total = sum(cells for _, _, cells in others)
        average = sum(cells * _mean(mixture) for mixture, _, cells in others) / total
        move = (scale[key] - 1) * (_mean(own) - average)
        if fit.likelihood.counts:
            move[-1] = 0  # depth is kept
        target = target + move
    parts = _alternatives(fit, levels, keys, scale)
    total_weight = sum(weight for _, weight, _ in parts)
    kept = [(mixture, weight / total_weight) for mixture, weight, _ in parts if weight > 0]
    return Mixture(
        np.concatenate([weight * mixture.weights for mixture, weight in kept]),
        np.concatenate([mixture.means - _mean(mixture) + target for mixture, _ in kept]),
        np.concatenate([mixture.covariances for mixture, _ in kept]),
        own.model,
    )


def _mean(mixture: Mixture) -> np.ndarray:
    return np.asarray(mixture.weights @ mixture.means)


def _alternatives(
    fit: VAEFit, levels: Mapping[str, str], keys: list[str], scale: Mapping[str, float]
) -> list[tuple[Mixture, float, float]]:
    """Return mixture, weight and cells of each combination that differs from `levels` in `keys` only.

    Only combinations with training cells count; without any it is the combination itself.
    """
    seen, cells = list(fit.density.seen), fit.density.cells
    found = []
    for chosen in product(*(fit.preprocessing.conditions.levels[key] for key in keys)):
        combination = dict(levels) | dict(zip(keys, chosen, strict=True))
        if combination in seen:
            weight = 1.0
            for key, level in zip(keys, chosen, strict=True):
                s = min(scale[key], 1.0)
                numbers = fit.cells_of(key)
                weight *= (1 - s) * numbers[level] / sum(numbers.values()) + s * (level == levels[key])
            found.append((fit.density.mixture(combination), weight, float(cells[seen.index(combination)])))
    if sum(weight for _, weight, _ in found) > 0:
        return found
    return [(fit.density.mixture(levels), 1.0, 1.0)]
