"""Designs of `power` with the effect that each is to find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from vaexprs.interface.validation import check_integer, check_real, did_you_mean, listed
from vaexprs.model.vae_fit import VAEFit
from vaexprs.studies.design import Design, check_design
from vaexprs.studies.effects import FOLD, Effects
from vaexprs.studies.expression_tests import MIN_DONORS, TESTS

GROUPS = ("control", "treated")  # groups of the designs of a grid
GRID = ("donors", "cells", "depth", FOLD)  # keys of a grid


@dataclass(frozen=True)
class Scenario:
    """A design with a log2 fold change."""

    design: Design
    effects: Effects

    @property
    def groups(self) -> tuple[str, str]:
        """The reference, and the group with the effects."""
        reference, treated = self.design.groups
        return reference, treated


def label_of(fit: VAEFit, label: Any, designs: Any) -> str | None:
    """Return the label whose cells are compared; None if the fit has no labels."""
    conditions = fit.preprocessing.conditions
    key = conditions.label_key
    if key is None:
        if label is not None:
            raise ValueError(f"label must be left out, because the fit has no label_key, got {label!r}.")
        return None
    if label is not None:
        return str(conditions.check(key, label))
    given = [designs] if isinstance(designs, Design) else designs if isinstance(designs, Sequence) else []
    named = {
        str(name)
        for design in given
        if isinstance(design, Design)
        for name in (design.cells if isinstance(design.cells, Mapping) else conditions.labels)
    }
    if len(named) != 1:
        named = set(conditions.labels)
    if len(named) != 1:
        raise ValueError(
            f"label must be one of the labels of the fit ({listed(list(conditions.labels), 20)}), got None."
        )
    return str(conditions.check(key, named.pop()))


def scenarios_of(fit: VAEFit, designs: Any, effects: Effects, label: str | None, test: str) -> list[Scenario]:
    """Return the checked designs with their effects."""
    if isinstance(designs, Mapping):
        found = _grid(designs, effects, label)
    elif isinstance(designs, Design):
        found = [Scenario(designs, effects)]
    elif isinstance(designs, Sequence) and all(isinstance(each, Design) for each in designs) and designs:
        found = [Scenario(design, effects) for design in designs]
    else:
        raise TypeError(
            "designs must be a grid such as {'donors': [4, 8], 'cells': [50, 200]}, a vaexprs.Design or a "
            f"list of them, got {designs!r}."
        )
    return [replace(each, design=_check_design(fit, each.design, label, test)) for each in found]


def _grid(grid: Mapping[str, Any], effects: Effects, label: str | None) -> list[Scenario]:
    """Return the combinations of a grid."""
    for key in grid:
        if key not in GRID:
            raise ValueError(
                f"The keys of designs must be {listed(GRID)}, got {key!r}.{did_you_mean(key, GRID)}"
            )
    for key in ("donors", "cells"):
        if key not in grid:
            raise ValueError(f"designs must have numbers of {key}, as in {{{key!r}: [50, 200]}}.")
    given = {"depth": 1.0, FOLD: effects.log2_fold_change} | dict(grid)
    values: dict[str, list[Any]] = {}
    for key in GRID:
        several = [given[key]] if np.ndim(given[key]) == 0 else list(given[key])
        if not several:
            raise ValueError(f"designs[{key!r}] must have at least one number, got none.")
        if key in ("donors", "cells"):
            several = [check_integer(key, value, 1) for value in several]
        else:
            several = [check_real(key, value, 0) for value in several]
        values[key] = list(dict.fromkeys(several))
    return [
        Scenario(
            Design(dict.fromkeys(GROUPS, donors), cells if label is None else {label: cells}, depth),
            replace(effects, log2_fold_change=fold),
        )
        for donors, cells, depth, fold in product(*values.values())
    ]


def _check_design(fit: VAEFit, design: Design, label: str | None, test: str) -> Design:
    """Return a checked design of two groups that differ in the planted effects only."""
    design = check_design(design, fit)
    if len(design.groups) != 2:
        raise ValueError(
            f"designs must have two groups, got {len(design.groups)} ({listed(list(design.groups))})."
        )
    if design.new_labels:
        raise ValueError(f"new_labels cannot be used in power, got {dict(design.new_labels)!r}.")
    first, second = (design.covariates.get(group, {}) for group in design.groups)
    if first != second:
        raise ValueError(
            "The groups of designs must have the same covariates, because they must differ in the planted "
            f"effects only, got {first!r} and {second!r}. Use other names of the groups or the same levels."
        )
    fewest = min(design.groups.values())
    if fewest < MIN_DONORS and TESTS[test].pseudobulk:
        raise ValueError(
            f"The test {test!r} requires at least {MIN_DONORS} donors a group, got {fewest}. Use more donors."
        )
    if label is not None and isinstance(design.cells, Mapping) and not design.cells.get(label):
        raise ValueError(
            f"designs must have cells of the label {label!r}, got {dict(design.cells)!r}. Add it to cells."
        )
    return design
