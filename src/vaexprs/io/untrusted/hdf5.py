"""Check that an HDF5 file holds what it declares and links to no other file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vaexprs.interface.errors import FileFormatError
from vaexprs.io.untrusted.anndata import check_row_ends

ALWAYS_UNPACKED = 256 * 2**20  # bytes that an array may claim whatever is there of it, ...
MAX_UNPACKED = 1_032  # ... and for each byte that is there: gzip can make no more of one


def check_hdf5(source: Any, path: Path, *, packed: bool = True) -> int:
    """Check that an HDF5 file holds what it claims to hold, and nothing of other files.

    A dataset may say any shape without a value behind it, and lie in any other file. What was packed may be a
    thousand times as large as its file, but not more.

    Parameters
    ----------
    source
        The file, or its content.
    path
        Its name, for the message.
    packed
        Whether values may be packed; if not, each must be there.

    Returns
    -------
    Number of values in all datasets.

    Raises
    ------
    ValueError
        If it does not.
    """
    import h5py

    total = 0
    with h5py.File(source, "r") as file:
        for name, part in _in_hdf5(file, path):
            if part.external or part.is_virtual:
                raise FileFormatError(
                    f"{str(path)!r} keeps {name!r} in another file; write it anew with all in one."
                )
            if not _is_plain(part.dtype):
                raise FileFormatError(f"{str(path)!r} holds {name!r}, which is neither numbers nor text.")
            if part.shape is None:
                continue
            size, there = part.size * part.dtype.itemsize, part.id.get_storage_size()
            if (size > there) if not packed else size > max(ALWAYS_UNPACKED, MAX_UNPACKED * there):
                raise FileFormatError(
                    f"{str(path)!r} claims {size:,} bytes of {name!r}, shape {part.shape}, but holds "
                    f"{there:,}."
                )
            total += int(part.size)
    return total


def _is_plain(kind: np.dtype) -> bool:
    """Whether values are numbers or text; HDF5 crashes over other sequences in damaged files."""
    import h5py

    if kind.names is not None:
        return all(_is_plain(kind[name]) for name in kind.names)
    if kind.subdtype is not None:
        return _is_plain(kind.subdtype[0])
    return kind.kind != "O" or h5py.check_string_dtype(kind) is not None


def _check_attributes(part: Any, path: Path) -> None:
    """Check that the attributes of a part of a file are numbers, text, or where other parts are."""
    import h5py

    for name in part.attrs:
        kind = part.attrs.get_id(name).dtype
        if not _is_plain(kind) and h5py.check_ref_dtype(kind) is None:
            raise FileFormatError(
                f"{str(path)!r} holds {name!r}, an attribute of {part.name!r}, which is neither numbers nor "
                "text."
            )


def _in_hdf5(file: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """Yield name and dataset of all in a file that stands in no other one."""
    import h5py

    waiting, seen = [file], set()
    _check_attributes(file, path)
    while waiting:
        group = waiting.pop()
        for key in group:
            link, name = group.get(key, getlink=True), f"{group.name.rstrip('/')}/{key}"
            if isinstance(link, h5py.ExternalLink):
                raise FileFormatError(
                    f"{str(path)!r} keeps {name!r} in another file; write it anew with all in one."
                )
            if isinstance(link, h5py.SoftLink):
                continue  # to something of the same file, which is come upon there
            part = group[key]
            _check_attributes(part, path)
            if isinstance(part, h5py.Dataset):
                yield name, part
            elif isinstance(part, h5py.Group):
                mark = h5py.h5o.get_info(part.id).addr
                if mark not in seen:  # a group may hold itself
                    check_row_ends(part, path)
                    seen.add(mark)
                    waiting.append(part)
