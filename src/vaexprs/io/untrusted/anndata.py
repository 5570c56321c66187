"""Check that the tables and sparse matrices of an AnnData file are complete and consistent."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import scipy.sparse as sp

from vaexprs.data.matrix import check_compressed, falls
from vaexprs.interface.errors import FileFormatError, warn


def check_parts(group: Any, path: Path) -> None:
    """Check that a stored AnnData has its tables and complete matrices.

    Without tables AnnData would create names for as many cells and genes as a matrix declares.

    Raises
    ------
    LookupError
        If a table is missing.
    FileFormatError
        If a matrix is incomplete.
    """
    raw = [each for each in ("raw/", "raw.") if f"{each}X" in group]
    for name in ("obs", "var", *(f"{each}var" for each in raw)):
        if name not in group:
            raise LookupError(f"{name!r} is missing.")
        part = group[name]
        # old versions of AnnData stored a table as a structured array
        is_structured = bool(getattr(getattr(part, "dtype", None), "names", None))
        if text_attribute(part, "encoding-type") != "dataframe" and not is_structured:
            raise LookupError(f"{name!r} is not a table.")
    layers = group.get("layers", {})
    for part in (*([group["X"]] if "X" in group else []), *(layers[name] for name in layers)):
        check_matrix(part, path)


def text_attribute(part: Any, name: str) -> str:
    """Return a text attribute of a group or dataset, or an empty string if it is missing.

    Julia writes strings of fixed length, which h5py returns as bytes.
    """
    value = part.attrs.get(name, "")
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def check_row_ends(part: Any, path: Path) -> None:
    """Check that `indptr` of a sparse matrix fits the declared shape, because readers allocate by shape.

    Raises
    ------
    FileFormatError
        If it is missing or of another length.
    """
    kind = text_attribute(part, "encoding-type") or text_attribute(part, "h5sparse_format")
    if kind not in ("csr_matrix", "csc_matrix", "csr", "csc"):
        return
    shape = part.attrs.get("shape", part.attrs.get("h5sparse_shape", ()))
    rows = int(shape[int(kind.startswith("csc"))])
    if "indptr" not in part or part["indptr"].shape != (rows + 1,):
        why = "does not fit its shape" if "indptr" in part else "is missing"
        raise _incomplete(path, f"'indptr' of {part.name.strip('/')!r} {why}")


def check_sparse(cells: ad.AnnData) -> None:
    """Check that all indices of sparse matrices are within their shape.

    SciPy does not check bounds and would read other memory.

    Raises
    ------
    ValueError
        If an index is out of bounds.
    """
    raw = () if cells.raw is None else (cells.raw.X,)
    held = (cells.layers, cells.obsm, cells.varm, cells.obsp, cells.varp)
    for x in (cells.X, *raw, *(each for part in held for each in part.values())):
        if sp.issparse(x) and hasattr(x, "check_format"):
            check_compressed(x)


def check_matrix(part: Any, path: Path) -> None:
    """Check that the arrays of a matrix on disk are complete and consistent, without reading the values.

    Zarr reads a missing chunk as zeros, and does not write chunks of zeros. A dense matrix may therefore lack
    chunks, which causes a warning; a sparse matrix stores no zeros and must have all of them.

    Raises
    ------
    FileFormatError
        If chunks are missing or the arrays of a sparse matrix are inconsistent.
    """
    kind, name = text_attribute(part, "encoding-type"), part.name.strip("/")
    if kind == "array":
        missing, of = _missing_chunks(part)
        if missing and missing == of:
            raise _incomplete(path, f"all {of:,} chunks of {name!r} are missing")
        if missing:
            warn(
                f"{str(path)!r} lacks {missing:,} of the {of:,} chunks of {name!r}, which are read as zeros. "
                "If the copy may be incomplete, copy it again."
            )
    elif kind in ("csr_matrix", "csc_matrix"):
        major = int(part.attrs["shape"][int(kind == "csc_matrix")])
        ends, n = np.asarray(part["indptr"][:]), int(part["data"].size)
        if len(ends) != major + 1 or ends[0] or ends[-1] != n or part["indices"].size != n or falls(ends):
            raise _incomplete(path, f"'indptr', 'indices' and 'data' of {name!r} do not fit together")
        # with one value per cell, a chunk of indices may be all zeros and rightly be missing
        for array in ("data", "indices") if n > len(ends) else ("data",):
            missing, of = _missing_chunks(part[array])
            if missing:
                raise _incomplete(path, f"{missing:,} of {of:,} chunks of {f'{name}/{array}'!r} are missing")


def _missing_chunks(array: Any) -> tuple[int, int]:
    """Return the numbers of missing and of all chunks (or shards) of a Zarr array; zeros for HDF5."""
    if not hasattr(array, "nchunks_initialized") or not array.size:
        return 0, 0
    pieces = array.shards or array.chunks
    together = math.prod(size // chunk for size, chunk in zip(pieces, array.chunks, strict=True))
    of = math.prod(-(-n // size) for n, size in zip(array.shape, pieces, strict=True))
    return of - array.nchunks_initialized // together, of


def _incomplete(path: Path, why: str) -> ValueError:
    return FileFormatError(f"{str(path)!r} is incomplete: {why}. Copy or write it again.")
