"""Labels and covariates as one-hot codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from vaexprs.interface.validation import did_you_mean, listed


@dataclass(frozen=True)
class Conditions:
    """The levels of the label and the covariates, and their one-hot code.

    Parameters
    ----------
    label_key
        Key of the label; None without labels.
    levels
        Levels of each key, in the order of the one-hot columns.
    """

    label_key: str | None
    levels: Mapping[str, tuple[str, ...]]

    @property
    def keys(self) -> list[str]:
        """The label first, then the covariates."""
        return list(self.levels)

    @property
    def covariate_keys(self) -> list[str]:
        """All keys but the label."""
        return [key for key in self.levels if key != self.label_key]

    @property
    def labels(self) -> tuple[str, ...]:
        """The levels of the label, or an empty tuple."""
        return self.levels[self.label_key] if self.label_key is not None else ()

    @property
    def width(self) -> int:
        """Number of one-hot columns."""
        return sum(len(levels) for levels in self.levels.values())

    def check(self, key: str, value: object) -> str:
        """Return `value` as a level of `key`.

        Raises
        ------
        ValueError
            If it is not a level; the message suggests the nearest.
        """
        levels = self.levels[key]
        if str(value) not in levels:
            raise ValueError(
                f"{key} must be one of {listed(levels, 20)}, got {str(value)!r}.{did_you_mean(value, levels)}"
            )
        return str(value)

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
            known = pd.Index(levels).get_indexer(values.categories.astype(str))
            codes = np.append(known, -1)[values.codes]
            if (codes < 0).any():
                self.check(key, frame[key].to_numpy()[np.argmax(codes < 0)])
            columns[:, i] = first + codes
            first += len(levels)
        return columns

    def expand(self, columns: np.ndarray) -> np.ndarray:
        """Return the one-hot codes of column numbers from `columns`, (n_cells, width), float32."""
        code = np.zeros((len(columns), self.width), np.float32)
        np.put_along_axis(code, columns, 1.0, axis=1)
        return code

    def one_hot(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the one-hot codes of the levels in `frame`, (n_cells, width), float32.

        Raises
        ------
        ValueError
            If a value is not a level.
        """
        return self.expand(self.columns(frame))


@dataclass(frozen=True)
class LevelCodes:
    """One-hot codes of many cells, stored as column numbers and expanded on access."""

    conditions: Conditions
    columns: np.ndarray

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        return self.conditions.expand(self.columns[rows])

    def take(self, rows: np.ndarray) -> LevelCodes:
        """Return the codes of the given cells."""
        return LevelCodes(self.conditions, self.columns[rows])


def column_of_levels(obs: pd.DataFrame, key: str, what: str = "label_key") -> pd.Series:
    """Return a column of `obs` as a categorical of strings; other columns get sorted categories.

    Raises
    ------
    ValueError
        If there is no such column or it has missing values.
    """
    if key not in obs:
        raise ValueError(
            f"{what} must be a column of obs ({listed(list(obs.columns), 20) or 'it has none'}), got {key!r}."
            f"{did_you_mean(key, obs.columns)}"
        )
    values = obs[key]
    missing = int(values.isna().sum())
    if missing:
        raise ValueError(
            f"{key!r} must have a value in every cell, got {missing:,} missing. "
            f"Remove these cells: adata[adata.obs[{key!r}].notna()]."
        )
    levels = values.astype("category").cat.remove_unused_categories()
    names = [str(level) for level in levels.cat.categories]
    if len(set(names)) < len(names):  # 1 and "1" become one level
        return values.astype(str).astype("category")
    named: pd.Series = levels.cat.rename_categories(names)
    return named


def learn_conditions(obs: pd.DataFrame, label_key: str | None, covariate_keys: Sequence[str]) -> Conditions:
    """Return the levels of the label and the covariates, in categorical order or sorted.

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
        column = column_of_levels(obs, key, what)
        levels[key] = tuple(column.cat.categories)
        if len(obs) > 1 and len(levels[key]) == len(obs):
            raise ValueError(
                f"{what} must group the cells, but {key!r} has a different value in each of the "
                f"{len(obs):,} cells. Choose a column such as the cell type."
            )
    return Conditions(label_key, levels)
