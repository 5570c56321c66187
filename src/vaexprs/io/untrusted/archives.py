"""Size-bounded decompression of gzip, bzip2, xz and .npz files."""

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

# file signature: function that opens the file decompressed
OPENERS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
ALWAYS_UNPACKED = 2**30  # decompressed size in bytes that every file may have
MAX_RATIO = 200  # maximum ratio of decompressed to compressed size above that
AT_ONCE = 2**20  # bytes decompressed at once


def read_decompressed(path: Path) -> bytes:
    """Return the content of a file, decompressed if it is compressed.

    Raises
    ------
    FileFormatError
        If the decompressed content exceeds the size limit.
    """
    opener = _opener(path)
    if opener is None:
        return path.read_bytes()
    limit = _size_limit(path)
    with opener(path, "rb") as file:
        content: bytes = file.read(limit + 1)
    if len(content) > limit:
        raise _too_large(path, limit)
    return content


def check_decompressed_size(path: Path) -> None:
    """Check that the decompressed content of a file is within the size limit.

    Raises
    ------
    FileFormatError
        If it exceeds the limit.
    """
    opener = _opener(path)
    if opener is None:
        return
    left = limit = _size_limit(path)
    with opener(path, "rb") as file:
        while part := file.read(AT_ONCE):
            left -= len(part)
            if left < 0:
                raise _too_large(path, limit)


def open_decompressed(path: Path) -> Any:
    """Open a file for reading bytes, decompressed if its content is compressed, whatever its suffix."""
    opener = _opener(path)
    return path.open("rb") if opener is None else opener(path, "rb")


def is_compressed(path: Path) -> bool:
    """Return whether the content of a file is compressed with gzip, bzip2 or xz."""
    return _opener(path) is not None


def _opener(path: Path) -> Callable[..., Any] | None:
    with path.open("rb") as file:
        start = file.read(6)
    return next((function for mark, function in OPENERS.items() if start.startswith(mark)), None)


def _size_limit(path: Path) -> int:
    return max(ALWAYS_UNPACKED, MAX_RATIO * path.stat().st_size)


def _too_large(path: Path, limit: int) -> ValueError:
    return FileFormatError(
        f"{str(path)!r} ({path.stat().st_size:,} bytes) decompresses to more than {limit:,} bytes. If the "
        "content is correct, decompress the file yourself and give the result."
    )


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file, after checking declared sizes against stored data.

    Raises
    ------
    ValueError
        If an array holds (pickled) Python objects, or declares more data than it stores.
    """
    path = Path(path)
    arrays = {}
    limit = _size_limit(path)
    with zipfile.ZipFile(path) as archive:
        sizes = [entry.file_size for entry in archive.infolist()]
        if sum(sizes) > limit:
            raise _too_large(path, limit)
        for entry in archive.infolist():
            with archive.open(entry) as file:
                arrays[entry.filename.removesuffix(".npy")] = _read_array(file, entry)
    return arrays


def _read_array(file: Any, entry: zipfile.ZipInfo) -> np.ndarray:
    """Return an array in NumPy's format, whose header may declare any shape."""
    format_ = np.lib.format
    version = format_.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{entry.filename} must be in NumPy's format 1.0 or 2.0, got format {version}.")
    header = format_.read_array_header_1_0 if version == (1, 0) else format_.read_array_header_2_0
    shape, by_column, dtype = header(file)
    size = math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise ValueError(f"{entry.filename} holds Python objects, which are not loaded.")
    if min((0, *shape)) < 0 or size > entry.file_size:
        raise ValueError(f"{entry.filename} declares {size:,} bytes, but stores {entry.file_size:,}.")
    content = file.read(size)
    if len(content) < size:
        raise EOFError(f"{entry.filename} is truncated.")
    return np.ndarray(shape, dtype, bytearray(content), order="F" if by_column else "C")
