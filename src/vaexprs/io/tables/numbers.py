"""Numbers in the fields of a table: decimal marks and thousands separators."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

POWER = r"([eE][+-]?\d+)?"
PLAIN = re.compile(rf"[+-]?(\d+\.?\d*|\.\d+){POWER}")
DECIMAL_COMMA = re.compile(rf"[+-]?\d*,\d+{POWER}")
GROUPS_OF_COMMAS = re.compile(rf"[+-]?\d{{1,3}}(,\d{{3}})+(\.\d*)?{POWER}")
GROUPS_OF_POINTS = re.compile(rf"[+-]?\d{{1,3}}(\.\d{{3}})+(,\d*)?{POWER}")


class Marks(NamedTuple):
    """Marks within numbers."""

    decimal: str = "."
    thousands: str | None = None


def marks_of(texts: Iterable[str], *, has_points: bool, prefers_comma: bool) -> Marks:
    """Return the marks in the numbers of a table.

    Parameters
    ----------
    texts
        Fields that are not numbers with a decimal point.
    has_points
        Whether other fields are numbers with a decimal point.
    prefers_comma
        Whether "1,234" is read as 1.234 rather than as 1234 if the other fields do not tell, as in files
        separated by semicolons.

    Raises
    ------
    ValueError
        If the numbers have different marks, or "1,234" can mean both.
    """
    commas = [text for text in texts if "," in text and _has_any(text)]
    if not commas:
        return Marks()
    if all(map(GROUPS_OF_COMMAS.fullmatch, commas)):
        clear = has_points or any(text.count(",") > 1 or "." in text for text in commas)
        if clear:
            return Marks(".", ",")
        if not prefers_comma:
            raise ValueError(
                f"must have one decimal mark, but {commas[0]!r} can be {commas[0].replace(',', '')} or "
                f"{commas[0].replace(',', '.')}. Save it with decimal points and without thousands separators"
            )
    if all(map(DECIMAL_COMMA.fullmatch, commas)) and not has_points:
        return Marks(",")
    if all(DECIMAL_COMMA.fullmatch(text) or GROUPS_OF_POINTS.fullmatch(text) for text in commas):
        if has_points:
            raise ValueError(
                f"must have one decimal mark, but has numbers with commas, such as {commas[0]!r}, and with "
                "points. Save it with decimal points"
            )
        return Marks(",", ".")
    return Marks()  # some are not numbers: the message names them


def _has_any(text: str) -> bool:
    kinds = (DECIMAL_COMMA, GROUPS_OF_COMMAS, GROUPS_OF_POINTS)
    return any(kind.fullmatch(text) for kind in kinds)


def numbers(values: pd.Series, marks: Marks) -> pd.Series:
    """Return values as numbers, with NaN for values that are not numbers or overflow.

    ``pandas.to_numeric`` crashes on exponents of ten digits.
    """
    if values.dtype.kind in "iuf":
        return values
    drop = "" if marks.thousands is None else marks.thousands

    def number(value: object) -> float:
        text = str(value).strip()
        if drop:
            text = text.replace(drop, "")
        if marks.decimal != ".":
            text = text.replace(".", "x").replace(marks.decimal, ".")
        try:
            found = float(text)
        except ValueError:
            return np.nan
        return np.nan if "_" in text or np.isinf(found) else found

    return values.map(number).astype(float)
