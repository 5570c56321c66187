"""Texts in the fields of a table: missing values, and texts that a spreadsheet would run as a formula."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from vaexprs.data.levels import level_name
from vaexprs.interface.errors import warn
from vaexprs.interface.validation import listed

# start of a text that a spreadsheet runs as a formula
FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
# texts that programs write for a missing value, as in `pandas.read_csv`
_MISSING = "NA <NA> N/A n/a NaN nan -NaN -nan NaT NULL null None #N/A #NA 1.#IND 1.#QNAN -1.#IND -1.#QNAN"
MAX_DISTINCT = 1_000  # maximum number of values of a column that are compared
MISSING = frozenset(["", "#N/A N/A", *_MISSING.split()])


def is_missing(values: pd.Series) -> pd.Series:
    """Return whether each text stands for a missing value, (n,), bool."""
    texts = values.astype(object).where(values.notna(), "").astype(str)
    return texts.str.strip().isin(MISSING)


def read_texts(values: pd.Series) -> pd.Series:
    """Return annotation as read from fields: missing values as NaN, other texts without their guard."""
    missing = is_missing(values)
    found = values.astype(object).where(~missing, np.nan)
    return found.map(unguarded, na_action="ignore").astype(object)


def warn_of_spaces(texts: pd.DataFrame, name: str) -> None:
    """Warn of values in a column that differ only in spaces around them, such as "T" and "T "."""
    for i, key in enumerate(texts.columns):
        distinct = texts.iloc[:, i].dropna().unique()[:MAX_DISTINCT]
        stripped = pd.Series([text.strip() for text in distinct], dtype=object)
        alike = [text for text, twice in zip(distinct, stripped.duplicated(keep=False), strict=True) if twice]
        if alike:
            warn(f"{name!r}: values of column {key!r} differ only in spaces: {listed(alike)}.")


def written_texts(values: pd.Series) -> list[str]:
    """Return annotation as texts for the fields of a table: missing values are empty fields."""
    missing = values.isna().to_numpy()
    # `to_numpy` keeps float32, whose text is shorter, but makes integers with missing values floats
    is_masked = pd.api.types.is_extension_array_dtype(values.dtype)
    found = values.to_numpy(object) if is_masked else values.to_numpy()
    texts = ["" if empty else level_name(v) for v, empty in zip(found, missing, strict=True)]
    guards = guarded(texts, missing_too=True)
    return ["" if empty else text for text, empty in zip(guards, missing, strict=True)]


def guarded(names: Iterable[Any], *, missing_too: bool = False) -> list[str]:
    """Return texts, prefixed with an apostrophe if a spreadsheet would run them as a formula.

    Parameters
    ----------
    names
        The texts.
    missing_too
        Whether to prefix texts that would be read as missing values, such as a label "NA", as well.

    Raises
    ------
    ValueError
        If a text contains a NUL or a carriage return, which table readers cannot parse.
    """
    names = list(map(str, names))
    odd = [name for name in names if "\0" in name or "\r" in name]
    if odd:
        raise ValueError(f"A table cannot hold text with a NUL or a carriage return, got {listed(odd)}.")
    return ["'" + text if _needs_guard(text, missing_too) else text for text in names]


def _needs_guard(text: str, missing_too: bool) -> bool:
    return bool(FORMULA.match(text)) or (missing_too and text.lstrip("'").strip() in MISSING)


def unguarded(name: Any) -> str:
    """Return a text without the apostrophe added by `guarded`."""
    text = str(name)
    return text[1:] if text.startswith("'") and _needs_guard(text[1:], True) else text
