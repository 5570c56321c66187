"""Argument checks, with error messages of one form: X must be Y, got Z. Try W."""

from __future__ import annotations

import difflib
import numbers
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def did_you_mean(word: object, options: Iterable[object]) -> str:
    """Return `` Did you mean 'x'?`` for the option most similar to `word`, or an empty string."""
    if word is None:
        return ""
    lowered = {str(option).lower(): str(option) for option in options}
    text = str(word).lower()
    near = difflib.get_close_matches(text, list(lowered), n=1, cutoff=0.5)
    near = near or [option for option in lowered if text and text in option]
    return f" Did you mean {lowered[near[0]]!r}?" if near else ""


def listed(items: Sequence[object], max_items: int = 5) -> str:
    """Return the first items for a message: ``'a', 'b', 'c' and 12 more``."""
    shown = ", ".join(repr(str(item)) for item in items[:max_items])
    return shown if len(items) <= max_items else f"{shown} and {len(items) - max_items:,} more"


def as_keys(keys: Any) -> list[Any]:
    """Return column names as a list; a single name is one key, None is no key."""
    return [keys] if isinstance(keys, str) else list(keys) if isinstance(keys, Iterable) else []


def check_path(path: Any) -> Path:
    """Return a path given as str or os.PathLike.

    Raises
    ------
    TypeError
        If it is of another type.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a str or pathlib.Path, got {type(path).__name__}.")
    return Path(path)


def check_file(path: str | os.PathLike[str]) -> Path:
    """Return `path` if it is an existing file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    """
    path = check_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    return path


def check_choice(name: str, value: object, options: Sequence[str]) -> str:
    """Return `value` if it is one of `options`.

    Raises
    ------
    ValueError
        If it is not; the message lists the options and the most similar one.
    """
    if value not in options:
        choices = ", ".join(repr(option) for option in options)
        raise ValueError(f"{name} must be one of {choices}, got {value!r}.{did_you_mean(value, options)}")
    return str(value)


def check_integer(name: str, value: Any, minimum: int) -> int:
    """Return `value` as an int that is at least `minimum`; ``10.0`` counts as 10."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or value != value or value in (float("inf"), -float("inf")) or int(value) != value:
        raise TypeError(f"{name} must be a whole number, got {value!r}.")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}.")
    return int(value)


def check_real(name: str, value: Any, minimum: float, *, below: float = float("inf")) -> float:
    """Return `value` as a float with ``minimum <= value < below``."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}.")
    if value in (float("inf"), -float("inf")):
        raise ValueError(f"{name} must be finite, got {value}.")
    if not minimum <= float(value) < below:
        upper = "" if below == float("inf") else f" and less than {below:g}"
        raise ValueError(f"{name} must be at least {minimum:g}{upper}, got {value}.")
    return float(value)
