"""Design of a study: groups of donors, their cells and their depth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from vaexprs.generation.new_donors import fixed_levels, matching_groups
from vaexprs.generation.requests import NUMBER, check_covariates
from vaexprs.interface.validation import check_integer, check_real, did_you_mean, listed
from vaexprs.model.vae_fit import VAEFit
from vaexprs.studies.effects import GROUP, check_columns

DONOR = "donor"  # column of obs with the donor if the fit has no donors


@dataclass(frozen=True)
class Design:
    """Design of a study.

    Parameters
    ----------
    groups
        Number of donors of each group, ``{"control": 8, "treated": 8}``. The first group is the reference. If
        all groups are levels of one covariate of the fit, their cells have these levels.
    cells
        Cells of each donor: a number, with a composition drawn for each donor; numbers by label; or a table
        with the label, a column "n" and, if they differ, columns "group" or "donor". By default each donor
        has the number of cells of a random training donor.
    depth
        Factor of the library sizes: 0.5 for half the sequencing depth of the training cells.
    covariates
        Levels of covariates of a group, ``{"treated": {"stim": "stim"}}``.
    paired
        Whether all groups have the same donors, as before and after a treatment.
    new_labels
        New labels, made from an existing label by the effects on the new label:
        ``{"activated B": "B"}``. Requires numbers by label or a table in `cells`.
    """

    groups: Mapping[str, int]
    cells: int | Mapping[str, int] | pd.DataFrame | None = None
    depth: float = 1.0
    covariates: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    paired: bool = False
    new_labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyCells:
    """Cells of a study, planned.

    Parameters
    ----------
    rows
        Conditions, donor and group of each distinct kind of cells, as values of `obs`.
    labels
        Label of each row in the study; that in `rows` is the label of the model.
    which
        Row of each cell, (n_cells,).
    donors
        Coefficients of the new donors by name; empty if the fit has no donors.
    """

    rows: list[dict[str, str]]
    labels: list[str]
    which: np.ndarray
    donors: dict[str, np.ndarray]


def check_design(design: Any, fit: VAEFit) -> Design:
    """Return a design with plain numbers and text, after checking it against the fit.

    Raises
    ------
    TypeError
        If it is not a `Design`, or a number is not one.
    ValueError
        If a number is out of range, or a group, label or level is unknown.
    """
    if not isinstance(design, Design):
        raise TypeError(
            f"design must be a vaexprs.Design, such as Design({{'control': 8, 'treated': 8}}, cells=100), "
            f"got {type(design).__name__}."
        )
    conditions = fit.preprocessing.conditions
    if not isinstance(design.groups, Mapping) or not design.groups:
        raise TypeError(
            f"groups must map group names to numbers of donors ({{'control': 8}}), got {design.groups!r}."
        )
    if GROUP in fit.levels:
        raise ValueError(
            f"A condition of the fit is named {GROUP!r}, as the column with the group of a study. Rename it."
        )
    groups = {str(name): check_integer(f"groups[{name!r}]", n, 1) for name, n in design.groups.items()}
    if design.paired and len(set(groups.values())) > 1:
        raise ValueError(f"paired groups must have the same number of donors, got {groups!r}.")
    depth = check_real("depth", design.depth, 0)
    if depth == 0:
        raise ValueError("depth must be above 0, got 0.")
    covariates = {}
    for group, levels in design.covariates.items():
        if str(group) not in groups:
            raise ValueError(
                f"covariates must name groups ({listed(list(groups))}), got {str(group)!r}."
                f"{did_you_mean(group, groups)}"
            )
        covariates[str(group)] = check_covariates(fit, levels)
    for key in conditions.covariate_keys:
        if set(groups) <= set(conditions.levels[key]):
            for group in groups:
                covariates.setdefault(group, {}).setdefault(key, group)
    new_labels = {}
    for new, source in design.new_labels.items():
        if str(new) in conditions.labels:
            raise ValueError(f"new_labels must be new, got {str(new)!r}, which is a label of the fit.")
        new_labels[str(new)] = conditions.check(_label_key(fit), source)
    return Design(groups, design.cells, depth, covariates, bool(design.paired), new_labels)


def _label_key(fit: VAEFit) -> str:
    key = fit.preprocessing.conditions.label_key
    if key is None:
        raise ValueError("Numbers by label require a fit with label_key.")
    return key


def donor_column(fit: VAEFit) -> str:
    """Return the column of `obs` with the donor of a study."""
    if fit.donors is not None:
        return fit.donors.key
    return DONOR if DONOR not in fit.levels else "study_donor"


def plan_study(fit: VAEFit, design: Design, rng: np.random.Generator) -> StudyCells:
    """Return the cells of a checked design.

    Parameters
    ----------
    fit
        The fit.
    design
        As `check_design` returns it.
    rng
        Source of the new donors, of their numbers of cells, and of levels that are not given.
    """
    effects, column = fit.donors, donor_column(fit)
    most = max(design.groups.values())
    paired = effects.draw(most, rng) if effects is not None and design.paired else None
    coefficients: dict[str, np.ndarray] = {}
    rows: list[dict[str, str]] = []
    labels: list[str] = []
    which: list[np.ndarray] = []
    tables = None if isinstance(design.cells, int) or design.cells is None else _table(fit, design)
    for group, n_donors in design.groups.items():
        drawn = None
        if effects is not None:
            drawn = effects.draw(n_donors, rng) if paired is None else paired
        for i in range(n_donors):
            name = f"donor_{i + 1}" if design.paired else f"{group}_{i + 1}"
            donor: np.ndarray | None = None
            levels = dict(design.covariates.get(group, {}))
            if drawn is not None:
                donor = coefficients[name] = drawn[i]
                levels = fixed_levels(fit, levels, rng)
            for label, model_label, n in _cells_of_donor(fit, design, tables, group, name, rng):
                of = matching_groups(fit, model_label, levels)
                share = fit.density.cells[of] if donor is None else effects.proportions(donor)[of]  # type: ignore[union-attr]
                sampled = rng.multinomial(n, share / share.sum())
                which.append(len(rows) + np.repeat(np.arange(len(of)), sampled))
                own = [dict(fit.density.seen[k]) | levels | {column: name, GROUP: group} for k in of]
                rows += own
                key = fit.preprocessing.conditions.label_key
                labels += [label or (row[key] if key is not None else "") for row in own]
    cells = np.concatenate(which) if which else np.empty(0, int)
    if not len(cells):
        raise ValueError("design must have at least one cell, got none. Increase cells.")
    return StudyCells(rows, labels, cells, coefficients)


def _cells_of_donor(
    fit: VAEFit,
    design: Design,
    table: pd.DataFrame | None,
    group: str,
    donor: str,
    rng: np.random.Generator,
) -> list[tuple[str | None, str | None, int]]:
    """Return label, label in the model, and number of cells; labels of None stand for all labels."""
    if table is None:
        if design.cells is not None:
            return [(None, None, check_integer("cells", design.cells, 1))]
        if fit.donors is None:
            raise ValueError("cells must be given, because the fit has no donors: Design(groups, cells=100).")
        return [(None, None, int(rng.choice(fit.donors.cells.sum(axis=1))))]
    mine = table[table[GROUP].isna() | (table[GROUP] == group)]
    mine = mine[mine[DONOR].isna() | (mine[DONOR] == donor)]
    return [
        (label, design.new_labels.get(label, label), int(n))
        for label, n in zip(mine[_label_key(fit)], mine[NUMBER], strict=True)
        if n
    ]


def _table(fit: VAEFit, design: Design) -> pd.DataFrame:
    """Return the numbers of cells as a table with the label, n, group and donor; None where not given."""
    key, cells = _label_key(fit), design.cells
    if isinstance(cells, Mapping):
        cells = pd.DataFrame({key: list(cells), NUMBER: list(cells.values())})
    if not isinstance(cells, pd.DataFrame):
        raise TypeError(
            f"cells must be a number, numbers by label ({{'B': 50}}) or a DataFrame, got {design.cells!r}."
        )
    check_columns("cells", cells, [key, NUMBER, GROUP, DONOR], (key, NUMBER))
    known = [*fit.preprocessing.conditions.labels, *design.new_labels]
    names = [str(label) for label in cells[key]]
    for label in names:
        if label not in known:
            raise ValueError(
                f"cells must name labels of the study ({listed(known, 20)}), got {label!r}."
                f"{did_you_mean(label, known)}"
            )
    table = pd.DataFrame({key: names, NUMBER: [check_integer(NUMBER, n, 0) for n in cells[NUMBER]]})
    for column in (GROUP, DONOR):
        given = cells[column] if column in cells else [None] * len(cells)
        table[column] = [None if pd.isna(value) else str(value) for value in given]
    unknown = [name for name in table[GROUP].dropna() if name not in design.groups]
    if unknown:
        raise ValueError(
            f"cells must name groups of the design ({listed(list(design.groups))}), got {unknown[0]!r}."
        )
    return table
