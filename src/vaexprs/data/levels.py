"""Levels of labels and covariates: their names, and values of other types that mean the same level."""

from __future__ import annotations

import datetime
import numbers
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd

TRUE, FALSE = ("true", "t"), ("false", "f")


def level_name(value: Any) -> str:
    """Return the name of a level: its text; for midnights the date alone."""
    if isinstance(value, (pd.Timestamp, datetime.datetime, np.datetime64)):
        stamp = pd.Timestamp(value)
        return str(stamp.date()) if stamp == stamp.normalize() and stamp.tz is None else str(stamp)
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
    found = [level for level in levels if _meaning(level) == wanted]
    return found[0] if len(found) == 1 else None


def _meaning(value: Any) -> tuple[str, Any] | None:
    """Return a value as a logical value, a number or a date; None if it is neither."""
    if isinstance(value, (bool, np.bool_)):
        return "logical", bool(value)
    if isinstance(value, (numbers.Real, np.number)):
        number = float(value)
        return None if np.isnan(number) else ("number", number)
    if isinstance(value, (datetime.date, np.datetime64, pd.Timestamp)):
        return "date", pd.Timestamp(value)
    if not isinstance(value, str):
        return None
    text = value.strip()
    if text.lower() in (*TRUE, *FALSE) and text in (text.upper(), text.lower(), text.title()):
        return "logical", text.lower() in TRUE
    with suppress(ValueError):
        number = float(text)
        return None if np.isnan(number) or "_" in text else ("number", number)
    if len(text) >= len("2024-01-02") and text[:4].isdigit() and text[4] == "-":
        with suppress(ValueError, TypeError):
            return "date", pd.Timestamp(text)
    return None
