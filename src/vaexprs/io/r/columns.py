"""Columns of R's data frames: vectors, factors, dates and run-length encodings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vaexprs.interface.errors import FileFormatError
from vaexprs.interface.validation import listed
from vaexprs.io.r.tree import attributes_of, class_of, elements_of, numbered, strings, text_of, type_of

MAX_DAYS = 10**8  # maximum distance in days of a date from 1970; larger numbers are not those of dates
SECONDS = 86_400  # per day
NA_INTEGER64 = np.iinfo(np.int64).min


def frame_of(columns: Sequence[tuple[str, Any]], n: int) -> pd.DataFrame:
    """Return the columns that are vectors of n values; others, such as lists, are dropped."""
    kept = {}
    for i, (_, node) in enumerate(columns):
        values = vector(node, n)
        if values is not None and len(values) == n:
            kept[i] = values
    frame = pd.DataFrame(kept, index=pd.RangeIndex(n))
    return frame.set_axis(pd.Index([columns[i][0] for i in kept], dtype=object), axis=1)


def frame_in(node: Any, n: int) -> pd.DataFrame:
    """Return the columns of a DFrame, the data frame of Bioconductor."""
    slots = attributes_of(node)
    return frame_of(elements_of(slots["listData"]) if "listData" in slots else [], n)


def vector(node: Any, n: int) -> Any:
    """Return a vector as an array, or None for other objects and for an Rle of other than n values."""
    attributes = attributes_of(node)
    if class_of(node) == "Rle":
        lengths = np.ma.getdata(attributes["lengths"].value).astype(np.int64)
        values = vector(attributes["values"], len(lengths)) if lengths.sum() == n else None
        return None if values is None else pd.Series(values).repeat(lengths.tolist()).array
    if type_of(node) == "STR":
        return np.array([None if each.value is None else text_of(each) for each in node.value], object)
    if type_of(node) not in ("INT", "REAL", "LGL") or "dim" in attributes:
        return None
    values, missing = np.ma.getdata(node.value), np.ma.getmaskarray(node.value)
    classes = strings(attributes.get("class")) or []
    if "levels" in attributes:
        return _factor(np.where(missing, 0, values).astype(int) - 1, attributes["levels"])
    if "integer64" in classes:
        return _integers(node)
    if "Date" in classes:
        return _dates(values.astype(np.float64), missing)
    if "POSIXct" in classes:
        zone = (strings(attributes.get("tzone")) or [""])[0]
        return _times(values.astype(np.float64), missing, zone)
    if type_of(node) == "LGL":
        known = values.astype(bool)
        return pd.arrays.BooleanArray(known, missing.copy()) if missing.any() else known
    if type_of(node) == "INT" and missing.any():
        return pd.arrays.IntegerArray(values.astype(np.int64), missing.copy())
    return values


def _factor(codes: np.ndarray, node: Any) -> pd.Categorical:
    """Return a factor; cells of the level NA, as addNA() makes it, are missing."""
    levels = [None if each.value is None else text_of(each) for each in node.value]
    if len(codes) and codes.max() >= len(levels):
        raise ValueError("a factor has codes beyond its levels.")
    known = [i for i, level in enumerate(levels) if level is not None]
    if len(known) < len(levels):
        place = np.full(len(levels) + 1, -1)  # the last is that of missing values, of code -1
        place[known] = np.arange(len(known))
        codes = place[codes]
    return pd.Categorical.from_codes(codes, pd.Index([levels[i] for i in known], dtype=object))


def _integers(node: Any) -> Any:
    """Return integers of the package bit64, whose bits R stores as those of doubles."""
    values = np.ascontiguousarray(np.ma.getdata(node.value), np.float64).view(np.int64)
    missing = values == NA_INTEGER64
    return pd.arrays.IntegerArray(values.copy(), missing) if missing.any() else values


def numbers_in(node: Any) -> np.ndarray:
    """Return the values of a numeric vector or matrix in one dimension, with NaN for NA."""
    if "integer64" in (strings(attributes_of(node).get("class")) or []):
        return np.asarray(pd.array(_integers(node)).to_numpy(np.float64, na_value=np.nan))
    if np.ma.isMA(node.value):
        return np.asarray(np.ma.filled(node.value.astype(np.float64), np.nan))
    return np.asarray(node.value)


def _dates(days: np.ndarray, missing: np.ndarray) -> Any:
    missing = missing | ~np.isfinite(days)
    days = np.where(missing, 0, days)
    if np.abs(days).max(initial=0) > MAX_DAYS:
        raise ValueError(f"a date is {days[np.abs(days).argmax()]:g} days from 1970.")
    whole = np.floor(days).astype(np.int64).astype("datetime64[D]").astype("datetime64[s]")
    return pd.Series(whole).mask(missing).array


def _times(seconds: np.ndarray, missing: np.ndarray, zone: str) -> Any:
    days = _dates(seconds / SECONDS, missing)
    rest = np.where(pd.isna(days), 0, np.mod(np.nan_to_num(seconds), SECONDS))
    times = pd.Series(days) + pd.to_timedelta((rest * 1000).round().astype(np.int64), unit="ms")
    if zone in ("", "UTC", "GMT"):
        return times.array
    try:
        return times.dt.tz_localize("UTC").dt.tz_convert(zone).dt.tz_localize(None).array
    except (KeyError, ValueError):  # unknown time zone
        return times.array


def in_order(
    obs: pd.DataFrame, names: Sequence[str] | None, cells: Sequence[str] | None, path: Path
) -> pd.DataFrame:
    """Return annotation with row names in the order of the cells, with numbered rows.

    Raises
    ------
    FileFormatError
        If both have names, and these are not the same.
    """
    if names is None or cells is None or list(names) == list(cells) or len(names) != len(obs):
        return obs
    if names == numbered(len(names)):
        return obs
    if set(names) != set(cells) or len(set(names)) < len(names):
        missing = [name for name in cells if name not in set(names)]
        raise FileFormatError(
            f"{str(path)!r} must have a row of annotation for each cell, but lacks {listed(missing)}: row "
            "names of meta.data must be the names of the cells."
        )
    return obs.set_axis(pd.Index(list(names)), axis=0).loc[list(cells)].reset_index(drop=True)
