"""What is packed in a stranger's file is unpacked as far as is sensible."""

from __future__ import annotations

import bz2
import gzip
import lzma
import math
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vaexprs.interface.errors import FileFormatError

OPENERS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
MAX_PACKED = 200  # bytes that one byte of a file may stand for, ...
ALWAYS_UNPACKED = 2**30  # ... beyond so many
AT_ONCE = 2**20


def content_of(path: Path) -> bytes:
    """Return the content of a file, unpacked if it is packed.

    Raises
    ------
    ValueError
        If it is much more than what such a file holds.
    """
    opened = _opener(path)
    if opened is None:
        return path.read_bytes()
    most = _most(path)
    with opened(path, "rb") as file:
        content: bytes = file.read(most + 1)
    if len(content) > most:
        raise _too_much(path, most)
    return content


def check_packed(path: Path) -> None:
    """Check that a file is not much more when it is unpacked than what such a file holds.

    Raises
    ------
    ValueError
        If it is.
    """
    opened = _opener(path)
    if opened is None:
        return
    left = most = _most(path)
    with opened(path, "rb") as file:
        while part := file.read(AT_ONCE):
            left -= len(part)
            if left < 0:
                raise _too_much(path, most)


def _opener(path: Path) -> Callable[..., Any] | None:
    with path.open("rb") as file:
        start = file.read(6)
    return next((function for mark, function in OPENERS.items() if start.startswith(mark)), None)


def _most(path: Path) -> int:
    return max(ALWAYS_UNPACKED, MAX_PACKED * path.stat().st_size)


def _too_much(path: Path, most: int) -> ValueError:
    return FileFormatError(
        f"{str(path)!r} is of {path.stat().st_size:,} bytes, but of more than {most:,} when it is unpacked: "
        "that is not what a matrix of counts does. Unpack it yourself, and give that, if it is right."
    )


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file; each must be there before room is made for it.

    Raises
    ------
    ValueError
        If one is of Python objects, which are pickled, or claims to be larger than it is.
    """
    path = Path(path)
    arrays = {}
    most = _most(path)
    with zipfile.ZipFile(path) as archive:
        sizes = [entry.file_size for entry in archive.infolist()]
        if sum(sizes) > most:
            raise _too_much(path, most)
        for entry in archive.infolist():
            with archive.open(entry) as file:
                arrays[entry.filename.removesuffix(".npy")] = _read_array(file, entry)
    return arrays


def _read_array(file: Any, entry: zipfile.ZipInfo) -> np.ndarray:
    """Return an array of a file in NumPy's format, of which the header may say any shape."""
    format_ = np.lib.format
    version = format_.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{entry.filename} is of NumPy's format {version}, which holds no plain array.")
    header = format_.read_array_header_1_0 if version == (1, 0) else format_.read_array_header_2_0
    shape, by_column, dtype = header(file)
    size = math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise ValueError(f"{entry.filename} holds Python objects, which are not loaded.")
    if min((0, *shape)) < 0 or size > entry.file_size:
        raise ValueError(f"{entry.filename} claims {size:,} bytes, but holds {entry.file_size:,}.")
    content = file.read(size)
    if len(content) < size:
        raise EOFError(f"{entry.filename} is cut off.")
    return np.ndarray(shape, dtype, bytearray(content), order="F" if by_column else "C")
