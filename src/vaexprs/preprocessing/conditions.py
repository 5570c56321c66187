"""Labels and covariates as codes: one-hot columns of levels, then basis columns of continuous covariates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from vaexprs.data.levels import find_level, level_name
from vaexprs.interface.validation import did_you_mean, listed
from vaexprs.preprocessing.splines import MIN_DISTINCT, Spline


@dataclass(frozen=True)
class Conditions:
    """The label and the covariates, and their code.

    The code of a cell consists of the one-hot columns of its levels, followed by the basis columns of its
    continuous covariates.

    Parameters
    ----------
    label_key
        Key of the label; None without labels.
    levels
        Levels of the label and of each categorical covariate, in the order of the one-hot columns.
    continuous
        Spline basis of each continuous covariate, in the order of the basis columns.
    """

    label_key: str | None
    levels: Mapping[str, tuple[str, ...]]
    continuous: Mapping[str, Spline] = field(default_factory=dict)

    @property
    def keys(self) -> list[str]:
        """The label first, then the categorical covariates."""
        return list(self.levels)

    @property
    def all_keys(self) -> list[str]:
        """The label, the categorical and the continuous covariates."""
        return [*self.levels, *self.continuous]

    @property
    def covariate_keys(self) -> list[str]:
        """The categorical covariates."""
        return [key for key in self.levels if key != self.label_key]

    @property
    def labels(self) -> tuple[str, ...]:
        """The levels of the label, or an empty tuple."""
        return self.levels[self.label_key] if self.label_key is not None else ()

    @property
    def n_levels(self) -> int:
        """Number of one-hot columns."""
        return sum(len(levels) for levels in self.levels.values())

    @property
    def n_basis(self) -> int:
        """Number of basis columns."""
        return sum(spline.degrees for spline in self.continuous.values())

    @property
    def width(self) -> int:
        """Number of columns of the code."""
        return self.n_levels + self.n_basis

    def check(self, key: str, value: object) -> str:
        """Return `value` as a level of `key`: also a number, logical value or date of another type.

        Raises
        ------
        ValueError
            If it is not a level; the message suggests the nearest.
        """
        levels = self.levels[key]
        found = find_level(value, levels)
        if found is None:
            raise ValueError(
                f"{key} must be one of {listed(levels, 20)}, got {level_name(value)!r}."
                f"{did_you_mean(value, levels)}"
            )
        return found

    def check_number(self, key: str, value: object) -> float:
        """Return `value` as a value of the continuous covariate `key`; text such as "40" is accepted.

        Raises
        ------
        ValueError
            If it is not a finite number.
        """
        number = np.nan
        if not isinstance(value, (complex, np.complexfloating, np.datetime64, np.timedelta64)):
            with suppress(TypeError, ValueError, OverflowError):
                number = float(value)  # type: ignore[arg-type]
        if not np.isfinite(number):
            spline = self.continuous[key]
            raise ValueError(
                f"{key} must be a finite number, got {value!r}. "
                f"Try a value of the training cells, {spline.low:g} to {spline.high:g}."
            )
        return number

    def check_any(self, key: str, value: object) -> str | float:
        """Return `value` as a level of `key`, or as a number if `key` is a continuous covariate."""
        return self.check_number(key, value) if key in self.continuous else self.check(key, value)

    def columns(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the one-hot column number of each key, (n_cells, n_keys), int32, from levels in `frame`.

        Raises
        ------
        ValueError
            If a value is not a level.
        """
        columns = np.empty((len(frame), len(self.levels)), np.int32)
        first = 0
        for i, (key, levels) in enumerate(self.levels.items()):
            values = frame[key].astype("category").cat
            named = [find_level(level, levels) or "" for level in values.categories]
            known = pd.Index(levels).get_indexer(pd.Index(named))
            codes = np.append(known, -1)[values.codes]
            if (codes < 0).any():
                self.check(key, frame[key].to_numpy()[np.argmax(codes < 0)])
            columns[:, i] = first + codes
            first += len(levels)
        return columns

    def one_hot(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the one-hot codes of the levels in `frame`, (n_cells, n_levels), float32.

        Raises
        ------
        ValueError
            If a value is not a level.
        """
        return self.expand(self.columns(frame))[:, : self.n_levels]

    def basis(self, values: Any) -> np.ndarray:
        """Return the basis columns of continuous covariates, (n_cells, n_basis), float32.

        Parameters
        ----------
        values
            DataFrame or mapping with the values of each continuous covariate, (n_cells,).
        """
        return np.concatenate([spline.basis(values[key]) for key, spline in self.continuous.items()], axis=1)

    def expand(self, columns: np.ndarray, basis: np.ndarray | None = None) -> np.ndarray:
        """Return codes, (n_cells, width), float32.

        Parameters
        ----------
        columns
            Column numbers from `columns`.
        basis
            Basis columns; None for the mean of the training cells, which is zero.
        """
        code = np.zeros((len(columns), self.width), np.float32)
        np.put_along_axis(code, columns, 1.0, axis=1)
        if basis is not None:
            code[:, self.n_levels :] = basis
        return code

    def code(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the codes of the levels and values in `frame`, (n_cells, width), float32.

        Raises
        ------
        ValueError
            If a value is not a level.
        """
        return self.codes(frame)[:]

    def codes(self, frame: pd.DataFrame) -> LevelCodes:
        """Return the same as `code`, expanded on access."""
        return LevelCodes(self, self.columns(frame), self.basis(frame) if self.continuous else None)


@dataclass(frozen=True)
class LevelCodes:
    """Codes of many cells, stored as column numbers and basis columns and expanded on access."""

    conditions: Conditions
    columns: np.ndarray
    basis: np.ndarray | None = None

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        return self.conditions.expand(self.columns[rows], None if self.basis is None else self.basis[rows])

    def take(self, rows: np.ndarray) -> LevelCodes:
        """Return the codes of the given cells."""
        return LevelCodes(
            self.conditions, self.columns[rows], None if self.basis is None else self.basis[rows]
        )


def column_of_levels(
    obs: pd.DataFrame, key: str, what: str = "label_key", *, keep_unused: bool = False
) -> pd.Series:
    """Return a column of `obs` as a categorical of strings; other columns get sorted categories.

    Categories without cells are removed unless `keep_unused`.

    Raises
    ------
    ValueError
        If there is no such column or it has missing values.
    """
    values = _complete_column(obs, key, what)
    levels = values.astype("category")
    if not keep_unused:
        levels = levels.cat.remove_unused_categories()
    names = [level_name(level) for level in levels.cat.categories.to_numpy()]
    if len(set(names)) < len(names):  # 1 and "1" become one level
        kind: Any = pd.CategoricalDtype(sorted(set(names))) if keep_unused else "category"
        return values.map(level_name).astype(kind)
    named: pd.Series = levels.cat.rename_categories(names)
    return named


def _complete_column(obs: pd.DataFrame, key: str, what: str) -> pd.Series:
    """Return a column of `obs` after checking that it exists and has no missing values."""
    if key not in obs:
        raise ValueError(
            f"{what} must be a column of obs ({listed(list(obs.columns), 20) or 'it has none'}), got {key!r}."
            f"{did_you_mean(key, obs.columns)}"
        )
    values = obs[key]
    if isinstance(values, pd.DataFrame):
        raise ValueError(
            f"{what} must name one column of obs, but {values.shape[1]} columns are called {key!r}. Rename "
            "or drop one: adata.obs = adata.obs.loc[:, ~adata.obs.columns.duplicated()]."
        )
    missing = int(values.isna().sum())
    if missing:
        raise ValueError(
            f"{key!r} must have a value in every cell, got {missing:,} missing. "
            f"Remove these cells: adata[adata.obs[{key!r}].notna()]."
        )
    return values


def column_of_numbers(obs: pd.DataFrame, key: str) -> np.ndarray:
    """Return a column of `obs` as finite numbers, (n_cells,), float64; numbers stored as text are converted.

    Raises
    ------
    ValueError
        If there is no such column, or a value is missing, infinite or not a number.
    """
    values = _complete_column(obs, key, "continuous_keys")
    kinds = values.cat.categories if isinstance(values.dtype, pd.CategoricalDtype) else values
    if getattr(kinds.dtype, "kind", "O") in "mMc":
        raise ValueError(
            f"{key!r} must be a column of numbers, got dtype {kinds.dtype}. Convert it, for example to days: "
            f"adata.obs[{key!r}].dt.days, or use covariate_keys=[{key!r}]."
        )
    numbers = pd.to_numeric(values.astype(object), errors="coerce").to_numpy(np.float64)
    invalid = ~np.isfinite(numbers)
    if invalid.any():
        first = int(np.argmax(invalid))
        found = values.iloc[first]
        shown = repr(found) if isinstance(found, str) else found
        raise ValueError(
            f"{key!r} must be a finite number in every cell, got {shown} in cell "
            f"{str(obs.index[first])!r}. Remove such cells, or use covariate_keys=[{key!r}] for levels."
        )
    return np.asarray(numbers)


def check_continuous_keys(
    obs: pd.DataFrame, continuous_keys: Sequence[str], conditions: Conditions
) -> dict[str, np.ndarray]:
    """Return the values of continuous covariates in the training cells by key, (n_cells,) each.

    Raises
    ------
    ValueError
        If a key is not in `obs`, is given twice or is categorical as well, if a value is not a finite number,
        or if there are fewer than three distinct values.
    TypeError
        If a key is not a string.
    """
    if isinstance(continuous_keys, str):
        continuous_keys = [continuous_keys]
    if not isinstance(continuous_keys, (list, tuple, pd.Index, np.ndarray)):
        raise TypeError(f"continuous_keys must be a list of column names, got {continuous_keys!r}.")
    found: dict[str, np.ndarray] = {}
    for key in continuous_keys:
        if not isinstance(key, str):
            raise TypeError(f"continuous_keys must name columns of obs, got {key!r}.")
        if key in found:
            raise ValueError(f"continuous_keys must name each column once, got {key!r} twice.")
        if key in conditions.levels:
            other = "label_key" if key == conditions.label_key else "covariate_keys"
            raise ValueError(f"{key!r} cannot be in both {other} and continuous_keys. Choose one of them.")
        found[key] = column_of_numbers(obs, key)
        distinct = np.unique(found[key])
        if len(distinct) < MIN_DISTINCT:
            raise ValueError(
                f"{key!r} must have at least {MIN_DISTINCT} distinct values to be continuous, got "
                f"{' and '.join(f'{value:g}' for value in distinct)}. Use covariate_keys=[{key!r}]."
            )
    return found


def learn_conditions(
    obs: pd.DataFrame, label_key: str | None, covariate_keys: Sequence[str], *, keep_unused: bool = False
) -> Conditions:
    """Return the levels of the label and the covariates, in categorical order or sorted.

    Categories without cells are levels only if `keep_unused`, for fits with privacy. Whether each cell has a
    value of its own is then not checked, because that may depend on a single cell.

    Raises
    ------
    ValueError
        If a key is not in `obs`, is given twice, or has a different value in every cell.
    TypeError
        If a key is not a string.
    """
    if isinstance(covariate_keys, str):
        covariate_keys = [covariate_keys]
    if not isinstance(covariate_keys, (list, tuple, pd.Index, np.ndarray)):
        raise TypeError(f"covariate_keys must be a list of column names, got {covariate_keys!r}.")
    named = ([] if label_key is None else [(label_key, "label_key")]) + [
        (key, "covariate_keys") for key in covariate_keys
    ]
    levels: dict[str, tuple[str, ...]] = {}
    for key, what in named:
        if not isinstance(key, str):
            raise TypeError(f"{what} must name columns of obs, got {key!r}.")
        if key in levels:
            raise ValueError(f"{what} must name each column once, got {key!r} twice.")
        column = column_of_levels(obs, key, what, keep_unused=keep_unused)
        levels[key] = tuple(column.cat.categories)
        if len(obs) > 1 and len(levels[key]) == len(obs) and not keep_unused:
            raise ValueError(
                f"{what} must group the cells, but {key!r} has a different value in each of the "
                f"{len(obs):,} cells. Choose a column such as the cell type."
            )
    return Conditions(label_key, levels)
