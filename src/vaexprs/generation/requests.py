"""Check which cells are requested: numbers, labels, covariates and library sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from vaexprs.data.levels import find_level, is_level
from vaexprs.interface.validation import check_integer, check_real, did_you_mean, listed
from vaexprs.model.vae_fit import VAEFit
from vaexprs.preprocessing.splits import apportion

NUMBER = "n"  # column of a table of conditions with the number of cells


def check_library_size(fit: VAEFit, library_size: Any) -> float | None:
    """Return the requested library size; None for those of real cells.

    Raises
    ------
    ValueError
        If it is not positive, or the values of the fit are not counts.
    """
    if library_size is None or library_size == "real":
        return None
    if not fit.likelihood.counts:
        raise ValueError(
            f"library_size applies to counts; the fit has likelihood {fit.likelihood.name!r}. Leave it out."
        )
    if isinstance(library_size, str):
        raise ValueError(f"library_size must be a number or 'real', got {library_size!r}.")
    size = check_real("library_size", library_size, 0)
    if size == 0:
        raise ValueError("library_size must be above 0, got 0.")
    return size


def plan_cells(
    fit: VAEFit,
    num_samples: int | None,
    labels: str | Mapping[str, int] | None,
    covariates: Mapping[str, Any] | None,
    conditions: Any = None,
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Return the requested conditions, and the index of each cell's condition, (n_cells,).

    A condition has a level of each key, the donor if the fit has donors, and the requested values of
    continuous covariates, if any.
    """
    if conditions is None:
        levels = check_covariates(fit, covariates)
        requests = [(label, levels, n) for label, n in numbers_by_label(fit, num_samples, labels)]
    else:
        if any(given is not None for given in (num_samples, labels, covariates)):
            raise ValueError(
                "conditions cannot be combined with num_samples, labels or covariates. Leave them out."
            )
        requests = _requests_from_table(fit, conditions)
    rows: list[dict[str, Any]] = []
    which: list[np.ndarray] = []
    for label, levels, n in requests:
        candidates, weights = candidate_conditions(fit, label, levels)
        which.append(len(rows) + np.repeat(np.arange(len(candidates)), apportion(weights, n)))
        rows += candidates
    return rows, np.concatenate(which)


def numbers_by_label(
    fit: VAEFit, num_samples: int | None, labels: str | Mapping[str, int] | None
) -> list[tuple[str | None, int]]:
    """Return the requested labels and the number of cells of each; a label of None stands for all labels."""
    conditions = fit.preprocessing.conditions
    if labels is not None and conditions.label_key is None:
        raise ValueError("labels requires a model fitted with label_key or y_train.")
    if isinstance(labels, pd.Series):  # value_counts()
        labels = {label: n for label, n in labels.items() if n}
    if isinstance(labels, Mapping):
        if not labels:
            raise ValueError("labels must name at least one label, got an empty dict.")
        if num_samples is not None:
            raise ValueError("num_samples cannot be combined with numbers by label in labels. Leave it out.")
        numbers: dict[str | None, int] = {}
        for label, n in labels.items():
            level = conditions.check(str(conditions.label_key), label)
            if level in numbers:
                raise ValueError(f"labels must name each label once, got {level!r} twice.")
            numbers[level] = check_integer(f"labels[{label!r}]", n, 1)
        return list(numbers.items())
    if num_samples is None:
        raise ValueError("num_samples must be given, or numbers by label, such as labels={'B cell': 100}.")
    if labels is not None and not is_level(labels):
        raise TypeError(f"labels must be a label or numbers by label ({{'B cell': 100}}), got {labels!r}.")
    only = None if labels is None else conditions.check(str(conditions.label_key), labels)
    return [(only, check_integer("num_samples", num_samples, 1))]


def _requests_from_table(fit: VAEFit, table: Any) -> list[tuple[str | None, dict[str, Any], int]]:
    """Return label, covariates and number of cells of each row of a table of conditions."""
    known = [*fit.levels, *fit.preprocessing.conditions.continuous]
    try:
        table = pd.DataFrame(table)
    except (ValueError, TypeError) as error:
        raise TypeError(
            f"conditions must be a DataFrame with a column 'n' and columns of levels, got {table!r}."
        ) from error
    columns = [str(column) for column in table.columns]
    if NUMBER in known:
        raise ValueError(
            f"conditions cannot be used with a fit whose label or covariate is called {NUMBER!r}, as the "
            "column with the number of cells. Use labels= and covariates=."
        )
    for column in columns:
        if column != NUMBER and column not in known:
            raise ValueError(
                f"The columns of conditions must be {NUMBER!r} and conditions of the fit "
                f"({listed(known) or 'it has none'}), got {column!r}.{did_you_mean(column, [NUMBER, *known])}"
            )
    if NUMBER not in columns:
        raise ValueError(
            f"conditions must have a column {NUMBER!r} with the number of cells, got {listed(columns)}."
        )
    if not len(table):
        raise ValueError("conditions must have at least one row, got none.")
    requests = []
    for i, row in enumerate(table.set_axis(columns, axis=1).to_dict("records")):
        n = row.pop(NUMBER)
        n = check_integer(f"{NUMBER} in row {i + 1} of conditions", _whole(n), 0)
        levels: dict[str, Any] = {
            key: check_level(fit, key, _whole(level)) for key, level in row.items() if not pd.isna(level)
        }
        if n:
            requests.append((levels.pop(str(fit.preprocessing.conditions.label_key), None), levels, n))
    if not requests:
        raise ValueError(f"conditions must request at least one cell, got {NUMBER!r} = 0 in all rows.")
    return requests


def _whole(value: Any) -> Any:
    """Return 101.0 as 101: pandas reads integers as floats if the column has missing values."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def check_covariates(fit: VAEFit, covariates: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the requested levels of covariates, and the values of continuous ones as floats.

    Raises
    ------
    TypeError
        If `covariates` is not a mapping.
    ValueError
        If a name is not a covariate of the fit, a level is unknown, or a value is not a finite number.
    """
    if covariates is not None and not isinstance(covariates, Mapping):
        raise TypeError(f"covariates must map names to levels ({{'donor': '101'}}), got {covariates!r}.")
    checked = {}
    conditions = fit.preprocessing.conditions
    known = [key for key in (*fit.levels, *conditions.continuous) if key != conditions.label_key]
    for key, level in (covariates or {}).items():
        if key not in known:
            raise ValueError(
                f"covariates must name covariates of the fit ({listed(known) or 'it has none'}), got {key!r}."
                f"{did_you_mean(key, known)}"
            )
        checked[key] = check_level(fit, key, level)
    return checked


def check_level(fit: VAEFit, key: str, value: object) -> Any:
    """Return `value` as a level of a condition, as a number of a continuous covariate or as a training donor.

    Raises
    ------
    ValueError
        If it is not one; the message suggests the nearest.
    """
    if fit.donors is None or key != fit.donors.key:
        return fit.preprocessing.conditions.check_any(key, value)
    names = fit.donors.names
    found = find_level(value, names)
    if found is None:
        raise ValueError(
            f"{key} must be one of the training donors {listed(names, 20)}, got {str(value)!r}. Try donors=1 "
            f"to generate a new donor.{did_you_mean(value, names)}"
        )
    return found


def candidate_conditions(
    fit: VAEFit, label: str | None, covariates: dict[str, Any], *, donors: bool = True
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Return the conditions that match a request, and the weight of each.

    Conditions include the donor if the fit has donors and `donors` is true.
    These are the matching conditions with training cells, in their training proportions. If there are none,
    they are the conditions of the label with the covariates set to the requested levels. Requested values of
    continuous covariates are part of the conditions, but do not change their weights.
    """
    key = str(fit.preprocessing.conditions.label_key)
    seen, cells = fit.combinations if donors else (list(fit.density.seen), fit.density.cells)
    own = [i for i, levels in enumerate(seen) if label is None or levels[key] == label]
    levels_only = {k: v for k, v in covariates.items() if k not in fit.preprocessing.conditions.continuous}
    match = [i for i in own if levels_only.items() <= seen[i].items()]
    weight: dict[tuple[tuple[str, Any], ...], float] = {}
    for i in match or own:
        levels = tuple((seen[i] | covariates).items())
        weight[levels] = weight.get(levels, 0.0) + float(cells[i])
    return [dict(levels) for levels in weight], np.array(list(weight.values()))
