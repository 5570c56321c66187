"""Errors and warnings in one sentence: malformed files, missing packages, too little memory."""

from __future__ import annotations

import errno
import importlib
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

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


@contextmanager
def memory_errors() -> Iterator[None]:
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


class FileFormatError(ValueError):
    """What is wrong with a file, in a sentence that is not to be put into another."""


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn what readers raise over a damaged file into one sentence."""
    try:
        yield
    except (FileFormatError, MemoryError, Warning):  # a warning is one where the user asks for that
        raise
    except ImportError as error:
        if error.name is None:  # `require` has said what to install
            raise
        what = str(error).partition(" from ")[0]
        raise ImportError(
            f"{str(path)!r} holds something that is read with a package which is not installed ({what}). "
            "Install it with pip."
        ) from error
    except Exception as error:  # h5py, zarr and others each have their own: a stranger's file may raise any
        form = path.suffix or "a folder"
        raise FileFormatError(f"{str(path)!r} cannot be read as {form}: {reason(error)}") from error
