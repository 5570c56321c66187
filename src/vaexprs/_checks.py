"""One grammar of errors: what it is, what it must be, what came, what to try."""

from __future__ import annotations

import difflib
import errno
import importlib
import numbers
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

# suffixes that people and their programs also write in capitals
ANY_CASE = (".csv", ".tsv", ".txt", ".gct", ".rds", ".gz")


def did_you_mean(word: object, options: Iterable[object]) -> str:
    """Return `` Did you mean 'x'?`` for the option nearest to `word`, or an empty string."""
    if word is None:
        return ""
    lowered = {str(option).lower(): str(option) for option in options}
    asked = str(word).lower()
    near = difflib.get_close_matches(asked, list(lowered), n=1, cutoff=0.5)
    near = near or [option for option in lowered if asked and asked in option]
    return f" Did you mean {lowered[near[0]]!r}?" if near else ""


def some(items: Sequence[object], most: int = 5) -> str:
    """Return the first few items for a message: ``'a', 'b', 'c' and 12 more``."""
    shown = ", ".join(repr(str(item)) for item in items[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most:,} more"


NOT_BUILT = "could not be deserialized properly"  # Keras says it of each part that another one is in


def reason(error: BaseException) -> str:
    """Return the one line of an error from Keras or a file reader that says what is wrong."""
    text = re.sub(r"\x1b\[\d+m", "", str(error))
    lines = [line.strip().removeprefix("Exception encountered: ") for line in text.splitlines()]
    frame = ("Exception encountered when", "Error when deserializing", "Arguments received", "config={")
    told = [line for line in lines if line and not line.startswith(frame) and NOT_BUILT not in line]
    return told[0] if told else type(error).__name__


def warn(sentence: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line of the user's code that led here, however deep in the house it was noticed."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("vaexprs."):
        frame, level = frame.f_back, level + 1
    warnings.warn(sentence, category, stacklevel=level)


def check_path(path: Any) -> Path:
    """Return a path given as text or as one.

    Raises
    ------
    TypeError
        If it is something else.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be text or a pathlib.Path, got {type(path).__name__}.")
    return Path(path)


def suffix_of(path: Path) -> str:
    """Return the suffix that names the format of a file: ".csv.gz" of "cells.csv.gz" and "CELLS.CSV.GZ"."""
    parts = [part.lower() if part.lower() in ANY_CASE else part for part in path.suffixes[-2:]]
    return "".join(parts if parts[-1:] == [".gz"] else parts[-1:])


def check_file(path: str | os.PathLike[str]) -> Path:
    """Return `path` if it is a file.

    Raises
    ------
    FileNotFoundError
        If there is none.
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
        If it is not; the message names the options and the nearest one.
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


# how the engine and the system say that there is no memory, beside MemoryError
NO_MEMORY = (
    "resource_exhausted",
    "out of memory",
    "bad_alloc",
    "cannot allocate memory",
    "failed to map segment",
    "can't start new thread",
    "returned null without setting an exception",
)


TOO_LITTLE = "There is not enough memory"


def lacks_memory(error: BaseException) -> bool:
    """Whether an error, of whatever class, says that there was not enough memory."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    kinds, said = (RuntimeError, ImportError, OSError, SystemError), str(error).lower()
    if isinstance(error, kinds) and any(word in said for word in NO_MEMORY):
        return True
    before = error.__cause__ or error.__context__  # libraries have words of their own for it
    return before is not None and lacks_memory(before)


def address_space() -> int | None:
    """Return the bytes of address space that this process may have (``ulimit -v``); None for any number."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


@contextmanager
def memory_told() -> Iterator[None]:
    """Turn what is raised where memory ends into a MemoryError of one sentence."""
    try:
        yield
    except Exception as error:
        if not lacks_memory(error) or str(error).startswith(TOO_LITTLE):
            raise
        raise MemoryError(
            f"{TOO_LITTLE} ({reason(error)[:200].rstrip('.')}). Take fewer genes (n_top_genes) "
            "or cells, a smaller batch_size, or a file instead of cells in memory; or allow more of it."
        ) from error


def require(module: str, package: str, purpose: str) -> ModuleType:
    """Import an optional dependency.

    Raises
    ------
    ImportError
        If it is not installed; the message gives the pip command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{purpose} needs {package}: pip install {package}") from error
