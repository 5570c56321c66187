"""Errors and warnings with one-sentence messages: malformed files, missing packages, memory."""

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

NOT_BUILT = "could not be deserialized properly"  # Keras repeats this for each enclosing object


def reason(error: BaseException) -> str:
    """Return the informative line of an error message from Keras or a file reader."""
    text = re.sub(r"\x1b\[\d+m", "", str(error))
    lines = [line.strip().removeprefix("Exception encountered: ") for line in text.splitlines()]
    frame = ("Exception encountered when", "Error when deserializing", "Arguments received", "config={")
    informative = [line for line in lines if line and not line.startswith(frame) and NOT_BUILT not in line]
    return informative[0] if informative else type(error).__name__


def warn(sentence: str, category: type[Warning] = UserWarning) -> None:
    """Issue a warning that points to the line of user code that called the package."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("vaexprs."):
        frame, level = frame.f_back, level + 1
    warnings.warn(sentence, category, stacklevel=level)


# parts of messages by which JAX and the system report exhausted memory, apart from MemoryError
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
    """Return whether an error of any class was caused by exhausted memory."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    kinds, message = (RuntimeError, ImportError, OSError, SystemError), str(error).lower()
    if isinstance(error, kinds) and any(part in message for part in NO_MEMORY):
        return True
    cause = error.__cause__ or error.__context__  # libraries replace the error by one of their own
    return cause is not None and lacks_memory(cause)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Convert any error caused by exhausted memory into a MemoryError with a clear message."""
    try:
        yield
    except Exception as error:
        if not lacks_memory(error) or str(error).startswith(TOO_LITTLE):
            raise
        raise MemoryError(
            f"{TOO_LITTLE} ({reason(error)[:200].rstrip('.')}). Take fewer genes (n_top_genes) "
            "or cells, a smaller batch_size, or a file instead of cells in memory; or raise the memory limit."
        ) from error


def require(module: str, package: str, purpose: str) -> ModuleType:
    """Import an optional dependency.

    Raises
    ------
    ImportError
        If it is not installed; the message contains the pip command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{purpose} needs {package}: pip install {package}") from error


class FileFormatError(ValueError):
    """Malformed input file; the message is complete and must not be wrapped in another one."""


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Convert errors that readers raise for a malformed file into a FileFormatError."""
    try:
        yield
    except (FileFormatError, MemoryError, Warning):  # warnings are raised if the user turns them into errors
        raise
    except ImportError as error:
        if error.name is None:  # raised by `require`, whose message says what to install
            raise
        what = str(error).partition(" from ")[0]
        raise ImportError(
            f"Reading {str(path)!r} needs a package that is not installed ({what}). Install it with pip."
        ) from error
    except Exception as error:  # parsers raise errors of many classes for malformed files
        form = path.suffix or "a folder"
        raise FileFormatError(f"{str(path)!r} cannot be read as {form}: {reason(error)}") from error
