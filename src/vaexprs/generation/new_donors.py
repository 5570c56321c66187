"""Plan cells of donors that nobody measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vaexprs.data.levels import find_level
from vaexprs.generation.requests import check_covariates, numbers_by_label
from vaexprs.interface.validation import check_integer, listed
from vaexprs.model.vae_fit import VAEFit
from vaexprs.preprocessing.splits import apportion

SEED_OF_DONORS = (0, 1)  # blocks of cells have one-element spawn keys


def plan_new_donors(
    fit: VAEFit,
    num_samples: int | None,
    labels: str | Mapping[str, int] | None,
    covariates: Mapping[str, str] | None,
    donors: Any,
    seed: int,
) -> tuple[list[dict[str, str]], np.ndarray, dict[str, np.ndarray]]:
    """Return the distinct conditions, the index of each cell's condition, and the donors' coefficients.

    Parameters
    ----------
    fit, num_samples, labels, covariates
        See `gen_exprs`.
    donors
        Number of new donors, or numbers by level of a covariate.
    seed
        Seed of the donors.

    Raises
    ------
    ValueError
        If the fit has no donors, a level is unknown, or there are fewer cells than donors.
    TypeError
        If a number is not an integer.
    """
    effects = fit.donors
    if effects is None:
        raise ValueError(
            "donors requires a fit with donor_key, such as fit_vae(adata, label_key='cell_type', "
            "donor_key='donor')."
        )
    wanted = check_covariates(fit, covariates)
    if effects.key in wanted:
        raise ValueError(f"donors cannot be combined with a training donor in covariates ({effects.key!r}).")
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=SEED_OF_DONORS))
    own = [wanted | levels for levels, n in _numbers_by_level(fit, wanted, donors) for _ in range(n)]
    names = new_names(effects.names, len(own))
    coefficients = dict(zip(names, effects.draw(len(own), rng), strict=True))
    own = [fixed_levels(fit, levels, rng) for levels in own]
    rows: list[dict[str, str]] = []
    which: list[np.ndarray] = []
    for label, n in numbers_by_label(fit, num_samples, labels):
        if n < len(own):
            raise ValueError(
                f"Each donor must have at least one cell, got {n:,} cells and {len(own)} donors."
            )
        for name, levels, cells in zip(
            names, own, apportion(np.full(len(own), 1 / len(own)), n), strict=True
        ):
            groups = matching_groups(fit, label, levels)
            share = effects.proportions(coefficients[name])[groups]
            sampled = rng.multinomial(int(cells), share / share.sum())
            which.append(len(rows) + np.repeat(np.arange(len(groups)), sampled))
            rows += [dict(fit.density.seen[group]) | levels | {effects.key: name} for group in groups]
    return rows, np.concatenate(which), coefficients


def _numbers_by_level(fit: VAEFit, fixed: Mapping[str, str], donors: Any) -> list[tuple[dict[str, str], int]]:
    """Return the level of a covariate and the number of donors of each; no level for a plain number."""
    if not isinstance(donors, Mapping):
        return [({}, check_integer("donors", donors, 1))]
    conditions = fit.preprocessing.conditions
    keys = [key for key in conditions.covariate_keys if key not in fixed]
    matching = [key for key in keys if all(find_level(each, conditions.levels[key]) for each in donors)]
    if len(matching) != 1 or not donors:
        known = {key: listed(conditions.levels[key], 5) for key in keys}
        raise ValueError(
            f"donors must be a number, or numbers by levels of one covariate "
            f"({'; '.join(f'{key}: {levels}' for key, levels in known.items()) or 'the fit has none'}), "
            f"got {dict(donors)!r}."
        )
    return [
        ({matching[0]: conditions.check(matching[0], level)}, check_integer(f"donors[{level!r}]", n, 1))
        for level, n in donors.items()
    ]


def new_names(taken: tuple[str, ...], n: int) -> list[str]:
    """Return names of new donors that no training donor has."""
    prefix = "new_"
    while any(name.startswith(prefix) for name in taken):
        prefix = f"new_{prefix}"
    return [f"{prefix}{i + 1}" for i in range(n)]


def fixed_levels(fit: VAEFit, levels: dict[str, str], rng: np.random.Generator) -> dict[str, str]:
    """Return the levels of a new donor: the given ones, and those that are constant within training donors.

    The latter are those of a training donor, drawn among those that have the given levels, if there are any.
    """
    assert fit.donors is not None
    numbers = fit.preprocessing.conditions.continuous
    values = {key: value for key, value in levels.items() if key in numbers}
    levels = {key: value for key, value in levels.items() if key not in numbers}
    keys = [key for key in fit.preprocessing.conditions.covariate_keys if key not in levels]
    if not keys:
        return levels | values
    present = fit.donors.cells > 0
    constant = [key for key in keys if _constant_within_donors(fit, key, present)]
    fits = np.array([levels.items() <= seen.items() for seen in fit.density.seen])
    candidates = np.flatnonzero((present & fits).any(axis=1))
    donor = int(rng.choice(candidates if len(candidates) else len(present)))
    first = fit.density.seen[int(np.argmax(present[donor]))]
    return levels | {key: first[key] for key in constant} | values


def _constant_within_donors(fit: VAEFit, key: str, present: np.ndarray) -> bool:
    levels = np.array([seen[key] for seen in fit.density.seen])
    return all(len(set(levels[groups])) == 1 for groups in present)


def matching_groups(fit: VAEFit, label: str | None, levels: Mapping[str, str]) -> list[int]:
    """Return the groups with a label and levels; without such a group in training, those of the label."""
    key, seen = str(fit.preprocessing.conditions.label_key), fit.density.seen
    levels = {name: v for name, v in levels.items() if name not in fit.preprocessing.conditions.continuous}
    own = [i for i, combination in enumerate(seen) if label is None or combination[key] == label]
    return [i for i in own if levels.items() <= seen[i].items()] or own
