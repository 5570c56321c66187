"""Check that an HDF5 file holds what it declares and links to no other file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vaexprs.interface.errors import FileFormatError
from vaexprs.io.untrusted.anndata import check_row_ends

ALWAYS_UNPACKED = 256 * 2**20  # bytes that an array may declare however few are stored
# registered filters that are not part of HDF5
FILTERS = {
    307: "bzip2",
    32000: "lzf",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32026: "blosc2",
}
MAX_UNPACKED = 1_032  # maximum ratio of declared to stored bytes above that: the limit of gzip


def open_hdf5(path: Path) -> Any:
    """Open an HDF5 file for reading and check it.

    Raises
    ------
    FileFormatError
        If it fails `check_hdf5`. The file is closed first.
    """
    import h5py

    file = h5py.File(path, "r")
    try:
        check_hdf5(file, path)
    except BaseException:
        file.close()
        raise
    return file


def check_hdf5(file: Any, path: Path, *, compressed: bool = True) -> int:
    """Check that declared sizes match stored data and that nothing links outside an open HDF5 file.

    A dataset can declare any shape without storing values, and can be stored in another file. Compressed
    data can decompress to about a thousand times their size, the limit of gzip.

    Parameters
    ----------
    file
        Open file.
    path
        Path of the file, used in error messages.
    compressed
        Whether values may be compressed; if not, all bytes must be stored.

    Returns
    -------
    Number of values in all datasets.

    Raises
    ------
    FileFormatError
        If a declared size exceeds the stored data, data are in another file, or values are neither numbers
        nor text.
    """
    total = 0
    for name, part in _in_hdf5(file, path):
        if part.external or part.is_virtual:
            raise FileFormatError(
                f"{str(path)!r} stores {name!r} in another file. Write all data to one file."
            )
        if not _is_plain(part.dtype):
            raise FileFormatError(f"{str(path)!r} contains {name!r}, which is neither numbers nor text.")
        if part.shape is None:
            continue
        _check_filters(part, name, path)
        size, stored = part.size * part.dtype.itemsize, part.id.get_storage_size()
        if size > (max(ALWAYS_UNPACKED, MAX_UNPACKED * stored) if compressed else stored):
            raise FileFormatError(
                f"{str(path)!r} declares {size:,} bytes for {name!r}, shape {part.shape}, but stores "
                f"{stored:,}."
            )
        total += int(part.size)
    return total


def _check_filters(part: Any, name: str, path: Path) -> None:
    """Check that the filters with which a dataset is compressed are installed.

    Raises
    ------
    FileFormatError
        If one is not; the message names it and what to install.
    """
    import h5py

    settings = part.id.get_create_plist()
    for i in range(settings.get_nfilters()):
        code = settings.get_filter(i)[0]
        if not h5py.h5z.filter_avail(code):
            known = FILTERS.get(code, f"number {code}")
            raise FileFormatError(
                f"{str(path)!r} compresses {name!r} with the HDF5 filter {known}, which is not installed. "
                "Install it (pip install hdf5plugin) and import hdf5plugin before reading, or write the file "
                "again with compression='gzip'."
            )


def _is_plain(kind: np.dtype) -> bool:
    """Return whether values are numbers or text; HDF5 can crash on other types in damaged files."""
    import h5py

    if kind.names is not None:
        return all(_is_plain(kind[name]) for name in kind.names)
    if kind.subdtype is not None:
        return _is_plain(kind.subdtype[0])
    return kind.kind != "O" or h5py.check_string_dtype(kind) is not None


def _check_attributes(part: Any, path: Path) -> None:
    """Check that the attributes of an object are numbers, text or references."""
    import h5py

    for name in part.attrs:
        kind = part.attrs.get_id(name).dtype
        if not _is_plain(kind) and h5py.check_ref_dtype(kind) is None:
            raise FileFormatError(
                f"{str(path)!r} contains the attribute {name!r} of {part.name!r}, which is neither numbers "
                "nor text."
            )


def _in_hdf5(file: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """Yield name and dataset for each dataset; raise FileFormatError for links to other files."""
    import h5py

    waiting, seen = [file], set()
    _check_attributes(file, path)
    while waiting:
        group = waiting.pop()
        for key in group:
            link, name = group.get(key, getlink=True), f"{group.name.rstrip('/')}/{key}"
            if isinstance(link, h5py.ExternalLink):
                raise FileFormatError(
                    f"{str(path)!r} stores {name!r} in another file. Write all data to one file."
                )
            if isinstance(link, h5py.SoftLink):
                continue  # the target is visited under its own name
            part = group[key]
            _check_attributes(part, path)
            if isinstance(part, h5py.Dataset):
                yield name, part
            elif isinstance(part, h5py.Group):
                address = h5py.h5o.get_info(part.id).addr
                if address not in seen:  # hard links can form cycles
                    check_row_ends(part, path)
                    seen.add(address)
                    waiting.append(part)
