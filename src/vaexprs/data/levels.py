"""Levels of labels and covariates: their names, and values of other types that mean the same level."""

from __future__ import annotations

import datetime
import numbers
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd

# text that means a number; 01 is the name of something
NUMBER = re.compile(r"-?(0|[1-9]\d{0,300})(\.\d+)?([eE][+-]?\d{1,2})?")
TRUE, FALSE = ("true", "t"), ("false", "f")


def level_name(value: Any) -> str:
    """Return the name of a level: its text; for midnights the date alone."""
    if isinstance(value, (pd.Timestamp, datetime.datetime, np.datetime64)):
        stamp = pd.Timestamp(value)
        return str(stamp.date()) if stamp == stamp.normalize() and stamp.tz is None else str(stamp)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)


def find_level(value: Any, levels: Sequence[str]) -> str | None:
    """Return the level that a value means; None if there is none, or more than one.

    The text of the value comes first. Otherwise numbers, logical values and dates of any type match levels
    that are equal as such: 1 and "1.0", True and "TRUE", a date and "2024-01-02 00:00:00".
    """
    name = level_name(value)
    if name in levels:
        return name
    wanted = _meaning(value)
    if wanted is None:
        return None
    meanings = [_meaning(level) for level in levels]
    found = [level for level, meaning in zip(levels, meanings, strict=True) if meaning == wanted]
    if len(found) != 1:
        return None
    all_logical = all(meaning is not None and meaning[0] == "logical" for meaning in meanings)
    # beside M, F is no logical value
    return None if wanted[0] == "logical" and len(found[0]) == 1 and not all_logical else found[0]


def check_columns(frame: pd.DataFrame, name: str) -> None:
    """Check that no two columns of annotation have the same name.

    Raises
    ------
    ValueError
        If two have; the message names one.
    """
    twice = list(frame.columns[frame.columns.duplicated()].unique())
    if twice:
        raise ValueError(
            f"{name} must have each column once, got {str(twice[0])!r} several times. Drop or rename one: "
            "adata.obs = adata.obs.loc[:, ~adata.obs.columns.duplicated()]."
        )


def storable(frame: pd.DataFrame) -> pd.DataFrame:
    """Return annotation in types that AnnData writes; the given frame is not changed.

    Dates, periods, intervals and the like become text; mixed objects become logical values or numbers if all
    of them are, and text otherwise. Missing values stay missing.

    Raises
    ------
    ValueError
        If two columns have the same name.
    """
    check_columns(frame, "The annotation")
    changed = {key: values for key in frame if (values := _storable(frame[key])) is not None}
    if not changed:
        return frame
    frame = frame.copy(deep=False)
    for key, values in changed.items():
        frame[key] = values
    return frame


def _storable(values: pd.Series) -> Any:
    """Return values in a type that AnnData writes; None if they are in one."""
    kind = values.dtype
    if isinstance(kind, pd.CategoricalDtype):
        if kind.categories.dtype.kind in "OiufbUS" and _of_texts(kind.categories):
            return None
        return values.cat.rename_categories([level_name(level) for level in kind.categories])
    if isinstance(kind, (pd.PeriodDtype, pd.IntervalDtype, pd.DatetimeTZDtype)) or kind.kind in "mM":
        return _as_text(values)
    if kind.kind != "O":
        return None
    known = [value for value in values if not _is_missing(value)]
    if not known or all(isinstance(value, str) for value in known):
        return None
    if all(isinstance(value, (bool, np.bool_)) for value in known):
        return values.astype("boolean")
    if all(isinstance(value, (numbers.Real, np.number)) for value in known):
        return values.astype(float)
    return _as_text(values)


def _of_texts(categories: pd.Index) -> bool:
    return categories.dtype.kind != "O" or all(isinstance(level, str) for level in categories)


def _as_text(values: pd.Series) -> pd.Series:
    texts = values.astype(object).map(level_name, na_action="ignore").astype(object)
    return texts.where(values.notna(), np.nan)


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value)


def is_level(value: Any) -> bool:
    """Return whether a value can be a level: text, a number, a logical value or a date."""
    kinds = (str, bool, numbers.Real, np.bool_, np.number, datetime.date, np.datetime64, pd.Timestamp)
    return isinstance(value, kinds) and not isinstance(value, (complex, np.complexfloating))


def _meaning(value: Any) -> tuple[str, Any] | None:
    """Return a value as a logical value, a number or a date; None if it is neither."""
    if isinstance(value, (bool, np.bool_)):
        return "logical", bool(value)
    if isinstance(value, (numbers.Real, np.number)):
        if isinstance(value, (numbers.Integral, np.integer)):
            return "number", int(value)  # identifiers may exceed 2**53
        number = float(str(value)) if isinstance(value, np.floating) else float(value)  # 0.1 of any precision
        return None if np.isnan(number) else ("number", number)
    if isinstance(value, (datetime.date, np.datetime64, pd.Timestamp)):
        return "date", pd.Timestamp(value)
    if not isinstance(value, str):
        return None
    text = value.strip()
    if text.lower() in (*TRUE, *FALSE) and text in (text.upper(), text.lower(), text.title()):
        return "logical", text.lower() in TRUE
    if NUMBER.fullmatch(text):
        return "number", int(text) if text.lstrip("-").isdecimal() else float(text)
    if len(text) >= len("2024-01-02") and text[:4].isdigit() and text[4] == "-":
        with suppress(ValueError, TypeError):
            return "date", pd.Timestamp(text)
    return None
